"""metrics.jsonl: one JSON object a line, appended as a run goes, readable while it is written.

A process that dies while it writes leaves a torn last line. Readers skip it and say so; a writer
that continues cuts it off first, so that the next line is whole. Numbers that JSON cannot hold
are written as the strings "NaN", "Infinity" and "-Infinity" (as protobuf's JSON mapping does)
and read back as numbers.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsError(ValueError):
    """A metrics file that is damaged elsewhere than in its last line."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a metrics file holds. `torn` says whether a half-written last line was skipped."""

    rows: tuple[dict[str, Any], ...]
    torn: bool = False

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of the rows that have `name`, in the order of writing."""
        found = [(r["step"], r[name]) for r in self.rows if name in r and r[name] is not None]
        return [float(step) for step, _ in found], [float(value) for _, value in found]


def read_metrics(path: Path) -> Metrics:
    """All rows of a metrics file; a file that is not there has none.

    Raises MetricsError for a broken line that is not the last one.
    """
    if not path.exists():
        return Metrics(())
    *whole, last = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(whole, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise MetricsError(f"{path}: line {number} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise MetricsError(f"{path}: line {number} is not a JSON object")
        rows.append(_read(row))
    return Metrics(tuple(rows), torn=bool(last))


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers among logged values; those of an inner object as `name/inner`."""
    found: dict[str, float] = {}
    for name, value in values.items():
        plain = _plain(value)
        if isinstance(plain, Mapping):
            found |= numbers(plain, f"{prefix}{name}/")
        elif isinstance(plain, int | float) and not isinstance(plain, bool):
            found[prefix + name] = float(plain)
    return found


class MetricsLog:
    """Appends rows to a metrics file. One writer at a time: the run's lock sees to that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cut_bytes = cut_torn_line(path)  # bytes of a half-written line that were cut off
        self._file = path.open("ab")

    def append(self, step: int, values: Mapping[str, Any]) -> None:
        """One row with its step and Unix time. On disk after return, but for a power cut.

        Raises TypeError for values that are not JSON.
        """
        row = {"step": step, "time": round(time.time(), 3)} | dict(values)
        self._file.write(_lines([row]))
        self._file.flush()

    def rewind(self, step: int) -> int:
        """Moves the rows after `step` to metrics.rewound.jsonl and returns how many they were.

        For resuming from a checkpoint: steps that are taken again are not counted twice.
        """
        self._file.close()
        rows = read_metrics(self.path).rows
        keep = [r for r in rows if r["step"] <= step]
        gone = [r for r in rows if r["step"] > step]
        if gone:
            with self.path.with_name("metrics.rewound.jsonl").open("ab") as file:
                file.write(_lines(gone))
            replacement = self.path.with_name(self.path.name + ".new")
            replacement.write_bytes(_lines(keep))
            replacement.replace(self.path)
        self._file = self.path.open("ab")
        return len(gone)

    def close(self) -> None:
        self._file.close()


def _lines(rows: list[dict[str, Any]]) -> bytes:
    texts = (json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) for row in rows)
    return b"".join(text.encode() + b"\n" for text in texts)


def _plain(value: Any) -> Any:
    """The value as JSON holds it, at any depth."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()  # NumPy and torch scalars
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _read(value: Any) -> Any:
    """What `_plain` wrote, with its numbers."""
    if isinstance(value, dict):
        return {k: _read(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_read(v) for v in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def cut_torn_line(path: Path) -> int:
    """Cuts a half-written last line off; of how many bytes it was."""
    if not path.exists():
        return 0
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
    return len(data) - whole
