"""What a call changed: one definition, on stores of records, on states, and by all who tell it."""

import json
import random
from typing import Any

import pytest
import warehouse
from hypothesis import given
from hypothesis import strategies as st
from recorded import recorded

from understudy.core.types import Episode, Message
from understudy.testing.session import RecordedSession
from understudy.world.learn import learn
from understudy.world.model import World, WorldSession
from understudy.world.results.changes import Changes, changed, of_call, shown
from understudy.world.serving.lookahead import foresee

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2)
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text("ab"), scalars)
things = st.tuples(st.sampled_from("xy"), st.integers(0, 2))
stores = st.dictionaries(things, st.dictionaries(st.sampled_from("fgh"), values))


def called(session: WorldSession, name: str, **args: Any) -> tuple[dict[str, Any], Changes]:
    """What a call answered, and what it changed."""
    before = session.state.copy()
    result = session.step(name, json.dumps(args), greedy=True)
    return json.loads(result.content), of_call(before, session.state)


# -- stores


@given(stores, stores)
def test_a_change_is_a_field_that_both_stores_have_with_other_values(
    before: dict[Any, Any], after: dict[Any, Any]
) -> None:
    found = {(c.key, c.field): (c.before, c.after) for c in changed(before, after)}
    for key, record in after.items():
        for name, value in record.items():
            old = before.get(key, {})
            differs = name in old and json.dumps(old[name], sort_keys=True) != json.dumps(
                value, sort_keys=True
            )
            assert ((key, name) in found) == differs
            if differs:
                assert found[key, name] == (old[name], value)
    assert len(found) <= sum(map(len, after.values()))
    assert changed(after, after) == []


@given(stores)
def test_of_a_made_thing_each_field_is_a_change(after: dict[Any, Any]) -> None:
    made = list(after)[:1]
    found = changed({}, after, made)
    assert [(c.key, c.field, c.before, c.after, c.made) for c in found] == [
        (key, name, None, value, True) for key in made for name, value in after[key].items()
    ]


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [(2, 2.0, False), ([2], [2.0], False), (1, True, True), ([1], [True], True),
     ({"a": 0}, {"a": False}, True), ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False), ([], {}, True)],
)  # fmt: skip
def test_values_are_compared_as_json_has_them(old: Any, new: Any, differs: bool) -> None:
    assert bool(changed({("x", 1): {"f": old}}, {("x", 1): {"f": new}})) == differs


# -- calls


def test_a_call_makes_shows_and_changes_things(world: World) -> None:
    session = world.session(3)
    listing, none = called(session, "find_parts", category="pumps", order="price")
    assert none == Changes((), ())
    sku = listing["parts"][0]["sku"]
    assert called(session, "part", sku=sku)[1] == Changes((), ())
    reserved, new = called(session, "reserve", sku=sku, count=3)
    assert {c.field: (c.before, c.after, c.made) for c in new.fields} == {
        name: (None, value, True) for name, value in reserved.items()
    }
    name = reserved["reservation"]
    assert {c.key[1] for c in new.fields} == {name}
    _, paid = called(session, "settle", reservation=name, method="prepaid")
    told = {(c.key[1], c.field): (c.before, c.after) for c in paid.fields if c.before is not None}
    assert told == {(name, "status"): ("held", "paid")}
    assert called(session, "settle", reservation=name, method="prepaid")[1].fields == ()
    assert called(session, "lookup", reservation=name)[1].fields == ()


def test_what_a_call_changes_of_a_thing_that_only_the_traffic_showed() -> None:
    world = learn([counter(n % 9, n) for n in range(60)])
    session = world.session(0)
    _, found = called(session, "raise", counter="N104", by=2)
    (change,) = found.fields
    assert (change.key[1], change.field, change.made) == ("N104", "value", False)
    assert change.after == change.before + 2


def test_what_the_world_makes_up_of_a_thing_that_it_knew_is_no_change() -> None:
    def answer(tool: str, args: dict[str, Any]) -> dict[str, Any]:
        return {"lamp": args["lamp"], "level": rng.randrange(40), "room": "hall"}

    rng = random.Random(3)
    read = [("read", {"lamp": f"L{n}00"}) for n in range(1, 9)]
    world = learn([recorded(f"e{n}", read, answer) for n in range(30)])
    session = world.session(1)
    told, found = called(session, "read", lamp="L300")
    (key,) = (key for key in session.state.things if key[1] == "L300")
    assert world.session(1).state.fields(key)["level"] != told["level"]
    assert found == Changes((), ())


