"""The file of the tools that an agent is shown, for the commands that train and serve."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

ToolsOption = Annotated[
    Path | None,
    typer.Option(help="Show the agent its tools as in this file, which `world describe` writes."),
]


def read_tools(path: Path) -> list[Any]:
    """An OpenAI `tools` array. Raises ValueError that says what is wrong."""
    from understudy.core.openai_wire import tools_problem

    try:
        tools = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if (problem := tools_problem(tools)) is not None:
        raise ValueError(f"{path}: {problem}")
    return list(tools)


def world_shown(folder: Path, tools: Path | None) -> Any:
    """A saved world, whose tools are shown as in a file where one is given."""
    from understudy.world.model import World
    from understudy.world.serving.shown import world_with

    world = World.load(folder)
    return world if tools is None else world_with(world, read_tools(tools))


def episodes_shown(episodes: list[Any], tools: Path | None) -> list[Any]:
    """Episodes, as if their tools had been shown as in a file, where one is given."""
    from understudy.world.serving.shown import episode_with

    if tools is None:
        return episodes
    told = read_tools(tools)
    return [episode_with(e, told) for e in episodes]
