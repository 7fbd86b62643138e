"""A fidelity report as one self-contained page."""

from collections import Counter
from typing import Any

from understudy.core.types import canonical_json
from understudy.runs.plots import LineChart, Series, percent
from understudy.runs.report import (
    Block,
    Cell,
    Headline,
    Notes,
    Plot,
    Report,
    Section,
    SideBySide,
    Table,
)
from understudy.runs.statistics import Interval
from understudy.world.data.values import columns, leaves, parse
from understudy.world.fidelity.figures import Figure
from understudy.world.fidelity.report import FidelityReport

_COLUMNS = {
    "Results": {
        "exact": "exact", "exact_but_free": "exact but free values",
        "known_f1": "knowable leaves F1", "determined_f1": "determined F1",
        "recalled_f1": "recalled F1", "leaf_f1": "all leaves F1", "free_type": "free: right type",
        "free_range": "free: like the traffic's", "free_kept": "free: kept later",
        "list_f1": "listed records F1",
    },
    "Outcomes and effects": {
        "schema": "schema valid", "flag": "error flag", "class_f1": "outcome class F1",
        "revealing": "effect-revealing", "changes": "changes F1", "changes_0": "no change F1",
        "changes_1": "1 change F1", "changes_2": "2 to 4 changes F1",
        "changes_5": "5 or more changes F1",
    },
}  # fmt: skip
_TOOL = {
    "exact": "exact", "exact_but_free": "but free", "known_f1": "known F1",
    "schema": "schema", "flag": "flag", "flag_auroc": "flag AUROC", "flag_ece": "flag ECE",
    "class_f1": "class F1", "changes": "changes F1",
    "real_errors": "errors", "world_errors": "its errors", "rate_gap": "rate gap",
    "doubt_ece": "doubt ECE",
}  # fmt: skip
_LINES = 60  # of a result that is shown
_MEANING = (
    ("determined", "the value is in the arguments or came earlier in the episode"),
    ("recalled", "the value is in the training traffic only"),
    ("knowable", "determined or recalled; every leaf else is free, such as a new identifier"),
    ("effect-revealing", "calls that the same episode had answered otherwise before; exact"),
    ("changes", "fields of things known to the episode that a result shows with another value"),
    ("schema valid", "words of a failure that the traffic shows of this tool, or fields of known "
     "names and types with none missing"),
    ("nearest training call", "the result of the training call with the most equal arguments"),
    ("retrieval floor", "first what this episode answered to the same call before"),
    ("+ state", "the floor's result with the things that the call names, and with what is known of "
     "each: the entity store without rules"),
    ("+ rules", "the world: state, memory and learned rules"),
    ("+ rules, new things", "the world on an entity-disjoint split: what the traffic showed of the "
     "things of an episode is forgotten, and only what the episode shows counts as knowable"),
    ("free: like the traffic's", "a number in the range of the traffic's there, a text of a format "
     "of theirs"),
    ("free: kept later", "in free-running episodes, the places that show again what the world made "
     "up as it made it up"),
    ("+ model", "the world with a language model in what it leaves open"),
    ("ceiling", "who is right about everything that could be known; chance included, so no world "
     "reaches it where chance decides"),
)  # fmt: skip


def page(report: FidelityReport, name: str = "") -> Report:
    """The page's content (see runs.report). Raises ValueError where nothing was measured."""
    if report.unmeasured:
        raise ValueError(f"fidelity was {report.unmeasured}; there is no page to write")
    return Report(
        f"Fidelity of the world {name}".strip(),
        f"{report.calls:,} calls of {report.episodes:,} held-out episodes, each predicted with its "
        "true history. Intervals are 95%, by bootstrap over scenarios.",
        _headlines(report),
        (
            Section("Against floor and ceiling", _against(report)),
            Section("Tools", (_tools(report), *_retrieved(report))),
            Section("Can its doubt be trusted?", _trust(report)),
            Section("Collect traces here", (_collect(report),), _COLLECT),
            Section("The worst misses", _misses(report), _WORST),
        ),
    )


