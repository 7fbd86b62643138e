"""How users and the agent word things."""

from __future__ import annotations

from random import Random
from typing import Any

from . import words as w
from .api import Service, Slot

_PLACE = ("in {v}", "in {v}", "in {v}", "at {v}", "to {v}", "{w} {v}", "near {v}")
_PEOPLE = (
    "for {n} people", "{n} people", "we are {n}", "there are {n} of us", "{n} persons",
    "a group of {n}", "a party of {n}", "{n} of us", "for {n} persons", "{n} adults", "for {n}",
)  # fmt: skip
_ALONE = ("just me", "only me", "for me alone", "I am alone", "{n} person", "for {n} person")
_COUNT = (
    "{n} {w}", "{n} {w}", "for {n} {w}", "for {n} {w}", "{n} {w} please", "we need {n} {w}",
    "{n} {w} in all", "it is for {n} {w}", "{w}: {n}", "make it {n} {w}",
)  # fmt: skip
_LIMIT = (
    "at most {v}", "max {v}", "up to {v}", "not more than {v}", "my limit is {v}",
    "my budget is {v}", "{w} at most {v}", "under {v}", "no more than {v}", "{v} is my limit",
)  # fmt: skip
_NO_LIMIT = ("any {w} is fine", "the {w} does not matter", "no limit")
_PER = (" a {u}", " per {u}")
_LOW = ("the cheapest", "cheapest please", "the lowest {w}", "lowest {w} please", "as cheap as "
        "possible", "take the cheapest", "smallest {w}", "the least expensive one")  # fmt: skip
_HIGH = ("the best {w}", "highest {w} please", "the highest {w}", "best {w} please",
         "take the best {w}", "a good {w} counts", "the best rated")  # fmt: skip
_PERSON = ("for {v}", "{w} {v}", "in the name of {v}", "{w}: {v}")
_CHOICE = ("{v}", "{w} {v}", "{w}: {v}", "the {v} one")
_PAY = ("{f} {m}", "use {m}", "by {m}", "with {m}", "{f}: {m}", "I use {m}", "take {m}")
_THEN = (", or ", ", else ", ", then ", ", otherwise ", " or ", ", if that fails ")
_HEADS = (
    "I need {a}", "get me {a}", "find me {a}", "looking for {a}", "we want {a}", "{n}",
    "please {v} {a}", "can you {v} {a}", "I would like {a}", "{v} {a}", "{n} wanted",
)  # fmt: skip
_HELLO = ("Hi!", "Hello,", "Hey,", "Good day,", "Dear all,")
_BYE = ("Thanks!", "Thank you.", "Please hurry.", "Bye.")


def number(rng: Random, n: int) -> str:
    """A small number in digits or in words."""
    return w.NUMBERS[n] if n < len(w.NUMBERS) and rng.random() < 0.35 else str(n)


def article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def counted(rng: Random, word: str, value: int) -> str:
    """A quantity of what `word`, a plural, names."""
    return rng.choice(_COUNT).format(
        n=number(rng, value), w=w.singular(word) if value == 1 else word
    )


def slot_text(rng: Random, slot: Slot, value: Any, price: str, unit: str) -> str:
    """What the user says of one parameter; `unit` is something else that is counted, or ""."""
    word = slot.word
    match slot.kind:
        case "people":
            own = rng.random() < 0.4
            word = w.singular(word) if value == 1 else word
            if value == 1 and not own:
                return rng.choice(_ALONE).format(n=number(rng, 1))
            return rng.choice(_COUNT if own else _PEOPLE).format(n=number(rng, value), w=word)
        case "count":
            return counted(rng, word, value)
        case "limit":
            per = rng.choice(_PER).format(u=w.singular(unit)) if unit else ""
            return rng.choice(_LIMIT).format(v=f"{value}{per}", w=word)
        case "sort":
            forms = _LOW if value == price else _HIGH
            return rng.choice(forms).format(w=value)
        case "person":
            return rng.choice(_PERSON).format(v=value, w=word)
        case "choice":
            return rng.choice(_CHOICE).format(v=value, w=word)
    return rng.choice(_PLACE).format(v=value, w=word)


def no_limit(rng: Random, slot: Slot) -> str:
    return rng.choice(_NO_LIMIT).format(w=slot.word)


def methods(rng: Random, field: str, options: list[str]) -> str:
    then = rng.choice(_THEN)
    return rng.choice(_PAY).format(f=field, m=then.join(options))


def request(rng: Random, s: Service, facts: list[str]) -> str:
    """The facts in a message: a head, then the others, in one of three styles."""
    verb = s.verbs["act"]
    head = rng.choice(_HEADS).format(a=article(s.noun), n=s.noun, v=verb)
    parts = [head, *facts]
    if facts and rng.random() < 0.3:
        parts = [*facts, head]
    if facts and parts[0] == head and facts[0][:3] in ("in ", "at ", "to ", "for"):
        parts = [f"{head} {facts[0]}", *facts[1:]]
    return compose(rng, parts)


def compose(rng: Random, parts: list[str]) -> str:
    style = rng.randrange(3)
    if style == 0 or len(parts) < 2:
        return ", ".join(parts)
    cut = rng.randrange(1, len(parts))
    sentences = [sentence(", ".join(p)) for p in (parts[:cut], parts[cut:])]
    text = " ".join(sentences)
    if style == 2:
        text = f"{rng.choice(_HELLO)} {text} {rng.choice(_BYE)}"
    return text


def sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def ask(slot: Slot) -> str:
    return f"{'How many' if slot.kind in ('people', 'count') else 'Which'} {slot.word}?"


GAVE_UP = {
    "transient": "Sorry, the service does not answer.",
    "hard": "Sorry, that is not allowed.",
    "nothing": "Sorry, I found nothing that fits.",
    "gone": "Sorry, it is gone.",
    "declined": "Sorry, the payment was declined.",
}


def final(s: Service, reference: str) -> str:
    return f"Done, {s.final} {reference}."


def propose(s: Service, item_id: str, price: Any) -> str:
    return f"Shall I {s.verbs['act']} {item_id} for {price}?"
