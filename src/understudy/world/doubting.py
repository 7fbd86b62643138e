"""How unsure a prediction is before its doubt is corrected (world.calibration)."""

from collections.abc import Mapping

from understudy.world.data.ranges import outside
from understudy.world.known.context import Context
from understudy.world.known.state import Mark
from understudy.world.tools import ToolModel


def doubt_of(doubt: float, c: Context, model: ToolModel, label: str, fact: bool) -> float:
    """The probability that the result is not what the real system would say, chance aside."""
    if fact:
        return min(1.0, 0.02 + doubt)
    novelty = 0.5 / (1 + model.calls) ** 0.5
    if label.startswith("ok") and any(c.state.standing((d, v)) == "new" for _, d, v in c.ids):
        novelty = max(novelty, 0.4)
    return min(1.0, 1 - (1 - novelty) * (1 - min(1.0, doubt)))


def far_out(c: Context, marks: Mapping[str, Mark]) -> float:
    """How far beyond all experience a call is, or one of the session that its result rests on."""
    found = outside(c.args, c.tool.ranges)
    for mark in marks.values():
        head, _, number = mark.source.partition(" ")
        if head == "call" and mark.kind != "observed":
            found = max(found, c.state.calls[int(number)].outside)
    return found
