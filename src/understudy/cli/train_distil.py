"""`understudy train opd` and `understudy train correct`: learning from a teacher."""

import asyncio
from pathlib import Path
from typing import Annotated

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
from understudy.cli.tools_file import ToolsOption, episodes_shown, world_shown


def opd(
    run: RunArgument,
    world: Annotated[
        Path | None, typer.Option(help="A folder that `world learn` wrote: play there.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Without --world: a store of the student's own episodes.")
    ] = None,
    start: StartOption = None,
    teacher: Annotated[
        Path | None, typer.Option(help="A run or adapter folder: the teacher.")
    ] = None,
    teacher_base: Annotated[
        Path | None, typer.Option(help="A model's folder, of the same tokenizer: the teacher's.")
    ] = None,
    teacher_prompt: Annotated[
        Path | None, typer.Option(help="A text file: the system prompt that the teacher reads.")
    ] = None,
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
    """Distil a teacher into what the student itself does (on-policy distillation).

    The student plays in a learned world, or its logged episodes are taken; the teacher says of each
    token how likely it would have been. No check is needed.

    Example: understudy train opd runs/small --world build/world --start runs/distilled
             --teacher runs/rehearsed

    Example: understudy train opd runs/prompted --store understudy.db --workload support
             --start runs/distilled --teacher runs/distilled --teacher-prompt better.txt
    """
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.learner import prepare_kernel
    from understudy.recipes.opd import OpdConfig, opd
    from understudy.runs.config import load_config

    if (world is None) == (store is None):
        raise ValueError("give either --world to play in or --store with logged episodes")
    values = values_of(fork, config)
    values |= {"start": str(adapter_folder(start))} if start else {}
    values |= {"teacher": str(adapter_folder(teacher))} if teacher else {}
    values |= {"teacher_base": str(teacher_base)} if teacher_base else {}
    values |= {"teacher_prompt": teacher_prompt.read_text().strip()} if teacher_prompt else {}
    settings = load_config(OpdConfig, config, overrides or [], values)
    if isolated:  # no compiler can be started afterwards
        prepare_kernel(settings.base)
        only_the_store([store] if store else [])
    fit_threads(threads)
    learned = world_shown(world, tools) if world else None
    found = episodes_shown(captured(store, workload), tools) if store else []
    given = {"--world": world, "--teacher-prompt": teacher_prompt, "--tools": tools}
    with opened_run(run, settings, given, fork, track or ()) as opened:
        result = asyncio.run(
            opd(opened, settings, learned, found, workload or "default", threads or None, quiet)
        )
    print(f"{result.steps} steps; log student - log teacher {result.gap:.4f} a token; "
          f"{kept_in(result.adapter)}")  # fmt: skip
    for reason, count in result.left_out.items():
        print(f"  left out: {count} episodes, {reason}")
    for reason, count in result.rows_left_out.items():
        print(f"  left out: {count} rows of what was played, {reason}")


def correct(
    run: RunArgument,
    store: StoreOption = DEFAULT_STORE,
    start: StartOption = None,
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
    """Teach what people said of its turns: "that was wrong; do it so".

    Feedback in words of users and reviewers, and demonstrations, on completions or episodes; the
    policy that has read it is the teacher. Episodes without corrections hold the rest in place.

    Example: understudy train correct runs/corrected --start runs/distilled --workload support
    """
    from understudy.recipes.correct import CorrectConfig, correct
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.learner import prepare_kernel
    from understudy.runs.config import load_config

    values = values_of(fork, config)
    values |= {"start": str(adapter_folder(start))} if start else {}
    settings = load_config(CorrectConfig, config, overrides or [], values)
    if isolated:  # no compiler can be started afterwards
        prepare_kernel(settings.base)
        only_the_store([store])
    fit_threads(threads)
    found = episodes_shown(captured(store, workload), tools)
    given = {"--tools": tools}
    with opened_run(run, settings, given, fork, track or ()) as opened:
        result = asyncio.run(correct(opened, found, settings, threads or None, quiet))
    print(
        f"{result.corrections} corrected turns; log student - log teacher {result.gap_before:.2f} "
        f"a reply before, {result.gap:.2f} now; elsewhere {result.drift:.5f} nats a token from "
        f"before; {kept_in(result.adapter)}"
    )
    for reason, count in result.left_out.items():
        print(f"  left out: {count} {reason}")
