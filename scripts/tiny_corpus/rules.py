"""Rules in the system prompt, and corrections later on, that change what the expert does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from . import words as w
from .api import Api, make_api
from .drills import superlative
from .flow import Expert, Faults, Policy, make_goal
from .script import Script
from .types import Dialogue, ProbeKind, Split


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
        "confirm": False, "details": False, "sort": False, "cap": None, "person": None,
        "size": False if rng.random() < 0.8 else None, "good": None, "attribute": False,
    }  # fmt: skip
    return make_api(rng, split, **{**plain, **want})


def extra(rng: Random, split: Split) -> Rule:
    api = _api(rng, split, option=True)
    value = w.option_value(rng, api.option)
    o = api.option
    texts = [
        f"Always pass {o}={value} to {api.act}.", f"Every {api.act} call needs {o} {value}.",
        f"Set {o} to {value}.", f"Use {o} {value} in {api.act}.", f"{api.act}: always {o} = {value}",
        f"We work with {o} {value} only, say so in {api.act}.", f"pass {o} {value}",
    ]  # fmt: skip
    return Rule(api, texts, Policy(extra=(o, value)), ("extra",), f"you call {api.act}")


def confirm_first(rng: Random, split: Split) -> Rule:
    api = _api(rng, split)
    v = api.verbs["act"]
    texts = [
        f"Ask the user before you call {api.act}.", f"Never {v} without the user's yes.",
        f"Propose first, {v} after the user agrees.", f"Get a confirmation before {api.act}.",
        f"Always ask for a yes before you {v} anything.", f"Do not call {api.act} before the user agrees.",
        "Confirm with the user before acting.",
    ]  # fmt: skip
    return Rule(api, texts, Policy(confirm_first=True), ("confirm_first",), f"you {v} something")


def details_first(rng: Random, split: Split) -> Rule:
    api = _api(rng, split, details=True)
    d, a = api.details, api.act
    texts = [
        f"Always call {d} before {a}.", f"Check with {d} first, then {a}.", f"Call {d} before you {api.verbs['act']}.",
        f"Before {a}, look at the {api.noun} with {d}.", f"No {a} without {d}.",
        "Look at the details before acting.", f"First {d}, then {a}.",
    ]  # fmt: skip
    return Rule(api, texts, Policy(details_first=True), ("details",), "you have chosen one")


def default_order(rng: Random, split: Split) -> Rule:
    """For users without a preference; the default is the first of the list."""
    api = _api(rng, split, good=True)
    f, low = rng.choice(((api.price, True), (api.price, False), (api.good, False), (api.good, True)))
    best = superlative(rng, f, low)
    texts = [
        f"If the user has no preference, take the {best}.", f"Without a wish of the user, choose the {best}.",
        f"By default pick the {best}.", f"When nothing is said, use the {best}.", f"Default choice: {best}.",
        f"Prefer the {best}.", f"Take the {best} unless the user says otherwise.",
    ]  # fmt: skip
    goal = {"order": False, "cap": False}
    return Rule(api, texts, Policy(default_order=(f, low)), ("pick",), "the user has no preference", goal)


def override(rng: Random, split: Split) -> Rule:
    """Another order than the user's, or the second best."""
    api = _api(rng, split, good=True)
    if rng.random() < 0.4:
        texts = [
            "Never take the best one, take the second best.", "Always take the second.", "Choose the second best.",
            "The first choice is reserved for others: take the next best.", "Take the runner-up.",
            "Skip the best one and take the next.",
        ]  # fmt: skip
        return Rule(api, texts, Policy(rank=1), ("pick",), "you choose", {"order": True, "count": rng.choice((3, 4)), "cap": False})
    f, low = rng.choice(((api.price, True), (api.price, False), (api.good, False), (api.good, True)))
    best = superlative(rng, f, low)
    texts = [
        f"Always take the {best}, whatever the user says.", f"Only ever choose the {best}.",
        f"The {best} is always the right one.", f"Take the {best} in every case.", f"Always the {best}.",
        f"Ignore other wishes: the {best} counts.",
    ]  # fmt: skip
    return Rule(api, texts, Policy(order=(f, low)), ("pick",), "you choose", {"cap": False, "count": rng.choice((2, 3, 3, 4))})


