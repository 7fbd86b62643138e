"""`understudy train dpo|kto|reward-model`: learning from preferences and thumbs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.data import DEFAULT_STORE, StoreOption, adapter_folder, captured
from understudy.cli.options import (
    ConfigOption,
    FromOption,
    IsolatedOption,
    QuietOption,
    RunArgument,
    SetOption,
    StartOption,
    ThreadsOption,
    TrackOption,
    WorkloadOption,
)
from understudy.cli.running import fit_threads, kept_in, opened_run, values_of

PairsOption = Annotated[
    Path | None,
    typer.Option(help="JSONL of prompt, chosen, rejected (TRL's format), instead of a store."),
]
ThumbsOption = Annotated[
    Path | None,
    typer.Option(help="JSONL of prompt, completion, label (TRL's format), instead of a store."),
]


def dpo(
    run: RunArgument,
    store: StoreOption = DEFAULT_STORE,
    workload: WorkloadOption = None,
    pairs: PairsOption = None,
    start: StartOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    fork: FromOption = None,
    track: TrackOption = None,
    isolated: IsolatedOption = False,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Train on preferences (DPO): of two answers to one prompt, more of the better one.

    Pairs are episodes of one scenario whose feedback differs, or the lines of --pairs. The name of
    the feedback is set by --set feedback=NAME.

    Example: understudy train dpo runs/preferred --start runs/distilled --set feedback=ruler
    """
    from understudy.recipes.dpo import DpoConfig, dpo
    from understudy.recipes.preference_data import read_pairs

    settings = _settings(DpoConfig, start, config, overrides, fork)
    _prepare(store if isolated else None, threads)
    find = partial(_pairs, settings, store, workload, pairs)
    _train(run, settings, fork, track, "pairs", find, read_pairs, partial(dpo, quiet=quiet))


def kto(
    run: RunArgument,
    store: StoreOption = DEFAULT_STORE,
    workload: WorkloadOption = None,
    thumbs: ThumbsOption = None,
    start: StartOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    fork: FromOption = None,
    track: TrackOption = None,
    isolated: IsolatedOption = False,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Train on thumbs (KTO): more of what was found good, less of what was not; no pairs needed.

    Thumbs are episodes with feedback named `thumb` (--set feedback=NAME), or the lines of --thumbs.

    Example: understudy train kto runs/thumbed --start runs/distilled --workload support
    """
    from understudy.recipes.kto import KtoConfig, kto
    from understudy.recipes.preference_data import read_thumbs

    settings = _settings(KtoConfig, start, config, overrides, fork)
    _prepare(store if isolated else None, threads)
    find = partial(_thumbs, settings, store, workload, thumbs)
    _train(run, settings, fork, track, "thumbs", find, read_thumbs, partial(kto, quiet=quiet))


def reward_model(
    run: RunArgument,
    store: StoreOption = DEFAULT_STORE,
    workload: WorkloadOption = None,
    pairs: PairsOption = None,
    start: StartOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    fork: FromOption = None,
    track: TrackOption = None,
    isolated: IsolatedOption = False,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Train a reward model on preferences: it says how well a conversation went.

    Pairs as for `dpo`. The reward is the difference of two answers' logprobs behind a question.

    Example: understudy train reward-model runs/judge --pairs preferences.jsonl --set epochs=2
    """
    from understudy.recipes.preference_data import read_pairs
    from understudy.recipes.reward_model import RewardModelConfig, reward_model

    settings = _settings(RewardModelConfig, start, config, overrides, fork)
    _prepare(store if isolated else None, threads)
    find = partial(_pairs, settings, store, workload, pairs)
    _train(
        run, settings, fork, track, "pairs", find, read_pairs, partial(reward_model, quiet=quiet)
    )


def _settings(
    kind: Any,
    start: Path | None,
    config: Path | None,
    overrides: list[str] | None,
    fork: str | None,
) -> Any:
    from understudy.runs.config import load_config

    values = values_of(fork, config)
    values |= {"start": str(adapter_folder(start))} if start else {}
    return load_config(kind, config, overrides or [], values)


def _prepare(only: Path | None, threads: int) -> None:
    from understudy.recipes.isolation import only_the_store

    if only is not None:
        only_the_store([only])
    fit_threads(threads)


def _pairs(settings: Any, store: Path, workload: str | None, file: Path | None) -> Any:
    """Pairs of the file, or of what the store holds; and what was left out."""
    from understudy.recipes.preference_data import pairs_of, read_pairs

    if file is not None:
        return read_pairs(file)
    how = (settings.feedback, settings.split, settings.pairs_per_scenario, settings.seed)
    return pairs_of(captured(store, workload), *how)


def _thumbs(settings: Any, store: Path, workload: str | None, file: Path | None) -> Any:
    from understudy.recipes.preference_data import read_thumbs, thumbs_of

    if file is not None:
        return read_thumbs(file)
    how = (settings.feedback, settings.split, settings.threshold)
    return thumbs_of(captured(store, workload), *how)


def _train(
    run: Path,
    settings: Any,
    fork: str | None,
    track: list[str] | None,
    what: str,
    find: Callable[[], Any],
    read: Callable[[Path], Any],
    recipe: Callable[..., Any],
) -> None:
    from understudy.recipes.preference_data import begun_with

    with opened_run(run, settings, None, fork, track or ()) as opened:
        found, left_out = begun_with(opened, what, find, read)
        result = recipe(opened, found, settings, left_out)
    print(f"{result.steps} steps on {result.used} {what}; {kept_in(result.adapter)}")
    for reason, count in result.left_out.items():
        print(f"  left out: {count} {reason}")
