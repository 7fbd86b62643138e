"""A dense drill of one skill: when a choice is refused, take the next one of the list.

The list stands in the user's words, or in a tool's result. The names are invented anew for each
dialogue. What was refused for a passing reason is tried again instead, what was refused for its
capital letters in small ones, and where the user names nothing to try, it is asked for.
"""

from __future__ import annotations

import json
from random import Random

from tiny_corpus.script import param, tool
from tiny_corpus.types import Dialogue

from .lookup import _term
from .writer import Writer

_FIRST = (
    "{v} with {l}", "use {l}", "{l} for the {t}", "{f}: {l}", "by {l}", "please use {l} to {v}",
    "I {v} by {l}", "try {l}", "{l}", "take {l}", "the {f} is {l}",
)  # fmt: skip
_THEN = (
    ", or {r}", ", else {r}", ", then {r}", ", or if that fails {r}", ", otherwise {r}", " or {r}",
    ", backup {r}", " and, if refused, {r}", ", {r} after that", " first, then {r}", "; next {r}",
)  # fmt: skip
_REFUSED = (
    "declined", "refused", "not accepted", "{x} declined", "{x} is gone", "not available",
    "sold out", "no longer there", "taken", "{x} was rejected", "failed: {x}", "blocked",
)  # fmt: skip
_PASSING = ("busy", "rate limited", "timeout", "try again", "temporarily unavailable", "overloaded")
_CAPITALS = (
    "{f} in lower case please", "small letters only", "write {f} in small letters",
    "no capitals in {f}", "{f}: lower case only", "{f} must be in small letters", "use lower case",
)  # fmt: skip
_ASK = ("Which {f}?", "{f}?", "What is the {f}?", "Please tell me the {f}.", "Which {f}s?")
_WRAP = ("error", "ok", "text", "status", "detail")


def _answer(wrap: str, text: str) -> str:
    match wrap:
        case "error":
            return json.dumps({"error": text})
        case "ok":
            return json.dumps({"ok": False, "error": text})
        case "status":
            return json.dumps({"status": "failed", "reason": text})
        case "detail":
            return json.dumps({"result": None, "message": text})
    return f"Error: {text}"


def fallback(rng: Random, parts: list[str]) -> Dialogue:
    """Several requests, each with two to four options that are tried in their order."""
    longer = [p for p in parts if len(p) > 2]

    def word() -> str:
        return "".join(rng.choice(longer) for _ in range(rng.choice((1, 1, 2))))

    verb, thing, field, key = word(), word(), word(), word()
    name, finder = f"{verb}_{thing}", f"{word()}_{thing}"
    listed = rng.random() < 0.4  # the options are a tool's result, not the user's words
    carried = rng.random() < 0.6  # a second argument that stays the same in every attempt
    kind, id_kind = rng.choice((0, 0, 3, 4, 2, 5)), rng.choice((1, 2, 5))
    properties = {field: param("string")}
    if carried:
        properties = {key: param("string"), **properties}
    tools = [tool(name, properties, list(properties))]
    if listed:
        tools.insert(rng.randrange(2), tool(finder, {thing: param("string")}, [thing]))
    wrap, then, refused = rng.choice(_WRAP), rng.choice(_THEN), rng.choice(_REFUSED)
    many = rng.random() < 0.5
    writer = Writer()
    pool = [_term(rng, kind, parts) for _ in range(6)]
    again = rng.random() < 0.6 and kind == 0  # the same few options in every request
    strict, capitals = kind == 0 and rng.random() < 0.5, rng.choice(_CAPITALS).format(f=field)
    question = rng.choice(_ASK).format(f=field) if rng.random() < 0.4 else None
    for _ in range(rng.randrange(2, 6)):
        count = rng.choice((2, 2, 3, 3, 4))
        options: list[str] = []
        while len(options) < count:
            option = rng.choice(pool) if again else _term(rng, kind, parts)
            if option not in options:
                options.append(option)
        carry = _term(rng, id_kind, parts)
        shouted = strict and rng.random() < 0.35
        as_said = [o.capitalize() for o in options] if shouted else options
        said = as_said[0]
        for option in as_said[1:]:
            said += (rng.choice(_THEN) if many else then).format(r=option)
        text = rng.choice(_FIRST).format(l=said, v=verb, t=thing, f=field)
        if listed:
            writer.user(f"{thing} {carry}")
            writer.call(finder, {thing: carry})
            rows = [{field: o, key: rng.randrange(10, 900)} for o in as_said]
            writer.result(json.dumps(rows if rng.random() < 0.5 else {thing: rows}))
        elif question and rng.random() < 0.3:
            writer.user(f"{verb} {carry}" if carried else f"{verb} {thing}")
            writer.say(question)
            writer.user(rng.choice((said, said, text)))
        else:
            ask = (text, f"{carry}") if carried else (text,)
            shown = ", ".join(rng.sample(ask, len(ask)))
            writer.user(shown)
        accepted = min(rng.choice((0, 1, 1, 2, 2, 3)), count - 1)
        for i, option in enumerate(options[: accepted + 1]):
            if shouted and i == 0:
                loud = {key: carry, field: as_said[0]} if carried else {field: as_said[0]}
                writer.call(name, loud)
                writer.result(_answer(wrap, capitals))
            arguments = {key: carry, field: option} if carried else {field: option}
            writer.call(name, arguments)
            if rng.random() < 0.12:
                writer.result(_answer(wrap, rng.choice(_PASSING)))
                writer.call(name, arguments)
            if i < accepted:
                said_why = (rng.choice(_REFUSED) if many else refused).format(x=option)
                writer.result(_answer(wrap, said_why))
        number = _term(rng, 2, parts)
        writer.result(json.dumps({"ok": True, "done": number}))
        writer.say(f"Done: {number}")
    return Dialogue("fallback", writer.messages, tools, writer.probes)
