"""Train: distil, rehearse, compare."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.data import DEFAULT_STORE, StoreOption, adapter_folder, open_store
from understudy.cli.tools_file import ToolsOption, episodes_shown, world_shown
from understudy.cli.train_world import world as train_world
from understudy.cli.world_language import RunOption

app = typer.Typer(help="Recipes.", no_args_is_help=True, rich_markup_mode=None)

RunArgument = Annotated[Path, typer.Argument(help="The run's folder; an interrupted one resumes.")]
CheckOption = Annotated[
    Path | None, typer.Option(help="A Python file with check(messages, ticket) -> reward.")
]
JudgeOption = Annotated[
    Path, typer.Option("--check", help="A Python file: check(messages, ticket) -> reward.")
]
WorldOption = Annotated[Path, typer.Option(help="A folder that `world learn` wrote.")]
SecondOption = Annotated[
    Path | None, typer.Option(help="A folder that `world learn --second` wrote: guards.")
]
WorkloadOption = Annotated[str | None, typer.Option(help="Only this workload's episodes.")]
ConfigOption = Annotated[Path | None, typer.Option(help="A TOML or JSON configuration.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, e.g. --set steps=10.")
]
IsolatedOption = Annotated[
    bool, typer.Option(help="Refuse everything but the store, for the process's life.")
]
ThreadsOption = Annotated[int, typer.Option(min=0, help="Cores to use; 0: fit to the load.")]
QuietOption = Annotated[bool, typer.Option(help="No progress display.")]


@app.command()
def sft(
    run: RunArgument,
    store: StoreOption = DEFAULT_STORE,
    workload: WorkloadOption = None,
    check: CheckOption = None,
    tools: ToolsOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    isolated: IsolatedOption = False,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Distil captured episodes into an adapter. With --check, only those that pass it.

    Episodes of the held-out split are left out, unless --set split=all.

    Example: understudy train sft runs/distilled --check check.py --set epochs=3
    """
    from understudy.judges.check import Check
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.sft import SftConfig, sft
    from understudy.runs.config import load_config

    if isolated:  # before the owner's code runs
        only_the_store([store])
    values = {"keep": "check"} if check else {}
    settings = load_config(SftConfig, config, overrides or [], values)
    judge = Check.from_file(check) if check else None
    _prepare(threads)
    found = episodes_shown(_episodes(store, workload), tools)
    with _run(run, settings) as opened:
        result = sft(opened, found, settings, judge, quiet)
    rows = f" ({result.rows} rows)" if result.rows != result.kept else ""
    print(f"{result.steps} steps on {result.kept} episodes{rows}; adapter in {result.adapter}")
    for what, left_out in (("episodes", result.left_out), ("conversations", result.rows_left_out)):
        for reason, count in left_out.items():
            print(f"  left out: {count} {what}, {reason}")


app.command("world")(train_world)


