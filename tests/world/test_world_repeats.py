"""What a call answered once in a session it answers again, though the traffic never asked twice."""

import json
import random
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.learn import learn
from understudy.world.model import World


class Archive:
    """Files are read, stamped, and copied: a copy is a new file."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def code(self) -> str:
        return f"F{self.rng.randrange(10000, 99999)}"

    def call(self, name: str, args: dict[str, Any]) -> Any:
        pages = self.rng.randint(1, 900)
        if name == "read":
            return {"file": args["file"], "pages": pages, "mark": self.rng.choice("abc")}
        if name == "copy":
            return {"of": args["file"], "copy": self.code(), "pages": pages}
        return {"file": args["file"], "stamps": self.rng.randint(1, 9)}


def played(seed: int) -> Episode:
    archive = Archive(seed)
    file = archive.code()
    calls: list[Call] = [("read", {"file": file})]
    made: list[Any] = [archive.call("read", {"file": file}), archive.call("copy", {"file": file})]
    calls += [("copy", {"file": file}), ("stamp", {"file": made[1]["copy"]})]
    made.append(archive.call("stamp", {"file": made[1]["copy"]}))
    told = iter(made)
    return recorded(f"e{seed}", calls, lambda *_: next(told))


@pytest.fixture(scope="module")
def world() -> World:
    return learn([played(seed) for seed in range(120)])


def asked(session: Any, name: str, file: str) -> Any:
    return json.loads(session.step(name, json.dumps({"file": file})).content)


def test_a_thing_reads_alike_until_something_is_done_to_it(world: World) -> None:
    for seed in range(20):
        session = world.session(seed)
        first = asked(session, "read", "F12345")
        assert asked(session, "read", "F54321") != first
        assert asked(session, "read", "F12345") == first


def test_what_each_call_makes_anew_is_made_anew(world: World) -> None:
    session = world.session(4)
    copies = [asked(session, "copy", "F12345")["copy"] for _ in range(4)]
    assert len(set(copies)) == 4


def basin(seed: int) -> Episode:
    """Basins with small numbers that nothing shows to be ids; each episode finds other levels."""
    rng = random.Random(seed)
    basin, levels = rng.randint(1, 60), {n: rng.randint(1, 9) for n in range(1, 61)}

    def answer(name: str, args: Any) -> Any:
        if name == "pour":
            levels[args["basin"]] += args["by"]
            return {"done": True}
        return {"level": levels[args["basin"]], "lid": args["basin"] % 2 == 0}

    read: Call = ("read", {"basin": basin})
    return recorded(f"e{seed}", [read, ("pour", {"basin": basin, "by": 2}), read], answer)


@pytest.fixture(scope="module")
def basins() -> World:
    return learn([basin(seed) for seed in range(150)])


def level(session: Any, n: int, greedy: bool = False) -> int:
    told = json.loads(session.step("read", json.dumps({"basin": n}), greedy=greedy).content)
    return int(told["level"])


def test_a_call_without_ids_answers_alike_until_another_names_its_arguments(basins: World) -> None:
    assert not basins.ids.args
    changed = 0
    for seed in range(30):
        session = basins.session(seed)
        first = [level(session, n) for n in (7, 8, 7, 8, 7)]
        assert first[::2] == [first[0]] * 3
        session.step("pour", '{"basin": 8, "by": 2}')
        assert level(session, 7) == first[0]
        changed += level(session, 8) != first[1]
    assert changed


def test_what_a_history_observed_is_foretold_for_the_same_call(basins: World) -> None:
    for seen in range(1, 10):
        session = basins.session(seen)
        session.observe("read", {"basin": 7}, json.dumps({"level": seen, "lid": True}), False)
        assert level(session, 7, greedy=True) == seen
