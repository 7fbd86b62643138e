"""Train: distil, rehearse, compare."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.data import DEFAULT_STORE, StoreOption, adapter_folder, captured
from understudy.cli.options import (
    CheckOption,
    ConfigOption,
    FromOption,
    IsolatedOption,
    JudgeOption,
    QuietOption,
    RunArgument,
    SecondOption,
    SetOption,
    ThreadsOption,
    TrackOption,
    WorkloadOption,
    WorldOption,
)
from understudy.cli.running import (
    end_of_several,
    first_of_several,
    fit_threads,
    kept_in,
    opened_run,
    say_stopped,
    values_of,
)
from understudy.cli.tools_file import ToolsOption, episodes_shown, world_shown
from understudy.cli.train_distil import correct, opd
from understudy.cli.train_logged import ppo as train_ppo
from understudy.cli.train_logged import stream as train_stream
from understudy.cli.train_preferences import dpo, kto, reward_model
from understudy.cli.train_report import report as train_report
from understudy.cli.train_user import user as train_user
from understudy.cli.train_world import world as train_world
from understudy.cli.world_language import RunOption

app = typer.Typer(
    help="Recipes. Under torchrun, over several processes.",
    no_args_is_help=True,
    rich_markup_mode=None,
    callback=first_of_several,
    result_callback=end_of_several,
)


@app.command()
def sft(
    run: RunArgument,
    store: StoreOption = DEFAULT_STORE,
    workload: WorkloadOption = None,
    check: CheckOption = None,
    tools: ToolsOption = None,
    world: Annotated[
        Path | None, typer.Option(help="A learned world to evaluate in; see evaluate_every.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    fork: FromOption = None,
    track: TrackOption = None,
    isolated: IsolatedOption = False,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Distil captured episodes into an adapter. With --check, only those that pass it.

    Episodes of the held-out split are left out, unless --set split=all. With --check, --world and
    --set evaluate_every=100, success in the world is measured as it goes, and the best kept.

    Example: understudy train sft runs/distilled --check check.py --set epochs=3
    """
    from understudy.judges.check import Check
    from understudy.recipes.evaluate import evaluation
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.sft import SftConfig, sft
    from understudy.runs.config import load_config

    if isolated:  # before the owner's code runs
        only_the_store([store])
    values = values_of(fork, config) | ({"keep": "check"} if check else {})
    settings = load_config(SftConfig, config, overrides or [], values)
    judge = Check.from_file(check) if check else None
    fit_threads(threads)
    if world is not None and not settings.evaluate_every:
        raise ValueError("--world is evaluated in as it goes: --set evaluate_every=STEPS too")
    found, evaluate = episodes_shown(captured(store, workload), tools), None
    if settings.evaluate_every:
        if world is None or judge is None:
            raise ValueError("to evaluate as it goes, name the --world and the --check to do so in")
        learned = world_shown(world, tools)
        evaluate = evaluation(learned, judge, settings.evaluate_scenarios, settings.seed)
    given = {"--check": check, "--world": world, "--tools": tools}
    with opened_run(run, settings, given, fork, track or ()) as opened:
        result = sft(opened, found, settings, judge, quiet, evaluate)
    rows = f" ({result.rows} rows)" if result.rows != result.kept else ""
    print(f"{result.steps} steps on {result.kept} episodes{rows}; {kept_in(result.adapter)}")
    for what, left_out in (("episodes", result.left_out), ("conversations", result.rows_left_out)):
        for reason, count in left_out.items():
            print(f"  left out: {count} {what}, {reason}")


app.command("world")(train_world)
app.command("ppo")(train_ppo)
app.command("stream")(train_stream)
app.command("report")(train_report)
app.command("dpo")(dpo)
app.command("kto")(kto)
app.command("reward-model")(reward_model)
app.command("user")(train_user)
app.command("opd")(opd)
app.command("correct")(correct)


