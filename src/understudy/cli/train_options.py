"""Options of the commands that train: where a run begins, and who else sees its metrics."""

from pathlib import Path
from typing import Annotated, Any

import typer

FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="RUN, RUN@STEP or RUN@best: go on from that checkpoint in this new run, with that "
        "run's configuration but for what is given here.",
    ),
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option(help="Show metrics there too: tensorboard, wandb or mlflow; repeatable."),
]


def values_of(named: str | None, config: Path | None) -> dict[str, Any]:
    """The configuration of the run that is gone on from, where there is one and no file."""
    from understudy.recipes.checkpoints import find_checkpoint
    from understudy.runs.directory import Run

    if named is None or config is not None:
        return {}
    return Run.open(find_checkpoint(named).parent.parent, read_only=True).config
