"""A toy service with an agent and customers of its own: what the worlds in these tests learn.

A warehouse of parts: listings with caps and orders, reservations that expire, methods of payment
that are declined, parts that are gone, and a rate limit. The agent is a script with flaws.
"""

import asyncio
import json
import random
from dataclasses import dataclass, field
from typing import Any, Literal

from understudy.core.types import (
    Completion,
    Episode,
    Message,
    ModelRef,
    Policy,
    Request,
    Scenario,
)
from understudy.envs import PythonTools, ScriptedUser, rollout

CATEGORIES = ["gears", "belts", "valves", "sensors", "pumps", "seals"]
METHODS = ["invoice", "prepaid", "voucher"]
GONE, SOLD, LIMITED, DECLINED = 0.10, 0.12, 0.08, 0.35


def catalogue() -> list[dict[str, Any]]:
    rng = random.Random(7)
    return [
        {
            "sku": f"P{1000 + 37 * n}",
            "category": CATEGORIES[n % 6],
            "price": rng.randint(8, 120),
            "grade": round(rng.uniform(1, 5), 1),
        }
        for n in range(48)
    ]


CATALOGUE = catalogue()


@dataclass
class Store:
    rng: random.Random
    held: dict[str, dict[str, Any]] = field(default_factory=dict)
    fate: dict[tuple[str, str], bool] = field(default_factory=dict)
    calls: int = 0

    def fated(self, what: str, key: str, chance: float) -> bool:
        return self.fate.setdefault((what, key), self.rng.random() < chance)


def _limited(store: Store) -> dict[str, Any] | None:
    store.calls += 1
    return {"error": "rate_limited", "retry_after": 2} if store.rng.random() < LIMITED else None


def find_parts(
    store: Store,
    category: str,
    max_price: int | None = None,
    order: Literal["price", "grade"] | None = None,
) -> dict[str, Any]:
    """Parts of a category."""
    if limited := _limited(store):
        return limited
    if category not in CATEGORIES:
        return {"error": "unknown_category", "category": category}
    found = [p for p in CATALOGUE if p["category"] == category]
    found = [p for p in found if max_price is None or p["price"] <= max_price]
    if order is None:
        store.rng.shuffle(found)
    else:
        found.sort(key=lambda p: p[order], reverse=order == "grade")
    rows = [{k: p[k] for k in ("sku", "price", "grade")} for p in found[:5]]
    return {"parts": rows, "count": len(rows)}


def part(store: Store, sku: str) -> dict[str, Any]:
    """One part."""
    found = next((p for p in CATALOGUE if p["sku"] == sku), None)
    if found is None:
        return {"error": "no_such_part", "sku": sku}
    if store.fated("gone", sku, GONE):
        return {"error": "discontinued", "sku": sku}
    return dict(found)


def reserve(store: Store, sku: str, count: int) -> dict[str, Any]:
    """Reserve parts."""
    if limited := _limited(store):
        return limited
    found = next((p for p in CATALOGUE if p["sku"] == sku), None)
    if found is None:
        return {"error": "no_such_part", "sku": sku}
    if count < 1:
        return {"error": "bad_count", "message": f"count must be positive, not {count}"}
    if store.fated("gone", sku, GONE) or store.fated("sold", sku, SOLD):
        return {"status": "error", "reason": "sold_out", "sku": sku}
    name = f"R-{store.rng.randint(10000, 99999)}"
    total = found["price"] * count
    store.held[name] = {
        "sku": sku,
        "count": count,
        "total": total,
        "at": store.calls,
        "state": "held",
    }
    return {"reservation": name, "sku": sku, "count": count, "total": total, "status": "held"}


def settle(
    store: Store, reservation: str, method: Literal["invoice", "prepaid", "voucher"]
) -> dict[str, Any]:
    """Pay a reservation."""
    store.calls += 1
    held = store.held.get(reservation)
    if held is None:
        return {"error": "no_such_reservation", "reservation": reservation}
    if held["state"] != "held":
        return {"error": "not_open", "reservation": reservation}
    if method == "invoice" and store.fated("declined", method, DECLINED):
        return {"error": "declined", "method": method}
    held["state"] = "paid"
    return {
        "reservation": reservation,
        "confirmation": f"C{store.rng.randint(100000, 999999)}",
        "status": "paid",
        "total": held["total"],
    }


def lookup(store: Store, reservation: str) -> dict[str, Any]:
    """State of a reservation."""
    held = store.held.get(reservation)
    if held is None:
        return {"error": "no_such_reservation", "reservation": reservation}
    return {"reservation": reservation, "status": held["state"], "total": held["total"]}


def release(store: Store, reservation: str) -> dict[str, Any]:
    """Give a reservation back."""
    held = store.held.get(reservation)
    if held is None:
        return {"error": "no_such_reservation", "reservation": reservation}
    held["state"] = "released"
    return {"reservation": reservation, "status": "released"}


SERVICE = PythonTools(
    [find_parts, part, reserve, settle, lookup, release],
    lambda scenario, seed: Store(random.Random(seed)),
)

OPENINGS = [
    "I need {count} {category}, at most {budget} each, {wish}. Pay by {m0}, or else {m1}.",
    "Please order {wish} {category}: {count} pieces under ${budget}. {m0} first, then {m1}.",
    "Hello! {wish} {category} for us, quantity {count}, budget {budget} a piece. Use {m0} or {m1}.",
    "We are short of {category}. Get {count} of {wish}, up to {budget}; {m0}, {m1} if that fails.",
]
WISHES = {
    "price": ["the cheapest", "as cheap as possible", "the best deal"],
    "grade": ["the finest", "top quality", "the best graded"],
}
WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


