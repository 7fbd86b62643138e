"""What goes on through a traffic whose state lasts (world.known.order) and never falls: the numbers
of what calls make, and the time that results tell."""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from understudy.world.data.moments import UNITS, is_moment, later
from understudy.world.data.values import at, columns, is_number
from understudy.world.traffic.transitions import Step

Clock = tuple[str, str, int]
"""(path, argument, seconds): a result says at a path what the time is and, with an argument, so
many times these seconds more."""
_LEAST, _SURE = 5, 0.98
_WIDEST = 8  # what a number is usually more than the one made before it, at most
_NUMBERED = re.compile(r"(.*?)(\d{1,15})", re.DOTALL)


class Later:
    """The episodes of a traffic from a number on, in the order of time; `own` are those of which
    not even what never changes is known."""

    def __init__(self, first: int, own: Container[int] = frozenset()) -> None:
        self.first, self.own = first, own

    def __contains__(self, episode: object) -> bool:
        return isinstance(episode, int) and episode >= self.first


@dataclass(slots=True)
class Course:
    """Serial numbers and clocks, with how far they were after which episode."""

    serials: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Kind of thing -> what stands before the number of its ids, how many digits there are at
    least (-1: the ids are numbers)."""
    peaks: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    clocks: dict[str, list[Clock]] = field(default_factory=dict)  # by tool
    ticks: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """By the length of a clock's texts, which tells its form."""

    def number(self, domain: str, item: Any) -> int | None:
        """The number in an identifier of a kind whose ids count up."""
        serial = self.serials.get(domain)
        found = _parts(item) if serial is not None else None
        return found[1] if found and serial and found[0] == serial[0] else None

    def written(self, domain: str, number: int) -> str | int:
        """The identifier of a number."""
        prefix, digits = self.serials[domain]
        return number if digits < 0 else f"{prefix}{number:0{digits}d}"

    def peak(self, domain: str, without: Container[int]) -> int | None:
        """The largest number that there was, as far as the episodes are known."""
        return _last(self.peaks.get(domain, ()), without)

    def tick(self, form: str, without: Container[int]) -> str | None:
        """The last time that was told, as far as the episodes are known."""
        return _last(self.ticks.get(form, ()), without)

    def told(self, tool: str, args: Mapping[str, Any], value: Any) -> Iterator[str]:
        """What a successful result says that the time is."""
        for clock in self.clocks.get(tool, ()):
            time = _told(clock, args, value)
            if time is not None:
                yield time


def _last(held: Sequence[tuple[int, Any]], without: Container[int]) -> Any:
    if isinstance(without, Later):
        n = bisect_left(held, without.first, key=lambda own: own[0])
        return held[n - 1][1] if n else None
    return next((own for e, own in reversed(held) if e not in without), None)


def _told(clock: Clock, args: Mapping[str, Any], value: Any) -> str | None:
    path, p, seconds = clock
    try:
        text = at(value, path)
    except KeyError:
        return None
    if not is_moment(text) or not p:
        return text if is_moment(text) else None
    return later(text, -args[p] * seconds) if is_number(args.get(p)) else None


def _parts(item: Any) -> tuple[str, int, int] | None:
    """(what stands before, number, digits at least) of an identifier that ends in a number."""
    if type(item) is int:
        return "", item, -1
    found = _NUMBERED.fullmatch(item) if isinstance(item, str) else None
    if found is None:
        return None
    return found[1], int(found[2]), len(found[2]) if found[2].startswith("0") else 1


