"""Talk without a task: greetings, thanks, requests that no tool fits; look up, then change."""

from __future__ import annotations

from random import Random

from . import words as w
from .api import ERROR_STYLES, join, render_error
from .script import Json, Script, param, tool
from .types import Dialogue, Split

_HELLO = ["hi", "Hello", "hey there", "Good morning", "Hello!", "good evening", "Hi, anyone there?"]
_HELLO_BACK = [
    "Hello, how can I help?",
    "Hi! What can I do for you?",
    "Good day. What do you need?",
]
_THANKS = ["thanks", "Thank you!", "great, thanks", "thx", "Perfect, thank you", "ok thanks, bye"]
_WELCOME = ["You are welcome.", "Gladly.", "Any time.", "You're welcome!", "Good bye."]
_OFF = [
    "what is the weather", "tell me a joke", "who won the game", "write a poem", "fix my car",
    "call my mother", "What time is it?", "translate this letter", "play some music",
    "order a pizza",
]  # fmt: skip
_REFUSE = [
    "Sorry, I can't do that here.",
    "Sorry, I have no tool for that.",
    "Sorry, that is not something I can do.",
]


def records(rng: Random, split: Split) -> Dialogue:
    """Look a record up, cancel or change it, then perhaps make a new one; small talk around."""
    s = Script(rng, split, "records")
    thing = w.noun(rng, split)
    case = rng.choice(("snake", "snake", "camel", "kebab"))
    verbs = {r: w.word(rng, w.VERBS[r], split) for r in ("lookup", "cancel", "update", "create")}
    if len(set(verbs.values())) < 4:
        return records(rng, split)
    names = {role: join(case, verb, thing) for role, verb in verbs.items()}
    ids, refs = w.IdStyle(rng), w.IdStyle(rng)
    key, by = f"{thing}_id", w.word(rng, w.PERSON, split)
    amount, place = w.word(rng, w.SIZE, split), w.word(rng, w.PLACE, split)
    record_key = rng.choice((key, "id", w.word(rng, w.ID, split)))
    out = w.word(rng, w.FINAL, split)
    s.tools = [
        tool(names["lookup"], {by: param("string")}, [by]),
        tool(names["cancel"], {key: param(ids.json_type)}, [key]),
        tool(
            names["update"],
            {key: param(ids.json_type), amount: param("integer"), place: param("string")},
            [key],
        ),
    ]
    makes = rng.random() < 0.5
    if makes:
        s.tools.append(
            tool(names["create"], {by: param("string"), amount: param("integer")}, [by, amount])
        )
    if rng.random() < 0.3:
        rng.shuffle(s.tools)
    if rng.random() < 0.5:
        s.system(rng.choice((f"You keep the {w.plural(thing)}.", "Use the tools.", "Be brief.")))
    style = rng.choice(ERROR_STYLES)
    if rng.random() < 0.1:
        s.user(rng.choice(_HELLO))
        s.say(rng.choice(_HELLO_BACK))
    for turn in range(rng.choice((1, 2, 2))):
        person, new = w.person_name(rng, split), rng.randrange(1, 40)
        town = w.place_name(rng, split)
        do = rng.choice(
            ("cancel", "update_amount", "update_place", "replace" if makes else "cancel")
        )
        change = {
            "cancel": "{v} the {t} of {p}", "update_amount": "{u} the {t} of {p}: {a} {n}",
            "update_place": "{u} the {t} of {p} to {f} {l}",
            "replace": "{v} the {t} of {p} and {c} a new one with {a} {n}",
        }[do]  # fmt: skip
        s.user(
            rng.choice(("", "please ", "Can you ", "I want you to ")) + change.format(
                v=verbs["cancel"], u=verbs["update"], c=verbs["create"], t=thing, p=person,
                a=amount, n=new, f=place, l=town,
            )
        )  # fmt: skip
        s.call(names["lookup"], {by: person}, "copy")
        found = rng.choice((1, 1, 1, 0)) if turn == 0 else 1
        if not found:
            s.result(
                render_error(style, f"no {thing} for {person}", "not_found", 404)
                if rng.random() < 0.5
                else []
            )
            s.say(f"Sorry, I found no {thing} of {person}.", "valid", "Sorry")
            continue
        record: Json = {record_key: ids.new(), by: person, amount: rng.randrange(1, 40)}
        if rng.random() < 0.6:
            record[place] = w.place_name(rng, split)
        s.result(rng.choice((record, {"ok": True, **record}, {thing: record}, [record])))
        target = record[record_key]
        if do in ("cancel", "replace"):
            s.call(names["cancel"], {key: target}, "copy")
        elif do == "update_amount":
            s.call(names["update"], {key: target, amount: new}, "copy")
        else:
            s.call(names["update"], {key: target, place: town}, "copy")
        reference = refs.new()
        s.result({"ok": True, out: reference})
        if do == "replace":
            s.call(names["create"], {by: person, amount: new}, "copy")
            reference = refs.new()
            s.result({out: reference})
        s.say(
            rng.choice(("Done: {r}.", "{t} {i}: {o} {r}.", "Done, {o} {r}.")).format(
                r=reference, t=thing, i=target, o=out
            ),
            "copy",
            str(reference),
        )
    if rng.random() < 0.2:
        s.user(rng.choice(_THANKS))
        s.say(rng.choice(_WELCOME))
    return s.done()


