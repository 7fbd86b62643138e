"""Things that have no name: the tray of a canteen's till, which a session has but one of."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.data.values import operate
from understudy.world.describing.describe import describe
from understudy.world.known.sources import source_text
from understudy.world.learn import learn
from understudy.world.model import World, WorldSession
from understudy.world.outcomes import by_words

_FIXED = random.Random("dishes")
DISHES = {f"D-{n}": {"dish": f"D-{n}", "grams": _FIXED.randrange(90, 700),
                     "cents": _FIXED.randrange(120, 990)} for n in range(100, 112)}  # fmt: skip
PAN = {"chill": ("cooked", "cold"), "serve": ("cooked", "plated"), "warm": ("cold", "cooked")}


class Till:
    """The service: a tray that begins anew with every episode."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.seat: dict[str, Any] | None = None
        self.slips, self.pan = 0, "cooked"

    def tray(self) -> dict[str, Any]:
        cents = sum(line["cost"] for line in self.lines)
        grams = sum(DISHES[line["dish"]]["grams"] * line["times"] for line in self.lines)
        return {"lines": list(self.lines), "grams": grams, "seat": self.seat,
                "levy": int(cents * 7 / 107 + 0.5), "cents": cents}  # fmt: skip

    def answer(self, name: str, args: Any) -> Any:
        if name == "dish":
            return DISHES[args["dish"]]
        if name == "put":
            cost = DISHES[args["dish"]]["cents"] * args["times"]
            self.lines.append({"dish": args["dish"], "times": args["times"], "cost": cost})
        elif name == "sit":
            self.seat = args["seat"]
        elif name == "kitchen":
            needed, then = PAN[args["order"]]
            if self.pan != needed:
                return f"cannot {args['order']} it: it is {self.pan}, not {needed}"
            self.pan = then
            return {"pan": then, "order": args["order"]}
        elif name == "slip":
            self.slips += 1
            cents, self.lines = self.tray()["cents"], []
            return {"slip": self.slips, "due": cents}
        return self.tray()


def _calls(rng: random.Random) -> list[Call]:
    calls: list[Call] = []
    for _ in range(rng.choice([1, 2, 2])):
        for _ in range(rng.choice([1, 2, 3])):
            dish = rng.choice(list(DISHES))
            if rng.random() < 0.5:
                calls.append(("dish", {"dish": dish}))
            calls.append(("put", {"dish": dish, "times": rng.choice([1, 2, 3])}))
        if rng.random() < 0.6:
            seat = {"hall": rng.choice(["east", "west"]), "place": rng.randrange(1, 99)}
            calls.append(("sit", {"seat": seat}))
        if rng.random() < 0.4:
            calls += [("kitchen", {"order": rng.choice(list(PAN))}) for _ in range(3)]
        calls.append(("tray", {}))
        if rng.random() < 0.6:
            calls += [("slip", {}), ("tray", {})]
    return calls


def _episodes() -> list[Episode]:
    return [recorded(f"e{n}", _calls(random.Random(n)), Till().answer) for n in range(120)]


@pytest.fixture(scope="module")
def world() -> World:
    return learn(_episodes())


def _asked(session: WorldSession, name: str, args: dict[str, Any]) -> Any:
    text = session.step(name, json.dumps(args), greedy=True).content
    return json.loads(text) if text.startswith("{") else text


def test_what_no_argument_names_is_one_thing_of_the_session(world: World) -> None:
    assert {t for t, label in world.ids.joint.items() if label == "&"} == {"put", "sit", "tray"}
    assert "&" in world.ids.args["slip"]
    assert "&" not in world.ids.args["dish"]


def test_it_is_as_the_calls_of_the_session_left_it(world: World) -> None:
    till, session = Till(), world.session(3)
    calls: list[Call] = [
        ("put", {"dish": "D-103", "times": 2}), ("put", {"dish": "D-107", "times": 3}),
        ("sit", {"seat": {"hall": "east", "place": 1234}}), ("tray", {}),
        ("put", {"dish": "D-101", "times": 1}), ("tray", {}),
    ]  # fmt: skip
    for name, args in calls:
        assert _asked(session, name, args) == till.answer(name, args), name


def test_a_call_that_shows_something_else_empties_it(world: World) -> None:
    session = world.session(4)
    put = _asked(session, "put", {"dish": "D-105", "times": 3})
    assert _asked(session, "slip", {})["due"] == put["cents"]
    left = _asked(session, "tray", {})
    assert (left["lines"], left["cents"], left["grams"]) == ([], 0, 0)


def test_sessions_do_not_share_it(world: World) -> None:
    one, other = world.session(5), world.session(6)
    _asked(one, "put", {"dish": "D-105", "times": 1})
    assert len(_asked(other, "put", {"dish": "D-104", "times": 1})["lines"]) == 1


def test_it_is_the_same_in_a_world_that_was_kept(world: World, tmp_path: Path) -> None:
    world.save(tmp_path / "w")
    kept = World.load(tmp_path / "w").session(3)
    shown = _asked(kept, "put", {"dish": "D-103", "times": 2})
    assert shown == Till().answer("put", {"dish": "D-103", "times": 2})
    assert list(shown) == ["lines", "grams", "seat", "levy", "cents"]


def test_an_argument_decides_a_word_of_a_message(world: World) -> None:
    template = max(world.models["kitchen"].texts.values(), key=lambda t: t.count)
    for order, (needed, _) in PAN.items():
        c = world.models["kitchen"].context(world.session(1).state, {"order": order})
        assert template.render(c, 0.0)[0].startswith(f"cannot {order} it: it is ")
        assert template.render(c, 0.0)[0].endswith(f", not {needed}")


def test_a_slot_that_no_argument_decides_is_left() -> None:
    def slot(said: str, value: str) -> by_words.Slot:
        return said, [("told", "order", json.dumps(value))]

    decided = [slot("x", "a"), slot("y", "b")] * 3
    found = by_words.mine(decided)
    assert found is not None
    assert found[1] == 6
    assert by_words.value_of(found[0], {"order": "b"}) == "y"
    assert by_words.value_of(found[0], {"order": "c"}) is None
    assert by_words.mine([*decided, slot("y", "a"), slot("x", "b")]) is None
    assert by_words.mine([slot("x", "a"), slot("x", "b")] * 3) is None  # always the same
    assert by_words.mine(decided[:2]) is None


@given(st.integers(0, 10**6), st.fractions(0, 1, max_denominator=50))
def test_a_product_in_whole_numbers_is_as_near_as_one_can_be(number: int, factor: Any) -> None:
    assert abs(operate("~", float(factor), number) - number * factor) <= 0.5 + 1e-6


def test_what_it_was_is_said_without_a_name(world: World) -> None:
    told = [fact.text for own in describe(world).values() for fact in own]
    assert told
    assert not any("&" in text for text in told)
    assert source_text(("ref", "&", "grams")) == "`grams` as it was before"
