"""What calls that went well take out of listings and bring back, and identifiers that are new."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.world.files import from_json, to_json
from understudy.world.learn import learn
from understudy.world.model import World, WorldSession
from understudy.world.results.changes import of_call

KINDS = ("jam", "tea", "oil")


class Pantry:
    """Jars of a shared pantry, of kinds, open or sealed. Texts are errors."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        stock = random.Random(5)  # the same for everyone
        self.jars: dict[str, dict[str, Any]] = {}
        for n in range(24):
            jar = f"J{100 + 37 * n}"
            self.jars[jar] = {
                "jar": jar, "kind": KINDS[n % 3], "grams": stock.randrange(100, 900),
                "state": "sealed" if n % 4 == 0 else "open",
            }  # fmt: skip
        self.bin: dict[str, dict[str, Any]] = {}

    def call(self, tool: str, args: dict[str, Any]) -> Any:
        own = getattr(self, tool)(**args)
        return json.loads(json.dumps(own))

    def jars_of(self, **asked: str) -> Any:
        found = [j for j in self.jars.values() if all(j[k] == v for k, v in asked.items())]
        return {"jars": found, "count": len(found)}

    def look(self, jar: str) -> Any:
        return self.jars.get(jar) or f"no jar {jar}"

    def weigh(self, jar: str) -> Any:
        return {"jar": jar, "weighed": True} if jar in self.jars else f"no jar {jar}"

    def put(self, kind: str, grams: int) -> Any:
        jar = f"J{self.rng.randrange(2000, 9999)}"
        self.jars[jar] = {"jar": jar, "kind": kind, "grams": grams, "state": "open"}
        return self.jars[jar]

    def throw(self, jar: str) -> Any:
        if jar not in self.jars:
            return f"no jar {jar}"
        self.bin[jar] = self.jars.pop(jar)
        return {"thrown": jar}

    def fetch(self, jar: str) -> Any:
        if jar not in self.bin:
            return f"jar {jar} is not in the bin"
        self.jars[jar] = self.bin.pop(jar)
        return {"fetched": jar}

    def seal(self, jar: str) -> Any:
        if jar not in self.jars:
            return f"no jar {jar}"
        self.jars[jar]["state"] = "sealed"
        return {"jar": jar, "state": "sealed"}


def calls_of(seed: int) -> list[Call]:
    """One visit: jars are looked at, sealed, thrown away and now and then fetched back, with
    listings before and after."""
    rng, pantry = random.Random(seed), Pantry(seed)
    kind = rng.choice(KINDS)
    calls: list[Call] = []

    def do(tool: str, **args: Any) -> Any:
        calls.append((tool, args))
        return pantry.call(tool, args)

    state = rng.choice(["open", "open", "sealed"])
    questions: list[dict[str, str]] = [{}, {"kind": kind}, {"state": state}]
    for asked in rng.sample(questions, 2):
        do("jars_of", **asked)
    names = rng.sample(sorted(pantry.jars), 3)
    if rng.random() < 0.4:
        names.append(do("put", kind=kind, grams=rng.randrange(100, 900))["jar"])
        do("jars_of", kind=kind)
    for jar in names:
        act = rng.choice(["look", "seal", "throw", "throw", "weigh", "fetched"])
        do({"fetched": "throw"}.get(act, act), jar=jar)
        if rng.random() < 0.5:
            do("look", jar=jar)
        if act == "throw" and rng.random() < 0.3:
            do("throw", jar=jar)
        if act == "fetched":
            if rng.random() < 0.6:
                do("jars_of")
            do("fetch", jar=jar)
        for asked in rng.sample(questions, rng.choice([1, 2])):
            do("jars_of", **asked)
    return calls


def visits(n: int, plan: Callable[[int], list[Call]] = calls_of) -> list[Any]:
    return [recorded(f"e{seed}", plan(seed), Pantry(seed).call) for seed in range(n)]


@pytest.fixture(scope="module")
def world() -> World:
    return from_json(json.loads(json.dumps(to_json(learn(visits(60))))))


def told(session: WorldSession, tool: str, **args: Any) -> Any:
    text = session.step(tool, json.dumps(args), greedy=True).content
    try:
        return json.loads(text)
    except ValueError:
        return text


def sets(listed: Any, names: dict[str, str]) -> dict[str, Any]:
    """The jars of a listing by name, a name of the world's for each that a visit made."""
    return {names.get(j["jar"], j["jar"]): {**j, "jar": ""} for j in listed["jars"]}


