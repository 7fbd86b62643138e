"""Fields that a call sets: to what its arguments or its result say, or always to the same.

Beside changes of what a thing was (world.effects) this tells of things that a call makes: what a
result names for the first time is as the call's arguments say.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from understudy.world.ids import Ids
from understudy.world.state import Key
from understudy.world.values import columns, escape, same

Setting = tuple[str, str]  # ("arg" | "res", path), or ("const", JSON)
_LEAST, _SURE = 3, 0.9


def made(ids: Ids, name: str, args: dict[str, Any], value: Any) -> Iterator[tuple[Key, Any]]:
    """(thing, record) of what a result is the record of, but for what the arguments name."""
    for domain, item, record in ids.of_result(name, value):
        if record is value and not any(v == item for _, v in columns(args)):
            yield (domain, item), record


def said(args: dict[str, Any], result: Any) -> dict[Setting, Any]:
    """What a call and its result say outside of lists, and the lists and objects in arguments."""
    found: dict[Setting, Any] = {("arg", f"/{escape(p)}"): v for p, v in args.items()}
    for side, whole in (("arg", args), ("res", result)):
        found |= {(side, path): v for path, v in columns(whole) if "/#" not in path}
    return found


def setting(pairs: Sequence[tuple[dict[str, Any], Any, Any, Any]]) -> Setting | None:
    """What a field is set to by calls, each (arguments, result, before, after); what was there
    before does not matter. None where too few changes show it."""
    changed = sum(not _equal(before, after) for _, _, before, after in pairs)
    if changed < _LEAST:
        return None
    had: Counter[Setting] = Counter()
    hits: Counter[Setting] = Counter()
    for args, result, _, after in pairs:
        for source, value in [*said(args, result).items(), (("const", json.dumps(after)), after)]:
            had[source] += 1
            hits[source] += _equal(value, after)
    sure = [s for s in hits if hits[s] >= max(_LEAST, _SURE * len(pairs))]
    order = ("arg", "res", "const")
    return min(sure, key=lambda s: (order.index(s[0]), -hits[s], s), default=None)


def value_of(source: Setting, args: dict[str, Any], result: Any) -> tuple[Any] | None:
    """What a call sets a field to; None where it does not say so."""
    if source[0] == "const":
        return (json.loads(source[1]),)
    found = said(args, result)
    return (found[source],) if source in found else None


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b) if isinstance(a, (dict, list)) else same(a, b)
