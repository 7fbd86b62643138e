"""`understudy world compare`: an agent and users in a world against the real ones."""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.agents import opened_agent
from understudy.cli.data import JsonOption, captured
from understudy.cli.places import ready_file
from understudy.cli.world_language import KeyOption, ModelOption, RunOption, UrlOption, language


def compare(
    store: Annotated[Path, typer.Argument(help="The store whose episodes are split.")],
    fit: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="The share of scenarios to learn from.")
    ] = 0.5,
    splits: Annotated[int, typer.Option(min=1, help="Random splits.")] = 5,
    workload: Annotated[str | None, typer.Option(help="Only this workload's episodes.")] = None,
    agent: Annotated[
        str | None,
        typer.Option(help="A run or adapter folder, or a URL of an OpenAI-compatible endpoint."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model at that URL.")] = None,
    key_env: Annotated[
        str | None, typer.Option(help="The environment variable that holds the URL's key.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Of the agent.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the splits and of all chance.")] = 0,
    run: RunOption = None,
    language_url: UrlOption = None,
    language_model: ModelOption = None,
    language_key_env: KeyOption = None,
    html: Annotated[Path | None, typer.Option(help="Write a page into this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare conversations in a world with real ones.

    World and users are learned from a share of the scenarios. Errors, next results, turns, words,
    tools stand beside the other scenarios' real ones, and beside how far real ones are apart.
    Without --agent a stand-in plays: what the recorded agents did in the most alike situation.

    With a model for what the world leaves open, it answers what is played, and that is held against
    real conversations that it was not taught. Replayed calls stay the world's own: `world report`
    and `world bench` measure the model on those.

    Example: understudy world compare understudy.db --fit 0.5 --splits 5 --html build/compare.html
    """
    from understudy.recipes.likeness import measure_likeness
    from understudy.runs.report import write_report
    from understudy.world.likeness.page import page

    ready_file(html)
    fills = language(run, language_url, language_model, language_key_env)
    found = captured(store, workload)

    async def measured() -> Any:
        if agent is None:
            return await measure_likeness(found, fit, splits, None, seed, language=fills)
        async with opened_agent(agent, model, key_env, temperature) as plays:
            return await measure_likeness(found, fit, splits, plays, seed, language=fills)

    report = asyncio.run(measured())
    if html is not None:
        write_report(page(report, f"of {store.name}"), html)
    print(json.dumps(report.to_json()) if as_json else report.table())
