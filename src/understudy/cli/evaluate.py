"""How often an agent succeeds in a learned world."""

import asyncio
import json
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.agents import opened_agent
from understudy.cli.options import (
    DeviceOption,
    JudgeOption,
    QuietOption,
    ThreadsOption,
    WorldOption,
)
from understudy.cli.tools_file import ToolsOption, world_shown
from understudy.cli.world_language import (
    KeyOption,
    ModelOption,
    RunOption,
    UrlOption,
    language,
)


def evaluate(
    agent: Annotated[
        str,
        typer.Argument(help="A run or adapter folder, or an OpenAI-compatible endpoint's URL."),
    ],
    world: WorldOption,
    check: JudgeOption,
    model: Annotated[str | None, typer.Option(help="The model at that URL.")] = None,
    key_env: Annotated[
        str | None, typer.Option(help="The environment variable that holds the URL's key.")
    ] = None,
    scenarios: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    temperature: Annotated[float, typer.Option(min=0, help="0: greedy.")] = 0.0,
    seed: int = 1,
    tools: ToolsOption = None,
    users: Annotated[
        str | None,
        typer.Option(help="Who plays the users: a run, an adapter folder or a URL, as the agent."),
    ] = None,
    users_model: Annotated[str | None, typer.Option(help="The model at the users' URL.")] = None,
    users_key_env: Annotated[
        str | None, typer.Option(help="The environment variable that holds that URL's key.")
    ] = None,
    run: RunOption = None,
    language_url: UrlOption = None,
    language_model: ModelOption = None,
    language_key_env: KeyOption = None,
    save: Annotated[
        Path | None, typer.Option(help="Also write the conversations here (.jsonl, .jsonl.gz).")
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Conversations at a time.")] = 128,
    vllm: Annotated[
        str | None,
        typer.Option(help="The URL of a vLLM that has the base, to play an adapter's folder on."),
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Success of an agent in a learned world, with its interval: before it is launched, too.

    It plays scenarios of the held-out split, which policies are not trained on by default. The
    world itself has learned from all episodes, those included. What --save writes, `world paths`
    draws and `import` reads.

    Example: understudy eval runs/rehearsed --world build/world --check check.py --temperature 1
             understudy eval https://host/v1 --model mine --key-env KEY --world build/world
             --check check.py --save build/played.jsonl
    """
    from understudy.core.chat_files import episode_rows, write_rows
    from understudy.judges.check import Check
    from understudy.recipes.agents import users_by
    from understudy.recipes.evaluate import episodes_of, evaluate_in_world, success
    from understudy.recipes.world_language import filling
    from understudy.runs.progress import Progress
    from understudy.world.language.filler import became, counts_of

    judge, learned = Check.from_file(check), world_shown(world, tools)
    fills = language(run, language_url, language_model, language_key_env)

    async def played() -> tuple[list[Any], dict[str, int]]:
        async with AsyncExitStack() as stack:
            opened = opened_agent(
                agent, model, key_env, temperature, threads or None, device=device, vllm=vllm
            )
            plays = await stack.enter_async_context(opened)
            filled = await stack.enter_async_context(filling(fills, threads or None, plays.chat))
            make_user = None
            if users is not None:
                told = opened_agent(
                    users, users_model, users_key_env, 1.0, threads or None, "--users-model", device
                )
                make_user = users_by(await stack.enter_async_context(told), learned)
            answering = filled(learned)
            progress = stack.enter_context(
                Progress("play", total=scenarios, unit="scenarios", quiet=quiet)
            )
            found = await evaluate_in_world(
                plays,
                learned,
                judge,
                scenarios,
                seed,
                environment=answering,
                users=make_user,
                at_once=at_once,
                each=lambda _: progress.advance(),
            )
            return found, counts_of(answering)

    found, counted = asyncio.run(played())
    print(json.dumps(success(found).as_dict()))
    unjudged = sum((item.failed for item in found), Counter[str]())
    for reason, count in unjudged.most_common():
        print(f"  counted as failed: {count}, {reason}", file=sys.stderr)
    if counted:
        print(f"  {became(counted)}", file=sys.stderr)
    if save is not None:
        print(f"{write_rows(save, episode_rows(episodes_of(found)))} in {save}", file=sys.stderr)
