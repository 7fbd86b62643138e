"""Dates and times reckoned from others: an end from a beginning and a length, a day from a time."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

Source = tuple[Any, ...]
_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?")
_CLOCK = re.compile(r"\d\d:\d\d(:\d\d)?")
UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_LEAST, _SURE = 4, 0.8


def is_moment(value: Any) -> bool:
    """Whether a text is a date, a time of a day, or both, in ISO 8601."""
    return isinstance(value, str) and (_ISO.fullmatch(value) or _CLOCK.fullmatch(value)) is not None


def _parsed(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(f"2001-01-01T{text}" if _CLOCK.fullmatch(text) else text)
    except ValueError:
        return None


def later(text: str, seconds: float) -> str | None:
    """A moment so many seconds after another, written as that one is; None where there is none."""
    begin = _parsed(text)
    if begin is None:
        return None
    try:
        end = begin + timedelta(seconds=seconds)
    except OverflowError:
        return None
    if len(text) == 10:
        return date.isoformat(end)
    fine = "seconds" if text.count(":") - text[19:].count(":") > 1 else "minutes"
    if _CLOCK.fullmatch(text):
        return end.isoformat(timespec=fine)[11:]
    written = end.isoformat(sep=text[10], timespec="auto" if "." in text else fine)
    return written.replace("+00:00", "Z") if text.endswith("Z") else written


def between(first: str, second: str) -> float | None:
    """The seconds from one moment to another; None where they cannot be compared."""
    a, b = _parsed(first), _parsed(second)
    if a is None or b is None or (a.tzinfo is None) != (b.tzinfo is None):
        return None
    return (b - a).total_seconds()


def reckoned(
    targets: Sequence[tuple[Any, Mapping[Source, str], Mapping[Source, float]]],
) -> list[tuple[Source, float, int]]:
    """(source, precision, hits) of what moments come from, each (moment, other moments, numbers)
    by their sources: ("later", moment, unit, number) or ("day", moment)."""
    hits: Counter[Source] = Counter()
    had: Counter[tuple[Source, ...]] = Counter()
    for target, moments, numbers in targets[:: max(1, len(targets) // 120)]:
        for a, begin in list(moments.items())[:12]:
            had[a,] += 1
            hits.update(_of_one(a, begin, target))
            gap = between(begin, target) if is_moment(target) else None
            for b, number in list(numbers.items())[:24]:
                had[a, b] += 1
                for unit, seconds in UNITS.items() if gap is not None else ():
                    hits["later", a, unit, b] += number != 0 and gap == number * seconds
    ranked = []
    for source, n in hits.items():
        one = source[0] == "day" or source[3][0] == "const"
        times = had[source[1],] if one else had[source[1], source[3]]
        if n >= _LEAST and n >= _SURE * times:
            ranked.append((source, n / times, n))
    return ranked


def _of_one(source: Source, begin: str, target: Any) -> Iterator[Source]:
    """A day of a time, and a moment that is always as much later."""
    if len(begin) > 10 and target == begin[:10]:
        yield "day", source
    gap = between(begin, target) if is_moment(target) else None
    if gap:
        yield "later", source, "s", ("const", int(gap))
