"""Dense dialogues of single calls: which value of a request belongs to which parameter."""

from __future__ import annotations

from random import Random
from typing import Any

from . import phrases
from . import words as w
from .api import Slot, count_slot, limit_slot, people_slot, schema
from .flow import quantity
from .script import Json, Script, tool
from .types import Dialogue, Split


def _slots(names: w.Names) -> list[Slot]:
    """One to four parameters of one tool."""
    rng, kinds = names.rng, ["people", "count", "count", "limit", "place", "person", "choice"]
    chosen = rng.sample(kinds, rng.choice((1, 2, 2, 3, 3, 4)))
    slots: list[Slot] = []
    for kind in chosen:
        if kind == "people":
            slots.append(people_slot(names, "act"))
        elif kind == "count":
            slots.append(count_slot(names, "act"))
        elif kind == "limit":
            slots.append(limit_slot(names, names.word(w.PRICE)))
        elif kind == "choice":
            name = rng.choice(list(w.ATTRIBUTES))
            options = tuple(rng.sample(w.ATTRIBUTES[name], 3))
            slots.append(Slot(name, name, "choice", "act", True, options))
        else:
            name = names.word(w.PLACE if kind == "place" else w.PERSON)
            slots.append(Slot(name, name, kind, "act"))  # type: ignore[arg-type]
    return slots


def _value(names: w.Names, slot: Slot) -> Any:
    rng = names.rng
    match slot.kind:
        case "place" | "person":
            return names.proper()
        case "choice":
            return rng.choice(slot.options)
        case "limit":
            return rng.randrange(2, 60) * rng.choice((1, 5, 10))
    return quantity(rng)


def calls(rng: Random, split: Split) -> Dialogue:
    """Two or three tools of one service, four to eight requests with all their values."""
    s = Script(rng, split, "calls")
    names = w.Names(rng, split)
    noun, ids, finals = names.noun(), w.IdStyle(rng), w.IdStyle(rng)
    made: dict[str, tuple[str, list[Slot], str]] = {}
    for _ in range(rng.choice((1, 2, 2, 3))):
        verb = names.word(w.VERBS["create"] + w.VERBS["act"] + w.VERBS["cancel"])
        key = rng.choice((f"{noun}_{rng.choice(w.ID)}", rng.choice(w.ID), noun))
        slots = _slots(names)
        keyed = key if rng.random() < 0.4 else ""
        if keyed and rng.random() < 0.5:
            slots = []
        taken = {x.name for x in slots}
        if keyed in taken or len(taken) < len(slots):
            continue
        made[f"{verb}_{noun}"] = (verb, slots, keyed)
        properties: Json = {keyed: {"type": "string"}} if keyed else {}
        properties |= {x.name: schema(x) for x in slots}
        required = [k for k in properties if k == keyed] + [x.name for x in slots if x.required]
        s.tools.append(tool(f"{verb}_{noun}", properties, required))
    if not made:
        return calls(rng, split)
    final = names.word(w.FINAL)
    answers = rng.random() < 0.5
    for _ in range(rng.choice((4, 5, 6, 8))):
        name, (verb, slots, keyed) = rng.choice(list(made.items()))
        given = [x for x in slots if x.required or rng.random() < 0.6]
        values = {x.name: _value(names, x) for x in given}
        units = [x.word for x in given if x.kind == "count"]
        unit = units[0] if units and rng.random() < 0.5 else ""
        facts = [phrases.slot_text(rng, x, values[x.name], "", unit) for x in given]
        rng.shuffle(facts)
        key = {keyed: ids.new()} if keyed else {}
        head = f"{verb} {noun} {key[keyed]}" if keyed else f"{verb} {phrases.article(noun)}"
        s.user(phrases.compose(rng, [rng.choice((head, head, f"please {head}")), *facts]))
        s.call(name, {**key, **values}, "bind" if len(key) + len(values) > 1 else "copy")
        reference = finals.new()
        s.result({final: reference})
        if answers:
            s.say(f"Done, {final} {reference}.", "copy")
    return s.done()
