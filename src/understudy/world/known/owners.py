"""Arguments that belong together: one names a thing whose record, or the record that it refers
to, holds the other. A call that breaks this is refused, or was never made."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from understudy.world.data.values import columns, escape, texts_in
from understudy.world.known.context import Context, hop

Relation = tuple[str, str, str, str]
"""(argument, field or "", part, path): the record of the argument's thing, or of the thing that
the field of that record names, holds in this part all values at this path of the arguments."""
_LEAST = 6  # successful calls that show a relation


def relations(c: Context, only: Sequence[Relation] | None = None) -> dict[Relation, bool]:
    """Every relation of a call (or those asked for) whose record is known: whether it holds."""
    texts: dict[str, list[str]] = defaultdict(list)
    for path, value in columns(c.args):
        if isinstance(value, str) and value:
            texts[path].append(value)
    found: dict[Relation, bool] = {}
    for p, _, _ in c.state.ids.alone(c.tool.name, c.args):
        others = {path: values for path, values in texts.items() if path != f"/{escape(p)}"}
        fields = None if only is None else {r[1] for r in only if r[0] == p and r[3] in others}
        for name, record in _records(c, p, fields) if others else ():
            parts = record if only is None else {r[2] for r in only if r[:2] == (p, name)}
            for part in parts:
                if part in record:
                    inside = set(texts_in(record[part]))
                    for path, values in others.items():
                        found[p, name, part, path] = inside.issuperset(values)
    return found


def _records(c: Context, p: str, only: set[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    key = c.id_of(p) if only is None or only else None
    own = c.state.fields(key) if key else {}
    if own:
        yield "", own
    for name in own if only is None else only & own.keys():
        value = own[name]
        if isinstance(value, str) and (far := hop(c, p, name)) not in (None, key):
            assert far is not None
            if record := c.state.fields(far):
                yield name, record


def lasting(seen: list[dict[Relation, bool]]) -> list[Relation]:
    """The relations that hold in all successful calls that show them, but for one in thirty."""
    tally: dict[Relation, list[int]] = defaultdict(lambda: [0, 0])
    for found in seen:
        for relation, holds in found.items():
            tally[relation][0] += holds
            tally[relation][1] += 1
    return [r for r, (k, n) in tally.items() if n >= _LEAST and k >= n - n // 30]


def broken(found: dict[Relation, bool], kept: list[Relation], domains: dict[str, str]) -> list[str]:
    """The conditions that follow from relations that do not hold."""
    paths = dict.fromkeys(r[-1] for r in kept if found.get(r) is False)
    return [f"foreign:{domains.get(path[1:], path)}" for path in paths]
