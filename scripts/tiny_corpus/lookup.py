"""Dense look-ups: a table or a list of records, then many questions about it."""

from __future__ import annotations

from random import Random
from typing import Any

from . import words as w
from .api import numbers
from .flow import quantity
from .phrases import compose, counted
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
    """One to three tables, each followed by its values by their keys, said or passed to a tool."""
    s = Script(rng, split, "lookup")
    names = w.Names(rng, split)
    count = rng.choice((2, 3, 3, 4, 5))
    keys = _terms(names, count, rng.random() < 0.8)
    noun = names.noun()
    acts = rng.random() < 0.2
    name = f"{names.word(w.VERBS['act'])}_{noun}"
    if acts:
        s.tools.append(tool(name, {noun: {"type": "string"}}, [noun]))
    ask = rng.choice(("{k}?", "{k}?", "{k}", f"{noun} of {{k}}?"))
    form, end = rng.choice(_TABLES)
    for _ in range(rng.choice((1, 2, 2, 3))):
        rng.shuffle(keys)
        table = dict(zip(keys, _terms(names, count, False), strict=True))
        if rng.random() < 0.3:
            s.user(dumps(table))
        else:
            s.user(end.join(form.format(k=k, v=v) for k, v in table.items()))
        s.say("OK.")
        for k in rng.sample(keys, count):
            s.user(ask.format(k=k))
            if acts:
                s.call(name, {noun: table[k]}, "lookup")
                s.result({"ok": True})
            else:
                s.say(table[k], "lookup")
    return s.done()


def amounts(rng: Random, split: Split) -> Dialogue:
    """Several quantities in a sentence, then each of them by what it counts, in any order."""
    s = Script(rng, split, "amounts")
    names = w.Names(rng, split)
    acts = rng.random() < 0.3
    name = f"{names.word(w.VERBS['act'])}_{names.noun()}"
    words = [names.many(w.COUNT) for _ in range(rng.choice((2, 2, 3, 4)))]
    if acts:
        s.tools.append(tool(name, {x: {"type": "integer"} for x in words}, words))
    for _ in range(rng.choice((3, 4, 5))):
        values = {x: quantity(rng) for x in words}
        said = [counted(rng, x, n) for x, n in values.items()]
        rng.shuffle(said)
        s.user(compose(rng, said))
        if acts:
            s.call(name, values, "amount")
            s.result({"ok": True})
            continue
        s.say("OK.")
        for x in rng.sample(words, len(words)):
            s.user(f"{x}?")
            s.say(str(values[x]), "amount")
    return s.done()


_MORE = ("plain", "special")
LOW, HIGH = ("lowest", "smallest", "cheapest"), ("highest", "largest", "best")


def choice(rng: Random, split: Split) -> Dialogue:
    """Short unsorted lists, and a call with the best or the matching one.

    Before the call the agent says what it was asked for and which row has it. The question stands
    before the list, the answer long after it; with the question said again it is `ranking`.
    """
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
    for _ in range(rng.choice((4, 5, 6))):
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
            best, by = rng.choice(single), kind
            asked = f"the {best[kind]} one"
        else:
            low = rng.random() < 0.5
            best, by = sorted(rows, key=lambda r: r[field], reverse=not low)[0], field
            asked = f"the {rng.choice(LOW if low else HIGH)} {field}"
        s.user(rng.choice(("{v} {a}", "please {v} {a}", "{a}")).format(v=verb, a=asked))
        s.call(find, {})
        s.result({w.plural(noun): rows})
        thought = f"{asked}: {best[by]} {best[key]}"
        s.call(f"{verb}_{noun}", {argument: best[key]}, "choice", thought)
        s.result({"ok": True})
        s.say("Done.")
    return s.done()
