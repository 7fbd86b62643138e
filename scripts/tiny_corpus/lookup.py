"""Dense look-ups: a table or a list of records, then many questions about it."""

from __future__ import annotations

from random import Random
from typing import Any

from . import words as w
from .api import numbers
from .script import Script, dumps, tool
from .types import Dialogue, Split

_TABLES = (("{k}: {v}", "\n"), ("{k} = {v}", "; "), ("{k} {v}", ", "), ("{v} {k}", ", "))


def _terms(names: w.Names, count: int) -> list[str]:
    rng = names.rng
    kind, style = rng.randrange(5), w.IdStyle(rng)
    found: dict[str, None] = {}
    while len(found) < count:
        if kind < 2:
            term = style.new()
        elif kind == 2:
            term = names.proper()
        elif kind == 3:
            term = names.word(w.NOUNS) if names.split != "new" else names.noun()
        else:
            term = str(rng.randrange(10 ** rng.choice((1, 2, 3))))
        found[term] = None
    return list(found)


def lookup(rng: Random, split: Split) -> Dialogue:
    """Values by their keys, said or passed to a tool."""
    s = Script(rng, split, "lookup")
    names = w.Names(rng, split)
    count = rng.choice((2, 3, 4, 5, 6))
    keys, values = _terms(names, count), _terms(names, count)
    table = dict(zip(keys, values, strict=True))
    noun, key = names.noun(), rng.choice(w.ID)
    acts = rng.random() < 0.5
    name = f"{names.word(w.VERBS['act'])}_{noun}"
    if acts:
        s.tools.append(tool(name, {noun: {"type": "string"}}, [noun]))
    if rng.random() < 0.5:
        rows = [{key: k, noun: v} for k, v in table.items()]
        s.user(dumps(rows if rng.random() < 0.7 else table))
    else:
        form, end = rng.choice(_TABLES)
        s.user(end.join(form.format(k=k, v=v) for k, v in table.items()))
    s.say("OK.")
    ask = rng.choice(("{k}?", "{k}", f"{noun} of {{k}}?"))
    asked: list[Any] = [rng.choice(keys) for _ in range(rng.randrange(5, 12))]
    for k in asked:
        s.user(ask.format(k=k))
        if acts:
            s.call(name, {noun: table[k]}, "copy")
            s.result({"ok": True})
        else:
            s.say(table[k], "copy")
    return s.done()


_LOW, _HIGH = ("lowest", "smallest", "cheapest"), ("highest", "largest", "best")


def choice(rng: Random, split: Split) -> Dialogue:
    """Short unsorted lists, and a call with the best or the matching one."""
    s = Script(rng, split, "choice")
    names = w.Names(rng, split)
    noun, key, ids = names.noun(), rng.choice(w.ID), w.IdStyle(rng)
    field = names.word(w.PRICE + w.GOOD)
    kind = rng.choice(list(w.ATTRIBUTES))
    verb = names.word(w.VERBS["act"])
    find = f"{names.word(w.VERBS['search'])}_{w.plural(noun)}"
    argument = rng.choice((key, f"{noun}_{key}", noun))
    s.tools = [
        tool(find, {}, []),
        tool(f"{verb}_{noun}", {argument: {"type": "string"}}, [argument]),
    ]
    for _ in range(rng.choice((3, 4, 5))):
        count = rng.choice((2, 2, 3, 3, 4, 5, 6))
        values = [rng.choice(w.ATTRIBUTES[kind]) for _ in range(count)]
        rows: list[dict[str, Any]] = [
            {key: ids.new(), field: n, kind: v}
            for n, v in zip(numbers(rng, count), values, strict=True)
        ]
        low = rng.random() < 0.5
        best = sorted(rows, key=lambda r: r[field], reverse=not low)[0]
        asked = f"the {rng.choice(_LOW if low else _HIGH)} {field}"
        single = [r for r in rows if values.count(r[kind]) == 1]
        if single and rng.random() < 0.4:
            best = rng.choice(single)
            asked = f"the {best[kind]} one"
        s.user(rng.choice(("{v} {a}", "please {v} {a}", "{a}")).format(v=verb, a=asked))
        s.call(find, {})
        s.result({w.plural(noun): rows})
        s.call(f"{verb}_{noun}", {argument: best[key]}, "choice")
        s.result({"ok": True})
        s.say("Done.")
    return s.done()
