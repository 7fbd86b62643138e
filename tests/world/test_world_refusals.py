"""What a world says to values that nothing in its traffic ever named."""

import json
import random
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.core.types import Episode, Scenario, ToolCall
from understudy.world.learn import learn
from understudy.world.model import World


class Garage:
    """Slots are listed, then booked for a fuel; a plate comes with the driver."""

    FUELS = ("petrol", "diesel", "hydrogen")

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def call(self, name: str, args: dict[str, Any]) -> Any:
        if self.rng.random() < 0.1:
            return {"ok": False, "error": "the door is stuck"}
        if name == "slots":
            found = [f"G{self.rng.randrange(100, 999)}" for _ in range(3)]
            return {"slots": [{"slot": g, "level": self.rng.randrange(4)} for g in found]}
        return {"ticket": f"T-{self.rng.randrange(10**5, 10**6)}", "slot": args["slot"]}


def played(seed: int) -> Episode:
    garage = Garage(seed)
    listed = garage.call("slots", {})
    while "slots" not in listed:
        listed = garage.call("slots", {})
    slot = garage.rng.choice(listed["slots"])["slot"]
    booking = {"slot": slot, "fuel": garage.rng.choice(garage.FUELS),
               "plate": f"K{garage.rng.randrange(1000, 9999)}"}  # fmt: skip
    answers = iter([listed])

    def answer(name: str, args: Any) -> Any:
        return next(answers, None) or garage.call(name, args)

    calls: list[Call] = [("slots", {}), ("book", booking)]
    return recorded(f"e{seed}", calls, answer)


@pytest.fixture(scope="module")
def world() -> World:
    return learn([played(seed) for seed in range(200)])


def booked(world: World, seed: int, **changed: str) -> tuple[Any, Any]:
    """The session's answer to a booking of its first listed slot, and the right booking's."""
    session = world.session(seed)
    listed = Garage(10_000).call("slots", {})
    session.observe("slots", {}, json.dumps(listed), None)
    right = {"slot": listed["slots"][0]["slot"], "fuel": "diesel", "plate": "K1234"}
    return session.step("book", json.dumps(right | changed)), right


@pytest.mark.parametrize(
    "changed", [{"slot": "G1x2"}, {"slot": "diesel"}, {"fuel": "dieslots"}, {"fuel": "K1234"}]
)
def test_what_no_call_ever_named_is_refused_in_the_tools_own_form(
    world: World, changed: dict[str, str]
) -> None:
    (name,) = changed
    for seed in range(20):
        result, _ = booked(world, seed, **changed)
        assert json.loads(result.content) == {"ok": False, "error": f"unknown {name}"}
        assert not result.is_error  # as this tool flags its failures: not at all
        assert {p.kind for p in result.provenance} == {"invented"}
        assert result.doubt > 0.5


def test_a_refused_call_is_refused_again_and_the_right_one_still_goes_well(world: World) -> None:
    session = world.session(5)
    listed = Garage(10_000).call("slots", {})
    session.observe("slots", {}, json.dumps(listed), None)
    right = {"slot": listed["slots"][0]["slot"], "fuel": "diesel", "plate": "K1234"}
    wrong = json.dumps(right | {"fuel": "dieslots"})
    first, second = session.step("book", wrong), session.step("book", wrong)
    assert first.content == second.content
    answers = [json.loads(session.step("book", json.dumps(right)).content) for _ in range(10)]
    assert sum("ticket" in a for a in answers) > 3


def test_what_users_bring_themselves_is_not_refused(world: World) -> None:
    fine = [json.loads(booked(world, seed, plate="K9021")[0].content) for seed in range(40)]
    assert sum("ticket" in f for f in fine) > 25
    assert not any("unknown" in str(f) for f in fine)


async def test_a_tool_without_failures_of_its_own_words_one() -> None:
    calls: list[Call] = [("light", {"lamp": "hall"})]
    lamps = ("hall", "attic", "porch")

    def episode(n: int) -> Episode:
        return recorded(f"e{n}", [("light", {"lamp": lamps[n % 3]})], lambda *_: {"on": True})

    world = learn([episode(n) for n in range(120)])
    session = await world.start(Scenario("s", ()), 0)
    for name, fails in ((calls[0][1]["lamp"], False), ("hallporch", True)):
        function = {"name": "light", "arguments": json.dumps({"lamp": name})}
        made: ToolCall = {"id": "c", "type": "function", "function": function}  # type: ignore[typeddict-item]
        result = await session.call("agent", made)
        assert result.is_error is fails
    assert "unknown lamp" in result.content