def skip_flag(rng: Random, split: Split) -> Rule:
    api = _api(rng, split, flag=True)
    f, n = api.flag, w.plural(api.noun)
    texts = [
        f"Skip {n} where {f} is true.", f"Never take {w.article(f)} one.", f"No {f} {n}.", f"Avoid {f} {n}.",
        f"{n.capitalize()} with {f} true are not for us.", f"Only {n} with {f} false.",
    ]  # fmt: skip
    return Rule(api, texts, Policy(skip_flag=True), ("pick",), f"one is {f}", {"order": True, "cap": False})


def code_word(rng: Random, split: Split) -> Rule:
    api = _api(rng, split)
    word = w.invented(rng, split, 2)
    word = rng.choice((word, word.upper(), word.lower(), f"#{word.lower()}", f"[{word}]"))
    if rng.random() < 0.6:
        texts = [
            f"End the last message with {word}", f"Always finish with the word {word}", f"Close with {word}",
            f"The final answer ends in {word}", f"Your last word is {word}", f"Add {word} at the end of the answer",
        ]  # fmt: skip
        return Rule(api, texts, Policy(code_word=word), ("final",), "you finish")
    texts = [
        f"Begin the last message with {word}", f"The final answer starts with {word}",
        f"Say {word} first when it is done", f"Open the final message with {word}",
    ]  # fmt: skip
    return Rule(api, texts, Policy(opening=word), ("final",), "you finish")


def terse(rng: Random, split: Split) -> Rule:
    api = _api(rng, split)
    name = api.final_field.replace("_", " ")
    if rng.random() < 0.6:
        texts = [
            f"Answer with the {name} alone.", f"The final message is only the {name}.", "Reply with the reference only.",
            f"At the end give just the {name}, nothing else.", "In the end say one word: the reference.",
        ]  # fmt: skip
        return Rule(api, texts, Policy(terse="id"), ("final",), "you finish")
    texts = ["Answer in at most two words.", "Final answer: two words at most.", "Never use more than two words."]
    return Rule(api, texts, Policy(terse="short"), ("final",), "you finish")


def on_gone(rng: Random, split: Split) -> Rule:
    how = rng.choice(("stop", "again", "escalate"))
    api = _api(rng, split, escalate=True if how == "escalate" else None)
    n = api.noun
    texts = {
        "stop": [
            f"If the {n} is gone, stop and tell the user.", f"Do not take another {n} if one is taken.",
            "When something is no longer available, give up.", "On a lost item do not try the next: tell the user.",
        ],
        "again": [
            f"If the {n} is gone, call {api.search} again.", "When something is taken, search anew before going on.",
            f"After a lost {n} always repeat {api.search}.", "Never use an old list after a failure: search again.",
        ],
        "escalate": [
            f"If the {n} is gone, call {api.escalate}.", f"When something is taken, use {api.escalate}.",
            f"A lost {n} is a case for {api.escalate}.", f"On conflicts call {api.escalate} and stop.",
        ],
    }[how]  # fmt: skip
    goal = {"count": rng.choice((2, 3, 3)), "cap": False}
    return Rule(api, texts, Policy(on_gone=how), ("gone",), f"the {n} is gone", goal, {"gone": 1})