def customer(seed: int) -> Scenario:
    rng = random.Random(f"customer:{seed}")
    methods = rng.sample(METHODS, 2)
    ticket = {
        "category": rng.choice(CATEGORIES),
        "count": rng.randint(2, 9),
        "budget": rng.randrange(40, 121, 5),
        "prefer": rng.choice(["price", "grade"]),
        "methods": methods,
    }
    count = str(ticket["count"])
    if rng.random() < 0.4:
        count = WORDS.get(ticket["count"], count)
    text = rng.choice(OPENINGS).format(
        count=count, category=ticket["category"], budget=ticket["budget"],
        wish=rng.choice(WISHES[ticket["prefer"]]), m0=methods[0], m1=methods[1],
    )  # fmt: skip
    return Scenario(
        id=f"customer-{seed}",
        messages=(
            {"role": "system", "content": "You order parts."},
            {"role": "user", "content": text},
        ),
        metadata={"ticket": ticket},
    )


class ScriptedAgent:
    """Stand-in for a model: a flawed script that knows its customer's ticket."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"agent:{seed}")
        self.tried: set[str] = set()
        self.calls = 0

    async def complete(self, request: Request) -> Completion:
        ticket = request.metadata["ticket"]
        message = self._act(request.messages, ticket)
        return Completion(id=f"c{self.rng.random()}", request=request, status="ok", message=message)

    def _call(self, name: str, **arguments: Any) -> Message:
        self.calls += 1
        function = {"name": name, "arguments": json.dumps(arguments)}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": f"k{self.calls}", "type": "function", "function": function}],
        }  # type: ignore[typeddict-item]

    def _act(self, messages: Any, ticket: dict[str, Any]) -> Message:
        rng = self.rng
        results = [m for m in messages if m["role"] == "tool"]
        calls = [c for m in messages for c in m.get("tool_calls") or []]
        if len(results) >= 12:
            return {"role": "assistant", "content": "Sorry, that was not possible."}
        if not results:
            return self._search(ticket)
        last, name = json.loads(results[-1]["content"]), calls[-1]["function"]["name"]
        args = json.loads(calls[-1]["function"]["arguments"])
        failed = last.get("error") or last.get("status") == "error"
        if failed and rng.random() < 0.1:
            return {"role": "assistant", "content": "Sorry, that was not possible."}
        if failed == "rate_limited" or (failed and rng.random() < 0.06):
            return self._call(name, **args)
        if failed == "unknown_category":
            return self._search(ticket)
        if name == "find_parts":
            self.listed = [p["sku"] for p in last["parts"]]
            return self._next(ticket)
        if name == "part":
            return self._next(ticket) if failed else self._reserve(last["sku"], ticket)
        if name == "reserve":
            if failed in ("bad_count", "no_such_part"):
                return self._reserve(self.current, ticket)
            return self._next(ticket) if failed else self._settle(last["reservation"], ticket, 0)
        if name == "settle":
            if failed == "declined":
                return self._settle(args["reservation"], ticket, 1)
            if failed == "no_such_reservation":
                return {"role": "assistant", "content": "Sorry, that was not possible."}
            if rng.random() < 0.3:
                return self._call("lookup", reservation=args["reservation"])
            if rng.random() < 0.15:
                return self._call("settle", **args)
        if name == "lookup" and rng.random() < 0.3:
            return self._call("release", reservation=args["reservation"])
        if name == "release" and rng.random() < 0.6:
            return self._call("lookup", reservation=args["reservation"])
        return {"role": "assistant", "content": "Done: your parts are ordered."}

    def _search(self, ticket: dict[str, Any]) -> Message:
        rng = self.rng
        arguments: dict[str, Any] = {"category": ticket["category"]}
        if rng.random() < 0.04:
            arguments["category"] = rng.choice(["things", "stuff", "wheels"])
        if rng.random() < 0.7:
            arguments["max_price"] = ticket["budget"]
        if rng.random() < 0.6:
            arguments["order"] = ticket["prefer"]
        return self._call("find_parts", **arguments)

    def _next(self, ticket: dict[str, Any]) -> Message:
        left = [s for s in self.listed if s not in self.tried]
        if not left:
            return {"role": "assistant", "content": "Sorry, that was not possible."}
        self.current = left[0]
        self.tried.add(left[0])
        if self.rng.random() < 0.5:
            return self._call("part", sku=left[0])
        return self._reserve(left[0], ticket)

    def _reserve(self, sku: str, ticket: dict[str, Any]) -> Message:
        if self.rng.random() < 0.04:
            sku = sku + "9"
        count = ticket["count"] if self.rng.random() > 0.04 else 0
        return self._call("reserve", sku=sku, count=count)

    def _settle(self, reservation: str, ticket: dict[str, Any], n: int) -> Message:
        if self.rng.random() < 0.04:
            reservation = "R-00000"
        return self._call("settle", reservation=reservation, method=ticket["methods"][n])


async def _traffic(n: int, first: int) -> list[Episode]:
    found = []
    for seed in range(first, first + n):
        scenario = customer(seed)
        session = await SERVICE.start(scenario, seed)
        episode = await rollout(
            ScriptedAgent(seed),
            Policy("script", ModelRef("script")),
            session,
            scenario,
            ScriptedUser(["Thanks!"] if seed % 3 else []),
            max_turns=20,
            seed=seed,
        )
        found.append(
            # as a gateway would have captured it: results in messages only
            Episode(
                id=f"e{seed}",
                completions=episode.completions,
                scenario_id=scenario.id,
                metadata=episode.metadata,
            )
        )
    return found


def traffic(n: int, first: int = 0) -> list[Episode]:
    """Captured episodes of the flawed agent with customers."""
    return asyncio.run(_traffic(n, first))
