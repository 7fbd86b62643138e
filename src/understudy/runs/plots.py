"""Small plots as SVG text: no library, no script, readable in light and dark and on a phone.

A plot is data; `svg(width)` draws it for a width in pixels, so that a page can hold a wide and a
narrow drawing of the same data with the same size of type. Colours are CSS variables of the page
(with fallbacks), from Okabe and Ito's palette, which colour-blind people can tell apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from understudy.runs.svg import (
    COLOURS,
    FAINT,
    GRID,
    INK,
    anchor,
    band,
    document,
    end_labels,
    finite,
    height_marks,
    moving_mean,
    path,
    rect,
    ticks,
    whisker,
    words,
)

Format = Callable[[float], str]
_TINY = 1e-12  # the shortest axis


def percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def number(value: float) -> str:
    """A short number: 12,300, 4.2, 0.031."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar, with its interval. Bars of one `group` share a colour and a heading."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    group: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class BarChart:
    """Horizontal bars with intervals, their values written at the end of each."""

    title: str
    bars: tuple[Bar, ...]
    description: str = ""
    top: float | None = None  # the axis's end; the data's where None
    form: Format = percent
    reference: tuple[str, float] | None = None  # a labelled line across, e.g. where one began

    def svg(self, width: int = 720) -> str:
        groups = list(dict.fromkeys(b.group for b in self.bars))
        headed = len(groups) > 1 or bool(groups and groups[0])
        label_w = min(width * 0.42, 10 + 7.4 * max((len(b.label) for b in self.bars), default=0))
        values = [self.form(b.value) + (f" {b.note}" if b.note else "") for b in self.bars]
        value_w = 16 + 9.0 * max((len(v) for v in values), default=0)  # bold, a wide % sign
        axis = max([b.high if b.high is not None else b.value for b in self.bars], default=1.0)
        scale = (width - label_w - value_w) / max(self.top or axis, _TINY)
        body: list[str] = []
        previous: str | None = None
        y = 24.0 if self.reference else 6.0
        for bar, value in zip(self.bars, values, strict=True):
            if headed and bar.group != previous:
                y += 10 if body else 0
                body.append(words(0, y + 13, bar.group, weight=600))
                y += 22
            previous = bar.group
            colour = COLOURS[groups.index(bar.group) % len(COLOURS)]
            length = max(1.0, bar.value * scale)
            body.append(words(label_w - 8, y + 15, bar.label, fill=FAINT, anchor="end"))
            body.append(rect(label_w, y + 2, length, 18, colour, radius=3))
            end = length
            if bar.low is not None and bar.high is not None:
                low, high = label_w + bar.low * scale, label_w + bar.high * scale
                body += whisker(low, high, y + 11)
                end = max(end, bar.high * scale)
            body.append(words(label_w + end + 8, y + 15.5, value, weight=600))
            y += 27
        if self.reference:
            name, at = self.reference
            x = label_w + at * scale
            line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="18" y2="{y:.1f}"'
            body.insert(0, f'{line} stroke="{FAINT}" stroke-dasharray="2 3"/>')
            body.insert(0, words(x, 12, name, fill=FAINT, size=12, anchor=anchor(x, width)))
        said = "; ".join(
            f"{b.group} {b.label}: {v}".strip() for b, v in zip(self.bars, values, strict=True)
        )
        return document(width, y + 4, self.title, self.description or said, body)