_COLLECT = (
    "Where the world doubts most, as often as the held-out episodes come there. Weight is the "
    "share of all expected errors."
)
_WORST = (
    "On leaves that could be known; of one tool and pair of outcome classes two at most. Marked is "
    "what the other side lacks."
)


def _headlines(report: FidelityReport) -> tuple[Headline, ...]:
    shown = (("exact_but_free", "exact but for free values"), ("known_f1", "knowable leaves, F1"),
             ("flag", "error flag right"))  # fmt: skip
    found = [
        Headline(label, percent(report.overall[k]["value"]), _within(report.overall[k]),
                 percent(report.floor[k]["value"]) if report.floor else "")
        for k, label in shown
    ]  # fmt: skip
    for what, label in (("flag", "error flag"), ("doubt", "doubt")):
        if error := report.overall.get(f"{what}_ece"):
            chance = report.calibration[f"{what}_chance"]
            told = f"{chance:.3f} in a sample of this size by chance"
            found.append(Headline(f"calibration error, {label}", f"{error['value']:.3f}", told))
    return tuple(found)


def _within(f: Figure) -> str:
    return f"{percent(f['low'])} to {percent(f['high'])}; before: the retrieval floor"


def _against(report: FidelityReport) -> tuple[Block, ...]:
    rows = {"nearest training call": report.nearest, "retrieval floor": report.floor,
            "+ state": report.entities, "+ rules": report.overall,
            "+ rules, new things": report.disjoint, "+ model": report.model,
            "ceiling": report.ceiling}  # fmt: skip
    rows = {name: figures for name, figures in rows.items() if figures}
    blocks: list[Block] = []
    for title, names in _COLUMNS.items():
        counts = {c: int(report.overall.get(c, {}).get("n", 0)) for c in names}
        cells: list[list[Cell]] = [
            [label, *(_cell(f.get(column)) for f in rows.values()), counts[column]]
            for column, label in names.items()
            if counts[column]
        ]
        none = ", ".join(names[c] for c, n in counts.items() if not n)
        said = f"No held-out call is of these: {none}." if none else ""
        blocks.append(Table(("", *rows, "calls"), cells, title, said))
    lived: list[list[Cell]] = [
        [int(k), _cell(f), int(f["n"])] for k, f in report.survival.items() if f["n"]
    ]
    blocks.append(Table(("calls", "all right so far", "episodes"), lived, "Free-running rollouts",
                        "The episode's real calls from its first, the world's own most probable "
                        "results as history; right on leaves that could be known.",
                        half=True))  # fmt: skip
    timed: list[list[Cell]] = [
        [tool, f"{f['real_median']:.3g} / {f['world_median']:.3g} s",
         f"{f['real_p90']:.3g} / {f['world_p90']:.3g} s", round(f["log_distance"], 3)]
        for tool, f in report.latency.items()
    ]  # fmt: skip
    how = "Real / world. Distance: Wasserstein-1 of log seconds." if timed else (
        "The held-out episodes record no latencies.")  # fmt: skip
    blocks.append(Table(("tool", "median", "90th percentile", "distance"), timed, "Latency", how,
                        half=True))  # fmt: skip
    elsewhere = tuple(("not here", text) for text in report.elsewhere.values())
    left_out = tuple(("left out", f"{n} calls, {why}") for why, n in report.left_out.items())
    return (*blocks, Notes((*_MEANING, *elsewhere, *left_out)))


def _tools(report: FidelityReport) -> Table:
    order = sorted(report.tools, key=lambda t: (-report.tools[t]["exact"]["n"], t))
    rows: list[list[Cell]] = [
        [tool, int(own["exact"]["n"]), *(_plain(own.get(c)) for c in _TOOL)]
        for tool in order
        for own in (report.tools[tool],)
    ]
    return Table(("tool", "calls", *_TOOL.values()), rows, caption="Per cent; the world's rows.")


