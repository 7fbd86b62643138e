"""The kinds of rules: each builds a service, the wordings of the rule and what it changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from . import words as w
from .api import Api, make_api
from .drills import superlative
from .flow import Policy
from .types import Split


@dataclass
class Rule:
    """A way to behave that differs from the expert's default, in an invented service.

    `texts` order it, `steps` are where it shows, `goal` and `faults` make it matter.
    """

    api: Api
    texts: list[str]
    policy: Policy
    steps: tuple[str, ...]
    when: str = ""  # "When ..." of a correction
    goal: dict[str, Any] = field(default_factory=dict)
    faults: dict[str, Any] = field(default_factory=dict)
    default: Policy = field(default_factory=Policy)


def _api(rng: Random, split: Split, **want: bool | None) -> Api:
    """A small service: the flow ends with the act unless the rule needs more."""
    plain: dict[str, bool | None] = {
        "confirm": False,
        "details": False,
        "sort": False,
        "cap": None,
        "person": None,
        "size": False if rng.random() < 0.8 else None,
        "span": False if rng.random() < 0.8 else None,
        "cancel": False,
        "good": None,
        "attribute": False,
    }
    return make_api(rng, split, **{**plain, **want})


def extra(rng: Random, split: Split) -> Rule:
    api = _api(rng, split, option=True)
    value = w.option_value(rng, api.option)
    o = api.option
    texts = [
        f"Always pass {o}={value} to {api.act}.",
        f"Every {api.act} call needs {o} {value}.",
        f"Set {o} to {value}.",
        f"Use {o} {value} in {api.act}.",
        f"{api.act}: always {o} = {value}",
        f"We work with {o} {value} only, say so in {api.act}.",
        f"pass {o} {value}",
    ]
    return Rule(api, texts, Policy(extra=(o, value)), ("extra",), f"you call {api.act}")


def confirm_first(rng: Random, split: Split) -> Rule:
    api = _api(rng, split)
    v = api.verbs["act"]
    texts = [
        f"Ask the user before you call {api.act}.",
        f"Never {v} without the user's yes.",
        f"Propose first, {v} after the user agrees.",
        f"Get a confirmation before {api.act}.",
        f"Always ask for a yes before you {v} anything.",
        f"Do not call {api.act} before the user agrees.",
        "Confirm with the user before acting.",
    ]
    return Rule(api, texts, Policy(confirm_first=True), ("confirm_first",), f"you {v} something")


def details_first(rng: Random, split: Split) -> Rule:
    api = _api(rng, split, details=True)
    d, a = api.details, api.act
    texts = [
        f"Always call {d} before {a}.",
        f"Check with {d} first, then {a}.",
        f"Call {d} before you {api.verbs['act']}.",
        f"Before {a}, look at the {api.noun} with {d}.",
        f"No {a} without {d}.",
        "Look at the details before acting.",
        f"First {d}, then {a}.",
    ]
    return Rule(api, texts, Policy(details_first=True), ("details",), "you have chosen one")


def default_order(rng: Random, split: Split) -> Rule:
    """For users without a preference; the default is the first of the list."""
    api = _api(rng, split, good=True)
    f, low = rng.choice(
        ((api.price, True), (api.price, False), (api.good, False), (api.good, True))
    )
    best = superlative(rng, f, low)
    texts = [
        f"If the user has no preference, take the {best}.",
        f"Without a wish of the user, choose the {best}.",
        f"By default pick the {best}.",
        f"When nothing is said, use the {best}.",
        f"Default choice: {best}.",
        f"Prefer the {best}.",
        f"Take the {best} unless the user says otherwise.",
    ]
    goal = {"order": False, "cap": False}
    return Rule(
        api, texts, Policy(default_order=(f, low)), ("pick",), "the user has no preference", goal
    )


def override(rng: Random, split: Split) -> Rule:
    """Another order than the user's, or the second best."""
    api = _api(rng, split, good=True)
    if rng.random() < 0.4:
        texts = [
            "Never take the best one, take the second best.",
            "Always take the second.",
            "Choose the second best.",
            "The first choice is reserved for others: take the next best.",
            "Take the runner-up.",
            "Skip the best one and take the next.",
        ]
        return Rule(
            api,
            texts,
            Policy(rank=1),
            ("pick",),
            "you choose",
            {"order": True, "count": rng.choice((3, 4)), "cap": False},
        )
    f, low = rng.choice(
        ((api.price, True), (api.price, False), (api.good, False), (api.good, True))
    )
    best = superlative(rng, f, low)
    texts = [
        f"Always take the {best}, whatever the user says.",
        f"Only ever choose the {best}.",
        f"The {best} is always the right one.",
        f"Take the {best} in every case.",
        f"Always the {best}.",
        f"Ignore other wishes: the {best} counts.",
    ]
    return Rule(
        api,
        texts,
        Policy(order=(f, low)),
        ("pick",),
        "you choose",
        {"cap": False, "count": rng.choice((2, 3, 3, 4))},
    )


