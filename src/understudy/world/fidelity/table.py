"""A fidelity report as a terminal's text, at most 100 columns wide."""

import io

from rich import box
from rich.console import Console
from rich.table import Table

from understudy.world.fidelity.figures import Figure
from understudy.world.fidelity.report import FidelityReport
from understudy.world.language.filler import became

_WIDTH = 100
_NAMES = {
    "exact": "exact", "exact_but_free": "but free", "known_f1": "known F1", "flag": "flag",
    "rate_gap": "rate gap",
}  # fmt: skip
_MEANING = (
    "  exact: all of a result; but free: all but what nothing could tell, as new ids;",
    "  known F1: values that could be known; flag: whether it is an error; rate gap: failures of",
    "  the world less real ones; [95% interval]; -: does not apply. The page (--html) says more.",
    "",
)
_TOOLS = 20  # shown, those most called


def table(report: FidelityReport) -> str:
    """Rows and tools under the most telling columns; the rest is in the JSON and on the page."""
    console = Console(width=_WIDTH, record=True, file=io.StringIO())
    if report.unmeasured:
        console.print(f"fidelity: {report.unmeasured}", soft_wrap=True)
    else:
        title = f"fidelity on {report.episodes} held-out episodes, {report.calls} calls (%)"
        shown = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
        shown.add_column("", max_width=20, no_wrap=True)
        for head in ("calls", *_NAMES.values()):
            shown.add_column(head, justify="right", no_wrap=True)
        rows = [("nearest call", report.nearest), ("retrieval floor", report.floor),
                ("+ state", report.entities), ("world", report.overall),
                ("on new things", report.disjoint), ("+ model", report.model),
                ("ceiling", report.ceiling)]  # fmt: skip
        tools = sorted(report.tools.items(), key=lambda t: (-_calls(t[1]), t[0]))
        for name, figures in [row for row in rows if row[1]] + tools[:_TOOLS]:
            cells = (_cell(figures.get(column)) for column in _NAMES)
            shown.add_row(name, f"{_calls(figures)}", *cells)
        console.print(shown)
        for line in _MEANING:
            console.print(line)
        if len(tools) > _TOOLS:
            n = sum(_calls(f) for _, f in tools[_TOOLS:])
            console.print(f"and {len(tools) - _TOOLS} tools with {n} calls; --json has all of them")
        for line in _lines(report):
            console.print(line, soft_wrap=True)
    for reason, count in report.left_out.items():
        console.print(f"left out: {count} calls, {reason}", soft_wrap=True)
    return "\n".join(line.rstrip() for line in console.export_text().split("\n"))


def _lines(report: FidelityReport) -> list[str]:
    """Calibration, tools that answer by retrieval, and survival, a line each."""
    found = []
    for what, name in (("flag", "error flag"), ("doubt", "doubt")):
        error, rank = report.overall.get(f"{what}_ece"), report.overall.get(f"{what}_auroc")
        if error and rank:
            chance = report.calibration[f"{what}_chance"]
            ranks = f", AUROC {rank['value']:.2f}" if rank["n"] else ""
            found.append(
                f"{name}: calibration error {error['value']:.3f} ({chance:.3f} by chance){ranks}"
            )
    found += report.time
    if report.language:
        found.append(became(report.language))
    for tool, why in report.retrieved.items():
        found.append(f"{tool}: answered as its nearest remembered call was ({why})")
    lived = [f"{100 * f['value']:.0f}% at {k}" for k, f in report.survival.items() if f["n"]]
    if lived:
        found.append(f"rollouts on its own results that are right so far: {', '.join(lived)} calls")
    return found


def _calls(figures: dict[str, Figure]) -> int:
    return int(figures.get("exact", {}).get("n", 0))


def _cell(f: Figure | None) -> str:
    if f is None or f["n"] == 0:
        return "-"
    value, low, high = (round(100 * f[k]) for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]" if low != high else f"{value}"
