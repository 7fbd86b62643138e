"""A dense drill of one skill: which value in a sentence belongs to which parameter, and whether
there is one.

Several numbers, names and codes stand in one request; the word beside each says what it is. The
words are invented anew for each dialogue, so the value must be found by its neighbours alone. In
half of the dialogues something that is required may be left out; then it is asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tiny_corpus.script import param, tool
from tiny_corpus.types import Dialogue

from .lookup import _dialogue, _term
from .writer import Writer

NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
_BESIDE = (
    "{v} {w}", "{v} {w}", "for {v} {w}", "{w} {v}", "{w}: {v}", "{v} {w} please", "with {v} {w}",
    "we are {v} {w}", "{v} {w} in all", "it is {v} {w}", "{w} is {v}", "make it {v} {w}",
)  # fmt: skip
_LIMIT = (
    "at most {v} per {w}", "max {v} a {w}", "up to {v} a {w}", "not more than {v} {w}",
    "{w} under {v}", "{v} per {w} is the limit", "no more than {v} per {w}", "cap {v} a {w}",
)  # fmt: skip
_NAME = ("in {v}", "at {v}", "to {v}", "{w} {v}", "{w}: {v}", "{v}", "near {v}", "the {w} is {v}")
_CODE = ("with {v}", "use {v}", "{w} {v}", "by {v}", "{w}: {v}", "{v} as {w}", "through {v}")
_NOISE = (
    "please", "quickly", "thanks", "it is urgent", "as usual", "hello", "we need it soon",
    "do it now", "my boss asked for it", "nothing special",
)  # fmt: skip
_ASK = ("Which {w}?", "{w}?", "What is the {w}?", "Please tell me the {w}.", "The {w}, please.",
        "I need the {w}.")  # fmt: skip
_HOW_MANY = (*_ASK, "How many {w}s?", "How many {w}?", "How many {w}s, please?")
_HEADS = ("I need a {t}", "get me a {t}", "{t}", "please arrange a {t}", "a {t}", "we want a {t}",
          "looking for a {t}", "{t} wanted", "can you find a {t}")  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """One parameter, the word that users have for it, and how they put it."""

    name: str
    word: str
    kind: str  # integer, limit, name or code
    forms: tuple[str, ...]
    optional: bool


def _slots(rng: Random, parts: list[str]) -> list[Slot]:
    kinds = ["integer", "integer", *rng.choice(([], ["name"], ["name", "limit"], ["integer"]))]
    kinds += rng.choice(([], [], ["code"], ["limit"]))
    rng.shuffle(kinds)
    many = rng.random() < 0.5  # several ways to say each, or always the same one
    shape = rng.choice(("{w}", "{w}", "{w}", "{w}_{x}", "{x}_{w}"))
    slots: list[Slot] = []
    seen: set[str] = set()
    longer = [p for p in parts if len(p) > 2]
    for kind in kinds:
        word = ""
        while not word or word in seen:
            word = "".join(rng.choice(longer) for _ in range(rng.choice((1, 1, 1, 2))))
        seen.add(word)
        name = shape.format(w=word, x=rng.choice(longer))
        if rng.random() < 0.05:  # another word than the parameter's: told by example only
            name = rng.choice(longer) + rng.choice(parts)
        if name in (s.name for s in slots):
            name += rng.choice(longer)
        pool = {"integer": _BESIDE, "limit": _LIMIT, "name": _NAME, "code": _CODE}[kind]
        forms = pool if many else (rng.choice(pool),)
        slots.append(Slot(name, word, kind, forms, rng.random() < 0.2))
    return [_per(rng, s, slots) if s.kind == "limit" else s for s in slots]


def _per(rng: Random, limit: Slot, slots: list[Slot]) -> Slot:
    """A limit is often put per something else that is counted: so much a day, for so many days."""
    counted = [s.word for s in slots if s.kind == "integer"]
    if rng.random() < 0.5:
        return limit
    return replace(limit, word=rng.choice(counted), name=rng.choice(("max_", "top_")) + limit.word)


def _say(rng: Random, slot: Slot, plural: bool, parts: list[str]) -> tuple[str, Any]:
    value: Any
    if slot.kind == "integer":
        value = (
            rng.randrange(1, rng.choice((10, 10, 13))) if rng.random() < 0.8 else rng.randrange(300)
        )
    elif slot.kind == "limit":
        value = rng.randrange(3, 100) * rng.choice((1, 5, 10, 10))
    elif slot.kind == "name":
        value = _term(rng, rng.choice((4, 4, 6)), parts)
    else:
        value = _term(rng, rng.choice((0, 2, 3, 5)), parts)
    shown = (
        NUMBERS[value] if slot.kind == "integer" and value < 13 and rng.random() < 0.4 else value
    )
    word = slot.word
    if plural and slot.kind == "integer" and value != 1:
        word += "s"
    return rng.choice(slot.forms).format(v=shown, w=word), value


def binding(rng: Random, parts: list[str]) -> Dialogue:
    """One or two tools, then many requests, each with several values to tell apart; or two tools
    that are called one after the other, each with its own part of the values."""
    return _chained(rng, parts) if rng.random() < 0.5 else _single(rng, parts)


def _name(rng: Random, parts: list[str], thing: str) -> str:
    form = rng.choice(("find_{t}", "{t}", "{x}_{t}", "get_{t}"))
    return form.format(t=thing, x=rng.choice(parts))


def _properties(rng: Random, slots: list[Slot]) -> dict[str, Any]:
    kinds = {"integer": "integer", "limit": rng.choice(("integer", "number"))}
    return {s.name: param(kinds.get(s.kind, "string")) for s in slots}


@dataclass(frozen=True)
class Request:
    """What the user says, the values in the order of the slots, and what must be asked for."""

    text: str
    values: dict[str, Any]
    asked: list[tuple[str, str]]  # question, answer


def _questions(rng: Random, slots: list[Slot]) -> dict[str, str]:
    """How this dialogue's agent asks for each slot; nothing in a dialogue where all is said."""
    if rng.random() < 0.5:
        return {}
    one, many = rng.choice(_ASK), rng.choice(_HOW_MANY)
    return {s.name: (many if s.kind == "integer" else one).format(w=s.word) for s in slots}