def on_declined(rng: Random, split: Split) -> Rule:
    how = rng.choice(("stop", "escalate"))
    api = _api(rng, split, confirm=True, method=True, escalate=True if how == "escalate" else None, size=False)
    m = api.method.replace("_", " ")
    texts = {
        "stop": [
            f"If a {m} is declined, stop.", "Try only one way to pay.", "After a refusal do not try another: tell the user.",
            f"Never use a second {m}.", f"A declined {m} ends the task.",
        ],
        "escalate": [
            f"If a {m} is declined, call {api.escalate}.", f"After a refusal use {api.escalate}.",
            f"On a refused {m} call {api.escalate}, nothing else.",
        ],
    }[how]  # fmt: skip
    return Rule(api, texts, Policy(on_declined=how), ("declined",), f"a {m} is declined", {"methods": 2, "count": 2}, {"declined": 1})


def on_transient(rng: Random, split: Split) -> Rule:
    api = _api(rng, split)
    texts = [
        "Never retry a failed call.", "If a call fails, stop at once.", "Do not repeat calls: tell the user.",
        "No retries.", "A timeout or a busy service ends the task.", "One try per call, no more.",
    ]  # fmt: skip
    step = rng.choice(("search", "act"))
    return Rule(api, texts, Policy(on_transient="stop"), ("transient",), "a call fails", {"count": 2}, {"transient": step})


def on_expired(rng: Random, split: Split) -> Rule:
    api = _api(rng, split, confirm=True, size=False)
    texts = [
        "If something has expired, stop and say so.", "Never renew what has expired.",
        f"When it expires, do not {api.verbs['act']} again: tell the user.", "After an expiry give up.",
    ]  # fmt: skip
    return Rule(api, texts, Policy(on_expired="stop"), ("expired",), "it has expired", {"count": 2}, {"expired": True})


def no_cap(rng: Random, split: Split) -> Rule:
    """The search is called without its limit; the agent itself keeps to the user's limit."""
    api = _api(rng, split, cap=True)
    texts = [
        f"Never pass {api.cap}.", f"Do not use {api.cap}.", f"{api.cap} is broken: leave it out.",
        f"Call {api.search} without {api.cap}.", f"{api.cap} gives wrong lists, leave it out.",
    ]  # fmt: skip
    return Rule(api, texts, Policy(cap_argument=False), ("search",), f"you call {api.search}", {"cap": True, "count": rng.choice((2, 3))})


BUILDERS: list[tuple[Callable[[Random, Split], Rule], float]] = [
    (extra, 1.4), (confirm_first, 1.2), (details_first, 1.2), (default_order, 1.3), (override, 1.3),
    (skip_flag, 1.2), (code_word, 1.3), (terse, 0.8), (on_gone, 1.3), (on_declined, 0.8),
    (on_transient, 0.8), (on_expired, 0.5), (no_cap, 0.7),
]  # fmt: skip


def build_rule(rng: Random, split: Split) -> Rule:
    builder = rng.choices([b for b, _ in BUILDERS], [weight for _, weight in BUILDERS])[0]
    return builder(rng, split)


def play(s: Script, rule: Rule, policy: Policy, kind: ProbeKind | None) -> None:
    """One request in the rule's service under a policy; probes of `kind` where the rule shows."""
    rng = s.rng
    goal = make_goal(rng, s, rule.api, **{"missing": False, "match": False, **rule.goal})
    faults = Faults()
    for name, value in rule.faults.items():
        if name == "transient":
            faults.transient = {value: 1}
        else:
            setattr(faults, name, value)
    marks: dict[str, ProbeKind] = {step: kind for step in rule.steps} if kind else {}
    if kind and not rule_shows(rule, policy):
        marks = {DEFAULT_STEP.get(step, step): kind for step in rule.steps}
    Expert(s, rule.api, goal, policy, faults, marks).run()


# Where the default behaviour shows that a rule is absent.
DEFAULT_STEP = {"extra": "pick", "confirm_first": "pick", "details": "pick"}


def rule_shows(rule: Rule, policy: Policy) -> bool:
    return policy == rule.policy


_NEUTRAL = [
    "Be polite.", "Use the tools.", "Be brief.", "You are a helpful agent.", "Work carefully.",
    "Answer in plain words.", "Only use facts from the tools.",
]  # fmt: skip


