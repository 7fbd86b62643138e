"""Whether a world is faithful enough to train in: said before training, loudly where it is not."""

from typing import Any

from pydantic import Field
from rich.console import Console

from understudy.runs.config import Config
from understudy.runs.directory import Run
from understudy.world.model import World

NOTE = "warnings.txt"


class Trust(Config):
    """What a world's fidelity report must show, or training in it warns.

    Figures are judged by where they stand between the retrieval floor and the ceiling, never
    against 100: where chance decides, no world foresees single calls, and none need to.
    """

    way: float = Field(
        default=0.1, ge=0, le=1,
        description="least share of the way from the floor to the ceiling: of results that are "
        "exact but for free values, of knowable leaves, of error flags",
    )  # fmt: skip
    near: float = Field(
        default=0.05, ge=0, le=1, description="a figure this close to the ceiling is good anyway"
    )
    rate_gap: float = Field(
        default=0.1, ge=0, le=1, description="largest difference of the rates of failure"
    )
    doubt_ece: float = Field(
        default=0.15, ge=0, le=1, description="largest calibration error of the doubt number"
    )
    below: float = Field(
        default=0.1, ge=0, le=1,
        description="how far a tool's knowable leaves may lie below the retrieval floor's; of "
        "tools with at least ten calls",
    )  # fmt: skip
    calls: int = Field(default=50, ge=1, description="fewest calls that fidelity was measured on")


_FEW = 10  # calls of a tool say nothing of it
_JUDGED = {
    "exact_but_free": "results exact but for free values",
    "known_f1": "knowable leaves",
    "flag": "error flags",
}


def weaknesses(report: dict[str, Any] | None, trust: Trust) -> list[str]:
    """Why a world with this fidelity report (JSON) is not to be relied on; empty where it is."""
    if report is None:
        return ["it carries no fidelity report: learn it with `understudy world learn`"]
    if report.get("unmeasured"):
        return [f"its fidelity was {report['unmeasured']}: capture more scenarios and learn again"]
    found = []
    if report["calls"] < trust.calls:
        found.append(f"fidelity was measured on {report['calls']} calls, fewer than {trust.calls}")
    for column, name in _JUDGED.items():
        own, floor = report["overall"][column]["value"], report["floor"][column]["value"]
        ceiling = report.get("ceiling", {}).get(column, {}).get("value", 1.0)
        if own < ceiling - trust.near and own - floor < trust.way * (ceiling - floor):
            found.append(
                f"{name}: {own:.0%}, floor {floor:.0%}, ceiling {ceiling:.0%}: not "
                f"{trust.way:.0%} of the way"
            )
    for tool, row in report.get("tools", {}).items():
        own, floor = row["known_f1"], report.get("floor_tools", {}).get(tool, {}).get("known_f1")
        if floor and own["n"] >= _FEW and own["value"] < floor["value"] - trust.below:
            found.append(
                f"{tool}: {own['value']:.0%} of knowable leaves; the nearest call of the traffic "
                f"has {floor['value']:.0%}"
            )
    gap = report["overall"]["rate_gap"]["value"]
    if abs(gap) > trust.rate_gap:
        more = "more" if gap > 0 else "less"
        found.append(f"calls fail {abs(gap):.0%} {more} often in it than in reality")
    error = report["overall"].get("doubt_ece")
    if error and error["value"] > trust.doubt_ece:
        found.append(f"its doubt is off by {error['value']:.2f} in the mean")
    return found


def warn(run: Run, world: World, trust: Trust) -> list[str]:
    """Say once, on standard error and in the run's `artefacts/warnings.txt`, why training in a
    world may teach what is not so; the reasons, none where the world is good enough."""
    found = weaknesses(world.fidelity, trust)
    if found:
        text = "\n".join((
            "WARNING: this world is below the threshold to train in (--set trust.* moves it):",
            *(f"  - {reason}" for reason in found),
            "  What is learned in it may not hold in reality: prove it there before it serves.",
            *_collect(world.fidelity),
        ))  # fmt: skip
        run.write_artefact(NOTE, text + "\n")
        loud = Console(stderr=True, soft_wrap=True)
        loud.print(text, style="bold yellow", markup=False, highlight=False)
    return found


def _collect(report: dict[str, Any] | None) -> list[str]:
    """Where traces would help most, as a line."""
    gaps = (report or {}).get("collect") or ()
    return [f"  Collect traces: {g['tool']}, {g['situation']}: {g['help']}." for g in gaps[:1]]
