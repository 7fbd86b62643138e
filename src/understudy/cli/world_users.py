"""How wide a world's users are, against real ones that it did not learn from."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.data import DEFAULT_STORE, JsonOption, StoreOption, captured
from understudy.cli.places import ready_file


def users(
    world: Annotated[
        Path | None, typer.Argument(help="A folder that `world learn` wrote; not with --fit.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    workload: Annotated[str | None, typer.Option(help="Only this workload's episodes.")] = None,
    fit: Annotated[
        float | None,
        typer.Option(
            min=0.05, max=0.95, help="Mine the users anew, from this share of the scenarios."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="An SVG file for distances beside real ones.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the users and of the random halves.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare a world's users with real ones, not learned from.

    Each figure of the simulated users has that of a second real sample beside it. A world that
    learned from all of the store leaves nothing to compare with: --fit mines users anew, from a
    share of the scenarios, and compares them with those of the others.

    Example: understudy world users build/world --store newer.db --workload support

    Example: understudy world users --fit 0.5 --store understudy.db --workload support
    """
    from understudy.core.types import parted
    from understudy.recipes.user_width import (
        measure_users,
        mine_users,
        mined_speakers,
        unknown_to,
    )
    from understudy.world.model import World

    if (world is None) == (fit is None):
        raise ValueError("give either a world, or --fit with the share of scenarios to mine")
    ready_file(plot)
    learned = World.load(world) if world is not None else None
    found = captured(store, workload)
    if learned is None:
        known, heldout = parted(found, 1 - (fit or 0.0), "users:")
        book = mine_users(known)
    else:
        heldout, book = unknown_to(learned, found), learned.book
    if not heldout:
        raise ValueError("no episode of these is held out: give --fit 0.5 instead of a world")
    report = asyncio.run(measure_users(mined_speakers(book), heldout, seed, quiet=False))
    if plot is not None:
        plot.write_text(report.plot().svg())
    print(json.dumps(report.to_json()) if as_json else report.table())