def _retrieved(report: FidelityReport) -> tuple[Block, ...]:
    why = report.retrieved.items()
    rows = tuple((tool, f"answered as its nearest remembered call was: {own}") for tool, own in why)
    return (Notes(rows),) if rows else ()


def _trust(report: FidelityReport) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for what, label in (("flag", "error flag"), ("doubt", "doubt")):
        points = report.calibration[what]
        x, y = tuple(p[0] for p in points), tuple(p[1] for p in points)
        chart = LineChart(
            f"Reliability of the {label}",
            (Series("true", x, y), Series("ideal", (0.0, 1.0), (0.0, 1.0))),
            "stated probability", "share that came true", form=percent, bottom=0.0, top=1.0,
        )  # fmt: skip
        named = "of an error flag" if what == "flag" else "that the result is wrong"
        caption = f"The stated probability {named}, in bins of equal mass: " + "; ".join(
            f"{n:.0f} calls, {percent(p)} stated, {percent(t)} true" for p, t, n in points
        )
        blocks.append(Plot(chart, caption, half=True))
    curve = report.calibration["coverage"]
    chart = LineChart(
        "Coverage and accuracy",
        (Series("right", tuple(c[0] for c in curve), tuple(c[1] for c in curve)),),
        "share of calls answered, the least doubtful first", "share of them right",
        form=percent, bottom=0.0, top=1.0,
    )  # fmt: skip
    return (*blocks, Plot(chart, "Right on all leaves that could be known."))


def _collect(report: FidelityReport) -> Table:
    rows: list[list[Cell]] = [
        [g["tool"], f"{g['situation']}. Helps: {g['help']}.", g["calls"], g["in_traffic"],
         *(round(100 * g[k]) for k in ("doubt", "wrong", "weight"))]
        for g in report.collect
    ]  # fmt: skip
    columns = ("tool", "situation", "calls", "in the traffic", "doubt", "wrong", "weight")
    said = (
        "Calls: of the held-out ones in this situation; in the traffic: all of the tool. Per cent."
    )
    return Table(columns, rows, caption=said)


def _misses(report: FidelityReport) -> tuple[Block, ...]:
    return tuple(
        SideBySide(
            f"{m['tool']}({m['arguments']})",
            ("real", "predicted"),
            side_by_side(m["real"], m["predicted"]),
            f"doubt {percent(m['doubt'])}",
        )
        for m in report.misses
    )


Marked = list[tuple[str, bool]]


def side_by_side(real: str, predicted: str) -> tuple[Marked, Marked]:
    """The leaves of two results, a line each, with whether the other has no equal one; positions
    in lists are shown, and make no difference."""
    a, b = _lines(parse(real)), _lines(parse(predicted))
    return _marked(a, b), _marked(b, a)


def _marked(lines: list[tuple[str, str]], other: list[tuple[str, str]]) -> Marked:
    left = Counter(key for _, key in other)
    marked: Marked = []
    for line, key in lines:
        marked.append((line, left[key] <= 0))
        left[key] -= 1
    more = len(marked) - _LINES
    return marked[:_LINES] + ([(f"... {more} more lines", False)] if more > 0 else [])


def _lines(value: Any) -> list[tuple[str, str]]:
    """(line as it is shown, what it is compared by)."""
    if not isinstance(value, (dict, list)):
        return [(line, line) for line in str(value).splitlines() or [""]]
    both = zip(leaves(value), columns(value), strict=True)
    found = [(f"{path}: {canonical_json(v)}", f"{col}: {canonical_json(v)}")
             for (path, v), (col, _) in both]  # fmt: skip
    return found or [(canonical_json(value), canonical_json(value))]


def _cell(f: Figure | None) -> Cell:
    return Interval(f["value"], f["low"], f["high"], int(f["n"])) if f and f["n"] else None


def _plain(f: Figure | None) -> Cell:
    return None if f is None or not f["n"] else round(100 * f["value"], 1)