def rules(rng: Random, split: Split) -> Dialogue:
    """A rule in the system prompt (or, for contrast, the same situation without it)."""
    s = Script(rng, split, "rules")
    rule = build_rule(rng, split)
    active = rng.random() < 0.72
    lines = [rng.choice(_NEUTRAL)] if rng.random() < 0.6 else []
    if active:
        lines.append(rng.choice(rule.texts))
    if rng.random() < 0.25:
        lines.append(rng.choice(_NEUTRAL))
    if rng.random() < 0.3:
        rng.shuffle(lines)
    joiner = rng.choice((" ", "\n", "\n- "))
    lines = [line if line[-1] == "." or joiner != " " else line + "." for line in lines]
    s.system(("- " if joiner == "\n- " and lines else "") + joiner.join(lines))
    s.tools = rule.api.tools
    policy = rule.policy if active else rule.default
    play(s, rule, policy, "rule")
    if rng.random() < 0.35:
        play(s, rule, policy, "rule")
    return s.done()


def _wrong(rng: Random, rule: Rule) -> tuple[Policy, list[str]] | None:
    """A flawed way for the default situation and the words that correct it to the default."""
    match rule.steps[0]:
        case "gone":
            texts = ["take the next best one from the list", "try the next best instead of stopping"]
            return Policy(on_gone="stop"), texts
        case "declined":
            return Policy(on_declined="stop"), ["use the next method", "try the user's next method"]
        case "transient":
            return Policy(on_transient="stop"), ["try again", "repeat the call", "retry the same call"]
        case "expired":
            verb = rule.api.verbs["act"]
            return Policy(on_expired="stop"), [f"{verb} again and go on with the new id", f"call {rule.api.act} again, then go on"]
        case "search" if rule.api.cap:
            cap = rule.api.cap
            return Policy(cap_argument=False), [f"pass the user's limit as {cap}", f"use {cap}"]
        case "confirm_first":
            return Policy(confirm_first=True), ["just do it, do not ask", "act without asking"]
    return None


def correction(rng: Random, split: Split) -> Dialogue:
    """An attempt, a supervisor's correction, and a new request that must go the corrected way."""
    s = Script(rng, split, "correction")
    rule = build_rule(rng, split)
    s.tools = rule.api.tools
    flawed = _wrong(rng, rule) if rng.random() < 0.45 else None
    if flawed:
        before, texts = flawed
        after = rule.default
    else:
        before, after, texts = rule.default, rule.policy, [t.rstrip(".") for t in rule.texts]
    s.system(rng.choice(_NEUTRAL) if rng.random() < 0.5 else "")
    corrected = rng.random() < 0.75
    if not corrected and flawed:
        before = rule.default
    s.mistake = corrected and flawed is not None
    play(s, rule, before, None)
    s.mistake = False
    if corrected:
        _correct(s, rng.choice(texts), rule.when, with_when=flawed is not None)
    else:
        s.user(rng.choice(("Thanks, good.", "Thank you!", "Perfect.", "Great work.")))
        s.say(rng.choice(("You are welcome.", "Gladly.", "Any time.")))
        after = before
    play(s, rule, after, "correction")
    return s.done()


def _correct(s: Script, text: str, when: str, with_when: bool) -> None:
    rng = s.rng
    lower = text if text.split(" ")[0].rstrip(":") in (t["function"]["name"] for t in s.tools) else text[0].lower() + text[1:]
    order = f"When {when}, {lower}" if with_when else text
    who = rng.choice(("Supervisor", "Note", "Correction", "Reviewer", "Manager", "Feedback"))
    lead = rng.choice(("that was wrong.", "not like that.", "please do it differently.", "wrong.", "next time:", ""))
    body = " ".join(part for part in (f"{who}:", lead, order) if part).rstrip(".") + "."
    if rng.random() < 0.3:
        s.messages.append({"role": "system", "content": body})
        return
    s.user(body)
    s.say(rng.choice(("Understood.", "Noted.", "I will do so from now on.", "OK.")))

