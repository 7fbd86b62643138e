"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[Path, typer.Argument(help="The run's folder; an interrupted one resumes.")]
StartOption = Annotated[Path | None, typer.Option(help="A run or adapter folder to go on from.")]
CheckOption = Annotated[
    Path | None, typer.Option(help="A Python file with check(messages, ticket) -> reward.")
]
JudgeOption = Annotated[
    Path, typer.Option("--check", help="A Python file: check(messages, ticket) -> reward.")
]
WorldOption = Annotated[Path, typer.Option(help="A folder that `world learn` wrote.")]
WorkloadOption = Annotated[str | None, typer.Option(help="Only this workload's episodes.")]
ConfigOption = Annotated[Path | None, typer.Option(help="A TOML or JSON configuration.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, e.g. --set seed=1; repeatable.")
]
IsolatedOption = Annotated[
    bool, typer.Option(help="Refuse everything but the store, for the process's life.")
]
ThreadsOption = Annotated[int, typer.Option(min=0, help="Cores to use; 0: fit to the load.")]
DeviceOption = Annotated[
    str, typer.Option(help="cpu, cuda or cuda:N; auto: CUDA where there is one, in bf16.")
]
QuietOption = Annotated[bool, typer.Option(help="No progress display.")]
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
SecondOption = Annotated[
    Path | None, typer.Option(help="A folder that `world learn --second` wrote: guards.")
]
