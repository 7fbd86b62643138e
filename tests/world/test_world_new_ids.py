"""Identifiers that calls make: new in the session, however they are found."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import Call, recorded

from understudy.world.data.matching import answers, equal_values, folded, made_equal
from understudy.world.data.values import FreshIds
from understudy.world.known.context import Context, ToolFacts
from understudy.world.known.memory import Memory
from understudy.world.known.state import State
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.results.new_ids import another, of_format
from understudy.world.traffic.ids import Ids

ITEMS = ("lamp", "desk", "sofa", "rug", "shelf")
Names = Callable[[random.Random, int], Any]


class Depot:
    """Orders that can be read, some from before; `name` gives each its number."""

    def __init__(self, seed: int, name: Names) -> None:
        self.rng, self.name = random.Random(seed), name
        old, self.made = random.Random(1), 0
        names = [name(old, n) for n in range(-20, 0)]
        self.orders: dict[Any, dict[str, Any]] = {
            own: {
                "order": own,
                "item": old.choice(ITEMS),
                "pieces": old.randrange(1, 9),
                "state": "sent",
            }
            for own in names
        }

    def call(self, tool: str, args: dict[str, Any]) -> Any:
        if tool == "order":
            own = self.name(self.rng, self.made)
            self.made += 1
            self.orders[own] = {"order": own, **args, "state": "new"}
        return self.orders.get(own if tool == "order" else args["order"]) or "no such order"


def learned(name: Names, several: int) -> World:
    """From episodes with up to so many orders each."""
    episodes = []
    for seed in range(40):
        rng, depot = random.Random(seed), Depot(seed, name)
        calls: list[Call] = [("read", {"order": o}) for o in rng.sample(list(depot.orders), 3)]
        for _ in range(rng.randint(1, several)):
            calls.append(("order", {"item": rng.choice(ITEMS), "pieces": rng.randrange(1, 9)}))
            calls.append(("read", {"order": depot.call(*calls[-1])["order"]}))
        episodes.append(recorded(f"e{seed}", calls, Depot(seed, name).call))
    return learn(episodes)


def letters(rng: random.Random, n: int) -> str:
    return "HATHA" + "TUVWXYZ"[n] if n >= 0 else "".join(rng.choices("ABCDE6789", k=6))


def anew(rng: random.Random, n: int) -> str:
    return f"ord-{n + 101:03d}"


def few(rng: random.Random, n: int) -> str:
    return f"Q{rng.randrange(10)}{rng.randrange(10)}{abs(n) % 10}"


def number(rng: random.Random, n: int) -> int:
    return rng.randrange(1000, 9999)


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize(
    ("name", "several", "first"),
    [(letters, 3, "HATHAT"), (anew, 1, "ord-101"), (few, 2, None), (number, 2, None)],
)
def test_each_call_of_a_session_makes_another(
    name: Names, several: int, first: Any, greedy: bool
) -> None:
    session = learned(name, several).session(2)
    made = []
    for n in range(6):
        args = json.dumps({"item": ITEMS[n % 5], "pieces": n % 2 + 1})
        made.append(json.loads(session.step("order", args, greedy=greedy).content))
    names = [order["order"] for order in made]
    assert len(set(names)) == 6
    assert first is None or names[0] == first
    for own in made:
        read = json.dumps({"order": own["order"]})
        assert json.loads(session.step("read", read, greedy=True).content) == own


def test_what_is_only_found_is_found_again() -> None:
    """The same record for every word of a search is no new one each time."""

    def answer(tool: str, args: Any) -> Any:
        best = {"entry": "K100", "title": "start here", "word": args.get("word", "")}
        return best if tool == "search" else {"entry": args["entry"], "title": "start here"}

    words = ["door", "roof", "wall", "sink"]
    calls: list[Call] = [("search", {"word": w}) for w in words[:3]] + [("open", {"entry": "K100"})]
    more: list[Call] = [("open", {"entry": f"K{n}"}) for n in range(100, 106)]
    world = learn([recorded(f"e{n}", [*calls, *more], answer) for n in range(8)])
    session = world.session(0)
    for word in words:
        found = session.step("search", json.dumps({"word": word}), greedy=True)
        assert json.loads(found.content)["entry"] == "K100"


def context(taken: list[Any], remembered: list[Any]) -> Context:
    ids = Ids(args={"f": {}}, refs={"f": {"/id": "d"}}, keys={"f": {"": {"id": "d"}}})
    state = State(ids, Memory())
    for value in remembered:
        state.memory.add(("d", value), 0, {"id": value})
    for value in taken:
        state.observe("f", {}, "ok:", {"id": value})
    return Context(state, ToolFacts("f"), {})


TEXTS = st.text("09azAZ-", min_size=1, max_size=4)


@given(TEXTS | st.integers(0, 99), st.integers(1, 40))
def test_those_that_follow_one_never_come_twice(first: Any, n: int) -> None:
    taken = [first]
    for _ in range(n):
        taken.append(another(None, "/id", first, context(taken, [])))
    assert len(set(taken)) == n + 1


@given(st.lists(st.integers(0, 9), max_size=8), st.sets(st.integers(0, 9), max_size=10))
def test_a_drawn_one_is_neither_sessions_nor_traffics_as_far_as_there_are_such(
    taken: list[int], remembered: set[int]
) -> None:
    form = FreshIds("places", ["N", "0123456789"])
    c = context([f"N{v}" for v in taken], [f"N{v}" for v in remembered])
    drawn = of_format(form, "/id", c, random.Random(3))
    assert drawn not in {f"N{v}" for v in taken}
    assert drawn not in {f"N{v}" for v in remembered} or len(remembered | set(taken)) > 8


@given(st.dates(), st.times().map(lambda t: t.replace(microsecond=0)))
def test_a_moment_is_of_its_day(day: Any, time: Any) -> None:
    moment = f"{day.isoformat()}T{time.isoformat()}"
    assert equal_values(day.isoformat(), moment)
    assert folded(day.isoformat()) in answers(moment)
    assert not equal_values("1999-13-01", moment)
    assert equal_values("2030-01-02", made_equal("2030-01-02", moment))
    assert made_equal("2030-01-02", moment).endswith(time.isoformat())