def skip_flag(rng: Random, split: Split) -> Rule:
    api = _api(rng, split, flag=True)
    f, n = api.flag, w.plural(api.noun)
    texts = [
        f"Skip {n} where {f} is true.",
        f"Never take {w.article(f)} one.",
        f"No {f} {n}.",
        f"Avoid {f} {n}.",
        f"{n.capitalize()} with {f} true are not for us.",
        f"Only {n} with {f} false.",
    ]
    return Rule(
        api, texts, Policy(skip_flag=True), ("pick",), f"one is {f}", {"order": True, "cap": False}
    )


def code_word(rng: Random, split: Split) -> Rule:
    api = _api(rng, split)
    word = w.invented(rng, split, 2)
    word = rng.choice((word, word.upper(), word.lower(), f"#{word.lower()}", f"[{word}]"))
    if rng.random() < 0.6:
        texts = [
            f"End the last message with {word}",
            f"Always finish with the word {word}",
            f"Close with {word}",
            f"The final answer ends in {word}",
            f"Your last word is {word}",
            f"Add {word} at the end of the answer",
        ]
        return Rule(api, texts, Policy(code_word=word), ("final",), "you finish")
    texts = [
        f"Begin the last message with {word}",
        f"The final answer starts with {word}",
        f"Say {word} first when it is done",
        f"Open the final message with {word}",
    ]
    return Rule(api, texts, Policy(opening=word), ("final",), "you finish")


def terse(rng: Random, split: Split) -> Rule:
    api = _api(rng, split)
    name = api.final_field.replace("_", " ")
    if rng.random() < 0.6:
        texts = [
            f"Answer with the {name} alone.",
            f"The final message is only the {name}.",
            "Reply with the reference only.",
            f"At the end give just the {name}, nothing else.",
            "In the end say one word: the reference.",
        ]
        return Rule(api, texts, Policy(terse="id"), ("final",), "you finish")
    texts = [
        "Answer in at most two words.",
        "Final answer: two words at most.",
        "Never use more than two words.",
    ]
    return Rule(api, texts, Policy(terse="short"), ("final",), "you finish")


def on_gone(rng: Random, split: Split) -> Rule:
    how = rng.choice(("stop", "again", "escalate"))
    api = _api(rng, split, escalate=True if how == "escalate" else None)
    n = api.noun
    texts = {
        "stop": [
            f"If the {n} is gone, stop and tell the user.",
            f"Do not take another {n} if one is taken.",
            "When something is no longer available, give up.",
            "On a lost item do not try the next: tell the user.",
        ],
        "again": [
            f"If the {n} is gone, call {api.search} again.",
            "When something is taken, search anew before going on.",
            f"After a lost {n} always repeat {api.search}.",
            "Never use an old list after a failure: search again.",
        ],
        "escalate": [
            f"If the {n} is gone, call {api.escalate}.",
            f"When something is taken, use {api.escalate}.",
            f"A lost {n} is a case for {api.escalate}.",
            f"On conflicts call {api.escalate} and stop.",
        ],
    }[how]
    goal = {"count": rng.choice((2, 3, 3)), "cap": False}
    return Rule(api, texts, Policy(on_gone=how), ("gone",), f"the {n} is gone", goal, {"gone": 1})


