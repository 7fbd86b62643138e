"""The strokes that plots are drawn with: SVG text, its type, its colours, its axes."""

import hashlib
import math
from collections.abc import Sequence
from html import escape

COLOURS = (
    "var(--c1, #0072b2)",
    "var(--c2, #d55e00)",
    "var(--c3, #009e73)",
    "var(--c4, #cc79a7)",
    "var(--c5, #b8860b)",
    "var(--c6, #56b4e9)",
    "var(--c7, #7a7a85)",
)
INK, FAINT, GRID = "var(--ink, #1d1d22)", "var(--faint, #6d6d78)", "var(--grid, #e4e4ea)"


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers that cover low to high, about so many of them, at least two."""
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-3):  # nothing that a plot could show
        high = low + 1.0
    raw = (high - low) / max(1, about)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def moving_mean(values: Sequence[float], width: int) -> list[float]:
    """A centred moving mean over the finite values; windows shrink at both ends."""
    if width <= 1:
        return list(values)
    half = width // 2
    means = []
    for i in range(len(values)):
        near = list(finite(values[max(0, i - half) : i + half + 1]))
        means.append(sum(near) / len(near) if near else math.nan)
    return means


def finite(values: Sequence[float]) -> list[float]:
    return [v for v in values if math.isfinite(v)]


def document(width: float, height: float, title: str, description: str, body: Sequence[str]) -> str:
    drawn = "\n".join(part for part in body if part)
    mark = hashlib.sha256(f"{width}{title}{description}{drawn}".encode()).hexdigest()[:10]
    return (
        f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img" aria-labelledby="t{mark} d{mark}" '
        f'font-family="inherit" font-size="14"><title id="t{mark}">{escape(title)}</title>'
        f'<desc id="d{mark}">{escape(description)}</desc>\n{drawn}\n</svg>'
    )


def words(
    x: float,
    y: float,
    text: str,
    *,
    fill: str = INK,
    size: int = 14,
    anchor: str = "start",
    weight: int = 400,
) -> str:
    if not text:
        return ""
    bold = f' font-weight="{weight}"' if weight != 400 else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" font-size="{size}" '
        f'text-anchor="{anchor}"{bold}>{escape(text)}</text>'
    )


def rect(
    x: float, y: float, width: float, height: float, fill: str, *, radius: float = 2, tip: str = ""
) -> str:
    inside = f"<title>{escape(tip)}</title>" if tip else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:g}" '
        f'fill="{fill}">{inside}</rect>'
    )


def whisker(low: float, high: float, y: float) -> list[str]:
    """An interval: a line with end marks, haloed so that it shows on its bar and beside it."""
    d = (f"M{low:.1f} {y - 4:.1f}V{y + 4:.1f}M{low:.1f} {y:.1f}H{high:.1f}"
         f"M{high:.1f} {y - 4:.1f}V{y + 4:.1f}")  # fmt: skip
    halo = f'<path d="{d}" fill="none" stroke="var(--page, #fff)" stroke-width="4" opacity="0.75"/>'
    return [halo, f'<path d="{d}" fill="none" stroke="{INK}" stroke-width="1.6"/>']


def path(points: Sequence[tuple[float, float]], colour: str) -> str:
    parts, pen_down = [], False
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            parts.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}")
            pen_down = True
        else:
            pen_down = False
    return (
        f'<path d="{"".join(parts)}" fill="none" stroke="{colour}" stroke-width="2.2" '
        'stroke-linejoin="round" stroke-linecap="round"/>'
    )


def band(xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], colour: str) -> str:
    kept = [p for p in zip(xs, lows, highs, strict=True) if all(map(math.isfinite, p))]
    there = [f"{x:.1f} {high:.1f}" for x, _, high in kept]
    back = [f"{x:.1f} {low:.1f}" for x, low, _ in reversed(kept)]
    if not kept:
        return ""
    return f'<path d="M{"L".join(there + back)}Z" fill="{colour}" opacity="0.16"/>'


def height_marks(marks: Sequence[tuple[float, str]], left: float, right: float) -> list[str]:
    """A line across at each height, with its text to the left."""
    body: list[str] = []
    for y, text in marks:
        line = f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"'
        body.append(f'{line} stroke="{GRID}"/>')
        body.append(words(left - 8, y + 4, text, fill=FAINT, size=12, anchor="end"))
    return body


def end_labels(
    ends: Sequence[tuple[float, str, str]], x: float, top: float, bottom: float
) -> list[str]:
    """Names at the lines' ends, moved apart where they would overlap."""
    placed: list[str] = []
    y_before = -math.inf
    for y, name, colour in sorted(ends):
        at = min(max(y, top, y_before + 17), bottom)
        y_before = at
        placed.append(words(x, at + 4.5, name, fill=colour, size=13, weight=600))
    return placed


def anchor(x: float, width: float, margin: float = 50) -> str:
    return "start" if x < margin else "end" if x > width - margin else "middle"
