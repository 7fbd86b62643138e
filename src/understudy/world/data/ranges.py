"""Numbers of arguments beyond all experience: how far outside of what the traffic's calls had."""

from collections.abc import Mapping, Sequence
from typing import Any

from understudy.world.data.values import is_number

Range = list[Any]  # least, most, whether all were whole numbers


def range_of(values: Sequence[float]) -> Range:
    """The range of one value or more."""
    return [min(values), max(values), all(v == int(v) for v in values)]


def outside(args: Mapping[str, Any], ranges: Mapping[str, Range]) -> float:
    """From 0, inside all ranges, to 1: by as much as a range is wide outside of it, of another sign
    than all that it holds, or no whole number where all were."""
    return max(
        (_beyond(args[p], *known) for p, known in ranges.items() if is_number(args.get(p))),
        default=0.0,
    )


def _beyond(value: float, least: float, most: float, whole: bool) -> float:
    if whole and value != int(value):
        return 1.0
    if least <= value <= most:
        return 0.0
    if value <= 0 < least or value >= 0 > most:
        return 1.0
    by = least - value if value < least else value - most
    return min(1.0, by / (most - least)) if most > least else 1.0
