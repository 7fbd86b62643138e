"""`understudy world report`: how faithful a world is, as text, JSON and one HTML page."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.data import JsonOption, open_store


def report(
    world: Annotated[Path, typer.Argument(help="A folder that `world learn` wrote.")],
    store: Annotated[
        Path | None,
        typer.Option(help="Measure on the episodes of this store that the world has not seen."),
    ] = None,
    workload: Annotated[str | None, typer.Option(help="Only this workload's episodes.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the page into this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how faithful a world is: as measured when it was learned, or on other traffic.

    The page is one file that loads nothing: all columns against floor and ceiling, tools,
    calibration, where to collect traces, the worst misses.

    Example: understudy world report build/world --html build/world.html
    """
    from understudy.runs.report import write_report
    from understudy.world.fidelity import FidelityReport
    from understudy.world.fidelity_page import page

    if store is not None:
        measured = _measure(world, store, workload)
    else:
        file = world / "fidelity.json"
        if not file.exists():
            raise ValueError(f"{world} has no fidelity.json; learn the world with `world learn`")
        measured = FidelityReport.from_json(json.loads(file.read_text()))
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        write_report(page(measured, world.name), html)
    print(json.dumps(measured.to_json()) if as_json else measured.table())


def _measure(world: Path, store: Path, workload: str | None) -> Any:
    from understudy.runs.progress import Progress
    from understudy.world.fidelity import fidelity
    from understudy.world.model import World

    learned = World.load(world)
    with open_store(store) as db:
        found = list(db.read_episodes(**({"workload": workload} if workload else {})))
    known = set(learned.episode_ids)
    new = [e for e in found if e.id not in known]
    if not new:
        raise ValueError(
            f"the world has learned from all {len(found)} episodes there; leave --store out for "
            "what was measured on those kept aside, or capture more"
        )
    with Progress("measure the world", total=len(new), unit="episodes") as progress:
        return fidelity(learned, new, each=progress.advance)
