"""Statements about a traffic as a whole: whether what an episode changes is there in the next, and
whose results changed on the way."""

from understudy.world.model import World


def facts_of_time(world: World) -> list[str]:
    """The statements, with the counts that bear them."""
    left, anew = world.moments.sights
    told = f"{left} of {left + anew} changed fields were found as the episode before left them"
    if world.memory.lasts:
        found = [f"State lasts between episodes ({told})." if left + anew else "State lasts."]
    elif left + anew:
        found = [f"Each episode begins anew ({told})."]
    else:
        found = ["Each episode is taken to begin anew: no episode shows what another changed."]
    return found + [v.text(tool) for tool, v in sorted(world.versions.items())]
