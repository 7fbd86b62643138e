"""Families built on the scripted expert: whole requests, with and without errors."""

from __future__ import annotations

from random import Random

from . import words as w
from .api import Service, make_service
from .flow import Expert, Faults, make_goal
from .script import Script
from .types import Dialogue, Split

_SYSTEMS = (
    "You help with {n}.", "You are the {n} desk.", "Use the tools.", "Be brief.",
    "You {v} {n} for users. Ask for what is missing.",
)  # fmt: skip


def system_text(rng: Random, api: Service) -> str:
    """An ordinary system prompt, or none."""
    if rng.random() < 0.3:
        return ""
    return rng.choice(_SYSTEMS).format(n=w.plural(api.noun), v=api.verbs["act"])


def flow(rng: Random, split: Split) -> Dialogue:
    """One to three requests to one service."""
    s = Script(rng, split, "flow")
    api = make_service(rng, split)
    s.tools = api.tools
    s.system(system_text(rng, api))
    for _ in range(rng.choice((1, 2, 2, 3))):
        Expert(s, api, make_goal(rng, s, api)).run()
    if rng.random() < 0.1:
        s.user(rng.choice(("Thanks!", "Thank you.", "Great, thanks.")))
        s.say("You are welcome.")
    return s.done()


_FAULTS = ("transient", "gone", "gone", "declined", "declined", "expired", "lower", "hard", "empty")


def errors(rng: Random, split: Split) -> Dialogue:
    """Two requests; something goes wrong in each."""
    s = Script(rng, split, "errors")
    kinds = [rng.choice(_FAULTS) for _ in range(2)]
    want = {}
    if {"declined", "lower"} & set(kinds):
        want = {"confirm": True, "method": True}
    elif "expired" in kinds:
        want = {"confirm": True}
    api = make_service(rng, split, **want)
    s.tools = api.tools
    s.system(system_text(rng, api))
    steps = ["search", "act"] + ["confirm"] * bool(api.confirm)
    for kind in kinds:
        faults = Faults(
            gone=rng.choice((1, 1, 2)) if kind == "gone" else 0,
            declined=rng.choice((1, 1, 2)) if kind == "declined" else 0,
            expired=kind == "expired",
            lower=kind == "lower",
            transient=tuple(rng.sample(steps, 1)) if kind == "transient" else (),
            hard=rng.choice(steps) if kind == "hard" else "",
            empty=kind == "empty",
        )
        goal = make_goal(
            rng, s, api, unsaid=False, cancel=False,
            count=rng.choice((2, 3, 4)) if kind == "gone" else None,
            methods=rng.choice((2, 2, 3)) if kind == "declined" and rng.random() < 0.8 else None,
        )  # fmt: skip
        Expert(s, api, goal, faults=faults).run()
    return s.done()
