"""`understudy train ppo` and `train stream`: learning from single logged interactions."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.data import (
    DEFAULT_STORE,
    StoreOption,
    adapter_folder,
    captured,
    open_store,
)
from understudy.cli.options import (
    ConfigOption,
    FromOption,
    IsolatedOption,
    QuietOption,
    RunArgument,
    SecondOption,
    SetOption,
    ThreadsOption,
    TrackOption,
    WorkloadOption,
)
from understudy.cli.running import fit_threads, kept_in, opened_run, say_stopped, values_of
from understudy.cli.tools_file import ToolsOption, world_shown
from understudy.cli.world_language import RunOption

StartOption = Annotated[
    Path | None, typer.Option(help="The run or adapter folder whose episodes were logged.")
]
RewardOption = Annotated[
    str | None, typer.Option(help="The feedback that is the reward; thumb, if not set otherwise.")
]
CheckOption = Annotated[
    Path | None, typer.Option(help="A Python file, check(messages, ticket) -> reward, instead.")
]


def ppo(
    run: RunArgument,
    store: StoreOption = DEFAULT_STORE,
    start: StartOption = None,
    reward: RewardOption = None,
    check: CheckOption = None,
    world: Annotated[
        Path | None, typer.Option(help="A folder that `world learn` wrote: play there instead.")
    ] = None,
    second: SecondOption = None,
    language: RunOption = None,
    workload: WorkloadOption = None,
    tools: ToolsOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    fork: FromOption = None,
    track: TrackOption = None,
    isolated: IsolatedOption = False,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Train on logged episodes and what was said of them (PPO): no groups, no environment.

    Episodes need ids and logprobs, as of `understudy engine serve`. Those of the held-out split
    are left out, unless --set log.split=all. With --world and --check nothing logged is read: the
    policy plays in the world, `play.scenarios_per_step` scenarios a step, once each, with the
    guards of `train grpo` (--second); --language, a run of `train world`, fills what the world
    leaves open.

    Example: understudy train ppo runs/liked --start runs/distilled --reward thumb
    """
    from understudy.judges.check import Check
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.learner import prepare_kernel
    from understudy.recipes.ppo import PpoConfig
    from understudy.recipes.ppo import ppo as learn
    from understudy.recipes.ppo_world import of_the_world, ppo_in_world
    from understudy.runs.config import load_config

    values = values_of(fork, config) | _values(start, reward)
    play: dict[str, Any] = {"language": str(language)} if language else {}
    play |= {"guards": {"second": str(second)}} if second else {}
    values |= {"play": play} if play else {}
    settings = load_config(PpoConfig, config, overrides or [], values)
    if language is not None and world is None:
        raise ValueError("--language fills what a world leaves open: name the --world to play in")
    if second is not None and world is None:
        raise ValueError("--second guards what is played in a world: name the --world to play in")
    if tools is not None and world is None:
        raise ValueError("--tools are shown in a world: name the --world to play in")
    if world is not None and check is None:
        raise ValueError("--world needs --check: nobody leaves feedback in a world")
    if isolated:  # before the owner's code runs; no compiler can be started afterwards
        if world is not None:
            prepare_kernel(settings.base)
        only_the_store([] if world else [store])
    judge = Check.from_file(check) if check else None
    given = {"--check": check, "--world": world, "--second": second, "--tools": tools}
    fit_threads(threads)
    if world is not None and judge is not None:
        of_the_world(settings)  # refuses what is of logs alone before a run is begun
        learned = world_shown(world, tools)
        with opened_run(run, settings, given, fork, track or ()) as opened:
            played = asyncio.run(
                ppo_in_world(
                    opened, learned, judge, settings, workload or "default", threads or None, quiet
                )
            )
        print(
            f"{played.steps} steps; in the world now: reward {played.reward:.3f}, "
            f"success {played.success:.0%}; {kept_in(played.adapter)}"
        )
        say_stopped(played.stopped)
        return
    found = captured(store, workload)
    with opened_run(run, settings, given, fork, track or ()) as opened:
        result = learn(opened, found, settings, judge, quiet)
    cut = f", {result.epochs_cut} epochs cut short" if result.epochs_cut else ""
    print(f"{result.steps} steps on {result.episodes} episodes{cut}; {kept_in(result.adapter)}")
    _say_counted(result.left_out, result.changed)


def stream(
    run: RunArgument,
    store: StoreOption = DEFAULT_STORE,
    start: StartOption = None,
    reward: RewardOption = None,
    check: CheckOption = None,
    follow: Annotated[
        bool, typer.Option(help="Go on with what arrives, until Ctrl-C or --set steps=N.")
    ] = False,
    patience: Annotated[
        float, typer.Option(min=0, help="With --follow: seconds to wait for feedback.")
    ] = 3600.0,
    workload: WorkloadOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    fork: FromOption = None,
    track: TrackOption = None,
    isolated: IsolatedOption = False,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Train on logged episodes as they come (single-stream policy gradient).

    Episodes need ids and logprobs, as of `understudy engine serve`. Those of the held-out split
    are left out, unless --set log.split=all. With --follow, each episode is taken up when its
    feedback is there, and what was trained is written at every checkpoint.

    Example: understudy train stream runs/liked --start runs/distilled --follow
    """
    from understudy.judges.check import Check
    from understudy.recipes.arrivals import Following, Given, Source
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.stream import StreamConfig
    from understudy.recipes.stream import stream as learn
    from understudy.runs.config import load_config

    settings = load_config(
        StreamConfig, config, overrides or [], values_of(fork, config) | _values(start, reward)
    )
    if isolated:  # before the owner's code runs
        only_the_store([store])
    judge = Check.from_file(check) if check else None
    given = {"--check": check}
    fit_threads(threads)
    with open_store(store) as db, opened_run(run, settings, given, fork, track or ()) as opened:
        name = None if judge else settings.log.reward
        where = {"workload": workload} if workload else {}
        source: Source = (
            Following(db, name, workload, patience) if follow else Given(db.read_episodes(**where))
        )
        result = learn(opened, source, settings, judge, quiet)
    print(
        f"{result.steps} steps on {result.episodes} episodes, {result.skipped} of them without an "
        f"update; {kept_in(result.adapter)}"
    )
    _say_counted(result.left_out, result.changed)


def _values(start: Path | None, reward: str | None) -> dict[str, Any]:
    values: dict[str, Any] = {"start": str(adapter_folder(start))} if start else {}
    return values | ({"log": {"reward": reward}} if reward else {})


def _say_counted(left_out: Mapping[str, int], changed: Mapping[str, int]) -> None:
    for reason, count in left_out.items():
        print(f"  left out: {count} episodes, {reason}")
    for what, count in changed.items():
        print(f"  {count} {what}")