def plain(rng: Random, split: Split) -> Dialogue:
    """Greetings, thanks, requests that no tool fits, questions about what was just said."""
    s = Script(rng, split, "plain")
    thing = w.noun(rng, split)
    verb = w.word(rng, w.VERBS["lookup"], split)
    key = w.word(rng, w.ID, split)
    ids = w.IdStyle(rng)
    name = f"{verb}_{thing}"
    s.tools = [tool(name, {key: param(ids.json_type)}, [key])]
    if rng.random() < 0.4:
        s.system(rng.choice((f"You help with {w.plural(thing)}.", "Be brief.", "Use the tools.")))
    for _ in range(rng.choice((2, 3, 4))):
        roll = rng.random()
        if roll < 0.25:
            s.user(rng.choice(_HELLO))
            s.say(rng.choice(_HELLO_BACK))
        elif roll < 0.5:
            s.user(rng.choice(_OFF))
            s.say(rng.choice(_REFUSE), "valid", "Sorry")
        elif roll < 0.6:
            s.user(rng.choice(_THANKS))
            s.say(rng.choice(_WELCOME))
        elif roll < 0.7:
            s.user(rng.choice((f"{verb} a {thing}", f"I need the facts of my {thing}")))
            s.say(rng.choice((f"Which {key}?", f"What is the {key}?", f"{key}?")), "valid", key)
            value = ids.new()
            s.user(str(value))
            _look(s, name, key, value)
        else:
            value = ids.new()
            s.user(
                rng.choice(("{v} {t} {i}", "what about {t} {i}", "{t} {i}?")).format(
                    v=verb, t=thing, i=value
                )
            )
            _look(s, name, key, value)
    return s.done()


def _look(s: Script, name: str, key: str, value: str | int) -> None:
    rng = s.rng
    s.call(name, {key: value}, "copy")
    a, b = w.word(rng, w.NUMERIC, s.split), w.word(rng, list(w.ATTRIBUTES), s.split)
    number, word = rng.randrange(1, 900), rng.choice(w.ATTRIBUTES.get(b, ["on"]))
    s.result({key: value, a: number, b: word})
    text = rng.choice(("{a} {n}, {b} {w}.", "It has {a} {n} and {b} {w}.", "{i}: {a} {n}, {b} {w}"))
    s.say(text.format(a=a, n=number, b=b, w=word, i=value), "copy", str(number))