def _request(
    rng: Random, thing: str, slots: list[Slot], plural: bool, parts: list[str],
    questions: dict[str, str],
) -> Request:  # fmt: skip
    values: dict[str, Any] = {}
    said: list[str] = []
    asked: list[tuple[str, str]] = []
    for slot in slots:
        if slot.optional and rng.random() < 0.4:
            continue
        text, values[slot.name] = _say(rng, slot, plural, parts)
        if questions and slot.kind != "limit" and not slot.optional and rng.random() < 0.15:
            bare = rng.random() < 0.5 and not text.isalpha()
            answer = str(values[slot.name]) if bare else text
            asked.append((questions[slot.name], answer))
        else:
            said.append(text)
    if rng.random() < 0.25:
        said.append(rng.choice(_NOISE))
    rng.shuffle(said)
    said.insert(rng.choice((0, 0, 0, len(said))), rng.choice(_HEADS).format(t=thing))
    text = said[0]
    for piece in said[1:]:
        text += rng.choice((", ", ", ", ". ", " and ")) + piece
    return Request(text, values, asked)


def _thing(rng: Random, parts: list[str]) -> str:
    return "".join(rng.choice(parts) for _ in range(rng.choice((1, 2))))


def _single(rng: Random, parts: list[str]) -> Dialogue:
    tools: list[Any] = []
    made: list[tuple[str, str, list[Slot]]] = []
    for _ in range(rng.choice((1, 1, 2))):
        slots, thing = _slots(rng, parts), _thing(rng, parts)
        name = _name(rng, parts, thing)
        if name in (m[0] for m in made):
            continue
        required = [s.name for s in slots if not s.optional]
        tools.append(tool(name, _properties(rng, slots), required))
        made.append((name, thing, slots))
    plural = rng.random() < 0.5
    questions = _questions(rng, [s for _, _, slots in made for s in slots])
    turns: list[tuple[str, Any]] = []
    for _ in range(rng.randrange(4, 11)):
        name, thing, slots = rng.choice(made)
        request = _request(rng, thing, slots, plural, parts, questions)
        said = request.text
        for question, answer in request.asked:
            turns.append((said, question))
            said = answer
        turns.append((said, {"name": name, "arguments": request.values}))
    return _dialogue("", turns, tools, "binding")


def _chained(rng: Random, parts: list[str]) -> Dialogue:
    """The first call takes some of the values; its result names what the second call needs, with
    the rest of them."""
    slots, thing = _slots(rng, parts), _thing(rng, parts)
    cut = rng.randrange(1, len(slots))
    first, second = slots[:cut], slots[cut:]
    one, key = _name(rng, parts, thing), rng.choice([p for p in parts if len(p) > 1])
    two = f"{rng.choice(parts)}_{thing}"
    two += rng.choice(parts) if two == one else ""
    key += "_id" if key in {s.name for s in slots} or rng.random() < 0.4 else ""
    tools = [
        tool(one, _properties(rng, first), [s.name for s in first if not s.optional]),
        tool(two, {key: param("string"), **_properties(rng, second)}, [
            key, *(s.name for s in second if not s.optional)]),
    ]  # fmt: skip
    writer, plural, kind = Writer(), rng.random() < 0.5, rng.choice((2, 5))
    listed, final = rng.random() < 0.4, rng.choice(parts)
    questions = _questions(rng, slots)
    for _ in range(rng.randrange(2, 7)):
        request = _request(rng, thing, slots, plural, parts, questions)
        values = request.values
        writer.user(request.text)
        for question, answer in request.asked:
            writer.say(question)
            writer.user(answer)
        names = {s.name for s in first}
        writer.call(one, {k: v for k, v in values.items() if k in names})
        ids = [_term(rng, kind, parts) for _ in range(rng.choice((1, 2, 3)))]
        rows = [{key: i, final: rng.randrange(10, 900)} for i in ids]
        writer.result(json.dumps({thing: rows} if listed else rows[0]))
        rest = {k: v for k, v in values.items() if k not in names}
        writer.call(two, {key: ids[0], **rest})
        number = _term(rng, 2, parts)
        writer.result(json.dumps({"ok": True, "done": number}))
        writer.say(f"Done: {number}")
    return Dialogue("binding", writer.messages, tools, writer.probes)