@app.command()
def rft(
    run: RunArgument,
    world: WorldOption,
    check: JudgeOption,
    store: StoreOption = DEFAULT_STORE,
    second: SecondOption = None,
    language: RunOption = None,
    workload: WorkloadOption = None,
    tools: ToolsOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    isolated: IsolatedOption = False,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Play thousands of scenarios in a learned world, and distil what passes the check.

    What passes on values that the world made up is not kept (--set guards=null keeps it). With
    --second, nor is what the second world does not confirm, and alarms of its guards end the play:
    what was kept until then is distilled, and the exit code is 1. With --language, a run of `train
    world`, its model fills what the world leaves open.

    Example: understudy train rft runs/sampled --world build/world --check check.py
             --set scenarios=2000
    """
    from understudy.judges.check import Check
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.learner import prepare_kernel
    from understudy.recipes.rft import RftConfig, rft
    from understudy.runs.config import load_config
    from understudy.world.language.filler import became

    values: dict[str, Any] = {"guards": {"second": str(second)}} if second else {}
    values |= {"language": str(language)} if language else {}
    settings = load_config(RftConfig, config, overrides or [], values)
    if isolated:  # before the owner's code runs; no compiler can be started afterwards
        prepare_kernel(settings.base)
        only_the_store([store])
    judge = Check.from_file(check)
    fit_threads(threads)
    learned = world_shown(world, tools)
    found = episodes_shown(captured(store, workload), tools)
    given = {"--world": world, "--second": second, "--check": check, "--tools": tools}
    with opened_run(run, settings, given) as opened:
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
        f"captured episodes; {kept_in(result.adapter)}"
    )
    for what, left_out in (("captured", result.captured_left_out), ("played", result.left_out)):
        for reason, count in left_out.items():
            print(f"  left out: {count} of those {what}, {reason}")
    if result.language:
        print(f"  {became(result.language)}")
    say_stopped(result.stopped)


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
    fork: FromOption = None,
    track: TrackOption = None,
    isolated: IsolatedOption = False,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Train by reinforcement learning (GRPO) in a learned world, and only there.

    Rewards that rest on values which the world made up are withheld (--set guards=null pays them).
    With --second, so are those that the second world does not confirm, and alarms of its guards end
    the run with exit code 1. --set guards.stop_after=3 waits for more of them.
    --set max_staleness=1 plays the next step's episodes while one is trained; --set
    evaluate_every=10 measures success on held-out scenarios and keeps the best checkpoint.
    --set preset=NAME takes a published set of options: grpo, dapo, dr_grpo, gspo, cispo, rloo,
    reinforce++; what else is set wins over it.

    Example: understudy train grpo runs/rehearsed --world build/world --check check.py
             --start runs/distilled
    """
    from understudy.judges.check import Check
    from understudy.recipes.grpo import GrpoConfig, grpo
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.learner import prepare_kernel
    from understudy.runs.config import load_config

    values = values_of(fork, config)
    values |= {"start": str(adapter_folder(start))} if start else {}
    values |= {"guards": {"second": str(second)}} if second else {}
    values |= {"language": str(language)} if language else {}
    settings = load_config(GrpoConfig, config, overrides or [], values)
    if isolated:  # before the owner's code runs; no compiler can be started afterwards
        prepare_kernel(settings.base)
        only_the_store([])
    judge = Check.from_file(check)
    fit_threads(threads)
    learned = world_shown(world, tools)
    given = {"--world": world, "--second": second, "--check": check, "--tools": tools}
    with opened_run(run, settings, given, fork, track or ()) as opened:
        result = asyncio.run(
            grpo(opened, learned, judge, settings, workload, threads=threads or None, quiet=quiet)
        )
    print(
        f"{result.steps} steps; in the world now: reward {result.reward:.3f}, "
        f"success {result.success:.0%}; {kept_in(result.adapter)}"
    )
    say_stopped(result.stopped)
