"""What the values of each field of a tool's results are like in the traffic: the range of numbers,
the formats of texts. A value that nobody could know is judged by it."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from understudy.core.types import canonical_json
from understudy.world.data.values import columns, is_number, pattern
from understudy.world.fidelity.compare import failed
from understudy.world.fidelity.floor import Floor
from understudy.world.traffic.transitions import Failures

_MARGIN = 0.1  # of a range's width, that numbers beside it may be away from it
_FORMATS = 0.3  # formats a text, above which texts have none: they are as long as others then


class Plausible:
    """The fields of the results of a train split that are no failures."""

    def __init__(self, floor: Floor, failures: Failures) -> None:
        self._numbers: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._lengths: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._formats: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._others: dict[tuple[str, str], set[str]] = defaultdict(set)
        for tool, calls in floor.calls.items():
            for told in calls:
                text, flag = told.said
                if not failed(failures, tool, text, flag):
                    for path, value in columns(failures.around(tool).read(text)):
                        self._note((tool, path), value)

    def _note(self, at: tuple[str, str], value: Any) -> None:
        if is_number(value):
            self._numbers[at].append(value)
        elif isinstance(value, str):
            self._lengths[at].append(len(value))
            self._formats[at].add(pattern(value))
        else:
            self._others[at].add(canonical_json(value))

    def plausible(self, tool: str, path: str, value: Any) -> bool:
        """Whether a field's value is like those of the traffic."""
        at = tool, path
        if is_number(value):
            return _within(value, self._numbers.get(at, ()))
        if isinstance(value, str):
            known = self._formats.get(at, set())
            free = len(known) > _FORMATS * len(self._lengths.get(at, ()))
            return _within(len(value), self._lengths[at]) if free else pattern(value) in known
        return canonical_json(value) in self._others.get(at, ())

    def share(self, tool: str, free: Sequence[tuple[str, Any]], guess: Any) -> float | None:
        """The share of the leaves (path, real value) that nobody could know in whose place a
        guess has a value like those of the traffic; None where there are none."""
        wanted = Counter(path for path, _ in free)
        got = Counter(p for p, v in columns(guess) if p in wanted and self.plausible(tool, p, v))
        return (wanted & got).total() / wanted.total() if wanted else None


def _within(value: float, seen: Sequence[float]) -> bool:
    if not seen:
        return False
    low, high = min(seen), max(seen)
    margin = _MARGIN * (high - low)
    return low - margin <= value <= high + margin
