"""Calls that are refused because what they ask for overlaps what is there."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.data.moments import later
from understudy.world.learn import learn
from understudy.world.model import World

KILNS = ["kiln-a1", "kiln-b2", "kiln-c3"]


class Pottery:
    """Firings of kilns; two of one kiln must not overlap, those that were dropped aside."""

    def __init__(self, seed: int) -> None:
        self.rng, fixed = random.Random(seed), random.Random("fixed")
        self.firings: dict[str, dict[str, Any]] = {}
        for n, kiln in enumerate(KILNS):
            for hour in (7 + n, 11 + n, 15 + n):
                self.add(kiln, f"2030-05-01T{hour:02d}:00", 60, fixed)

    def add(self, kiln: str, begins: str, minutes: int, rng: random.Random) -> dict[str, Any]:
        name = f"fire-{rng.randrange(10**5, 10**6)}"
        self.firings[name] = {"firing": name, "kiln": kiln, "begins": begins,
                              "ends": later(begins, 60 * minutes), "state": "set"}  # fmt: skip
        return self.firings[name]

    def call(self, name: str, args: dict[str, Any]) -> Any:
        if name == "look":
            return dict(self.firings[args["firing"]])
        if name == "drop":
            self.firings[args["firing"]]["state"] = "dropped"
            return {"firing": args["firing"], "state": "dropped"}
        if name == "list":
            return [dict(f) for f in self.firings.values() if f["kiln"] == args["kiln"]]
        ends = later(args["begins"], 60 * args["minutes"]) or ""
        for f in sorted(self.firings.values(), key=lambda f: str(f["begins"])):
            met = f["begins"] < ends and args["begins"] < f["ends"]
            if met and f["kiln"] == args["kiln"] and f["state"] == "set":
                return f"Error: taken by {f['firing']}"
        return dict(self.add(args["kiln"], args["begins"], args["minutes"], self.rng))


def begins(rng: random.Random) -> str:
    return f"2030-05-01T{rng.randrange(7, 20):02d}:{rng.choice(['00', '30'])}"


def played(seed: int) -> Episode:
    rng, pottery = random.Random(f"calls:{seed}"), Pottery(seed)
    kiln = rng.choice(KILNS)
    known = [n for n, f in pottery.firings.items() if f["kiln"] == kiln]
    made: list[Call] = [("list", {"kiln": kiln})]
    if rng.random() < 0.5:
        made.append(("drop", {"firing": rng.choice(known)}))
    for _ in range(3):
        args = {"kiln": kiln, "begins": begins(rng), "minutes": rng.choice([30, 60, 90])}
        made.append(("set", args))
    made.append(("look", {"firing": rng.choice(known)}))
    return recorded(f"e{seed}", made, pottery.call)


@pytest.fixture(scope="module")
def world() -> World:
    return learn([played(seed) for seed in range(90)])


@pytest.mark.parametrize("saved", [False, True])
def test_what_is_in_the_way_refuses_a_call_and_is_named(
    world: World, tmp_path: Path, saved: bool
) -> None:
    if saved:
        world.save(tmp_path)
        world = World.load(tmp_path)
    (found,) = world.models["set"].facts.overlaps
    assert (found.begin, found.end, found.start) == ("begins", "ends", ("arg", "/begins"))
    assert found.until == ("later", ("arg", "/begins"), "min", ("arg", "/minutes"))
    assert found.equal == (("kiln", ("arg", "/kiln")),)
    assert found.without == (("state", "dropped"),)
    rng, right, n = random.Random(5), 0, 60
    for seed in range(500, 500 + n):
        pottery, session = Pottery(seed), world.session(seed)
        kiln = rng.choice(KILNS)
        listed = pottery.call("list", {"kiln": kiln})
        session.observe("list", {"kiln": kiln}, json.dumps(listed), False)
        drop = {"firing": rng.choice(listed)["firing"]}
        session.observe("drop", drop, json.dumps(pottery.call("drop", drop)), False)
        args = {"kiln": kiln, "begins": begins(rng), "minutes": rng.choice([30, 60, 90])}
        said, real = session.step("set", json.dumps(args), greedy=True), pottery.call("set", args)
        right += said.content == real if isinstance(real, str) else not said.is_error
    assert right >= 0.95 * n


def test_what_a_session_made_is_in_the_way_too(world: World) -> None:
    session = world.session(1)
    args = {"kiln": "kiln-a1", "begins": "2030-05-01T12:00", "minutes": 60}
    made = json.loads(session.step("set", json.dumps(args), greedy=True).content)
    again = session.step("set", json.dumps({**args, "begins": "2030-05-01T12:30"}), greedy=True)
    assert (again.is_error, again.content) == (True, f"Error: taken by {made['firing']}")
    touching = {**args, "begins": "2030-05-01T13:00"}
    assert not session.step("set", json.dumps(touching), greedy=True).is_error


def test_calls_that_are_refused_by_chance_have_no_conflict() -> None:
    rng = random.Random(3)

    def answer(pottery: Pottery) -> Any:
        def call(name: str, args: dict[str, Any]) -> Any:
            return "Error: no" if name == "set" and rng.random() < 0.4 else pottery.call(name, args)

        return call

    def one(seed: int) -> Episode:
        rng_ = random.Random(f"calls:{seed}")
        kiln = rng_.choice(KILNS)
        calls: list[Call] = [("list", {"kiln": kiln})]
        calls += [
            ("set", {"kiln": kiln, "begins": f"2031-01-{d:02d}T09:00", "minutes": 30})
            for d in rng_.sample(range(1, 28), 3)
        ]
        return recorded(f"e{seed}", calls, answer(Pottery(seed)))

    assert learn([one(seed) for seed in range(60)]).models["set"].facts.overlaps == []
