"""Slots of texts that an argument of few values decides: which state an action asks for, the name
of a code's condition."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from understudy.world.known.context import Context, Source

_LEAST, _SURE, _EACH = 4, 0.95, 2
Slot = tuple[str, list[Source]]


def telling(c: Context) -> Iterator[Source]:
    """The arguments of few values that a call has, as marks of a slot."""
    for p in c.tool.categorical:
        if isinstance(c.args.get(p), (str, int, bool)):
            yield "told", p, json.dumps(c.args[p])


def mine(seen: Sequence[Slot]) -> tuple[Source, int] | None:
    """The argument whose values say what a slot holds, each value its own text, and how often
    that is right; None where none does, or all texts are the same."""
    texts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for said, marks in seen:
        for mark in marks:
            if mark[0] == "told":
                texts[mark[1]][mark[2]][said] += 1
    best: tuple[Source, int] | None = None
    for p, own in sorted(texts.items()):
        usual = {value: counts.most_common(1)[0] for value, counts in own.items()}
        right = sum(n for _, n in usual.values())
        several = len({said for said, _ in usual.values()}) > 1
        enough = len(seen) >= max(_LEAST, _EACH * len(usual))
        if several and enough and right >= _SURE * len(seen) and (best is None or right > best[1]):
            best = ("by", p, tuple((v, said) for v, (said, _) in sorted(usual.items()))), right
    return best


def value_of(source: Source, args: dict[str, Any]) -> str | None:
    """What a slot holds for a call's argument."""
    value = args.get(source[1])
    return dict(source[2]).get(json.dumps(value)) if isinstance(value, (str, int)) else None
