"""Single calls: values from the user's text into arguments, from results into the answer."""

from __future__ import annotations

from random import Random
from typing import Any

from . import words as w
from .api import join
from .script import Json, Script, param, tool
from .types import Dialogue, Split


def _field(rng: Random, split: Split) -> tuple[str, str, Any, list[str] | None]:
    """A parameter: name, JSON type, how to draw a value, enum."""
    roll = rng.random()
    if roll < 0.22:
        return w.word(rng, w.ID, split), "id", w.IdStyle(rng), None
    if roll < 0.36:
        return w.word(rng, w.PERSON, split), "person", None, None
    if roll < 0.48:
        return w.word(rng, w.PLACE, split), "place", None, None
    if roll < 0.62:
        return w.word(rng, w.SIZE, split), "integer", None, None
    if roll < 0.76:
        return w.word(rng, w.PRICE + w.NUMERIC, split), "number", None, None
    if roll < 0.90:
        name = w.word(rng, list(w.ATTRIBUTES), split)
        return name, "enum", None, rng.sample(w.ATTRIBUTES.get(name, ["on", "off", "auto"]), 3)
    return w.word(rng, w.NOTE, split), "text", None, None


def _draw(rng: Random, split: Split, kind: str, style: Any, enum: list[str] | None) -> Any:
    match kind:
        case "id":
            return style.new()
        case "person":
            return w.person_name(rng, split)
        case "place":
            return w.place_name(rng, split)
        case "integer":
            return rng.randrange(1, 10 ** rng.choice((1, 2, 2, 3)))
        case "number":
            return rng.choice(
                (
                    rng.randrange(1, 5000),
                    rng.randrange(10, 99999) / 10,
                    rng.randrange(1, 9999) / 100,
                )
            )
        case "enum":
            return rng.choice(enum or ["on"])
    return " ".join(w.word(rng, w.NOUNS, split) for _ in range(rng.choice((2, 3, 4))))


def copy(rng: Random, split: Split) -> Dialogue:
    """Two or three tools of one service, three or four requests with all their values."""
    s = Script(rng, split, "copy")
    thing = w.noun(rng, split)
    case = rng.choice(("snake", "snake", "camel", "kebab"))
    roles = rng.sample(("create", "update", "lookup", "cancel"), rng.choice((1, 2, 2, 3)))
    specs: list[tuple[str, str, list[tuple[str, str, Any, list[str] | None]], list[str]]] = []
    for role in roles:
        verb = w.word(rng, w.VERBS[role], split)
        count = 1 if role in ("lookup", "cancel") else rng.choice((1, 2, 2, 3, 4))
        fields = {f[0]: f for f in (_field(rng, split) for _ in range(count))}
        if role in ("lookup", "cancel"):
            style = w.IdStyle(rng)
            name = w.word(rng, w.ID, split)
            fields = {name: (name, "id", style, None)}
        params: Json = {}
        for name, kind, style, enum in fields.values():
            types = {"id": "", "integer": "integer", "number": "number"}
            params[name] = param(
                style.json_type if kind == "id" else types.get(kind, "string"), enum
            )
        required = [n for n in params if rng.random() < 0.8] or list(params)[:1]
        function = join(case, verb, thing)
        if function in (x[0] for x in specs):
            continue
        specs.append((function, verb, list(fields.values()), required))
        about = f"{verb.capitalize()} {w.article(thing)}" if rng.random() < 0.25 else ""
        s.tools.append(tool(function, params, required, about))
    if rng.random() < 0.5:
        s.system(
            rng.choice(("Use the tools.", "You are a clerk.", f"You keep the {w.plural(thing)}."))
        )
    results = w.IdStyle(rng)
    out = w.word(rng, w.FINAL, split)
    for _ in range(rng.choice((2, 3, 3, 4))):
        name, verb, fields_, required = rng.choice(specs)
        values = {
            f: _draw(rng, split, kind, style, enum)
            for f, kind, style, enum in fields_
            if f in required or rng.random() < 0.5
        }
        s.user(_ask(rng, verb, thing, values))
        s.call(name, values, "copy")
        reference = results.new()
        record: Json = {out: reference}
        extra = w.word(rng, w.NUMERIC, split)
        if rng.random() < 0.4:
            record[extra] = rng.randrange(1, 10000)
        s.result(rng.choice((record, {"ok": True, **record}, {"data": record})))
        text = rng.choice(("Done: {r}.", "{o} {r}", "Done, the {o} is {r}.", "{r}")).format(
            r=reference, o=out
        )
        if extra in record and rng.random() < 0.6:
            s.say(f"{text.rstrip('.')}, {extra} {record[extra]}.", "copy", str(record[extra]))
        else:
            s.say(text, "copy", str(reference))
    return s.done()


def _ask(rng: Random, verb: str, thing: str, values: Json) -> str:
    head = rng.choice(
        (
            "{v} a {t}",
            "{V} {t}",
            "please {v} {t}",
            "can you {v} the {t}",
            "{v} the {t}",
            "I want to {v} a {t}",
        )
    ).format(v=verb, V=verb.capitalize(), t=thing)
    style = rng.choice((" {k} {v}", " {k}: {v}", " {k} is {v}", " {k}={v}", " with {k} {v}"))
    parts = [style.format(k=k, v=v) for k, v in values.items()]
    if len(values) == 1 and rng.random() < 0.5:
        parts = [f" {v}" for v in values.values()]
    elif rng.random() < 0.3:
        rng.shuffle(parts)
    return (
        head
        + rng.choice((",", ":")) * (len(parts) > 1)
        + rng.choice((",", " and", ";")).join(parts)
    )
