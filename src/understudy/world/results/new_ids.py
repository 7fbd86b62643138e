"""Identifiers that calls make anew: whether the session has one, and one that it has not."""

import json
import random
from collections.abc import Iterator, Mapping
from itertools import chain, count
from typing import Any

from understudy.world.data.values import FreshIds, at
from understudy.world.known.context import Context
from understudy.world.outcomes.tree import Node

_TRIES = 64  # draws from a format, after which it has nothing new
_ALPHABETS = ("0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def known(c: Context, values: Mapping[str, Any]) -> dict[str, bool]:
    """The identifiers among the leaves of a result: whether the call or the session had them."""
    refs = c.state.ids.refs.get(c.tool.name, {})
    return {
        path: value in c.args.values() or has(c, path, value)
        for path, value in values.items()
        if path in refs and isinstance(value, (str, int)) and not isinstance(value, bool)
    }


def has(c: Context, path: str, value: Any) -> bool:
    """Whether the session has an identifier: as a thing's, or in a result."""
    domain = c.state.ids.refs.get(c.tool.name, {}).get(path)
    thing = c.state.things.get((domain or "", value))
    if value in c.state.shown or (thing is not None and (thing.fields or thing.touched)):
        return True
    own = (past for past in c.state.calls if past.ok and past.name == c.tool.name)
    return any(_at(past.value, path) == value for past in own)


def _at(value: Any, path: str) -> Any:
    try:
        return at(value, path)
    except KeyError:
        return None


def of_format(form: FreshIds, path: str, c: Context, rng: random.Random) -> Any:
    """An identifier of a format that neither session nor traffic has; where the format has no
    such, one that the session has not."""
    domain = c.state.ids.refs.get(c.tool.name, {}).get(path, "")
    free = []
    for _ in range(_TRIES):
        value = form.draw(rng)
        if not has(c, path, value):
            if c.state.standing((domain, value)) == "new":
                return value
            free.append(value)
    return free[0] if free else another(None, path, value, c)


def another(tree: Node | None, path: str, value: Any, c: Context) -> Any:
    """An identifier that the session has not: of those that the traffic gave in such a place, the
    one that it gave most often, else what follows a value."""
    counts: dict[str, int] = {} if tree is None else tree["counts"]
    given = [json.loads(text) for text in sorted(counts, key=lambda t: (-counts[t], t))]
    return next(v for v in chain(given, _following(value)) if not has(c, path, v))


def _following(value: Any) -> Iterator[Any]:
    """The identifiers after one, as numbers and the last characters of texts count up."""
    if isinstance(value, int):
        yield from count(value + 1)
    text = str(value)
    while True:
        text = _next(text)
        yield text


def _next(text: str) -> str:
    """A text with its last letter or digit counted up, those before it where it is the last of
    its alphabet; a digit more where all are."""
    chars = list(text)
    for i in range(len(chars) - 1, -1, -1):
        alphabet = next((a for a in _ALPHABETS if chars[i] in a), None)
        if alphabet is None:
            continue
        place = alphabet.index(chars[i]) + 1
        chars[i] = alphabet[place % len(alphabet)]
        if place < len(alphabet):
            return "".join(chars)
    return f"{text}1"
