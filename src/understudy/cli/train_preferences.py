"""`understudy train dpo|kto|reward-model`: learning from preferences and thumbs."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.data import DEFAULT_STORE, StoreOption, adapter_folder

RunArgument = Annotated[Path, typer.Argument(help="The run's folder; an interrupted one resumes.")]
StartOption = Annotated[Path | None, typer.Option(help="A run or adapter folder to go on from.")]
WorkloadOption = Annotated[str | None, typer.Option(help="Only this workload's episodes.")]
PairsOption = Annotated[
    Path | None,
    typer.Option(help="JSONL of prompt, chosen, rejected (TRL's format), instead of a store."),
]
ThumbsOption = Annotated[
    Path | None,
    typer.Option(help="JSONL of prompt, completion, label (TRL's format), instead of a store."),
]
ConfigOption = Annotated[Path | None, typer.Option(help="A TOML or JSON configuration.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, e.g. --set beta=0.2.")
]
ThreadsOption = Annotated[int, typer.Option(min=0, help="Cores to use; 0: fit to the load.")]
QuietOption = Annotated[bool, typer.Option(help="No progress display.")]


def dpo(
    run: RunArgument,
    store: StoreOption = DEFAULT_STORE,
    workload: WorkloadOption = None,
    pairs: PairsOption = None,
    start: StartOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Train on preferences (DPO): of two answers to one prompt, more of the better one.

    Pairs are episodes of one scenario whose feedback differs, or the lines of --pairs. The name of
    the feedback is set by --set feedback=NAME.

    Example: understudy train dpo runs/preferred --start runs/distilled --set feedback=ruler
    """
    from understudy.recipes.dpo import DpoConfig, dpo

    _on_pairs(DpoConfig, dpo, run, store, workload, pairs, start, config, overrides, threads, quiet)


def kto(
    run: RunArgument,
    store: StoreOption = DEFAULT_STORE,
    workload: WorkloadOption = None,
    thumbs: ThumbsOption = None,
    start: StartOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Train on thumbs (KTO): more of what was found good, less of what was not; no pairs needed.

    Thumbs are episodes with feedback named `thumb` (--set feedback=NAME), or the lines of --thumbs.

    Example: understudy train kto runs/thumbed --start runs/distilled --workload support
    """
    from understudy.recipes.kto import KtoConfig, kto
    from understudy.recipes.preference_data import begun_with, read_thumbs, thumbs_of

    def find(settings: Any) -> Any:
        if thumbs is not None:
            return read_thumbs(thumbs)
        found = _captured(store, workload)
        return thumbs_of(found, settings.feedback, settings.split, settings.threshold)

    def train(opened: Any, settings: Any) -> Any:
        found, left_out = begun_with(opened, "thumbs", lambda: find(settings), read_thumbs)
        return kto(opened, found, settings, left_out, quiet)

    _train(KtoConfig, run, start, config, overrides, threads, "thumbs", train)


def reward_model(
    run: RunArgument,
    store: StoreOption = DEFAULT_STORE,
    workload: WorkloadOption = None,
    pairs: PairsOption = None,
    start: StartOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Train a reward model on preferences: an adapter that says how well a conversation went.

    Pairs as for `dpo`. The reward is the difference of two answers' logprobs behind a question.

    Example: understudy train reward-model runs/judge --pairs preferences.jsonl --set epochs=2
    """
    from understudy.recipes.reward_model import RewardModelConfig, reward_model

    _on_pairs(
        RewardModelConfig, reward_model, run, store, workload, pairs, start, config, overrides,
        threads, quiet,
    )  # fmt: skip


def _on_pairs(
    kind: Any,
    recipe: Any,
    run: Path,
    store: Path,
    workload: str | None,
    pairs: Path | None,
    start: Path | None,
    config: Path | None,
    overrides: list[str] | None,
    threads: int,
    quiet: bool,
) -> None:
    from understudy.recipes.preference_data import begun_with, pairs_of, read_pairs

    def find(settings: Any) -> Any:
        if pairs is not None:
            return read_pairs(pairs)
        found = _captured(store, workload)
        how = (settings.feedback, settings.split, settings.pairs_per_scenario, settings.seed)
        return pairs_of(found, *how)

    def train(opened: Any, settings: Any) -> Any:
        found, left_out = begun_with(opened, "pairs", lambda: find(settings), read_pairs)
        return recipe(opened, found, settings, left_out, quiet)

    _train(kind, run, start, config, overrides, threads, "pairs", train)


def _train(
    kind: Any,
    run: Path,
    start: Path | None,
    config: Path | None,
    overrides: list[str] | None,
    threads: int,
    what: str,
    train: Callable[[Any, Any], Any],
) -> None:
    from understudy.cli.train import _prepare, _run
    from understudy.runs.config import load_config

    values = {"start": str(adapter_folder(start))} if start else {}
    settings = load_config(kind, config, overrides or [], values)
    _prepare(threads)
    with _run(run, settings) as opened:
        result = train(opened, settings)
    print(f"{result.steps} steps on {result.used} {what}; adapter in {result.adapter}")
    for reason, count in result.left_out.items():
        print(f"  left out: {count} {reason}")


def _captured(store: Path, workload: str | None) -> list[Any]:
    from understudy.cli.train import _episodes

    return _episodes(store, workload)
