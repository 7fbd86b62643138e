"""A scatter plot as SVG text: named points with intervals, in the manner of runs.plots."""

from dataclasses import dataclass

from understudy.runs.plots import Format, number
from understudy.runs.svg import COLOURS, FAINT, document, end_labels, height_marks, ticks, words

_NEAR = 14.0  # pixels in x within which names are stacked


@dataclass(frozen=True, slots=True)
class Point:
    """A point, with the interval of its y. Points of one `group` share a colour."""

    name: str
    x: float
    y: float
    low: float
    high: float
    group: str = ""


@dataclass(frozen=True, slots=True)
class ScatterChart:
    """Points over two axes, each with its name beside it and its interval as a line."""

    title: str
    points: tuple[Point, ...]
    x_label: str = ""
    form: Format = number
    description: str = ""

    def svg(self, width: int = 720) -> str:
        height, top, bottom = 340.0, 40.0, 296.0
        groups = list(dict.fromkeys(p.group for p in self.points))
        colours = {g: COLOURS[i % len(COLOURS)] for i, g in enumerate(groups)}
        marks = ticks(min(p.low for p in self.points), max(p.high for p in self.points), 5)
        low, high = marks[0], marks[-1]
        left = 14 + 7.8 * max(len(self.form(m)) for m in marks)
        x_low, x_high = min(p.x for p in self.points), max(p.x for p in self.points)
        right = 20 + 8.2 * max(len(p.name) for p in self.points if p.x == x_high)
        span = (x_high - x_low) or 1.0

        def px(v: float) -> float:
            return left + 14 + (v - x_low) / span * (width - left - 14 - right)

        def py(v: float) -> float:
            return bottom - (v - low) / ((high - low) or 1.0) * (bottom - top)

        body: list[str] = []
        at = left
        for group in groups:
            body.append(f'<circle cx="{at + 5:.1f}" cy="9" r="5" fill="{colours[group]}"/>')
            body.append(words(at + 16, 13.5, group, size=13))
            at += 34 + 7.6 * len(group)
        body += height_marks([(py(m), self.form(m)) for m in marks], left, width - 4)
        for mark in ticks(x_low, x_high, 8 if width >= 560 else 4):
            if x_low <= mark <= x_high:
                body.append(words(px(mark), bottom + 18, number(mark), fill=FAINT, size=12,
                                  anchor="middle"))  # fmt: skip
        middle = (left + width) / 2
        body.append(words(middle, height - 4, self.x_label, fill=FAINT, size=12, anchor="middle"))
        stacks: list[list[Point]] = []
        for p in sorted(self.points, key=lambda p: p.x):
            x, y, colour = px(p.x), py(p.y), colours[p.group]
            line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{py(p.low):.1f}" y2="{py(p.high):.1f}"'
            body.append(f'{line} stroke="{colour}" stroke-width="2" opacity="0.5"/>')
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')
            if not stacks or x - px(stacks[-1][-1].x) > _NEAR:
                stacks.append([])
            stacks[-1].append(p)
        for stack in stacks:
            ends = [(py(p.y), p.name, colours[p.group]) for p in stack]
            body += end_labels(ends, px(stack[-1].x) + 11, top, bottom)
        said = "; ".join(f"{p.name} {p.group}: {self.form(p.y)}" for p in self.points)
        return document(width, height, self.title, self.description or said, body)