@dataclass(frozen=True, slots=True)
class Series:
    """A line; `low` and `high` make a band around it. `smooth` averages over so many points and
    shows the points themselves faintly."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    smooth: int = 1


@dataclass(frozen=True, slots=True)
class LineChart:
    """Lines over a common axis, each labelled at its end. Points that are not finite are gaps."""

    title: str
    series: tuple[Series, ...]
    x_label: str = ""
    y_label: str = ""
    description: str = ""
    form: Format = number
    bottom: float | None = None
    top: float | None = None

    def svg(self, width: int = 720) -> str:
        height = 300 if width >= 560 else 250
        shown = [v for s in self.series for ys in (s.y, s.low, s.high) if ys for v in finite(ys)]
        xs = [v for s in self.series for v in finite(s.x)] or [0.0, 1.0]
        low = self.bottom if self.bottom is not None else min(shown, default=0.0)
        high = self.top if self.top is not None else max(shown, default=1.0)
        marks = ticks(low, high, 5)
        low, high = min(low, marks[0]), max(high, marks[-1])
        left = 14 + 7.8 * max(len(self.form(m)) for m in marks)
        right = 20 + 8.2 * max((len(s.name) for s in self.series), default=0)
        right = min(right, width * 0.3)
        top, bottom = 26.0, height - 40.0
        x_low, x_high = min(xs), max(xs)
        span_x, span_y = (x_high - x_low) or 1.0, (high - low) or 1.0

        def px(v: float) -> float:
            return left + (v - x_low) / span_x * (width - left - right)

        def py(v: float) -> float:
            return bottom - (v - low) / span_y * (bottom - top)

        body = [words(0, 13, self.y_label, fill=FAINT, size=12)]
        body += height_marks([(py(m), self.form(m)) for m in marks], left, width - right)
        for mark in ticks(x_low, x_high, 8 if width >= 560 else 4):
            if x_low <= mark <= x_high:
                body.append(words(px(mark), bottom + 18, number(mark), fill=FAINT, size=12,
                                  anchor="middle"))  # fmt: skip
        middle = (left + width - right) / 2
        body.append(words(middle, height - 4, self.x_label, fill=FAINT, size=12, anchor="middle"))
        ends: list[tuple[float, str, str]] = []
        for i, s in enumerate(self.series):
            colour = COLOURS[i % len(COLOURS)]
            if s.low and s.high:
                lows, highs = (moving_mean(v, s.smooth) for v in (s.low, s.high))
                edges = [py(v) for v in lows], [py(v) for v in highs]
                body.append(band([px(v) for v in s.x], *edges, colour))
            points = [(px(x), py(y)) for x, y in zip(s.x, moving_mean(s.y, s.smooth), strict=True)]
            if s.smooth > 1:
                raw = [(px(x), py(y)) for x, y in zip(s.x, s.y, strict=True)]
                body += [
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.8" fill="{colour}" opacity="0.4"/>'
                    for x, y in raw
                    if math.isfinite(y)
                ]
            body.append(path(points, colour))
            drawn = [p for p in points if math.isfinite(p[1])]
            if drawn:
                x, y = drawn[-1]
                body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}"/>')
                ends.append((y, s.name, colour))
        body += end_labels(ends, width - right + 8, top, bottom)
        said = "; ".join(
            f"{s.name}: from {self.form(ys[0])} to {self.form(ys[-1])}"
            for s in self.series
            if (ys := list(finite(moving_mean(s.y, s.smooth))))
        )
        return document(width, height, self.title, self.description or said, body)


@dataclass(frozen=True, slots=True)
class StackedBars:
    """Horizontal bars made of parts. `rows` gives each bar's value for every part's name."""

    title: str
    parts: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]
    description: str = ""
    form: Format = number
    colours: tuple[str, ...] = field(default=COLOURS)

    def svg(self, width: int = 720) -> str:
        for name, values in self.rows:
            if len(values) != len(self.parts):
                raise ValueError(f"bar {name!r} needs {len(self.parts)} values, got {len(values)}")
        body, y = self._legend(width)
        narrow = width < 560
        longest = max((len(n) for n, _ in self.rows), default=0)
        label_w = 0.0 if narrow else min(240.0, 12 + 8 * longest)
        totals = [sum(values) for _, values in self.rows]
        total_w = 12 + 7.8 * max((len(self.form(t)) for t in totals), default=0)
        scale = (width - label_w - total_w) / max([*totals, _TINY])
        for (name, values), total in zip(self.rows, totals, strict=True):
            if narrow:
                body.append(words(0, y + 12, name, fill=FAINT))
                y += 19
            else:
                body.append(words(label_w - 8, y + 16, name, fill=FAINT, anchor="end"))
            x = label_w
            for i, value in enumerate(values):
                if value <= 0:
                    continue
                length = value * scale
                tip = f"{name}, {self.parts[i]}: {self.form(value)}"
                body.append(rect(x, y + 1, max(0.6, length - 1), 20, self._colour(i), tip=tip))
                text = self.form(value)
                if length > 8.2 * len(text) + 6:
                    middle = x + length / 2
                    body.append(words(middle, y + 15.5, text, fill="var(--onbar, #fff)", size=12,
                                      anchor="middle", weight=600))  # fmt: skip
                x += length
            body.append(words(x + 7, y + 16, self.form(total), weight=600))
            y += 30
        said = "; ".join(
            f"{n}: {self.form(t)}" for (n, _), t in zip(self.rows, totals, strict=True)
        )
        return document(width, y, self.title, self.description or said, body)

    def _colour(self, index: int) -> str:
        return self.colours[index % len(self.colours)]

    def _legend(self, width: int) -> tuple[list[str], float]:
        body: list[str] = []
        x, y = 0.0, 4.0
        for i, part in enumerate(self.parts):
            w = 30 + 7.2 * len(part)
            if x and x + w > width:
                x, y = 0.0, y + 22
            body.append(rect(x, y, 12, 12, self._colour(i), radius=3))
            body.append(words(x + 18, y + 11, part, size=13))
            x += w
        return body, y + 28


@dataclass(frozen=True, slots=True)
class Histogram:
    """How values are spread, with their median marked."""

    title: str
    values: tuple[float, ...]
    x_label: str = ""
    description: str = ""
    bins: int = 24
    form: Format = number

    def svg(self, width: int = 720) -> str:
        values = np.array(list(finite(self.values)))
        if not len(values):
            body = [words(0, 24, "no values", fill=FAINT)]
            return document(width, 40, self.title, self.description, body)
        spread = float(np.ptp(values))
        flat = spread <= 1e-9 * max(1.0, float(np.abs(values).max()))
        count_K, edge_K = np.histogram(values, bins=1 if flat else self.bins)
        height, top, bottom = 210.0, 26.0, 168.0
        low, high = float(edge_K[0]), float(edge_K[-1])
        step = (width - 2) / len(count_K)
        body = []
        for k, count in enumerate(count_K):
            tall = float(count) / float(count_K.max()) * (bottom - top)
            tip = f"{self.form(float(edge_K[k]))} to {self.form(float(edge_K[k + 1]))}: {count}"
            if count:
                body.append(rect(k * step, bottom - tall, step - 1, tall, COLOURS[0], tip=tip))
        body.append(f'<line x1="0" x2="{width}" y1="{bottom}" y2="{bottom}" stroke="{GRID}"/>')
        span = (high - low) or 1.0
        marks = [m for m in ticks(low, high, 8 if width >= 560 else 4) if low <= m <= high]
        for mark in marks:
            x = (mark - low) / span * width
            side = anchor(x, width, 24)
            body.append(words(x, bottom + 18, self.form(mark), fill=FAINT, size=12, anchor=side))
        median = float(np.median(values))
        x = (median - low) / span * width
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="18" y2="{bottom}" stroke="{INK}"'
        body.append(f'{line} stroke-dasharray="2 3"/>')
        label = f"median {self.form(median)}"
        body.append(words(x, 12, label, size=12, weight=600, anchor=anchor(x, width)))
        body.append(
            words(width / 2, height - 4, self.x_label, fill=FAINT, size=12, anchor="middle")
        )
        said = f"{len(values)} values from {self.form(low)} to {self.form(high)}, {label}"
        return document(width, height, self.title, self.description or said, body)
