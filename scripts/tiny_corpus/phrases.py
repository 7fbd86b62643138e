"""How users and the agent word things."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from . import words as w
from .drills import superlative
from .script import Json

if TYPE_CHECKING:
    from .api import Api
    from .goal import Goal

_OPENERS = [
    "I need {a}", "Get me {a}", "find me {a}", "Looking for {a}", "please {v} {a}", "We want {a}",
    "Could you {v} {a}", "can you get me {a}", "I'm after {a}", "need {a}", "{V} {a}", "{n}",
    "Hi, I'd like {a}", "hello! i want {a}", "Would you {v} {a} for us", "I have to get {a}",
    "{v} {a} pls", "Please arrange {a}", "I am looking for {a}", "Any {n} to {v}? I want one",
    "We need {a} soon, please {v} it", "Hey, {v} me {a}", "My boss wants {a}", "Let's get {a}",
]  # fmt: skip


def _typo(rng: Random, text: str) -> str:
    """Swap or drop one letter of a longer word."""
    spots = [i for i in range(1, len(text) - 2) if text[i].isalpha() and text[i + 1].isalpha()]
    if not spots:
        return text
    i = rng.choice(spots)
    if rng.random() < 0.5:
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    return text[:i] + text[i + 1 :]


def request(rng: Random, api: Api, goal: Goal) -> str:
    """The user's first message: everything that the goal holds, except what is `missing`."""
    opener = rng.choice(_OPENERS)
    if rng.random() < 0.08 and "{n}" not in opener:
        opener = _typo(rng, opener.split(" {")[0]) + opener[len(opener.split(" {")[0]) :]
    verb = api.verbs["act"]
    head = opener.format(a=w.article(api.noun), n=api.noun, v=verb, V=verb.capitalize())
    if "place" not in goal.missing:
        head += rng.choice(
            (" in {p}", " in {p}", " at {p}", ", {f} {p}", " ({p})", ", {p}")
        ).format(p=goal.place, f=api.place)
    parts: list[str] = []
    if api.size and "size" not in goal.missing:
        parts.append(
            rng.choice(("for {k} {t}", "{t}: {k}", "{k} {t}", "{t} {k}", "we are {k} {t}")).format(
                k=number(rng, goal.size), t=api.size_text
            )
        )
    if api.span and "span" not in goal.missing:
        forms = ("for {k} {t}", "{k} {t}", "{t}: {k}", "it is for {k} {t}", "{k} {t} in all",
                 "we need {k} {t}", "{k} {t} please")  # fmt: skip
        parts.append(rng.choice(forms).format(k=number(rng, goal.span), t=api.span_text))
    if goal.cancel is not None:
        forms = ("first {v} {c}", "{v} {c} first", "before that {v} {c}", "also {v} {c}",
                 "{v} my {f} {c} before")  # fmt: skip
        verb, name = api.verbs["cancel"], api.final_field.replace("_", " ")
        parts.append(rng.choice(forms).format(v=verb, c=goal.cancel, f=name))
    if goal.match:
        forms = ("{v}", "{f} {v}", "it must be {v}", "only {v}", "{f}: {v}")
        parts.append(rng.choice(forms).format(f=api.attribute, v=goal.match))
    if goal.cap is not None:
        parts.append(_cap(rng, api, goal))
    if goal.order:
        parts.append(_preference(rng, *goal.order))
    if api.person and "person" not in goal.missing:
        forms = ("for {p}", "{f} {p}", "{f}: {p}", "in the name of {p}", "it is for {p}")
        parts.append(rng.choice(forms).format(p=goal.person, f=api.person.replace("_", " ")))
    rng.shuffle(parts)
    if api.method:
        parts.append(_methods(rng, api, goal))
    text = head
    values = (*goal.methods, goal.match or "\n")  # written as they are, also after a full stop
    for part in parts:
        if rng.random() < 0.6 or part.startswith(values):
            text += rng.choice((", ", ", ", ". ")) + part
        else:
            text += ". " + part[0].upper() + part[1:]
    if goal.note:
        text += f". {goal.note}"
    if rng.random() < 0.5 and text[-1].isalnum():
        text += "."
    if rng.random() < 0.15:
        text += rng.choice((" Thanks!", " thank you", " Please.", " Quickly please."))
    return text[0].lower() + text[1:] if rng.random() < 0.3 else text


def number(rng: Random, n: int) -> str:
    """A small number in digits or, now and then, in words."""
    return w.NUMBERS[n] if n < len(w.NUMBERS) and rng.random() < 0.3 else str(n)


def _cap(rng: Random, api: Api, goal: Goal) -> str:
    forms = [
        "under {c}", "at most {c}", "max {f} {c}", "not more than {c}", "up to {c}", "below {c}",
        "my limit is {c}", "budget {c}", "{f} below {c}", "{f} at most {c}", "no more than {c}",
    ]  # fmt: skip
    if api.span and rng.random() < 0.5:
        forms = ["max {c} a {u}", "at most {c} per {u}", "up to {c} a {u}", "{c} per {u} at most",
                 "my budget is {c} per {u}", "{c} a {u} is my limit"]  # fmt: skip
    unit = api.span_text.removesuffix("s")
    return rng.choice(forms).format(c=goal.cap, f=api.price, u=unit)


