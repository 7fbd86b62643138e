"""Progress of long work: a live line on a terminal, a plain line now and then elsewhere.

    with Progress("rehearse", total=40, unit="steps") as progress:
        for step in range(40):
            ...
            progress.advance(reward=0.61, success="72%", tokens_per_second=8200.0)

All of it goes to standard error, so that standard output stays for results.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Field = str | int | float | None


class Progress:
    """Counts work and shows it. `total` None: the end is not known. Not for several threads.

    On a terminal one live line; elsewhere one plain line at most every `every_s` seconds, and one
    at the end. `quiet` shows nothing and still counts.
    """

    def __init__(
        self,
        description: str,
        total: float | None = None,
        *,
        unit: str = "",
        quiet: bool = False,
        every_s: float = 10.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = 0.0
        self.fields: dict[str, Field] = {}
        self._quiet = quiet
        self._every_s = every_s
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._started = self._shown = clock()
        self._recent: deque[tuple[float, float]] = deque([(self._started, 0.0)], maxlen=32)
        self._live: Live | None = None

    def advance(self, amount: float = 1.0, **fields: Field) -> None:
        """Counts work done; named fields stay on the line until they are given anew."""
        self.done += amount
        self._recent.append((self._clock(), self.done))
        self._show(fields)

    def update(self, total: float | None = None, **fields: Field) -> None:
        """New values on the line, with no work done."""
        self.total = self.total if total is None else total
        self._show(fields)

    def _show(self, fields: Mapping[str, Field]) -> None:
        self.fields.update(fields)
        if self._live is not None:
            self._live.update(self._line())
        elif not self._quiet and self._clock() - self._shown >= self._every_s:
            self._plain()

    def note(self, text: str) -> None:
        """A line that stays, above the live one."""
        if not self._quiet:
            self._console.print(text, highlight=False, markup=False)

    @property
    def seconds(self) -> float:
        return self._clock() - self._started

    @property
    def rate(self) -> float | None:
        """Work per second, of late; None as long as nothing is done."""
        (then, before), (now, after) = self._recent[0], self._recent[-1]
        return (after - before) / (now - then) if now > then and after > before else None

    @property
    def seconds_left(self) -> float | None:
        """Time to the end at the present rate; None where either is not known."""
        if self.total is None or self.rate is None:
            return None
        return max(0.0, self.total - self.done) / self.rate

    def __enter__(self) -> Self:
        self._started = self._shown = self._clock()
        self._recent.clear()
        self._recent.append((self._started, self.done))
        if not self._quiet and self._console.is_terminal:
            self._live = Live(
                self._line(), console=self._console, refresh_per_second=8, transient=False
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.update(self._line(), refresh=True)
            self._live.stop()
            self._live = None
        elif not self._quiet:
            self._plain()

    def _line(self) -> Table:
        grid = Table.grid(padding=(0, 1))
        complete = self.total is not None and self.done >= self.total
        bar = ProgressBar(
            total=self.total or 1.0,
            completed=self.done,
            width=24,
            pulse=self.total is None,
            complete_style="green" if complete else "cyan",
            finished_style="green",
        )
        cells: list[RenderableType] = [
            Text(f"{self.description:<16}", style="bold"),
            bar,
            Text(self._count()),
        ]
        cells += [Text(part, style="dim") for part in (self._speed(), self._times()) if part]
        grid.add_row(*cells, Text(self._said(), style="cyan"))
        return grid

    def _plain(self) -> None:
        self._shown = self._clock()
        parts = [self._count(), self._speed(), self._times(), self._said()]
        text = f"{self.description}: " + "  ".join(p for p in parts if p)
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _count(self) -> str:
        done = _number(self.done)
        of = f"{done}/{_number(self.total)}" if self.total is not None else done
        return f"{of} {self.unit}".strip()

    def _speed(self) -> str:
        if self.rate is None:
            return ""
        unit = self.unit or "it"
        if self.rate < 1:
            return f"{1 / self.rate:.1f} s/{unit.removesuffix('s')}"
        return f"{_number(self.rate)} {unit}/s"

    def _times(self) -> str:
        left = self.seconds_left
        passed = clock_time(self.seconds)
        return f"{passed} < {clock_time(left)} left" if left else passed

    def _said(self) -> str:
        shown = {k: v for k, v in self.fields.items() if v is not None}
        return "  ".join(f"{k.replace('_', ' ')} {_field(v)}" for k, v in shown.items())


def clock_time(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, s = divmod(int(seconds + 0.5), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def _number(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}"


def _field(value: Field) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
