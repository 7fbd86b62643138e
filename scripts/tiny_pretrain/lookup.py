"""A dense drill of one skill: find a key in a table and answer with what belongs to it."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tiny_corpus.types import Dialogue, Probe

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _term(rng: Random, kind: int, parts: list[str]) -> str:
    if kind == 0:
        return rng.choice(parts)
    if kind == 1:
        return str(rng.randrange(10 ** rng.choice((1, 2, 3, 4))))
    if kind == 2:
        return rng.choice(_LETTERS).upper() + str(rng.randrange(10, 1000))
    if kind == 3:
        return rng.choice(parts) + rng.choice(parts)
    if kind == 4:
        return (rng.choice(parts) + rng.choice(parts)).capitalize()
    if kind == 5:
        return f"{rng.choice(parts)}_{rng.randrange(10, 1000)}"
    return f"{rng.choice(parts).capitalize()} {rng.choice(parts).capitalize()}"


def _terms(rng: Random, count: int, parts: list[str]) -> list[str]:
    kind = rng.randrange(7)
    found: dict[str, None] = {}
    while len(found) < count:
        found[_term(rng, kind, parts)] = None
    return list(found)


def lookup(rng: Random, parts: list[str]) -> Dialogue:
    """A table, then many questions about it."""
    maker = rng.choice((_table, _records, _calls, _calls))
    return maker(rng, parts)


def _dialogue(
    table: str, turns: list[tuple[str, Any]], tools: list[Any], family: str = "lookup"
) -> Dialogue:
    messages: list[dict[str, Any]] = []
    if table:
        messages += [{"role": "user", "content": table}, {"role": "assistant", "content": "OK."}]
    probes = []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        if isinstance(answer, str):
            messages.append({"role": "assistant", "content": answer})
        else:
            call = {"name": answer["name"], "arguments": json.dumps(answer["arguments"])}
            entry = {"id": "call_0", "type": "function", "function": call}
            messages.append({"role": "assistant", "content": None, "tool_calls": [entry]})
        probes.append(Probe(len(messages) - 1, "copy", answer))
    return Dialogue(family, messages, tools, probes)


_TABLES = (
    ("{k}: {v}", "\n"), ("{k} = {v}", "; "), ("{k} | {v}", "\n"), ("", ""), ("{v} {k}", ", "),
    ("{v} {k}", ". "), ("{v} for {k}", "; "), ("{k} is {v}", ". "), ("{k} {v}", ", "),
)  # fmt: skip


def _table(rng: Random, parts: list[str]) -> Dialogue:
    count = rng.choice((2, 3, 4, 5, 6, 8))
    keys, values = _terms(rng, count, parts), _terms(rng, count, parts)
    pairs = list(zip(keys, values, strict=True))
    form_of, end = rng.choice(_TABLES)
    text = end.join(form_of.format(k=k, v=v) for k, v in pairs) if end else json.dumps(dict(pairs))
    form = rng.choice(("{}", "{}?", "What is {}?", "value of {}"))
    back = set(keys) & set(values) == set() and rng.random() < 0.3
    turns: list[tuple[str, Any]] = []
    for _ in range(rng.randrange(8, 28)):
        k, v = rng.choice(pairs)
        turns.append((form.format(v), k) if back else (form.format(k), v))
    return _dialogue(text, turns, [])


def _records(rng: Random, parts: list[str]) -> Dialogue:
    count = rng.choice((2, 3, 4, 5, 6))
    fields = _terms(rng, rng.choice((2, 3)), [p for p in parts if len(p) > 1])
    columns = [_terms(rng, count, parts) for _ in fields]
    rows = [dict(zip(fields, values, strict=True)) for values in zip(*columns, strict=True)]
    form = rng.choice(("{f} of {k}", "{k}: {f}?", "{f} of {k}?", "{k} {f}"))
    turns: list[tuple[str, Any]] = []
    for _ in range(rng.randrange(8, 24)):
        row = rng.choice(rows)
        asked, by = rng.sample(fields, 2)
        turns.append((form.format(f=asked, k=row[by]), row[asked]))
    return _dialogue(json.dumps(rows), turns, [])


def _typed(rng: Random, parts: list[str]) -> tuple[dict[str, Any], Any]:
    """A parameter's schema and a function that draws its values."""
    kind = rng.choice(("word", "word", "word", "integer", "integer", "number", "enum", "boolean"))
    if kind == "word":
        shape = rng.randrange(7)
        return {"type": "string"}, lambda: _term(rng, shape, parts)
    if kind == "integer":
        top = 10 ** rng.choice((1, 2, 3, 4, 6))
        return {"type": "integer"}, lambda: rng.randrange(top)
    if kind == "number":
        return {"type": "number"}, lambda: rng.choice((rng.randrange(900), rng.randrange(999) / 10))
    if kind == "boolean":
        return {"type": "boolean"}, lambda: rng.random() < 0.5
    values = _terms(rng, rng.choice((2, 3, 4)), parts)
    return {"type": "string", "enum": values}, lambda: rng.choice(values)


