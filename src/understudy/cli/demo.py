"""The whole loop on this machine."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("build/demo"),
    seed: Annotated[int, typer.Option(help="Everything follows from it.")] = 0,
    quick: Annotated[bool, typer.Option(help="A small version, to see that it runs.")] = False,
    fresh: Annotated[bool, typer.Option(help="Start clean, even where a run could go on.")] = False,
) -> None:
    """Capture, learn a world, rehearse, train, prove, serve: for real, on this machine.

    Example: understudy demo --seed 1
    """
    from understudy.demo.main import run_demo

    raise typer.Exit(run_demo(out, seed=seed, quick=quick, fresh=fresh))
