"""`understudy world report`: how faithful a world is, as text, JSON and one HTML page."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.data import JsonOption, captured
from understudy.cli.places import ready_file
from understudy.cli.world_language import KeyOption, ModelOption, RunOption, UrlOption, language


def report(
    world: Annotated[Path, typer.Argument(help="A folder that `world learn` wrote.")],
    store: Annotated[
        Path | None,
        typer.Option(help="Measure on the episodes of this store that the world has not seen."),
    ] = None,
    workload: Annotated[str | None, typer.Option(help="Only this workload's episodes.")] = None,
    run: RunOption = None,
    language_url: UrlOption = None,
    language_model: ModelOption = None,
    language_key_env: KeyOption = None,
    html: Annotated[Path | None, typer.Option(help="Write the page into this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how faithful a world is, as text, JSON or a page.

    As measured when it was learned, or with --store on other traffic.

    The page is one file that loads nothing: all columns against floor and ceiling, tools,
    calibration, where to collect traces, the worst misses.

    With a model for what the world leaves open, --store is measured with and without it, on
    episodes that neither has seen. Where the world has seen all of them, one is learned from those
    not held out.

    Example: understudy world report build/world --html build/world.html
    """
    from understudy.runs.report import write_report
    from understudy.world.fidelity.page import page
    from understudy.world.fidelity.report import FidelityReport
    from understudy.world.files import document

    ready_file(html)
    model = language(run, language_url, language_model, language_key_env)
    if model is not None and store is None:
        raise ValueError("a model is measured on episodes: name their --store")
    if store is not None:
        measured = _measure(world, store, workload, model)
    else:
        file = world / "fidelity.json"
        if not file.exists():
            raise ValueError(
                f"{world} has no fidelity.json; write it with `understudy world learn`"
            )
        measured = FidelityReport.from_json(document(file))
    if html is not None:
        write_report(page(measured, world.name), html)
    print(json.dumps(measured.to_json()) if as_json else measured.table())


def _measure(world: Path, store: Path, workload: str | None, model: Any) -> Any:
    from understudy.runs.progress import Progress
    from understudy.world.fidelity.report import fidelity, filled_results
    from understudy.world.known.order import in_time
    from understudy.world.model import World

    learned = World.load(world)
    found = captured(store, workload)
    known = set(learned.episode_ids)
    new = [e for e in found if e.id not in known]
    if known <= {e.id for e in found}:
        learned.moments.place(learned.episode_ids, in_time(found))
    if not new and model is not None:
        learned, new = _apart(found)
    if model is not None:
        new = [e for e in new if e.id not in model.episodes]
    if not new:
        raise ValueError(
            f"the world has learned from all {len(found)} episodes there; leave --store out for "
            "what was measured on those kept aside, or capture more"
        )
    filled, counted = None, dict[str, int]()
    if model is not None:

        async def fill(each: Callable[[], None]) -> tuple[Any, dict[str, int]]:
            async with model.opened() as opened:
                owner = opened(learned)
                return await filled_results(owner, new, each=each), dict(owner.counted)

        with Progress("ask the model", total=len(new), unit="episodes") as progress:
            filled, counted = asyncio.run(fill(progress.advance))
    with Progress("measure the world", total=len(new), unit="episodes") as progress:
        learned_from = [e for e in found if e.id in set(learned.episode_ids)]
        report = fidelity(learned, new, learned_from, each=progress.advance, filled=filled)
    report.language = counted
    return report


def _apart(episodes: list[Any]) -> tuple[Any, list[Any]]:
    """A world of the episodes that are not held out, and those that are."""
    from understudy.core.types import HELDOUT_SHARE, parted
    from understudy.world.config import WorldConfig
    from understudy.world.fidelity.crossfit import calibrated
    from understudy.world.known.order import arranged

    ordered, lasts = arranged(episodes, parted(episodes, HELDOUT_SHARE)[0])
    train, held = parted(ordered, HELDOUT_SHARE)
    world = calibrated(train, WorldConfig(lasting=lasts))
    world.moments.place(world.episode_ids, ordered)
    return world, held