@pytest.mark.parametrize("seed", range(12))
def test_a_session_lists_what_its_calls_left_there(world: World, seed: int) -> None:
    pantry, session = Pantry(1000 + seed), world.session(seed)
    names: dict[str, str] = {}
    for tool, args in calls_of(1000 + seed):
        real = pantry.call(tool, args)
        own = {**args, "jar": names.get(args["jar"], args["jar"])} if "jar" in args else args
        seen = told(session, tool, **own)
        if tool == "put":
            names[real["jar"]] = seen["jar"]
        if tool == "jars_of":
            assert sets(seen, {}) == sets(real, names)
            assert seen["count"] == len(seen["jars"])
        elif tool != "put":
            renamed = json.dumps(real).replace(args["jar"], own["jar"])
            assert seen == json.loads(renamed)


def test_only_what_takes_out_and_brings_back_is_learned_as_such(world: World) -> None:
    learned = {
        name: [(t.argument, t.where, t.back) for t in m.takings]
        for name, m in world.models.items() if m.takings
    }  # fmt: skip
    assert learned == {
        "throw": [("jar", [], False)], "fetch": [("jar", [], True)], "put": [("", [], True)],
    }  # fmt: skip


def test_a_call_before_any_listing_takes_out_too(world: World) -> None:
    session = world.session(3)
    told(session, "throw", jar="J137")
    for asked in ({}, {"kind": "tea"}):
        assert "J137" not in sets(told(session, "jars_of", **asked), {})
    assert "J137" in sets(told(world.session(3), "jars_of"), {})


def test_what_is_taken_out_is_told_of_a_call(world: World) -> None:
    session = world.session(1)
    before = session.state.copy()
    told(session, "throw", jar="J137")
    assert [key[1] for key in of_call(before, session.state).gone] == ["J137"]
    assert before.unlisted == {}
    told(session, "fetch", jar="J137")
    assert not session.state.unlisted


class Mute(Pantry):
    """Says nothing of what sealing does, and has one tool for two things."""

    def seal(self, jar: str) -> Any:
        found = super().seal(jar)
        return found if isinstance(found, str) else {"done": True}

    def move(self, jar: str, to: str) -> Any:
        if jar not in self.jars:
            return f"no jar {jar}"
        if to == "bin":
            self.bin[jar] = self.jars.pop(jar)
        return {"moved": True}

    def jars_of(self, binned: bool = False, **asked: str) -> Any:
        found = super().jars_of(**asked)["jars"]
        return {"jars": [*found, *(self.bin.values() if binned else ())]}


def listed_after(seed: int, tool: str, **args: Any) -> list[Call]:
    rng = random.Random(seed)
    jars = rng.sample(sorted(Pantry(0).jars), 2)
    calls: list[Call] = []
    for jar in jars:
        asked = rng.choice([{}, {"binned": True}, {"kind": rng.choice(KINDS)}])
        own = {k: rng.choice(v) for k, v in args.items()}
        calls += [("jars_of", asked), (tool, {"jar": jar, **own}), ("jars_of", asked)]
    return calls


def test_what_a_call_says_and_what_is_asked_for_tell_whether_a_thing_is_listed() -> None:
    plans = [listed_after(seed, "move", to=["bin", "shelf", "door"]) for seed in range(90)]
    episodes = [recorded(f"e{n}", p, Mute(n).call) for n, p in enumerate(plans)]
    session = learn(episodes).session(0)
    told(session, "move", jar="J137", to="bin")
    told(session, "move", jar="J174", to="shelf")
    for asked, there in (({}, False), ({"binned": True}, True)):
        found = sets(told(session, "jars_of", **asked), {})
        assert ("J137" in found, "J174" in found) == (there, True)


def test_a_state_that_nothing_tells_is_no_deletion() -> None:
    """Listings by state lose what is sealed; no other was asked for after it."""
    plans: list[list[Call]] = []
    for seed in range(60):
        rng = random.Random(seed)
        jar = rng.choice([j["jar"] for j in Pantry(0).jars.values() if j["state"] == "open"])
        asked = [{"state": "open"}, {"state": "sealed"}]
        plan: list[Call] = [("jars_of", a) for a in (asked[0], *asked[seed % 2 :], {})]
        plan += [("seal", {"jar": jar}), ("jars_of", asked[0])]
        plans.append([*plan, ("jars_of", asked[1])] if seed % 2 else plan)
    episodes = [recorded(f"e{n}", p, Mute(n).call) for n, p in enumerate(plans)]
    session = learn(episodes).session(0)
    told(session, "seal", jar="J137")
    assert "J137" not in sets(told(session, "jars_of", state="open"), {})
    assert "J137" in sets(told(session, "jars_of"), {})