def counter(start: int, n: int) -> Episode:
    """A counter that is read, raised, and read again."""
    held = {"counter": f"N{100 + start}", "value": 10 * start, "kind": "plain"}

    def answer(tool: str, args: dict[str, Any]) -> dict[str, Any]:
        held["value"] += args.get("by", 0)  # type: ignore[operator]
        return dict(held)

    name = {"counter": held["counter"]}
    raised = [("raise", name | {"by": 1 + k % 4}) for k in range(n, n + 2)]
    return recorded(f"e{n}", [("read", name), *raised, ("read", name)], answer)


def test_a_call_that_nothing_took_changes_nothing(world: World) -> None:
    session = world.session(3)
    before = session.state.copy()
    session.step("fly", "{}")
    session.step("part", "no json")
    assert of_call(before, session.state) == Changes((), ())


BOXES = [{"box": f"B{100 + 7 * n}", "aisle": f"a{n % 4}", "weight": n % 9 + 2} for n in range(24)]


def shelves(seed: int) -> Episode:
    """Boxes of an aisle, some of which turn out to be lost: they are listed no more."""
    rng = random.Random(seed)
    lost = {b["box"] for b in BOXES if rng.random() < 0.4}
    found: set[Any] = set()
    asked = ("boxes", {"aisle": f"a{rng.randrange(4)}"})

    def answer(tool: str, args: dict[str, Any]) -> dict[str, Any]:
        if tool == "boxes":
            here = [b for b in BOXES if b["aisle"] == args["aisle"] and b["box"] not in found]
            return {"boxes": here}
        if args["box"] in lost:
            found.add(args["box"])
            return {"error": "lost", "box": args["box"]}
        return next(b for b in BOXES if b["box"] == args["box"])

    own = [b["box"] for b in BOXES if b["aisle"] == asked[1]["aisle"]]
    calls = [step for box in rng.sample(own, 2) for step in [("fetch", {"box": box}), asked]]
    return recorded(f"e{seed}", [asked, *calls], answer)


def test_what_listings_show_no_longer_is_gone_once() -> None:
    world = learn([shelves(seed) for seed in range(80)])
    (loss,) = (k for k in world.models["fetch"].texts if "lost" in k)
    session = world.session(1)
    called(session, "boxes", aisle="a1")
    for gone in (1, 0):
        before = session.state.copy()
        session.step("fetch", '{"box": "B107"}', outcome=loss)
        found = of_call(before, session.state)
        assert [item for _, item in found.gone] == ["B107"] * gone
        assert found.fields == ()
    listing, _ = called(session, "boxes", aisle="a1")
    assert "B107" not in {b["box"] for b in listing["boxes"]}


def test_all_who_tell_what_a_call_changed_tell_the_same(world: World) -> None:
    sku = warehouse.CATALOGUE[4]["sku"]
    calls = [
        ("find_parts", {"category": "pumps", "order": "price"}),
        ("reserve", {"sku": sku, "count": 3}),
    ]
    session, recording = world.session(5), RecordedSession(world, 5, {})
    messages: list[Message] = [{"role": "user", "content": "please"}]
    for n, (name, args) in enumerate(calls):
        foreseen = foresee(world, messages, name, args)
        text = json.dumps(args)
        content = recording.step(name, text, greedy=True).content
        _, own = called(session, name, **args)
        fields = [(c.key[1], c.field, c.before, c.after) for c in own.fields]
        told = recording.calls[-1].changes
        assert [(c.id, c.field, c.before, c.after) for c in told] == fields
        made_up = {c.key[1] for c in own.fields if c.made}  # an id each session draws anew
        assert [(c.field, c.before) for c in foreseen.changes] == [f[1:3] for f in fields]
        assert bool(made_up) == (name == "reserve")
        call: Any = {
            "id": f"c{n}",
            "type": "function",
            "function": {"name": name, "arguments": text},
        }
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{n}", "content": content})


def test_a_store_of_shown_records_is_apart_from_the_session(world: World) -> None:
    session = world.session(5)
    called(session, "part", sku=warehouse.CATALOGUE[4]["sku"])
    before = shown(session.state)
    copy = json.dumps(list(before.values()))
    called(session, "reserve", sku=warehouse.CATALOGUE[4]["sku"], count=2)
    assert json.dumps(list(before.values())) == copy
    assert len(shown(session.state)) > len(before)