def mine(
    born: Mapping[str, Mapping[Any, int]],
    things: Mapping[str, Mapping[Any, Sequence[tuple[int, Any]]]],
    steps: Sequence[Step],
) -> Course:
    """What goes on. `born`: which episode made what, in the order of time, as `steps` are; `things`
    has by kind and identifier (episode, ...) of those that showed it, the first one first."""
    course = Course()
    for domain, own in born.items():
        made = [(e, found) for item, e in own.items() if (found := _parts(item)) is not None]
        if len(made) != len(own) or len({found[0] for _, found in made}) != 1:
            continue
        if not _goes_on([n for _, (_, n, _) in made]) or _wide([n for _, (_, n, _) in made]):
            continue
        prefix, _, digits = made[0][1]
        course.serials[domain] = prefix, max(digits, *(d for _, (_, _, d) in made))
        shown = [(e, n) for e, (_, n, _) in made]
        shown += [
            (held[0][0], n) for item, held in things.get(domain, {}).items()
            if held and (n := course.number(domain, item)) is not None
        ]  # fmt: skip
        course.peaks[domain] = _largest(shown)
    _find_clocks(course, steps)
    return course


def _goes_on(values: Sequence[Any]) -> bool:
    """Whether values in the order of time rise, and all but never fall."""
    pairs = list(pairwise(values))
    rises = sum(a < b for a, b in pairs)
    return rises >= _LEAST - 1 and sum(a <= b for a, b in pairs) >= _SURE * len(pairs)


def _wide(numbers: Sequence[int]) -> bool:
    return median(b - a for a, b in pairwise(numbers)) > _WIDEST


def _largest(shown: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """The largest value from each episode on in which it became larger."""
    found: list[tuple[int, Any]] = []
    for e, value in sorted(shown):
        if found and found[-1][0] == e:
            found[-1] = e, max(value, found[-1][1])
        elif not found or value > found[-1][1]:
            found.append((e, value))
    return found


def _find_clocks(course: Course, steps: Sequence[Step]) -> None:
    """The times that results tell by which all others of their form go."""
    good = [s for s in steps if not s.failed and isinstance(s.value, dict)]
    by_tool: dict[str, list[Step]] = defaultdict(list)
    for s in good:
        by_tool[s.name].append(s)
    found: dict[str, list[tuple[int, str, Clock]]] = defaultdict(list)
    for tool, own in sorted(by_tool.items()):
        dated = [(s, p) for s in own for p, v in columns(s.value) if "/#" not in p and is_moment(v)]
        for path in sorted({p for _, p in dated}):
            numbers = sorted({p for s in own for p, v in s.args.items() if is_number(v)})
            for p, seconds in (("", 0), *((p, u) for p in numbers for u in UNITS.values())):
                told = [_told((path, p, seconds), s.args, s.value) for s in own]
                known = [t for t in told if t is not None]
                forms = {str(len(t)) for t in known}
                if len(forms) == 1 and _goes_on(known):
                    found[forms.pop()].append((len(known), tool, (path, p, seconds)))
                    break
    for form, clocks in found.items():
        kept: dict[str, list[Clock]] = defaultdict(list)
        ticks: list[tuple[int, str]] = []
        for _, tool, clock in sorted(clocks, reverse=True):
            tried = {**kept, tool: [*kept[tool], clock]}
            times = [
                (s.episode, t) for s in good for own in tried.get(s.name, ())
                if (t := _told(own, s.args, s.value)) is not None
            ]  # fmt: skip
            if _goes_on([t for _, t in times]):
                kept[tool].append(clock)
                ticks = times
        for tool, clocks_ in kept.items():
            course.clocks.setdefault(tool, []).extend(clocks_)
        course.ticks[form] = _largest(ticks)


def to_json(course: Course) -> list[Any]:
    return [course.serials, course.peaks, course.clocks, course.ticks]


def from_json(data: Sequence[Any]) -> Course:
    serials, peaks, clocks, ticks = data
    return Course(
        {d: (prefix, digits) for d, (prefix, digits) in serials.items()},
        {d: [(e, n) for e, n in own] for d, own in peaks.items()},
        {t: [(path, p, seconds) for path, p, seconds in own] for t, own in clocks.items()},
        {form: [(e, text) for e, text in own] for form, own in ticks.items()},
    )
