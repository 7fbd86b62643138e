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

    def binned(self) -> Any:
        return {"jars": list(self.bin.values()), "count": len(self.bin)}

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
        return {"sealed": jar}


def calls_of(seed: int) -> list[Call]:
    """One visit: jars are looked at, sealed, thrown away and now and then fetched back, with
    listings before and after."""
    rng, pantry = random.Random(seed), Pantry(seed)
    kind = rng.choice(KINDS)
    calls: list[Call] = []

    def do(tool: str, **args: Any) -> Any:
        calls.append((tool, args))
        return pantry.call(tool, args)

    questions: list[dict[str, str]] = [{}, {"kind": kind}, {"state": "open"}]
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
    return from_json(json.loads(json.dumps(to_json(learn(visits(80))))))


def told(session: WorldSession, tool: str, **args: Any) -> Any:
    text = session.step(tool, json.dumps(args), greedy=True).content
    try:
        return json.loads(text)
    except ValueError:
        return text


def ids(listed: Any, stock: Any) -> set[str]:
    """The jars of a listing that everyone's pantry has."""
    return {j["jar"] for j in listed["jars"]} & set(stock)

def test_free(world: World) -> None:
    stock = set(Pantry(0).jars)
    bad = 0
    for seed in range(40):
        pantry, session = Pantry(seed), world.session(seed)
        hist=[]
        for tool, args in calls_of(1000 + seed):
            if tool == "put" or int(args.get("jar", "J1")[1:]) > 2000: continue
            real = pantry.call(tool, args)
            got = told(session, tool, **args)
            hist.append((tool,args))
            if tool in ("jars_of", "binned"):
                if ids(real, stock) != ids(got, stock):
                    print("BAD", hist, ids(real, stock) - ids(got, stock), ids(got, stock) - ids(real, stock)); bad+=1
                if got["count"] != len(got["jars"]): print("COUNT", hist); bad += 1
            elif real != got: print("DIFF", hist, real, got); bad+=1
    assert not bad