def _identifier(rng: Random, parts: list[str], prefix: str) -> str:
    """A name of one to three invented words in one of the usual casings."""
    words = [rng.choice(parts) for _ in range(rng.choice((1, 2, 2, 3, 3)))]
    style = rng.randrange(4)
    if style == 0:
        name = words[0] + "".join(p.capitalize() for p in words[1:])
    else:
        glue = "-" if style == 1 else "_"
        name = glue.join([words[0], "".join(words[1:])] if len(words) > 1 else words)
    return prefix + name


def _calls(rng: Random, parts: list[str]) -> Dialogue:
    """Tools of two to six with typed parameters, and requests that name tool and values."""
    longer = [p for p in parts if len(p) > 1]
    prefix = rng.choice(longer) + "_" if rng.random() < 0.3 else ""
    names: dict[str, None] = {}
    for _ in range(rng.choice((2, 3, 4, 5, 6))):
        names[_identifier(rng, longer, prefix)] = None
    tools: list[Any] = []
    schemas: dict[str, dict[str, tuple[Any, Any]]] = {}
    needed: dict[str, list[str]] = {}
    shared = [_identifier(rng, longer, "") for _ in range(3)]  # some parameters recur in tools
    for name in names:
        pool = [_identifier(rng, longer, "") if rng.random() < 0.7 else rng.choice(shared)
                for _ in range(rng.choice((0, 1, 1, 2, 2, 3)))]  # fmt: skip
        schemas[name] = {p: _typed(rng, parts) for p in dict.fromkeys(pool)}
        needed[name] = [p for p in schemas[name] if rng.random() < 0.75]
        properties = {p: spec for p, (spec, _) in schemas[name].items()}
        schema = {"type": "object", "properties": properties, "required": needed[name]}
        tools.append({"type": "function", "function": {"name": name, "parameters": schema}})
    named = rng.choice(("{p} {v}", "{p}: {v}", "{p}={v}", "{p} is {v}", "{v} as {p}"))
    ask = rng.choice(("{n}: {a}", "{n} {a}", "call {n} with {a}", "{a} ({n})", "please {n}, {a}"))
    keyed = rng.random() < 0.6
    turns: list[tuple[str, Any]] = []
    for _ in range(rng.randrange(5, 14)):
        name = rng.choice(list(names))
        given = [p for p in schemas[name] if p in needed[name] or (keyed and rng.random() < 0.5)]
        values = {p: schemas[name][p][1]() for p in given}
        shown = [
            named.format(p=p, v=json.dumps(v) if isinstance(v, bool) else v) if keyed else
            (json.dumps(v) if isinstance(v, bool) else str(v))
            for p, v in values.items()
        ]  # fmt: skip
        if keyed and rng.random() < 0.4:
            rng.shuffle(shown)
        text = ask.format(n=name, a=", ".join(shown)) if shown else name
        turns.append((text, {"name": name, "arguments": values}))
    return _dialogue("", turns, tools)


_LOW = ("lowest", "smallest", "least", "min", "cheapest")
_HIGH = ("highest", "largest", "most", "max", "most expensive")


def extreme(rng: Random, parts: list[str]) -> Dialogue:
    """Short lists, bare or with keys, and the question which is the smallest or the largest."""
    keyed = rng.random() < 0.6
    kind = rng.choice((0, 1, 2, 5))
    top = rng.choice((20, 100, 100, 1000, 5000))
    tenths = rng.random() < 0.15
    style = rng.choice(("{k} {v}", "{k}: {v}", "{k}={v}", '"{k}": {v}'))
    after = rng.random() < 0.4  # the question stands after the list
    same = rng.random() < 0.5
    word = rng.choice((*_LOW, *_HIGH))
    turns: list[tuple[str, Any]] = []
    for _ in range(rng.randrange(10, 22)):
        count = rng.choice((2, 2, 3, 3, 4, 5, 6))
        numbers: list[Any] = rng.sample(range(1, top), count)
        if tenths:
            numbers = [n / 10 for n in numbers]
        if not same:
            word = rng.choice((*_LOW, *_HIGH))
        best = min(numbers) if word in _LOW else max(numbers)
        answer = str(best)
        if keyed:
            keys: list[str] = []
            while len(keys) < count:
                key = _term(rng, kind, parts)
                if key not in keys:
                    keys.append(key)
            answer = keys[numbers.index(best)]
            shown = ", ".join(style.format(k=k, v=v) for k, v in zip(keys, numbers, strict=True))
        else:
            shown = ", ".join(map(str, numbers))
        turns.append((f"{shown}: {word}?" if after else f"{word}: {shown}", answer))
    return _dialogue("", turns, [], "extreme")
