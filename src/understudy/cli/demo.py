"""The whole loop on this machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("build/demo"),
    seed: Annotated[int, typer.Option(help="Fixes customers, flaws and what is drawn.")] = 0,
    quick: Annotated[bool, typer.Option(help="A small version, to see that it runs.")] = False,
    fresh: Annotated[bool, typer.Option(help="Start clean, even where a run could go on.")] = False,
) -> None:
    """Capture, learn a world, rehearse, train, prove, serve: for real, on this machine.

    Example: understudy demo --seed 1
    """
    from understudy.demo.main import run_demo

    try:
        code = run_demo(out, seed=seed, quick=quick, fresh=fresh)
    except KeyboardInterrupt:  # while services start or the report is written
        line = "interrupted; the same command goes on from the last whole stage"
        print(f"\n{line}", file=sys.stderr)
        code = 130
    raise typer.Exit(code)
