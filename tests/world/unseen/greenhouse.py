"""A service of records that count up from one and that no tool lists: an argument is known for an
identifier by what the results say of it, not by its size or name."""

import random
from typing import Any

from unseen.playing import Agent, Refused, Service

CROPS = ["tomato", "basil", "leek", "chard", "fennel"]
ROOM = 9  # plants of a bed


def start(rng: random.Random) -> dict[str, Any]:
    fixed = random.Random("greenhouse")
    beds = {
        n: {
            "no": n, "crop": fixed.choice(CROPS), "plants": fixed.randrange(2, 8),
            "shade": fixed.randrange(5), "keeper": fixed.randrange(1, 13),
        }
        for n in range(1, 49)
    }  # fmt: skip
    keepers = {n: {"no": n, "name": f"{fixed.choice('ABCDEF')}. Moss {n * 7 % 13}"}
               for n in range(1, 13)}  # fmt: skip
    return {"beds": beds, "keepers": keepers}


def _bed(state: Any, bed_no: int) -> dict[str, Any]:
    if bed_no not in state["beds"]:
        raise Refused({"message": f"Bed {bed_no} does not exist"})
    own: dict[str, Any] = state["beds"][bed_no]
    return own


def get_bed(state: Any, bed_no: int) -> Any:
    return dict(_bed(state, bed_no))


def get_keeper(state: Any, keeper_no: int) -> Any:
    if keeper_no not in state["keepers"]:
        raise Refused({"message": f"Keeper {keeper_no} does not exist"})
    return dict(state["keepers"][keeper_no])


def plant(state: Any, bed_no: int, count: int) -> Any:
    bed = _bed(state, bed_no)
    if bed["plants"] + count > ROOM:
        raise Refused({"message": f"Only {ROOM - bed['plants']} plants fit into bed {bed_no}"})
    bed["plants"] += count
    return {"ok": True, "planted": count, "price": 2.5 * count}


def agent(rng: random.Random, state: Any) -> Agent:
    for _ in range(rng.choice([1, 2])):
        bed = rng.randrange(1, 49)
        if rng.random() < 0.15:
            yield "get_bed", {"bed_no": bed + 100}
        shown = yield "get_bed", {"bed_no": bed}
        if rng.random() < 0.5:
            yield "get_keeper", {"keeper_no": shown["keeper"]}
        yield "plant", {"bed_no": bed, "count": rng.randrange(1, 5)}
        if rng.random() < 0.7:
            yield "get_bed", {"bed_no": bed}


def malformed(what: str, tool: str, argument: str) -> Any:
    return {"message": f"{tool}: {what} argument {argument}"}


SERVICE = Service(
    "greenhouse", start, {f.__name__: f for f in (get_bed, get_keeper, plant)}, agent, malformed
)
