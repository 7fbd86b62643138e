"""What a user wants of an invented service."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from . import words as w
from .api import Api, make_items
from .script import Json, Script


@dataclass
class Goal:
    """What the user wants. `order` is (field, smallest first), or None: no preference."""

    place: str
    size: int
    span: int
    person: str
    methods: list[str]
    order: tuple[str, bool] | None
    cap: int | float | None
    match: str  # wanted value of the api's attribute, or ""
    items: list[Json]
    missing: list[str] = field(default_factory=list)  # facts that the first message leaves out
    cancel: Any = None  # an earlier one that must be cancelled first
    note: str = ""  # one more sentence of the first message


def make_goal(rng: Random, s: Script, api: Api, **want: Any) -> Goal:
    """A goal that fits the service. `want`: count, order, cap, match, methods, missing, empty."""
    count = want.get("count") or rng.choice((2, 2, 3, 3, 3, 4, 4, 5))
    items = make_items(rng, s.split, api, count)
    match = ""
    if api.attribute and want.get("match", rng.random() < 0.7):
        match = rng.choice(items)[api.attribute]
    order: tuple[str, bool] | None = None
    if want.get("order", rng.random() < (0.6 if match else 0.9)):
        if rng.random() < 0.62 or not api.good:
            order = (api.price, rng.random() < 0.85)
        else:
            order = (api.good, rng.random() < (0.08 if api.good in w.GOOD else 0.5))
        if api.sort and rng.random() < 0.85:
            order = rng.choice(list(api.sort_values))
    cap: int | float | None = None
    if want.get("cap", rng.random() < (0.6 if api.cap else 0.2)):
        prices = sorted(i[api.price] for i in items if not match or i[api.attribute] == match)
        low = prices[0] if len(prices) < 2 or rng.random() < 0.5 else prices[len(prices) // 2]
        cap = _above(rng, low, [i[api.price] for i in items])
    methods = rng.sample(w.pool(w.METHODS, s.split), min(len(w.pool(w.METHODS, s.split)), 3))
    goal = Goal(
        place=w.place_name(rng, s.split),
        size=rng.randrange(1, 13) if rng.random() < 0.4 else rng.randrange(1, 8),
        span=rng.randrange(1, 13) if rng.random() < 0.4 else rng.randrange(1, 8),
        person=w.person_name(rng, s.split),
        methods=methods[: want.get("methods") or rng.choice((1, 1, 2))],
        order=order,
        cap=cap,
        match=match,
        cancel=api.finals.new() if api.cancel and rng.random() < 0.5 else None,
        items=items,
    )
    if want.get("missing", rng.random() < 0.15):
        facts = ["place"] + ["size"] * bool(api.size) + ["person"] * bool(api.person)
        facts += ["span"] * bool(api.span)
        goal.missing = rng.sample(facts, 1 if len(facts) < 2 or rng.random() < 0.7 else 2)
    return goal


def _above(rng: Random, low: int | float, prices: list[Any]) -> int | float:
    """A limit above `low` that is no item's own price: round where there is room."""
    higher = [p for p in prices if p > low]
    top = min(higher) if higher else low * 1.4 + 3
    for step in (100, 50, 10, 5, 1):
        rounded = int(low // step + 1) * step
        if low < rounded < top:
            return rounded
    return round((low + top) / 2, 2 if top - low < 0.2 else 1) if top - low > 0.02 else low
