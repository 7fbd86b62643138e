"""`understudy train user`: a model that plays the users."""

from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.data import DEFAULT_STORE, StoreOption


def user(
    run: Annotated[Path, typer.Argument(help="The run's folder; an interrupted one resumes.")],
    store: StoreOption = DEFAULT_STORE,
    workload: Annotated[str | None, typer.Option(help="Only this workload's episodes.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML or JSON configuration.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, e.g. --set epochs=4.")
    ] = None,
    isolated: Annotated[
        bool, typer.Option(help="Refuse everything but the store, for the process's life.")
    ] = False,
    threads: Annotated[int, typer.Option(min=0, help="Cores to use; 0: fit to the load.")] = 0,
    quiet: Annotated[bool, typer.Option(help="No progress display.")] = False,
) -> None:
    """Teach an adapter to say what users said: it reads a user's goal, manner and conversation.

    It is tried at turns of the held-out split: how many of the facts that real users told there its
    replies tell, beside the base's.

    Example: understudy train user runs/user --workload support
    """
    from understudy.cli.train import _episodes, _prepare, _run
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.user import UserConfig, train_user
    from understudy.runs.config import load_config

    if isolated:
        only_the_store([store])
    settings = load_config(UserConfig, config, overrides or [])
    _prepare(threads)
    found = _episodes(store, workload)
    with _run(run, settings) as opened:
        result = train_user(opened, found, settings, quiet)
    distilled, told = result.distilled, result.told
    print(f"{distilled.steps} steps on {distilled.kept} turns; adapter in {distilled.adapter}")
    for reason, count in distilled.rows_left_out.items():
        print(f"  left out: {count} turns, {reason}")
    if told is not None:
        print(f"of {told.facts} facts at {told.turns} held-out turns it tells {told.trained:.0%}, "
              f"the base {told.base:.0%}")  # fmt: skip
