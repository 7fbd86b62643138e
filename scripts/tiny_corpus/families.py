"""Families built on the scripted expert: whole flows, choices in flows, errors; and plain calls."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from . import compare, copying, plain, rules
from . import words as w
from .api import make_api
from .flow import Expert, Faults, Policy
from .goal import make_goal
from .script import Script
from .types import Dialogue, Split


def system_text(rng: Random, noun: str) -> str:
    """An ordinary system prompt, or none."""
    if rng.random() < 0.35:
        return ""
    forms = (
        "You are a helpful agent.", "You help with {n}.", "Assistant for {n}.", "Use the tools.",
        "You are the {n} desk. Be brief.", "Help the user with the tools you have.",
        "You are an assistant. Do what the user asks and report the result.",
    )  # fmt: skip
    return rng.choice(forms).format(n=w.plural(noun))


def flow(rng: Random, split: Split) -> Dialogue:
    s = Script(rng, split, "flow")
    api = make_api(rng, split)
    s.tools = api.tools
    s.system(system_text(rng, api.noun))
    goal, policy = make_goal(rng, s, api), Policy()
    if api.details and rng.random() < 0.5:
        policy = Policy(details_first=True)
        forms = (
            "Check the details first.",
            "Look at it before.",
            "First {d} it.",
            "See its details before.",
        )
        goal.note = rng.choice(forms).format(d=api.verbs["details"])
    elif rng.random() < 0.08:
        policy = Policy(confirm_first=True)
        goal.note = rng.choice(
            ("Ask me first.", "Tell me before you do it.", "I want to confirm it.")
        )
    Expert(s, api, goal, policy).run()
    return s.done()


def flows(rng: Random, split: Split) -> Dialogue:
    """Two to four whole requests to one service, one after the other."""
    s = Script(rng, split, "flows")
    api = make_api(rng, split)
    s.tools = api.tools
    s.system(system_text(rng, api.noun))
    for _ in range(rng.choice((2, 2, 3, 4))):
        faults = Faults(gone=int(rng.random() < 0.1))
        count = rng.choice((1, 2, 2, 3))
        Expert(s, api, make_goal(rng, s, api, count=count), Policy(), faults).run()
    return s.done()


def choice_flow(rng: Random, split: Split) -> Dialogue:
    """Two or three short requests, each with a choice over an unsorted list."""
    s = Script(rng, split, "choice_flow")
    api = make_api(
        rng, split, confirm=False, details=False, sort=None if rng.random() < 0.2 else False,
        person=False,
    )  # fmt: skip
    s.tools = api.tools
    s.system(system_text(rng, api.noun))
    for _ in range(rng.choice((2, 2, 3))):
        gone = int(rng.random() < 0.25)
        goal = make_goal(rng, s, api, missing=False, order=True)
        Expert(s, api, goal, Policy(), Faults(gone=gone)).run()
    return s.done()


ERROR_KINDS = {
    "transient": 0.18, "gone": 0.20, "expired": 0.12, "declined": 0.24, "validation": 0.09,
    "empty": 0.06, "hard": 0.05, "insist": 0.04, "mixed": 0.03,
}  # fmt: skip


def errors(rng: Random, split: Split) -> Dialogue:
    s = Script(rng, split, "errors")
    kind = rng.choices(list(ERROR_KINDS), list(ERROR_KINDS.values()))[0]
    pays = kind in ("expired", "declined", "mixed")
    api = make_api(
        rng, split, confirm=True if pays else None, method=True if kind == "declined" else None,
        option=True if kind == "validation" and rng.random() < 0.4 else None, details=False,
    )  # fmt: skip
    s.tools = api.tools
    s.system(system_text(rng, api.noun))
    steps = ["search", "act"] + ["confirm"] * bool(api.confirm)
    faults = Faults()
    if kind == "transient":
        for step in rng.sample(steps, rng.choice((1, 1, 2))):
            faults.transient[step] = rng.choice((1, 1, 2))
    elif kind == "insist":
        faults.transient[rng.choice(steps)] = 3
    elif kind == "gone":
        faults.gone = rng.choice((1, 1, 1, 2))
    elif kind == "expired":
        faults.expired = True
    elif kind == "declined":
        faults.declined = rng.choice((1, 1, 1, 2))
    elif kind == "validation":
        options = ["place"] + ["option"] * 3 * bool(api.option) + ["method"] * bool(api.method)
        faults.validation = rng.choice(options + ["cap"] * bool(api.cap))
    elif kind == "empty":
        faults.empty = True
    elif kind == "hard":
        faults.hard = rng.choice(steps)
    else:
        faults = Faults(gone=1, expired=rng.random() < 0.5, transient={rng.choice(steps): 1})
    goal = make_goal(
        rng, s, api, missing=False, count=rng.choice((2, 3, 3, 4)),
        methods=rng.choice((2, 2, 3)) if kind == "declined" and rng.random() < 0.85 else None,
        cap=True if faults.validation == "cap" else rng.random() < 0.3,
    )  # fmt: skip
    Expert(s, api, goal, Policy(), faults).run()
    return s.done()


MAKERS: dict[str, Callable[[Random, Split], Dialogue]] = {
    "copy": copying.copy,
    "flow": flow,
    "flows": flows,
    "choice_flow": choice_flow,
    "errors": errors,
    "rules": rules.rules,
    "correction": rules.correction,
    "compare": compare.compare,
    "records": plain.records,
    "plain": plain.plain,
}
