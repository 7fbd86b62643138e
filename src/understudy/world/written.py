"""Predictions as the tools write their results."""

import json

from understudy.world.data.envelope import Envelope
from understudy.world.data.values import writable
from understudy.world.outcomes.templates import PROSE
from understudy.world.tools import Prediction, ToolModel


def content(p: Prediction, model: ToolModel, around: Envelope) -> str:
    """A predicted value as the tool would write it, in its envelope."""
    bare = not around.inside or not p.outcome.startswith("ok")
    if bare and p.text is not None:
        return writable(p.text)
    if bare and p.outcome in PROSE and isinstance(p.value, str):
        return writable(p.value)
    separators = (",", ":") if model.compact else (", ", ": ")
    if around.layout is not None and p.outcome.startswith("ok"):
        return writable(around.text(p.value, separators))
    value = p.value if bare else around.closed(p.value if p.text is None else p.text)
    text = json.dumps(value, ensure_ascii=False, separators=separators)
    if writable(text) != text:  # as JSON has it, a lone surrogate is an escape
        text = json.dumps(value, separators=separators)
    return text
