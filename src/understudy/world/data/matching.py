"""Values that a listing's argument asks for, and the fields that have them."""

from collections.abc import Iterator
from typing import Any

from understudy.world.data.moments import is_moment
from understudy.world.data.values import same

_DAY = 10  # characters of a day in a moment


def equal_values(asked: Any, value: Any) -> bool:
    """Whether a field has what an argument asks for: it is the same text but for case and blanks
    around it, or a moment of the day that is asked for, or the same value."""
    if isinstance(asked, str) and isinstance(value, str):
        return folded(asked) in (folded(value), _day(value))
    return same(asked, value)


def folded(value: Any) -> Any:
    """Alike for scalars that are equal so."""
    if isinstance(value, str):
        return value.strip().lower()
    return ("boolean", value) if isinstance(value, bool) else value


def answers(value: Any) -> Iterator[Any]:
    """What arguments that a field matches are, folded."""
    yield folded(value)
    if (day := _day(value)) is not None:
        yield day


def values_of(value: Any) -> list[Any]:
    """What a field answers to: its value, or each of a list."""
    several = value if isinstance(value, list) else [value]
    return [v for v in several if isinstance(v, (str, int, float))]


def made_equal(asked: Any, value: Any) -> Any:
    """A field's value changed into one that has what is asked for."""
    if isinstance(asked, str) and _day(value) is not None and len(asked.strip()) == _DAY:
        return asked.strip() + str(value)[_DAY:]
    return asked


def _day(value: Any) -> str | None:
    """The day of a moment that says more than its day."""
    return value[:_DAY] if is_moment(value) and len(value) > _DAY else None