def on_declined(rng: Random, split: Split) -> Rule:
    how = rng.choice(("stop", "escalate"))
    api = _api(
        rng,
        split,
        confirm=True,
        method=True,
        escalate=True if how == "escalate" else None,
        size=False,
    )
    m = api.method.replace("_", " ")
    texts = {
        "stop": [
            f"If a {m} is declined, stop.",
            "Try only one way to pay.",
            "After a refusal do not try another: tell the user.",
            f"Never use a second {m}.",
            f"A declined {m} ends the task.",
        ],
        "escalate": [
            f"If a {m} is declined, call {api.escalate}.",
            f"After a refusal use {api.escalate}.",
            f"On a refused {m} call {api.escalate}, nothing else.",
        ],
    }[how]
    return Rule(
        api,
        texts,
        Policy(on_declined=how),
        ("declined",),
        f"a {m} is declined",
        {"methods": 2, "count": 2},
        {"declined": 1},
    )


def on_transient(rng: Random, split: Split) -> Rule:
    api = _api(rng, split)
    texts = [
        "Never retry a failed call.",
        "If a call fails, stop at once.",
        "Do not repeat calls: tell the user.",
        "No retries.",
        "A timeout or a busy service ends the task.",
        "One try per call, no more.",
    ]
    step = rng.choice(("search", "act"))
    return Rule(
        api,
        texts,
        Policy(on_transient="stop"),
        ("transient",),
        "a call fails",
        {"count": 2},
        {"transient": step},
    )


def on_expired(rng: Random, split: Split) -> Rule:
    api = _api(rng, split, confirm=True, size=False)
    texts = [
        "If something has expired, stop and say so.",
        "Never renew what has expired.",
        f"When it expires, do not {api.verbs['act']} again: tell the user.",
        "After an expiry give up.",
    ]
    return Rule(
        api,
        texts,
        Policy(on_expired="stop"),
        ("expired",),
        "it has expired",
        {"count": 2},
        {"expired": True},
    )


def no_cap(rng: Random, split: Split) -> Rule:
    """The search is called without its limit; the agent itself keeps to the user's limit."""
    api = _api(rng, split, cap=True)
    texts = [
        f"Never pass {api.cap}.",
        f"Do not use {api.cap}.",
        f"{api.cap} is broken: leave it out.",
        f"Call {api.search} without {api.cap}.",
        f"{api.cap} gives wrong lists, leave it out.",
    ]
    return Rule(
        api,
        texts,
        Policy(cap_argument=False),
        ("search",),
        f"you call {api.search}",
        {"cap": True, "count": rng.choice((2, 3))},
    )


def other_tool(rng: Random, split: Split) -> Rule:
    """Two searches with the same parameters: without a rule, the first of the tools is used."""
    api = _api(rng, split)
    names = [t["function"]["name"] for t in api.tools]
    first = api.tools.pop(names.index(api.search))
    other = copy.deepcopy(first)
    style = rng.choice(("{s}_{x}", "{x}_{s}"))
    other["function"]["name"] = style.format(
        s=api.search, x=w.word(rng, ["new", "fast", "full", "live", "v2", "beta"], "train")
    )
    other["function"].pop("description", None)
    api.tools[:0] = [first, other]
    a, b = api.search, other["function"]["name"]
    texts = [
        f"Never call {a}.",
        f"Use {b}, not {a}.",
        f"{a} is out of order.",
        f"Search with {b}.",
        f"Do not use {a}.",
        f"Only {b} is allowed for searching.",
        f"{b} replaces {a}.",
    ]
    return Rule(api, texts, Policy(search_tool=b), ("search",), "you search")


BUILDERS: list[tuple[Callable[[Random, Split], Rule], float]] = [
    (extra, 1.4),
    (confirm_first, 1.2),
    (details_first, 1.2),
    (default_order, 1.3),
    (override, 1.3),
    (skip_flag, 1.2),
    (code_word, 1.3),
    (terse, 0.8),
    (on_gone, 1.3),
    (on_declined, 0.8),
    (on_transient, 0.8),
    (on_expired, 0.5),
    (no_cap, 0.7),
    (other_tool, 1.0),
]


def build_rule(rng: Random, split: Split) -> Rule:
    builder = rng.choices([b for b, _ in BUILDERS], [weight for _, weight in BUILDERS])[0]
    return builder(rng, split)
