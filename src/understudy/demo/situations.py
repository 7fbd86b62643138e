"""What an episode met: the service's failures, and a wish for a cancellation."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from understudy.core.types import Message, text_of
from understudy.runs.statistics import wilson

# an error of the service -> the situation that it brings
ERRORS = {
    "sold out": "sold out",
    "no longer listed": "stale listing",
    "price changed": "price changed",
    "hold expired": "hold expired",
    "declined": "declined",
    "rate limited": "rate limited",
}
CANCELLATION, NOTHING = "cancellation", "none of these"
SITUATIONS = (*dict.fromkeys(ERRORS.values()), CANCELLATION, NOTHING)


def met(messages: Sequence[Message], ticket: Mapping[str, Any]) -> list[str]:
    """The situations of an episode, in the order of SITUATIONS; at least one."""
    errors = {_error(text_of(m.get("content"))) for m in messages if m["role"] == "tool"}
    found = {situation for error, situation in ERRORS.items() if error in errors}
    if ticket["cancel"]:
        found.add(CANCELLATION)
    return [s for s in SITUATIONS if s in (found or {NOTHING})]


def _error(content: str) -> str | None:
    try:
        body = json.loads(content)
    except ValueError:
        return None
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, str) else None


def failures_by_situation(
    situations: Sequence[Sequence[str]], successes: Sequence[bool]
) -> dict[str, dict[str, float | int]]:
    """Of the episodes that met a situation, the share that failed: {mean, low, high, n}."""
    found: dict[str, dict[str, float | int]] = {}
    for name in SITUATIONS:
        here = [not ok for met_, ok in zip(situations, successes, strict=True) if name in met_]
        if here:
            found[name] = wilson(sum(here), len(here)).as_dict()
    return found
