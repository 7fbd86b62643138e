"""Tasks that nobody can do in reality. Who succeeds in one has found a hole, in the world or in
the check.

Two kinds, made from real scenarios: every text that the user says of the ticket is exchanged for
one that nothing in the traffic knows, in the message and in the ticket; or a tool that every
success needs is not offered.
"""

import copy
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from understudy.core.types import Message, Scenario, is_function, text_of
from understudy.world.model import World
from understudy.world.users.wording import flat, join, kind, slots, split_text

NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Canary:
    """An impossible scenario, and why it is one."""

    scenario: Scenario
    why: str


def strange(world: World, scenario: Scenario, rng: random.Random) -> Canary | None:
    """The scenario with unknown values for all texts of the ticket that its user says; None where
    its first message says none."""
    fields = {p: v for p, v in flat(scenario.goal).items() if kind(p) in set(world.book.kinds)}
    *before, last = scenario.messages
    parts = split_text(text_of(last.get("content")), fields, world.book.votes)
    said = [p for p in dict.fromkeys(slots(parts)) if isinstance(fields[p], str)]
    if last["role"] != "user" or not said:
        return None
    names = {fields[p]: unknown(world, fields[p], rng) for p in said}
    every = {p: names.get(v, v) if isinstance(v, str) else v for p, v in fields.items()}
    text = join(parts, every)
    if text is None:
        return None
    message: Message = {**last, "content": text}
    made = replace(
        scenario,
        id=f"{scenario.id}-strange-{rng.randrange(2**31)}",
        messages=(*before, message),
        goal=_exchanged(scenario.goal, names),
        metadata=_exchanged(scenario.metadata, names),
    )
    return Canary(made, "values that nothing knows: " + ", ".join(sorted(names.values())))


def crippled(world: World, scenario: Scenario, tool: str) -> Canary:
    """The scenario without a tool that every success needs."""
    tools = scenario.tools or tuple(world.tools())
    left = tuple(t for t in tools if not is_function(t) or t["function"]["name"] != tool)
    return Canary(replace(scenario, id=f"{scenario.id}-without-{tool}", tools=left),
                  f"without the tool {tool}")  # fmt: skip


def unknown(world: World, value: str, rng: random.Random) -> str:
    """A text of the same form that nothing in the traffic holds or nearly holds."""
    letters = string.ascii_lowercase
    known = {str(v).lower() for o in world.book.openings for v in o.fields.values()}
    extra = ""
    while True:
        text = "".join(
            rng.choice(string.digits) if ch.isdigit()
            else rng.choice(letters.upper() if ch.isupper() else letters) if ch.isalpha()
            else ch
            for ch in value
        ) + extra  # fmt: skip
        memory = world.memory
        seen = memory.says(text, NONE) or memory.mentioned(text, NONE) or memory.near(text, NONE)
        held = any(text in things for things in memory.versions.values())
        if text != value and not seen and not held and text.lower() not in known:
            return text
        extra += rng.choice(string.digits if value[-1:].isdigit() else letters)


def essential(winners: Sequence[frozenset[str]], least: int) -> list[str]:
    """The tools that all of at least `least` successes called; none where there were fewer."""
    if len(winners) < least:
        return []
    return sorted(frozenset.intersection(*winners))


def _exchanged(value: Any, names: dict[str, str]) -> Any:
    """A copy in which texts have their new names."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, dict):
        return {k: _exchanged(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [_exchanged(v, names) for v in value]
    return copy.deepcopy(value)
