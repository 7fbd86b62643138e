"""The tools that an agent is shown, exchanged for others of the same names: as they were described
from the traffic (world.describing.describe), or by hand."""

from collections.abc import Sequence
from dataclasses import replace

from understudy.core.types import Episode, Tool, is_function
from understudy.world.model import World


def exchanged(offered: Sequence[Tool], tools: Sequence[Tool]) -> tuple[Tool, ...]:
    """The tools offered, each exchanged for the one of its name where there is one."""
    named = {t["function"]["name"]: t for t in tools if is_function(t)}
    return tuple(named.get(t["function"]["name"], t) if is_function(t) else t for t in offered)


def episode_with(episode: Episode, tools: Sequence[Tool]) -> Episode:
    """The episode as if these had been shown; what an engine recorded of other prompts is not
    kept."""
    completions = tuple(
        replace(
            c,
            request=replace(c.request, tools=exchanged(c.request.tools, tools)),
            prompt_ids=None,
            output_ids=None,
            logprobs=None,
        )
        for c in episode.completions
    )
    return replace(episode, completions=completions)


def world_with(world: World, tools: Sequence[Tool]) -> World:
    """The world, whose sessions and scenarios show these tools. Raises ValueError where it has
    none of them."""
    known = {t["function"]["name"] for t in world.tools() if is_function(t)}
    if not any(is_function(t) and t["function"]["name"] in known for t in tools):
        raise ValueError("none of these tools is one of the world's: were they described from it?")
    openings = [replace(o, tools=list(exchanged(o.tools, tools))) for o in world.book.openings]
    return replace(
        world,
        declared=list(exchanged(world.tools(), tools)),
        book=replace(world.book, openings=openings),
    )
