"""Report the paths that an agent takes, in reality or in a world."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.data import JsonOption, captured
from understudy.cli.places import ready_file


def paths(
    episodes: Annotated[
        Path, typer.Argument(help="A store, or a file of conversations (.jsonl, .jsonl.gz).")
    ],
    workload: Annotated[str | None, typer.Option(help="Only this workload's episodes.")] = None,
    feedback: Annotated[str, typer.Option(help="The feedback that says success.")] = "outcome",
    at_least: Annotated[float, typer.Option(help="The feedback's least value of a success.")] = 1.0,
    check: Annotated[
        Path | None, typer.Option(help="Instead: a Python file with check(messages, ticket).")
    ] = None,
    least: Annotated[int, typer.Option(min=2, help="Episodes that a finding needs.")] = 5,
    html: Annotated[Path | None, typer.Option(help="Write a page with the tree drawn.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show an agent's paths: where success parts, loops, dead ends.

    Example: understudy world paths understudy.db --workload support --html paths.html
    """
    from understudy.runs.progress import Progress
    from understudy.runs.report import write_report
    from understudy.world.describing import paths_page
    from understudy.world.describing.paths import paths as mined

    ready_file(html)
    found, broken = _episodes(episodes, workload, feedback)
    unjudged: list[str] = []
    judged = _judged(check, feedback, at_least, unjudged)
    with Progress("paths", total=len(found), unit="episodes") as progress:
        report = mined(found, judged, least, progress)
    if html is not None:
        write_report(paths_page.page(report, f"Paths of {episodes.name}"), html)
    if as_json:
        print(json.dumps(_as_json(report)))
        return
    print(paths_page.text(report), end="")
    missing = report.tally.episodes - report.tally.judged
    if missing:
        why = f", first: {unjudged[0]}" if unjudged else f": no feedback {feedback}"
        print(f"\n{missing} episodes count without success{why}")
    if broken:
        print(f"{broken} broken lines left out")
    if html is not None:
        print(f"page in {html}")


def _episodes(path: Path, workload: str | None, feedback: str) -> tuple[list[Any], int]:
    """The episodes of a store or of a file, and how many lines of it could not be read."""
    from understudy.core.chat_files import ImportOptions, ImportReport, import_file

    if not path.exists():
        raise ValueError(f"there is no store and no file {path}")
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        report = ImportReport()
        columns = {"reward": "outcome", feedback: feedback}  # as `eval --save` writes them
        return list(import_file(path, ImportOptions(feedback=columns), report)), len(report.broken)
    return captured(path, workload), 0


def _judged(
    check: Path | None, feedback: str, at_least: float, unjudged: list[str]
) -> Callable[[Any], bool | None]:
    """What says whether an episode went well; reasons of failed checks go to `unjudged`."""
    from understudy.core.types import Feedback, select_reward
    from understudy.judges.check import Check

    if check is None:

        def by_feedback(episode: Any) -> bool | None:
            value = select_reward(episode.feedback, feedback)
            return None if value is None else value >= at_least

        return by_feedback
    judge = Check.from_file(check)

    def by_check(episode: Any) -> bool | None:
        said = judge.judge_episode(episode)
        if isinstance(said, Feedback):
            return isinstance(said.value, (bool, int, float)) and said.value >= at_least
        unjudged.append(said.reason)
        return None

    return by_check


def _as_json(report: Any) -> dict[str, Any]:
    from understudy.world.describing.paths import point_text

    def tally(t: Any) -> dict[str, Any]:
        return {"episodes": t.episodes, "judged": t.judged, "well": t.well}

    return {
        **tally(report.tally),
        "branches": [
            {"after": list(b.after), "kind": b.kind, "gain_bits": b.gain,
             "ways": {way: tally(t) for way, t in b.ways.items()}}
            for b in report.branches
        ],
        "loops": [
            {"point": list(lp.point), "repeats": lp.repeats, "most": lp.most,
             "then": dict(lp.ends), **tally(lp.tally)}
            for lp in report.loops
        ],
        "dead_ends": [
            {"point": list(d.point), "last": d.last, "others": tally(d.others), **tally(d.tally)}
            for d in report.dead_ends
        ],
        "unused": {
            point_text(p): {"episodes": n, "tools": tools}
            for p, (n, tools) in report.unused.items()
        },
        "cut": report.cut,
        "left_out": report.left_out,
    }  # fmt: skip
