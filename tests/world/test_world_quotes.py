"""A failure that names a field of the thing is one outcome, whatever thing it is."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from recorded import recorded
from workshop import episodes, machine

from understudy.core.types import Episode
from understudy.testing.session import RecordedSession
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.outcomes import frames


@pytest.fixture(scope="module")
def world() -> World:
    return learn(episodes(260))


def taken(world: World, number: int) -> str:
    session = RecordedSession(world, number, {})
    session.step("look", json.dumps({"machine": f"m{number}"}))
    return session.step("take", json.dumps({"machine": f"m{number}", "hours": 3})).content


def test_texts_that_name_a_field_are_one_class(world: World) -> None:
    labels = {label for label in world.models["take"].texts if "nothing" in label}
    assert labels == {"err:nothing of {} is free in hall {}"}
    assert {label for label in world.models["take"].texts if "busy" in label} == {
        "err:too busy: {} takings"
    }


@pytest.mark.parametrize("again", [False, True])
def test_the_field_and_the_length_of_a_list_are_the_things_own(
    world: World, tmp_path: Path, again: bool
) -> None:
    world.save(tmp_path)
    used = World.load(tmp_path) if again else world
    for number in range(400, 430):
        own = machine(number)
        told = taken(used, number)
        if len(own["takings"]) > 2:
            assert told == f"too busy: {len(own['takings'])} takings"
        elif own["free"] < 1:
            assert told == f"nothing of {own['label']} is free in hall {own['hall']}"
        else:
            assert json.loads(told)["machine"] == f"m{number}"


def test_the_field_may_be_one_of_what_the_thing_refers_to(world: World) -> None:
    assert [f for f in world.models["end"].texts if "locked" in f] == ["err:locked: {}"]
    locked = 0
    for number in range(400, 430):
        own = machine(number)
        for taking in own["takings"]:
            session = RecordedSession(world, number, {})
            session.step("look", json.dumps({"machine": own["machine"]}))
            shown = session.step("taking", json.dumps({"taking": taking})).content
            told = session.step("end", json.dumps({"taking": taking})).content
            if json.loads(shown)["locked"]:
                locked += 1
                assert told == f"locked: {own['label']}"
    assert locked > 5


def room(seed: int) -> Episode:
    """A room's keeper is asked; what is said has nothing to do with the room's name."""
    rng = random.Random(seed)
    code = f"R-{100 + seed % 20}"
    names = ["Elm Hall", "Oak Hall", "Fir Hall"]

    def answer(tool: str, args: Any) -> Any:
        if tool == "room":
            return {"room": args["room"], "name": names[seed % 3], "seats": seed % 20}
        return f"ask at {rng.choice(names)} first" if rng.random() < 0.7 else {"done": True}

    return recorded(f"r{seed}", [("room", {"room": code}), ("open", {"room": code})], answer)


def test_what_is_no_field_of_the_thing_is_no_slot_for_it() -> None:
    world = learn([room(seed) for seed in range(90)])
    assert world.models["open"].facts.quotes == []


def test_a_wording_says_where_a_text_leaves_it_open() -> None:
    quote = "{{none}} of \0 in {} (\0)"
    text = "{none} of Blue saw in h7 (Ann)"
    assert [text[a:b] for a, b in frames.quoted(text, [quote])] == ["Blue saw", "Ann"]
    assert frames.quoted("{none} of Blue saw", [quote]) == []
