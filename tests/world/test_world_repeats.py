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
