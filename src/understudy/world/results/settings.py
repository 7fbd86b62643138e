"""Fields that a call sets: to what its arguments or its result say, or always to the same.

Beside changes of what a thing was (world.results.effects) this tells of things that a call makes:
what a result names for the first time is as the call's arguments say.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from understudy.world.data.values import columns, escape, is_number, same
from understudy.world.known.context import Context
from understudy.world.known.memory import Key
from understudy.world.traffic.ids import Ids

Setting = tuple[str, str]  # ("arg" | "res" | "of", path), or ("const", JSON)
Held = dict[Setting, Any]
_LEAST, _SURE = 3, 0.9


def made(ids: Ids, name: str, args: dict[str, Any], value: Any) -> Iterator[tuple[Key, Any]]:
    """(thing, record) of what a result is the record of, but for what the arguments name."""
    for domain, item, record in ids.of_result(name, value):
        if record is value and not any(v == item for _, v in columns(args)):
            yield (domain, item), record


def held(c: Context) -> Held:
    """What is known of the things that a call names, by the argument and the field."""
    found: Held = {}
    for p, domain, item in c.ids:
        for name, value in c.state.fields((domain, item)).items():
            found["of", f"/{escape(p)}/{escape(name)}"] = value
    return found


def said(args: dict[str, Any], result: Any, known: Held) -> Held:
    """What a call and its result say outside of lists, the lists and objects in arguments, and
    what was known before."""
    found = {**known, **{("arg", f"/{escape(p)}"): v for p, v in args.items()}}
    for side, whole in (("arg", args), ("res", result)):
        found |= {(side, path): v for path, v in columns(whole) if "/#" not in path}
    return found


def setting(pairs: Sequence[tuple[Held, Any, Any]], making: bool, told: int) -> Setting | None:
    """What a field is set to by calls, each (what it says, before, after); what was there before
    does not matter. None where too few changes show it. What stands in a field that was not seen
    before may have been there, unless the call makes the thing: then it is told by arguments
    alone, or by what `told` calls show that saw the field before."""
    changed = sum(not _equal(before, after) for _, before, after in pairs)
    if changed < _LEAST:
        return None
    hits: Counter[Setting] = Counter()
    for values, _, after in pairs:
        const = ("const", json.dumps(after))
        hits.update(s for s, value in values.items() if _equal(value, after))
        hits[const] += 1
    sure = [s for s in hits if hits[s] >= max(_LEAST, _SURE * len(pairs))]
    if not making and told < _LEAST:
        sure = [s for s in sure if s[0] in ("arg", "of")]
    order = ("arg", "of", "res", "const")
    return min(sure, key=lambda s: (order.index(s[0]), -hits[s], s), default=None)


def joined(pairs: Sequence[tuple[dict[str, Any], str, Any]]) -> tuple[Setting, str] | None:
    """The argument that a text is continued with, and what stands between, from (arguments,
    before, after)."""
    hits: Counter[tuple[Setting, str]] = Counter()
    for args, before, after in pairs:
        for p, value in args.items():
            if isinstance(value, str) and isinstance(after, str) and after.startswith(before):
                more = after[len(before) :]
                if value and more.endswith(value):
                    hits[("arg", f"/{escape(p)}"), more[: -len(value)]] += 1
    best = max(hits, key=lambda k: (hits[k], k), default=None)
    return best if best is not None and hits[best] >= max(_LEAST, 0.8 * len(pairs)) else None


def inserted(before: list[Any], item: Any) -> list[Any] | None:
    """A list in order with an item more; None where it is in none."""
    after = [*before, item]
    alike = all(isinstance(x, str) for x in after) or all(map(is_number, after))
    return sorted(after) if alike and before == sorted(before) else None


def value_of(source: Setting, values: Held) -> tuple[Any] | None:
    """What a call sets a field to; None where it does not say so."""
    if source[0] == "const":
        return (json.loads(source[1]),)
    return (values[source],) if source in values else None


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b) if isinstance(a, (dict, list)) else same(a, b)
