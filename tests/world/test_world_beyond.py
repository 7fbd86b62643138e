"""Numbers beyond all experience: what the world learned of others still holds, with doubt."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.calibration import Doubts
from understudy.world.data.ranges import outside, range_of
from understudy.world.fidelity.crossfit import calibrated
from understudy.world.model import World
from understudy.world.tools import Prediction

COUNTS = (1, 2, 4, 7)


def sale(seed: int) -> Episode:
    """A bale is looked at, some are sold at a fixed price each, and it is looked at again."""
    rng = random.Random(seed)
    number = rng.randrange(100, 130)
    bale, state = f"B{number}", {"bale": f"B{number}", "left": number % 23 + 20}

    def answer(name: str, args: Any) -> Any:
        if name == "sell":
            state["left"] -= args["count"]
            return {
                "sold": True,
                "price": 12.5 * args["count"],
                "tax": round(0.875 * args["count"], 2),
            }
        return dict(state)

    look: Call = ("look", {"bale": bale})
    sell: Call = ("sell", {"bale": bale, "count": rng.choice(COUNTS)})
    return recorded(
        f"e{seed}", [look, look, sell, look] if seed % 2 else [look, sell, look], answer
    )


@pytest.fixture(scope="module")
def world() -> World:
    return calibrated([sale(seed) for seed in range(160)])


def sold(world: World, count: float) -> tuple[Any, float, float]:
    """The sale's result, its doubt, and that of the look after it."""
    session = world.session(3)
    session.step("look", '{"bale": "B111"}')
    sale = session.step("sell", json.dumps({"bale": "B111", "count": count}), greedy=True)
    after = session.step("look", '{"bale": "B111"}', greedy=True)
    return json.loads(sale.content), sale.doubt, after.doubt


@pytest.mark.parametrize("count", [3, 5, 6])
def test_a_fixed_multiple_of_an_argument_is_learned(world: World, count: int) -> None:
    told, doubt, after = sold(world, count)
    assert told["price"] == 12.5 * count
    assert told["tax"] == pytest.approx(0.875 * count, abs=0.0051)
    assert max(doubt, after) < 0.05


@pytest.mark.parametrize("count", [-3, 0, 50, 2.5])
def test_a_number_beyond_all_experience_is_doubted_and_what_rests_on_it(
    world: World, count: float
) -> None:
    _, doubt, after = sold(world, count)
    assert doubt > 0.3
    assert after > 0.3 or count == 0  # selling nothing changes nothing


def test_what_was_observed_after_such_a_call_is_not_doubted(world: World) -> None:
    session = world.session(3)
    session.step("look", '{"bale": "B111"}')
    session.step("sell", '{"bale": "B111", "count": 50}', greedy=True)
    session.observe("look", {"bale": "B111"}, '{"bale": "B111", "left": 9}', False)
    assert session.step("look", '{"bale": "B111"}', greedy=True).doubt < 0.05


def test_such_doubt_is_what_evidence_says(world: World) -> None:
    leaf = {"counts": {"right": 100}}
    for wrong, least in [(0.0, 0.0), (98.0, 0.9)]:
        p = Prediction("ok:{}", {}, None, False, {}, 0.0, 0.0, {}, outside=1.0)
        Doubts(leaf, leaf, (wrong, 98.0)).correct("sell", p)
        assert least <= p.doubt <= least + 0.1


def test_a_saved_world_doubts_alike(world: World, tmp_path: Path) -> None:
    world.save(tmp_path)
    again = World.load(tmp_path)
    assert again.doubts == world.doubts
    assert all(sold(again, count) == sold(world, count) for count in (3, -3, 50))


@given(st.lists(st.integers(-50, 50), min_size=1), st.integers(-500, 500), st.integers(1, 9))
def test_farther_outside_is_never_less_beyond(seen: list[int], value: int, by: int) -> None:
    ranges = {"n": range_of(seen)}
    here = outside({"n": value}, ranges)
    farther = value + by if value > max(seen) else value - by
    assert 0 <= here <= 1
    assert (here == 0) == (min(seen) <= value <= max(seen))
    if here > 0:
        assert outside({"n": farther}, ranges) >= here
    assert outside({}, ranges) == outside({"n": "many"}, ranges) == 0
