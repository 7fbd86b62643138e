"""A run's curves as files: one SVG each, and one PNG of all."""

import math
from pathlib import Path

from understudy.runs.directory import Run, write_atomic
from understudy.runs.plots import LineChart
from understudy.runs.training_page import charts

_COLUMNS = 3
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b")  # Okabe and Ito's


def write_plots(run: Run, folder: Path) -> list[Path]:
    """Writes `NAME.svg` for each chart and `curves.png` into `folder`; what was written.

    The PNG needs matplotlib, of the `train` extra. Raises ValueError where nothing is logged yet.
    """
    found = charts(run)
    if not found:
        raise ValueError(f"{run.path} has no metrics yet: there is nothing to draw")
    files = []
    for chart in found:
        file = folder / f"{_file_name(chart.title)}.svg"
        write_atomic(file, chart.svg())
        files.append(file)
    file = folder / "curves.png"
    _write_png(found, file, run.path.resolve().name)
    return [*files, file]


def _file_name(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower()).strip("-")


def _write_png(found: list[LineChart], file: Path, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = math.ceil(len(found) / _COLUMNS)
    figure = Figure(figsize=(4.2 * _COLUMNS, 2.7 * lines), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for n, chart in enumerate(found):
        axes = figure.add_subplot(lines, _COLUMNS, n + 1)
        for series, colour in zip(chart.series, _COLOURS * len(chart.series), strict=False):
            marker = "o" if len(series.x) < 20 else None
            axes.plot(series.x, series.y, color=colour, label=series.name, marker=marker, ms=3)
            if series.low and series.high:
                axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.2)
        axes.set_title(chart.title, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        if len(chart.series) > 1:
            axes.legend(fontsize=8)
    part = file.with_name(f".{file.name}.new.png")
    figure.savefig(part, format="png")
    part.replace(file)
