"""Rules in the system prompt, and corrections later on, that change what the expert does."""

from __future__ import annotations

from random import Random

from .flow import Expert, Faults, Policy
from .goal import Goal, make_goal
from .rule_kinds import Rule, build_rule
from .script import Script
from .types import Dialogue, ProbeKind, Split


def play(s: Script, rule: Rule, policy: Policy, kind: ProbeKind | None) -> None:
    """One request in the rule's service under a policy; probes of `kind` where the rule shows."""
    goal = _telling_goal(s, rule)
    faults = Faults()
    for name, value in rule.faults.items():
        if name == "transient":
            faults.transient = {value: 1}
        else:
            setattr(faults, name, value)
    marks: dict[str, ProbeKind] = dict.fromkeys(rule.steps, kind) if kind else {}
    if kind and not rule_shows(rule, policy):
        marks = {DEFAULT_STEP.get(step, step): kind for step in rule.steps}
    Expert(s, rule.api, goal, policy, faults, marks).run()


def _telling_goal(s: Script, rule: Rule) -> Goal:
    """A goal; where the rule is about the pick, mostly one for which it changes the pick."""
    want = {"missing": False, "match": False, **rule.goal}
    for _ in range(12):
        goal = make_goal(s.rng, s, rule.api, **want)
        if rule.steps[0] != "pick":
            break
        picks = [
            Expert(s, rule.api, goal, p).pick_from(goal.items) for p in (rule.default, rule.policy)
        ]
        if (picks[0] is not picks[1] and None not in picks) or s.rng.random() < 0.03:
            break
    return goal


# Where the default behaviour shows that a rule is absent.
DEFAULT_STEP = {"extra": "pick", "confirm_first": "pick", "details": "pick"}


def rule_shows(rule: Rule, policy: Policy) -> bool:
    return policy == rule.policy


_NEUTRAL = [
    "Be polite.",
    "Use the tools.",
    "Be brief.",
    "You are a helpful agent.",
    "Work carefully.",
    "Answer in plain words.",
    "Only use facts from the tools.",
]


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
            texts = [
                "take the next best one from the list",
                "try the next best instead of stopping",
            ]
            return Policy(on_gone="stop"), texts
        case "declined":
            return Policy(on_declined="stop"), ["use the next method", "try the user's next method"]
        case "transient":
            return Policy(on_transient="stop"), [
                "try again",
                "repeat the call",
                "retry the same call",
            ]
        case "expired":
            verb = rule.api.verbs["act"]
            return Policy(on_expired="stop"), [
                f"{verb} again and go on with the new id",
                f"call {rule.api.act} again, then go on",
            ]
        case "pick" if rule.policy.skip_flag or rule.policy.default_order:
            rule.goal = {"order": True, "count": 3}
            rule.when = "you choose"
            return Policy(rank=1), [
                "take the best one that fits, not the next",
                "choose exactly what the user asked for",
            ]
        case "search" if rule.api.cap and not rule.policy.search_tool:
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
    lower = (
        text
        if text.split(" ")[0].rstrip(":") in (t["function"]["name"] for t in s.tools)
        else text[0].lower() + text[1:]
    )
    order = f"When {when}, {lower}" if with_when else text
    who = rng.choice(("Supervisor", "Note", "Correction", "Reviewer", "Manager", "Feedback"))
    lead = rng.choice(
        (
            "that was wrong.",
            "not like that.",
            "please do it differently.",
            "wrong.",
            "next time:",
            "",
        )
    )
    body = " ".join(part for part in (f"{who}:", lead, order) if part).rstrip(".") + "."
    if rng.random() < 0.3:
        s.messages.append({"role": "system", "content": body})
        return
    s.user(body)
    s.say(rng.choice(("Understood.", "Noted.", "I will do so from now on.", "OK.")))
