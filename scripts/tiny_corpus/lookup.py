"""Dense look-ups: a table or a list of records, then many questions about it."""

from __future__ import annotations

from random import Random
from typing import Any

from . import words as w
from .api import numbers
from .script import Script, dumps, tool
from .types import Dialogue, Split

_TABLES = (("{k}: {v}", "\n"), ("{k} = {v}", "; "), ("{k} {v}", ", "))


def _terms(names: w.Names, count: int, words: bool) -> list[str]:
    rng, style = names.rng, w.IdStyle(names.rng)
    kind = 0 if words else rng.randrange(4)
    found: dict[str, None] = {}
    while len(found) < count:
        if kind == 0:
            term = names.word(w.NOUNS) if names.split != "new" else names.noun()
        elif kind == 1:
            term = names.proper()
        elif kind == 2:
            term = str(rng.randrange(10 ** rng.choice((1, 2, 3))))
        else:
            term = style.new()
        found[term] = None
    return list(found)


def lookup(rng: Random, split: Split) -> Dialogue:
    """A table, then its values by their keys, said or passed to a tool."""
    s = Script(rng, split, "lookup")
    names = w.Names(rng, split)
    count = rng.choice((2, 3, 3, 4, 5))
    keys, values = _terms(names, count, rng.random() < 0.8), _terms(names, count, False)
    table = dict(zip(keys, values, strict=True))
    noun = names.noun()
    acts = rng.random() < 0.2
    name = f"{names.word(w.VERBS['act'])}_{noun}"
    if acts:
        s.tools.append(tool(name, {noun: {"type": "string"}}, [noun]))
    if rng.random() < 0.3:
        s.user(dumps(table))
    else:
        form, end = rng.choice(_TABLES)
        s.user(end.join(form.format(k=k, v=v) for k, v in table.items()))
    s.say("OK.")
    ask = rng.choice(("{k}?", "{k}?", "{k}", f"{noun} of {{k}}?"))
    asked: list[Any] = [rng.choice(keys) for _ in range(rng.randrange(5, 12))]
    for k in asked:
        s.user(ask.format(k=k))
        if acts:
            s.call(name, {noun: table[k]}, "lookup")
            s.result({"ok": True})
        else:
            s.say(table[k], "lookup")
    return s.done()


_MORE = ("plain", "special")
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
    plain = rng.random() < 0.4  # no numbers to choose by
    for _ in range(rng.choice((3, 4, 5))):
        count = rng.choice((2, 2, 3, 3, 4, 5, 6))
        values = rng.choices(w.ATTRIBUTES[kind], k=count)
        if plain:
            values = rng.sample([*w.ATTRIBUTES[kind], *_MORE], count)
        rows: list[dict[str, Any]] = [
            {**({} if plain else {field: n}), kind: v, key: ids.new()}
            for n, v in zip(numbers(rng, count), values, strict=True)
        ]
        single = [r for r in rows if values.count(r[kind]) == 1]
        if plain or (single and rng.random() < 0.4):
            best = rng.choice(single)
            asked = f"the {best[kind]} one"
        else:
            low = rng.random() < 0.5
            best = sorted(rows, key=lambda r: r[field], reverse=not low)[0]
            asked = f"the {rng.choice(_LOW if low else _HIGH)} {field}"
        s.user(rng.choice(("{v} {a}", "please {v} {a}", "{a}")).format(v=verb, a=asked))
        s.call(find, {})
        s.result({w.plural(noun): rows})
        s.call(f"{verb}_{noun}", {argument: best[key]}, "choice")
        s.result({"ok": True})
        s.say("Done.")
    return s.done()
