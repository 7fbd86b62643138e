"""What a benchmark returns: figures, each with its unit and its range."""

import statistics
from collections.abc import Sequence
from typing import TypedDict


class Figure(TypedDict):
    """A median with the lowest and highest of its repetitions, or an estimate with its interval."""

    value: float
    unit: str
    low: float
    high: float


class CannotRun(RuntimeError):
    """The benchmark cannot run on this machine; the message says why."""


def figure(values: Sequence[float], unit: str) -> Figure:
    """The median of repetitions and their range."""
    return interval(statistics.median(values), unit, min(values), max(values))


def interval(value: float, unit: str, low: float, high: float) -> Figure:
    """An estimate with its interval."""
    return {"value": float(value), "unit": unit, "low": float(low), "high": float(high)}