@app.command()
def rft(
    run: RunArgument,
    world: WorldOption,
    check: JudgeOption,
    store: StoreOption = DEFAULT_STORE,
    second: SecondOption = None,
    workload: WorkloadOption = None,
    tools: ToolsOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    isolated: IsolatedOption = False,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Play thousands of scenarios in a learned world, and distil what passes the check.

    With --second, what the second world does not confirm is not kept, and alarms of its guards
    end the play: what was kept until then is distilled, and the exit code is 1.

    Example: understudy train rft runs/sampled --world build/world --check check.py
             --set scenarios=2000
    """
    from understudy.judges.check import Check
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.learner import prepare_kernel
    from understudy.recipes.rft import RftConfig, rft
    from understudy.runs.config import load_config

    values = {"guards": {"second": str(second)}} if second else {}
    settings = load_config(RftConfig, config, overrides or [], values)
    if isolated:  # before the owner's code runs; no compiler can be started afterwards
        prepare_kernel(settings.base)
        only_the_store([store])
    judge = Check.from_file(check)
    _prepare(threads)
    learned = world_shown(world, tools)
    found = episodes_shown(_episodes(store, workload), tools)
    with _run(run, settings) as opened:
        result = asyncio.run(
            rft(
                opened,
                learned,
                found,
                judge,
                settings,
                workload or "default",
                threads=threads or None,
                quiet=quiet,
            )
        )
    print(
        f"{result.rehearsed} of {result.played} scenarios passed; distilled with {result.captured} "
        f"captured episodes; adapter in {result.adapter}"
    )
    for what, left_out in (("captured", result.captured_left_out), ("played", result.left_out)):
        for reason, count in left_out.items():
            print(f"  left out: {count} of those {what}, {reason}")
    _say_stopped(result.stopped)


@app.command()
def grpo(
    run: RunArgument,
    world: WorldOption,
    check: JudgeOption,
    start: Annotated[
        Path | None, typer.Option(help="A run or adapter folder to go on from.")
    ] = None,
    second: SecondOption = None,
    language: RunOption = None,
    workload: Annotated[str, typer.Option(help="What the episodes are filed under.")] = "default",
    tools: ToolsOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    isolated: IsolatedOption = False,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Train by reinforcement learning (GRPO) in a learned world, and only there.

    With --second, rewards that the second world does not confirm are withheld, and alarms of its
    guards end the run with exit code 1. --set guards.stop_after=3 waits for more of them.

    Example: understudy train grpo runs/rehearsed --world build/world --check check.py
             --start runs/distilled
    """
    from understudy.judges.check import Check
    from understudy.recipes.grpo import GrpoConfig, grpo
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.learner import prepare_kernel
    from understudy.runs.config import load_config

    values: dict[str, Any] = {"start": str(adapter_folder(start))} if start else {}
    values |= {"guards": {"second": str(second)}} if second else {}
    values |= {"language": str(language)} if language else {}
    settings = load_config(GrpoConfig, config, overrides or [], values)
    if isolated:  # before the owner's code runs; no compiler can be started afterwards
        prepare_kernel(settings.base)
        only_the_store([])
    judge = Check.from_file(check)
    _prepare(threads)
    learned = world_shown(world, tools)
    with _run(run, settings) as opened:
        result = asyncio.run(
            grpo(opened, learned, judge, settings, workload, threads=threads or None, quiet=quiet)
        )
    print(
        f"{result.steps} steps; in the world now: reward {result.reward:.3f}, "
        f"success {result.success:.0%}; adapter in {result.adapter}"
    )
    _say_stopped(result.stopped)


def eval_(
    adapter: Annotated[Path, typer.Argument(help="A run or adapter folder.")],
    world: WorldOption,
    check: JudgeOption,
    scenarios: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    temperature: Annotated[float, typer.Option(min=0, help="0: greedy.")] = 0.0,
    seed: int = 1,
    tools: ToolsOption = None,
    threads: ThreadsOption = 0,
) -> None:
    """Success of a policy in a learned world, with its interval.

    It plays scenarios of the held-out split, which policies are not trained on by default. The
    world itself has learned from all episodes, those included.

    Example: understudy eval runs/rehearsed --world build/world --check check.py --temperature 1
    """
    from understudy.judges.check import Check
    from understudy.recipes.evaluate import evaluate_in_world

    judge = Check.from_file(check)
    fitted, learned = _prepare(threads), world_shown(world, tools)
    result = asyncio.run(
        evaluate_in_world(
            adapter_folder(adapter), learned, judge, scenarios, temperature, seed, fitted
        )
    )
    print(json.dumps(result.as_dict()))


def _episodes(store: Path, workload: str | None) -> list[Any]:
    """The captured episodes, or one workload's."""
    with open_store(store) as db:
        return list(db.read_episodes(**({"workload": workload} if workload else {})))


def _say_stopped(alarms: str | None) -> None:
    """Ends the command with exit code 1 where guards stopped the run."""
    if alarms:
        print(f"stopped by the guards: {alarms}", file=sys.stderr)
        raise typer.Exit(1)


def _prepare(threads: int) -> int:
    """Sets torch's threads, fitted to the load where none are named; how many."""
    import torch

    from understudy.core.cores import threads_for_load

    count = threads or threads_for_load()
    torch.set_num_threads(count)
    return count


@contextlib.contextmanager
def _run(path: Path, config: Any) -> Iterator[Any]:
    """The run at `path`: new, or resumed where it was interrupted with the same configuration."""
    from understudy.runs.directory import Run, RunError

    if (path / "run.json").exists():
        opened = Run.open(path, read_only=True)
        if opened.config != config.model_dump(mode="json"):
            raise RunError(f"{path} was begun with another configuration; choose another path")
        if opened.state == "done":
            raise RunError(f"{path} is done; choose another path, or delete it to train again")
        run = Run.open(path)
        print(f"resuming {path}")
    else:
        run = Run.create(path, config, config.seed)
    with run:
        yield run
