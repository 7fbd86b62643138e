"""Calls whose arguments are too few, too many, or of a form that no call had before.

A failure that names the argument that is missing says nothing of one that is too many, and the
other way round. A call of which no tool's traffic shows the like is not answered as if it were
known: without an argument that every good call had it fails with the explicit unknown, and where
something is answered, the doubt says how little it rests on.
"""

import re
from collections.abc import Container, Iterable

from understudy.world.data.formats import distance
from understudy.world.known.context import Context
from understudy.world.outcomes.features import Feature

UNSEEN = "err:{unseen}"  # the class of the explicit unknown; no form of a text holds these braces
_UNTRIED = 0.5  # the least doubt of an answer to arguments that were never tried


def blamed(found: list[str], text: str, c: Context) -> list[str]:
    """The conditions of a failed call without `extra` or `missing` where both are met and its
    text names the arguments of the other alone."""
    if not {"extra", "missing"} <= set(found):
        return found
    extra, missing = _says(text, c.tool.extra(c.args)), _says(text, c.tool.missing(c.args))
    if extra == missing:
        return found
    return [k for k in found if k != ("missing" if extra else "extra")]


def untried(c: Context, outcome: str, tried: Container[str], asked: Container[Feature]) -> float:
    """The least doubt of an outcome for what the call's arguments were never seen to be: in [0, 1].

    `tried`: the conditions that the tool's own calls met; `asked`: the features that decided. A
    form of neither kind is doubted by how near it is to the other side's forms.
    """
    if outcome == UNSEEN:
        return 1.0
    amiss = {"extra": c.tool.extra(c.args), "missing": c.tool.missing(c.args)}
    new = any(names and kind not in tried for kind, names in amiss.items())
    doubt = _UNTRIED if new and outcome.startswith("ok") else 0.0
    for p, refused in c.tool.refused.items():
        value = c.args.get(p)
        if isinstance(value, str) and ("fmt", p) in asked:
            near, far = sorted((distance(value, c.tool.patterns[p]), distance(value, refused)))
            doubt = max(doubt, near / max(1, near + far))
    return doubt


def _says(text: str, names: Iterable[str]) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in names)