def _preference(rng: Random, field: str, low: bool) -> str:
    best = superlative(rng, field, low)
    forms = ["the {s}", "{s} please", "the {s} one", "take the {s}", "whichever is the {s}", "{s}",
             "the {s} you have", "I want the {s}"]  # fmt: skip
    if best.endswith(f" {field}"):
        forms = ["{s}", "with the {s}", "{s} please", "the one with the {s}", "take the {s}"]
    return rng.choice(forms).format(s=best)


def _methods(rng: Random, api: Api, goal: Goal) -> str:
    first, *rest = goal.methods
    verb = api.verbs["confirm"]
    if not rest:
        forms = ["{v} with {m}", "use {m}", "{f} {m}", "by {m}", "{f}: {m}", "I use {m}"]
        return rng.choice(forms).format(v=verb, m=first, f=api.method.replace("_", " "))
    forms = [
        "{v} with {m}, or {r} if that fails", "use {m}, otherwise {r}", "{f}: {m}, then {r}",
        "{m} first, then {r}", "try {m} and, if refused, {r}", "by {m} or else {r}",
    ]  # fmt: skip
    then = " then " if rng.random() < 0.5 else ", "
    return rng.choice(forms).format(
        v=verb, m=first, r=then.join(rest), f=api.method.replace("_", " ")
    )


def ask(rng: Random, name: str) -> str:
    name = name.replace("_", " ")
    forms = (
        "Which {n}?",
        "What {n}, please?",
        "I need the {n}.",
        "Please tell me the {n}.",
        "{n}?",
    )
    return rng.choice(forms).format(n=name)


def answer(rng: Random, name: str, value: str) -> str:
    forms = ("{v}", "{v}", "{v}.", "{v} please", "it's {v}", "{n}: {v}", "sorry, {v}")
    return rng.choice(forms).format(v=value, n=name)


def lead(rng: Random, step: str) -> str:
    """Text beside a tool call: mostly none."""
    if rng.random() > 0.06:
        return ""
    return {
        "search": ("Let me look.", "I will search first.", "One moment."),
        "act": ("Taking this one.", "This one fits.", "I take it."),
        "confirm": ("Now the last step.", "Almost done.", "Completing it."),
    }[step][rng.randrange(3)]


_GAVE_UP = {
    "transient": [
        "the service does not answer. Please try later",
        "the service is busy and I stopped trying",
        "it keeps failing, please try again later",
    ],
    "hard": [
        "the service refuses this, so I could not do it",
        "I am not allowed to do that",
        "this is not possible at the moment: access was refused",
    ],
    "nothing": [
        "I found nothing that fits",
        "nothing matches your request",
        "there is none that fits",
        "no result fits what you asked for",
    ],
    "all_gone": ["all that fit are gone", "none is left", "no other one fits"],
    "gone": [
        "it is no longer available, so I stopped",
        "that one is gone",
        "it was taken, I did not take another",
    ],
    "declined": [
        "the payment was declined",
        "it was refused, so it is not completed",
        "your method was declined",
    ],
    "expired": ["it expired, so I stopped", "it has expired and is not completed"],
}


def gave_up(rng: Random, why: str) -> tuple[str]:
    return (f"Sorry, {rng.choice(_GAVE_UP[why])}.",)


def propose(rng: Random, api: Api, item: Json) -> str:
    forms = (
        "Shall I {v} {i} ({f} {p})?", "I found {i}, {f} {p}. {V} it?", "{i} at {p}: go ahead?",
        "{V} {i} for {p}?", "May I {v} {i}, {f} {p}?",
    )  # fmt: skip
    verb = api.verbs["act"]
    return rng.choice(forms).format(
        v=verb, V=verb.capitalize(), i=item[api.id_field], f=api.price, p=item[api.price]
    )


def final(rng: Random, api: Api, goal: Goal, item: Json, reference: Any) -> str:
    forms = [
        "Done. {F}: {r}.", "All set: {i}, {f} {p}, {F} {r}.", "{i} is yours. {F} {r}.",
        "Done: {r}", "I took {i} ({f} {p}). {F}: {r}", "Your {F} is {r}.", "{F} {r}, {f} {p}.",
        "It is done, {F} {r}. {n} {i} costs {p}.", "{F}: {r}.",
        "Finished. {n} {i} in {l}, {F} {r}.",
    ]  # fmt: skip
    name = api.final_field.replace("_", " ")
    text = rng.choice(forms).format(
        F=name, r=reference, i=item[api.id_field], f=api.price, p=item[api.price], n=api.noun,
        l=goal.place,
    )  # fmt: skip
    return text[0].upper() + text[1:] if text.startswith(name) else text


def wrong_value(rng: Random, name: str, wrong: str, right: str) -> str:
    forms = (
        "unknown {n} '{w}', use '{r}'", "{n}: use the code {r}, not {w}", "{n} must be {r}",
        "'{w}' is not valid for {n}; did you mean {r}?", "{n} {w} is written {r}",
    )  # fmt: skip
    return rng.choice(forms).format(n=name, w=wrong, r=right)


def unsupported(rng: Random, name: str) -> str:
    forms = (
        "{n} is not supported here",
        "unknown argument {n}",
        "leave out {n}",
        "{n} not allowed",
    )
    return rng.choice(forms).format(n=name)


def required(rng: Random, name: str, value: str) -> str:
    forms = (
        "{n} is required, pass {v}",
        "missing {n}: use {v}",
        "{n} must be {v}",
        "set {n} to {v}",
    )
    return rng.choice(forms).format(n=name, v=value)
