"""Learn a world from captured episodes, look at how faithful it is, call its tools by hand."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.data import DEFAULT_STORE, JsonOption, StoreOption, open_store
from understudy.core.types import HELDOUT_SHARE

app = typer.Typer(help="A world learned from traffic.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def learn(
    out: Annotated[Path, typer.Argument(help="The folder that the world is written to.")],
    store: StoreOption = DEFAULT_STORE,
    workload: Annotated[str | None, typer.Option(help="Only this workload's episodes.")] = None,
    heldout: Annotated[
        float, typer.Option(min=0, max=0.9, help="The share kept aside to measure fidelity on.")
    ] = HELDOUT_SHARE,
    isolated: Annotated[
        bool, typer.Option(help="Refuse everything but the store, for the process's life.")
    ] = False,
) -> None:
    """Learn a world model from the store's episodes, and measure it on those kept aside.

    Example: understudy world learn build/world --store understudy.db --workload support
    """
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.world import learn_world

    if isolated:
        only_the_store([store])
    with open_store(store) as db:
        found = list(db.read_episodes(**({"workload": workload} if workload else {})))
    report = learn_world(found, out, heldout)
    print(report.table())
    print(f"world in {out}")


@app.command()
def report(
    world: Annotated[Path, typer.Argument(help="A folder that `world learn` wrote.")],
    as_json: JsonOption = False,
) -> None:
    """Show the fidelity that was measured when the world was learned.

    Example: understudy world report build/world
    """
    from understudy.world.fidelity import FidelityReport

    file = world / "fidelity.json"
    if not file.exists():
        raise ValueError(f"{world} has no fidelity.json; learn the world with `world learn`")
    data = json.loads(file.read_text())
    print(json.dumps(data) if as_json else FidelityReport.from_json(data).table())


@app.command("try")
def try_(
    world: Annotated[Path, typer.Argument(help="A folder that `world learn` wrote.")],
    seed: Annotated[int, typer.Option(help="Of the first session.")] = 0,
) -> None:
    """Call the world's tools by hand; see state, provenance and doubt after each call.

    Example: understudy world try build/world
    """
    import sys

    from understudy.cli.world_try import HELP, play
    from understudy.world.model import World

    learned = World.load(world)
    if sys.stdin.isatty():
        print(HELP)
    play(learned, _lines(), seed=seed)


def _lines() -> Iterator[str]:
    """Lines from a person, or from a file, until there are no more."""
    import sys

    while True:
        try:
            yield input("world> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return
