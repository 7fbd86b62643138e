"""A workshop that begins anew in each episode: machines are taken and given back, failures quote
what a machine is called and how many it has of something."""

import random
from collections.abc import Iterator
from typing import Any

from recorded import Call, recorded

from understudy.core.types import Episode

COLOURS = ["Old", "Blue", "Wide", "Quiet", "Short"]
KINDS = ["lathe", "saw", "press 2", "drill", "oven", "kiln 40"]


def machine(number: int) -> dict[str, Any]:
    """A machine as every episode finds it."""
    rng = random.Random(number)
    name = f"{COLOURS[number % 5]} {KINDS[number % 6]}"
    takings = [f"T-{number}{k}" for k in range(rng.randrange(4))]
    return {
        "machine": f"m{number}", "label": name, "free": rng.randrange(3), "takings": takings,
        "hall": number % 3,
    }  # fmt: skip


class Workshop:
    """The service's state, and its answers; a text is an error."""

    def __init__(self, seed: int) -> None:
        self.machines = {f"m{n}": machine(n) for n in range(400, 430)}
        self.takings = {
            t: {"taking": t, "machine": key, "hours": len(key) + 2, "locked": own["hall"] == 2}
            for key, own in self.machines.items()
            for t in own["takings"]
        }
        self.number = 7000 + 10 * seed

    def __call__(self, tool: str, args: Any) -> Any:
        if tool in ("look", "take"):
            own = self.machines.get(args["machine"])
            if own is None:
                return f"no machine {args['machine']}"
            if tool == "look":
                return {**own, "takings": list(own["takings"])}
            return self.take(own, args["hours"])
        held = self.takings.get(args["taking"])
        if held is None:
            return f"no taking {args['taking']}"
        if tool == "taking":
            return dict(held)
        own = self.machines[held["machine"]]
        if held["locked"]:
            return f"locked: {own['label']}"
        del self.takings[held["taking"]]
        own["takings"].remove(held["taking"])
        own["free"] += 1
        return {"ended": held["taking"], "fee": 3 * held["hours"]}

    def take(self, own: dict[str, Any], hours: int) -> Any:
        if len(own["takings"]) > 2:
            return f"too busy: {len(own['takings'])} takings"
        if own["free"] < 1:
            return f"nothing of {own['label']} is free in hall {own['hall']}"
        self.number += 1
        made = {
            "taking": f"T-{self.number}", "machine": own["machine"], "hours": hours,
            "locked": own["hall"] == 2,
        }  # fmt: skip
        self.takings[made["taking"]] = made
        own["takings"].append(made["taking"])
        own["free"] -= 1
        return dict(made)


def calls(seed: int) -> Iterator[Call]:
    rng = random.Random(seed)
    key = f"m{rng.randrange(400, 430)}"
    own = machine(int(key[1:]))
    if rng.random() < 0.7:
        yield "look", {"machine": key}
    if own["takings"] and rng.random() < 0.5:
        taking = {"taking": rng.choice(own["takings"])}
        yield "taking", taking
        yield "look", {"machine": key}
        yield "end", taking
        yield "taking", taking
    else:
        yield "take", {"machine": key, "hours": rng.randrange(2, 6)}
    for _ in range(2):
        yield "look", {"machine": key}


def episodes(count: int) -> list[Episode]:
    return [recorded(f"w{seed}", list(calls(seed)), Workshop(seed)) for seed in range(count)]
