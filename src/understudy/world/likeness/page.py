"""The comparison of conversations in a world with real ones as one self-contained page."""

from understudy.runs.plots import Bar, BarChart, percent
from understudy.runs.report import Block, Cell, Headline, Notes, Plot, Report, Section, Table
from understudy.world.language.filler import became
from understudy.world.likeness.conversations import Likeness, Line

_LEADS = {
    "calls replayed, true history": "Each real call of the other half, made in the world after "
    "what really came before it.",
    "calls replayed, own results": "The same calls, one episode after another on the world's own "
    "results. The agent chose them by what came in reality: the further the results part, the less "
    "the later calls make sense, so nothing bounds these figures.",
    "users, agent's words replayed": "Simulated users hear what the real agent said, with the "
    "tickets of the other half's users; its scenarios are halved again for each figure.",
    "played": "An agent plays scenarios that the world draws, with the world's users.",
}
_MEANING = (
    ("other half", "real conversations of scenarios that nobody learned from: the reference"),
    ("fit half", "real conversations that world, users and stand-in are learned from"),
    ("distance", "of the simulated ones from the other half: of lengths and numbers Kolmogorov's "
     "and Smirnov's, of shares their difference, of what is covered or equal what lacks to all"),
    ("real-real", "the same distance of the fit half from the other half"),
    ("95%", "what 95 of 100 random halves of the real conversations are within"),
    ("within", "whether the mean distance is within the 95%, and in how many splits it is; mean: "
     "it is, but in most splits the distance is not"),
    ("calls of both halves", "the real answer that the fit half had to a call of the other half, "
     "the same word for word; chance and what happened before make real ones differ too"),
    ("stand-in", "an agent by retrieval does what the recorded ones did next in the most alike "
     "situation: its figures tell of the world and the users, not of an agent's skill"),
)  # fmt: skip


def page(report: Likeness, name: str = "") -> Report:
    """The page's content (see runs.report)."""
    groups = list(dict.fromkeys(line.group for line in report.lines))
    sections = [
        Section(group[0].upper() + group[1:], _blocks(report, group), _LEADS.get(group, ""))
        for group in groups
    ]
    filled = became(report.language).partition(": ")[::2]
    told = (filled,) if report.language else ()
    notes = (*_MEANING, *told, *(("left out", f"{n} {why}") for why, n in report.left_out.items()))
    return Report(
        f"Conversations in a world beside real ones {name}".strip(),
        f"{report.episodes:,} conversations of {report.scenarios:,} scenarios, {report.splits} "
        f"random splits by scenario; played by {report.agent}. Figures are means of the splits.",
        _headlines(report),
        (*sections, Section("What the words mean", (Notes(notes),))),
    )


def _headlines(report: Likeness) -> tuple[Headline, ...]:
    judged = report.judged()
    kept = sum(line.verdict == "yes" for line in judged)
    note = report.counted()
    found = [
        Headline("figures within the distance of real ones", f"{kept} of {len(judged)}", note),
    ]
    for line in report.lines:
        if line.name == "next result exact" and line.simulated is not None:
            found.append(Headline("next result exact", percent(line.simulated), "true history"))
        if line.group == "played" and line.name == "tool mix" and line.bound is not None:
            told = f"real halves: {percent(line.real_distance or 0.0)}, 95% {percent(line.bound)}"
            found.append(Headline("of the tool mix differs", percent(line.distance), told))
    return tuple(found)


def _blocks(report: Likeness, group: str) -> tuple[Block, ...]:
    lines = [line for line in report.lines if line.group == group]
    columns = ("", "other half", "fit half", "simulated", "distance", "real-real", "95%", "within")
    blocks: list[Block] = [Table(columns, [_row(line) for line in lines])]
    bars = [
        Bar(who, value, group=line.name, low=None if high is None else 0.0, high=high)
        for line in lines
        if line.unit != "bits" and line.real_distance is not None and line.bound is not None
        for who, value, high in (
            ("simulated", line.distance, None),
            ("real", line.real_distance, line.bound),
        )
    ]
    if bars:
        blocks.append(Plot(BarChart("Distances", tuple(bars), "Distance from the other half")))
    if group == "calls replayed, own results" and report.rollouts:
        steps = list(next(iter(report.rollouts.values())))
        rows: list[list[Cell]] = [
            [int(k), *(_percent(lived.get(k)) for lived in report.rollouts.values())] for k in steps
        ]
        caption = "From any call of an episode that has five after it; exact, per cent."
        blocks.append(Table(("calls", *report.rollouts), rows, "Free-running rollouts", caption))
    return tuple(blocks)


def _row(line: Line) -> list[Cell]:
    told: Cell = None
    if line.verdict:
        told = f"{line.verdict} ({line.splits_within} of {line.splits})"
    values = (line.other, line.real, line.simulated, line.distance, line.real_distance, line.bound)
    return [line.name, *(None if v is None else round(v, 3) for v in values), told]


def _percent(value: float | None) -> Cell:
    return None if value is None else round(100 * value, 1)
