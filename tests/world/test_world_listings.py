"""Listings of what no remembered record answers."""

import json
import random
from typing import Any

import pytest
from recorded import recorded

from understudy.world.learn import learn
from understudy.world.model import World

PORTS = ("Ayr", "Bari", "Cork", "Dover", "Elba", "Faro", "Gavle", "Hull")
PAIRS = [(a, b) for a in PORTS for b in PORTS if a != b]
UNSEEN = PAIRS[::4]


def ferries(tool: str, args: dict[str, Any]) -> Any:
    rng = random.Random(f"{args['leaves']}-{args['lands']}")
    found = [
        {"ferry": f"F{rng.randrange(1000, 9999)}", "leaves": args["leaves"],
         "lands": args["lands"], "fare": rng.randrange(20, 90)}
        for _ in range(rng.randint(1, 3))
    ]  # fmt: skip
    return [f for f in found if f["fare"] <= args.get("most", 1000)]


@pytest.fixture(scope="module")
def world() -> World:
    rng = random.Random(4)
    episodes = []
    for n in range(160):
        pair = rng.choice([p for p in PAIRS if p not in UNSEEN])
        args: dict[str, Any] = {"leaves": pair[0], "lands": pair[1]}
        if n % 3 == 0:
            args["most"] = rng.choice((10, 40, 60, 80))
        episodes.append(recorded(f"e{n}", [("ferries", args)], ferries))
    return learn(episodes)


def listed(world: World, seed: int, **args: Any) -> Any:
    return json.loads(world.session(seed).step("ferries", json.dumps(args)).content)


def test_known_values_that_were_never_asked_together_list_what_was_asked_for(world: World) -> None:
    for n, (leaves, lands) in enumerate(UNSEEN):
        found = listed(world, n, leaves=leaves, lands=lands)
        assert found
        assert {(f["leaves"], f["lands"]) for f in found} == {(leaves, lands)}
        assert not {f["ferry"] for f in found} & {r.key for r in world.models["ferries"].query.rows}  # type: ignore[union-attr]


def test_what_is_made_up_stays_in_the_session_and_is_marked(world: World) -> None:
    session = world.session(9)
    args = json.dumps({"leaves": UNSEEN[0][0], "lands": UNSEEN[0][1]})
    first, again = session.step("ferries", args), session.step("ferries", args)
    assert first.content == again.content
    assert any(p.kind == "invented" for p in first.provenance)
    assert first.doubt > 0.5


def test_a_bound_that_excludes_every_known_record_lists_nothing(world: World) -> None:
    (leaves, lands) = PAIRS[1]
    assert ferries("ferries", {"leaves": leaves, "lands": lands})
    assert listed(world, 3, leaves=leaves, lands=lands, most=10) == []


def crates(tool: str, args: dict[str, Any], counted: bool) -> Any:
    rng = random.Random(3)
    found = [
        {"crate": f"K{n}", "shed": n % 6, "weight": rng.randrange(90)} for n in range(100, 160)
    ]
    kept = [c for c in found if c["shed"] == args["shed"] and c["weight"] <= args["most"]]
    return {"crates": kept, "count": len(kept)} if counted else {"crates": kept}


def test_a_count_of_what_is_listed_adds_no_doubt() -> None:
    """It is counted anew: how well it could be told without the list does not matter."""
    asked = [{"shed": n % 6, "most": 10 * (n % 7) + 25} for n in range(80)]
    doubts = []
    for counted in (False, True):

        def answer(tool: str, args: dict[str, Any], counted: bool = counted) -> Any:
            return crates(tool, args, counted)

        world = learn([recorded(f"e{n}", [("crates", a)], answer) for n, a in enumerate(asked)])
        session = world.session(0)
        calls = [{"shed": shed, "most": most} for shed in range(6) for most in (33, 61, 80)]
        told = [session.step("crates", json.dumps(args), greedy=True) for args in calls]
        assert [json.loads(t.content) for t in told] == [answer("", args) for args in calls]
        doubts.append([t.doubt for t in told])
    assert doubts[0] == doubts[1]
