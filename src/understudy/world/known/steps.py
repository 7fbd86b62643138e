"""Changes that a call's numbers do not say: a constant step; and a thing that is no longer in the
list of what it refers to, though nothing showed that list before."""

from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from typing import Any

from understudy.world.data.amounts import CENT, Value
from understudy.world.known.memory import Key
from understudy.world.known.state import State

_LEAST, _SURE = 3, 0.8  # changes by one step, in two scenarios at least; of all calls
_LISTS, _GONE = 5, 0.9  # lists that show what is in them; how many a thing is gone from


def constant(moves: Sequence[tuple[int, float]]) -> tuple[str, Value] | None:
    """The sign and the size of the step by which a number moves, from (scenario, difference). A
    call bears the step out where the other scenarios' calls say the same."""
    tally: dict[int, Counter[float]] = defaultdict(Counter)
    for origin, delta in moves:
        tally[origin][round(delta, 2)] += 1
    every: Counter[float] = Counter()
    for own in tally.values():
        every.update(own)
    step, n = every.most_common(1)[0] if every else (0.0, 0)
    if abs(step) <= CENT or n < _LEAST:
        return None
    right = 0
    for own in tally.values():
        rest = every - own
        best = max(rest.values(), default=0)
        right += own[step] if best and rest[step] == best else 0
    if right < _SURE * len(moves):
        return None
    size = abs(step)
    return "+" if step > 0 else "-", ("const", int(size) if size == int(size) else size)


class Mirrors:
    """Lists of things that hold what refers to them, as the sights of an episode show it: the
    orders of a customer are those whose `customer` it is."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])

    def note(
        self, state: State, key: Key, record: Mapping[str, Any], named: Container[Any]
    ) -> None:
        """A record that is shown; what is `named` by calls since is no evidence."""
        lists = {name: value for name, value in record.items() if isinstance(value, list)}
        for (domain, item), thing in state.things.items() if lists else ():
            for field, (value, _, _) in thing.fields.items():
                if value == key[1] and item != key[1] and item not in named:
                    for name, items in lists.items():
                        own = self._seen[domain, field, name]
                        own[0] += item in items
                        own[1] += 1

    def hold(self, domain: str, field: str, name: str) -> bool:
        """Whether the list `name` of what a `field` refers to holds the things of this kind."""
        k, n = self._seen.get((domain, field, name), (0, 0))
        return n >= _LISTS and k >= _SURE * n


def left(pairs: Sequence[tuple[Any, Any]]) -> bool:
    """Whether things are in a list no longer, from (thing, the list afterwards)."""
    gone = sum(isinstance(after, list) and item not in after for item, after in pairs)
    return gone >= max(_LISTS, _GONE * len(pairs))
