"""Rules in the system prompt, and corrections later on, that change what the expert does."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from . import words as w
from .api import Service, make_service
from .flow import Expert, Faults, Policy, make_goal
from .script import Script
from .types import Dialogue, ProbeKind, Split


@dataclass
class Rule:
    """A way to behave that differs from the default: its wordings, and the step where it shows.

    `absent` is the step where its absence shows.
    """

    api: Service
    texts: tuple[str, ...]
    policy: Policy
    step: str
    absent: str = ""
    faults: Faults = field(default_factory=Faults)
    goal: dict[str, Any] = field(default_factory=dict)


RULES = (
    "extra", "confirm_first", "details", "ending", "terse", "gone", "declined", "transient",
)  # fmt: skip


def make_rule(rng: Random, split: Split) -> Rule:
    """A rule in a small service of its own."""
    kind = rng.choice(RULES)
    want = {"confirm": kind == "declined", "method": True, "cancel": False, "limit": False,
            "sort": False, "person": False, "choice": False, "integers": rng.random() < 0.3,
            "details": kind == "details", "option": kind == "extra"}  # fmt: skip
    api = make_service(rng, split, **want)
    noun, act = api.noun, api.act
    match kind:
        case "extra":
            value = w.pseudo(rng, w.base(split))
            texts = (f"Always set {api.option} to {value}.", f"Pass {api.option} {value}.",
                     f"Use {api.option} {value} in {act}.")  # fmt: skip
            return Rule(api, texts, Policy(extra=(api.option, value)), "extra", "pick")
        case "confirm_first":
            texts = (f"Ask the user before {act}.", "Ask before you act.", "Get a yes first.")
            return Rule(api, texts, Policy(confirm_first=True), "confirm_first", "pick")
        case "details":
            texts = (f"Call {api.details} before {act}.", f"First {api.details}, then {act}.",
                     f"No {act} without {api.details}.")  # fmt: skip
            return Rule(api, texts, Policy(details_first=True), "details", "pick")
        case "ending":
            word = w.pseudo(rng, split).capitalize()
            texts = (f"End with the word {word}.", f"Your last word is {word}.",
                     f"Close with {word}.")  # fmt: skip
            return Rule(api, texts, Policy(ending=word), "final")
        case "terse":
            texts = (f"Answer with the {api.final} alone.", f"At the end say only the {api.final}.",
                     "Reply with the reference only.")  # fmt: skip
            return Rule(api, texts, Policy(terse=True), "final")
        case "gone":
            texts = (f"If the {noun} is gone, stop.", "If it is gone, do not take another.",
                     "Stop when one is gone.")  # fmt: skip
            goal = {"count": rng.choice((2, 3))}
            return Rule(api, texts, Policy(on_gone="stop"), "gone", "", Faults(gone=1), goal)
        case "declined":
            texts = ("If a payment is declined, stop.", "Try only one method.",
                     "Never use a second method.")  # fmt: skip
            goal = {"methods": 2}
            policy = Policy(on_declined="stop")
            return Rule(api, texts, policy, "declined", "", Faults(declined=1), goal)
    texts = ("Never call again after an error.", "Do not retry.", "Stop at the first error.")
    faults = Faults(transient=(rng.choice(("search", "act")),))
    return Rule(api, texts, Policy(on_transient="stop"), "transient", "", faults)


def play(s: Script, rule: Rule, active: bool, kind: ProbeKind | None) -> None:
    """One request in the rule's service; a probe of `kind` where the rule shows, or its absence."""
    goal = make_goal(s.rng, s, rule.api, unsaid=False, cancel=False, **rule.goal)
    step = rule.step if active else rule.absent or rule.step
    marks: dict[str, ProbeKind] = {step: kind} if kind else {}
    Expert(s, rule.api, goal, rule.policy if active else Policy(), rule.faults, marks).run()


_NEUTRAL = ("Be polite.", "Use the tools.", "Be brief.", "You are a helpful agent.")


def rules(rng: Random, split: Split) -> Dialogue:
    """Two requests under a rule in the system prompt, or in the same situation without it."""
    s = Script(rng, split, "rules")
    rule = make_rule(rng, split)
    active = rng.random() < 0.7
    lines = [rng.choice(rule.texts)] if active else []
    if rng.random() < 0.5:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(_NEUTRAL))
    s.system(" ".join(lines))
    s.tools = rule.api.tools
    for _ in range(2):
        play(s, rule, active, "rule")
    return s.done()


_WHO = ("Supervisor", "Correction", "Note", "Reviewer")


def correction(rng: Random, split: Split) -> Dialogue:
    """A request, a supervisor's correction, and new requests that must go the corrected way."""
    s = Script(rng, split, "correction")
    rule = make_rule(rng, split)
    s.tools = rule.api.tools
    s.system(rng.choice(_NEUTRAL) if rng.random() < 0.5 else "")
    corrected = rng.random() < 0.75
    play(s, rule, False, None)
    if corrected:
        who, lead = rng.choice(_WHO), rng.choice(("", "that was wrong. "))
        s.user(f"{who}: {lead}{rng.choice(rule.texts)}")
        s.say("Understood.")
    else:
        s.user(rng.choice(("Thanks, good.", "Thank you!", "Perfect.")))
        s.say("You are welcome.")
    for _ in range(rng.choice((1, 2))):
        play(s, rule, corrected, "correction")
    return s.done()
