"""Numbers that count up through a session: each call that books something says the next one.

Where it begins nothing tells, so that such a number is no thing of the traffic's; but the next one
is the last one and what a call of that tool takes: one for an entry, two where it makes two.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from understudy.world.data.values import call_key, columns
from understudy.world.traffic.transitions import Step

Column = tuple[str, str]  # tool, path in its results
Counters = dict[str, dict[str, tuple[str, int]]]
_LEAST, _SURE = 3, 0.9
_WIDEST = 64  # what a number may be more than the last one
_FEW = 8  # different values that are no accident


def mine(good: Sequence[Step]) -> Counters:
    """By tool and path, the counter and what the next number of it is more. `good` are successful
    calls in the order of their episodes."""
    episodes: dict[int, list[tuple[Column, int]]] = defaultdict(list)
    for s in good:
        episodes[s.episode] += [((s.name, path), n) for path, n in numbers(s.value)]
    rising = _rising(list(episodes.values())) & _whatever_is_asked(good)
    found: Counters = {}
    for name, group in enumerate(_groups(list(episodes.values()), rising)):
        after: dict[Column, Counter[int]] = defaultdict(Counter)
        for said in episodes.values():
            own = [(c, n) for c, n in said if c in group]
            for (c, n), (_, m) in pairwise(own):
                after[c][m - n] += 1
        for (tool, path), steps in sorted(after.items()):
            step, times = steps.most_common(1)[0]
            if times >= max(_LEAST, _SURE * steps.total()):
                found.setdefault(tool, {})[path] = (f"n{name}", step)
    return found


def numbers(value: Any) -> Iterator[tuple[str, int]]:
    """(path, number) of the whole numbers of a result, those in lists aside."""
    if isinstance(value, dict):
        for path, item in columns(value):
            if type(item) is int and "/#" not in path:
                yield path, item


def _whatever_is_asked(good: Sequence[Step]) -> set[Column]:
    """The columns of tools that were asked anew with other arguments, or at once: what the same
    call says again after other calls may be its thing's, which they changed."""
    last: dict[tuple[int, str], tuple[str, int]] = {}
    times: Counter[str] = Counter()
    for n, s in enumerate(good):
        key = call_key(s.name, s.args)
        before = last.get((s.episode, s.name))
        if before is not None:
            times[s.name] += before[0] != key or before[1] == n - 1
        last[s.episode, s.name] = key, n
    return {(s.name, path) for s in good if times[s.name] >= _LEAST for path, _ in numbers(s.value)}


def _rising(episodes: Sequence[Sequence[tuple[Column, int]]]) -> set[Column]:
    """The columns whose numbers rise in every episode, by little."""
    values: dict[Column, set[int]] = defaultdict(set)
    steps: dict[Column, list[int]] = defaultdict(list)
    for said in episodes:
        last: dict[Column, int] = {}
        for c, n in said:
            values[c].add(n)
            if c in last:
                steps[c].append(n - last[c])
            last[c] = n
    small = {c for c, own in steps.items() if all(0 < d <= _WIDEST for d in own)}
    return {c for c in values if len(values[c]) >= _FEW and (c in small or c not in steps)}


def _groups(
    episodes: Sequence[Sequence[tuple[Column, int]]], rising: set[Column]
) -> list[set[Column]]:
    """The columns that count together: each number is a little more than the last one of the
    other, whichever of them comes first."""
    steps: dict[tuple[Column, Column], list[int]] = defaultdict(list)
    for said in episodes:
        last: dict[Column, int] = {}
        for c, n in said:
            if c in rising:
                for other, m in last.items():
                    steps[other, c].append(n - m)
                last[c] = n
    groups: list[set[Column]] = []
    for c in sorted(rising):
        for group in groups:
            both = [d for g in group for d in (*steps[g, c], *steps[c, g])]
            if len(both) >= _LEAST and all(0 < d <= _WIDEST for d in both):
                group.add(c)
                break
        else:
            groups.append({c})
    return [g for g in groups if any(steps[a, b] for a in g for b in g)]
