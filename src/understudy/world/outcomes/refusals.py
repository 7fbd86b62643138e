"""What a tool says to a value that nothing in its traffic ever named.

Hundreds of calls in which every identifier had been shown before, and every method was one of
five, say that a tool knows what exists; what it answers to anything else was never seen. It
refuses: the failure is worded like the tool's own failures, around words of ours, and is marked
as invented.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from understudy.world.data.values import parse
from understudy.world.known.context import Context
from understudy.world.outcomes.templates import Template

_LABEL = "err:unknown "


def unheard(what: str) -> str:
    """The outcome class of a call that names an unknown `what`."""
    return _LABEL + what


def takes_new(known: Mapping[str, Mapping[str, int]], condition: str) -> bool:
    """Whether a condition is of a thing whose like a tool takes without its having been named
    before, by the outcomes of its calls under each condition; what other tools say to things of
    that form then says nothing of this one."""
    sign, _, domain = condition.partition(":")
    if sign not in ("form", "near"):
        return False
    seen = [(k, n) for s in ("new", "near") for k, n in known.get(f"{s}:{domain}", {}).items()]
    return sum(n for k, n in seen if k.startswith("ok")) > max(4, 0.5 * sum(n for _, n in seen))


def refusal(label: str, c: Context, failures: Sequence[Template]) -> tuple[Any, str, float] | None:
    """(value, text, flag's rate) of such a class, in the form of the commonest of a tool's
    failures; None for any other class."""
    if not label.startswith(_LABEL):
        return None
    what = label.removeprefix(_LABEL)
    said = "unknown " + next((p for p, domain, _ in c.ids if domain == what), what)
    known = max(failures, key=lambda t: t.count, default=None)
    if known is None:
        return said, f"Error: {said}", 1.0
    sample = known.form.format(*(held[0] if held else "" for held in known.samples))
    value = parse(sample)
    if not isinstance(value, dict):
        head, colon, _ = sample.partition(": ")
        text = f"{head}: {said}" if colon else said
        return text, text, known.flag
    words = [k for k, v in value.items() if isinstance(v, str)]
    if words:
        value[max(words, key=lambda k: len(value[k]))] = said
    return value, json.dumps(value, ensure_ascii=False), known.flag
