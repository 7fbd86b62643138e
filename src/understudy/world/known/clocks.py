"""Times that go on from the last one, where nothing else tells them (world.known.course)."""

from understudy.world.data.moments import later
from understudy.world.data.values import is_number
from understudy.world.known.context import Context


def goes_on(c: Context, path: str) -> str | None:
    """What a clock of a call's tool says at a path of its result, if it has one there: as late as
    the last time that was told, at least."""
    course = c.state.memory.lives.course
    for own, p, seconds in course.clocks.get(c.tool.name, ()):
        for form in course.ticks if own == path else ():
            now = c.state.now(form)
            if now is not None and not p:
                return str(now[0])
            if now is not None and is_number(c.args.get(p)):
                return later(now[0], c.args[p] * seconds)
    return None
