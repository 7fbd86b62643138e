"""One self-contained HTML page about a run: figures, plots, tables, conversations, notes.

The page needs nothing but itself: no script, no font, no image from elsewhere, and a content
security policy that says so. Whatever text goes in is escaped.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from understudy.runs.conversations import Conversation, compare
from understudy.runs.directory import write_atomic
from understudy.runs.machine import Machine, versions
from understudy.runs.plots import number, percent
from understudy.runs.statistics import Interval

_WIDE, _HALF, _NARROW = 940, 452, 360  # drawing widths in pixels


class Chart(Protocol):
    """Anything that draws itself as SVG for a width in pixels (see runs.plots)."""

    @property
    def title(self) -> str: ...

    def svg(self, width: int = 720) -> str: ...


@dataclass(frozen=True, slots=True)
class Headline:
    """A figure for the top of the page. `before` is what it is compared with."""

    label: str
    value: str
    note: str = ""
    before: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """A chart with a caption; `half` puts two beside each other where the page is wide."""

    chart: Chart
    caption: str = ""
    half: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """A table cell that holds a proportion, drawn as a small bar."""

    value: float
    note: str = ""


Cell = str | int | float | None | Interval | Share


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns. Intervals are proportions; numbers stand to the right."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    caption: str = ""
    half: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """Conversations of one scenario side by side."""

    title: str
    conversations: tuple[Conversation, ...]
    note: str = ""
    half: bool = False


@dataclass(frozen=True, slots=True)
class Notes:
    """What a reader must know. An item is (label, text); the label "assumption" stands out."""

    items: tuple[tuple[str, str], ...]
    half: bool = False


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Two texts beside each other, a line at a time; (line, whether the other text lacks it)."""

    title: str
    names: tuple[str, str]
    lines: tuple[Sequence[tuple[str, bool]], Sequence[tuple[str, bool]]]
    note: str = ""
    half: bool = False


Block = Plot | Table | Comparison | SideBySide | Notes


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    blocks: tuple[Block, ...]
    lead: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A page: headline figures first, then sections."""

    title: str
    lead: str
    headlines: tuple[Headline, ...]
    sections: tuple[Section, ...]
    made_at: float | None = None  # Unix seconds; None: when it is rendered


def machine_section(machine: Machine, more: Mapping[str, str] | None = None) -> Section:
    """The machine and the versions that a report's figures come from."""
    rows: list[tuple[Cell, ...]] = [
        ("processor", machine.cpu),
        ("cores", f"{machine.cores}"),
        ("memory", f"{machine.memory_gb:.0f} GB" if machine.memory_gb else "unknown"),
        ("load at the time", f"{machine.load:.2f}"),
        ("system", machine.system),
        *((more or {}).items()),
    ]
    installed: list[tuple[Cell, ...]] = list(versions().items())
    return Section(
        "Machine and versions",
        (
            Table(("machine", ""), rows, half=True),
            Table(("package", "version"), installed, half=True),
        ),
    )


def render(report: Report) -> str:
    """The page as HTML text.

    Raises ValueError for a table whose rows do not fit its columns.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["paragraphs"] = lambda text: [p for p in text.split("\n\n") if p.strip()]
    made = time.gmtime(report.made_at if report.made_at is not None else time.time())
    return environment.get_template("report.html.j2").render(
        report=report,
        sections=[
            {
                "id": f"s{i}",
                "title": section.title,
                "lead": section.lead,
                "blocks": [_block(b) for b in section.blocks],
            }
            for i, section in enumerate(report.sections, 1)
        ],
        made_at=time.strftime("%Y-%m-%d %H:%M UTC", made),
    )


def write_report(report: Report, path: str | Path) -> Path:
    """Renders the page into a file, atomically."""
    path = Path(path)
    write_atomic(path, render(report))
    return path


def _block(block: Block) -> dict[str, Any]:
    """What the template needs of one block."""
    kind = type(block).__name__.lower()
    plain: dict[str, Any] = {"kind": kind, "half": block.half, "block": block}
    if isinstance(block, Plot):
        wide = _HALF if block.half else _WIDE
        plain["wide"] = Markup(block.chart.svg(wide))  # the charts escape their texts
        plain["narrow"] = Markup(block.chart.svg(_NARROW))
    elif isinstance(block, Table):
        for row in block.rows:
            if len(row) != len(block.columns):
                columns = ", ".join(block.columns)
                raise ValueError(f"row {list(row)!r} does not fit the columns {columns}")
        plain["rows"] = [[_cell(cell) for cell in row] for row in block.rows]
        plain["numbers"] = [
            any(row[n]["number"] for row in plain["rows"]) for n in range(len(block.columns))
        ]
    elif isinstance(block, Comparison):
        plain["view"] = compare(block.conversations)
    return plain


def _cell(cell: Cell) -> dict[str, Any]:
    text, note, is_number, share = str(cell), "", False, None
    if isinstance(cell, Share):
        text, note = percent(cell.value), cell.note
        share = f"{100 * min(1.0, max(0.0, cell.value)):.1f}"
    elif isinstance(cell, Interval):
        text, is_number = percent(cell.mean), True
        note = f"{percent(cell.low)} to {percent(cell.high)}"
    elif cell is None or isinstance(cell, bool):
        text = "–" if cell is None else "yes" if cell else "no"
    elif isinstance(cell, int | float):
        text, is_number = f"{cell:,}" if isinstance(cell, int) else number(cell), True
    none = cell is None
    return {"text": text, "note": note, "number": is_number, "share": share, "none": none}
