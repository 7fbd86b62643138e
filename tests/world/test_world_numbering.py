"""Whole numbers: which of them number things, and which are amounts."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.world.learn import learn

CHANCE = random.Random(4)
SIZES = [CHANCE.randrange(50) for _ in range(1000)]
OWNERS = [CHANCE.choice(["ann", "bo", "cy", "dee"]) for _ in range(1000)]


def named(episodes: Sequence[Sequence[Call]], answer: Callable[[str, Any], Any]) -> dict[str, Any]:
    """The identifiers among the arguments, by tool."""
    world = learn([recorded(f"e{n}", calls, answer) for n, calls in enumerate(episodes)])
    return {tool: set(own) for tool, own in world.ids.args.items() if own}


def once(tool: str, values: Sequence[int]) -> list[list[Call]]:
    return [[(tool, {"v": v})] for v in values]


RECURRING = [CHANCE.randrange(1, 31) for _ in range(150)]


@pytest.mark.parametrize(
    "record",
    [
        lambda v: {"size": SIZES[v], "open": True},
        lambda v: {"w": v, "owner": OWNERS[v]},
        lambda v: {"w": v, "text": f"{OWNERS[v]} has {v}", "size": SIZES[v]},
    ],
)
def test_a_number_that_what_is_shown_hangs_on_numbers_things(record: Any) -> None:
    found = named(once("f", RECURRING), lambda tool, args: record(args["v"]))
    assert found == {"f": {"v"}}


@pytest.mark.parametrize(
    "result",
    [
        lambda v: {"v": v, "fee": 2.5 * v},
        lambda v: {"told": f"{v} pieces", "left": 100 - v},
        lambda v: {"band": "low" if v < 10 else "high", "v": v},
        lambda v: {"v": v, "drawn": CHANCE.randrange(1000), "who": CHANCE.choice(OWNERS)},
        lambda v: {"v": v, "ok": True},
    ],
)
def test_an_amount_numbers_nothing(result: Any) -> None:
    assert named(once("f", RECURRING), lambda tool, args: result(args["v"])) == {}


def test_a_number_that_never_recurs_is_known_by_the_record_that_says_it() -> None:
    def record(tool: str, args: Any) -> Any:
        v = args["v"]
        return {"w": v, "size": SIZES[v], "owner": OWNERS[v]} if tool == "f" else {"w": v, "x": 3}

    assert named(once("f", range(1, 40)) + once("g", range(1, 40)), record) == {"f": {"v"}}


def test_what_is_named_with_a_known_number_is_one() -> None:
    def answer(tool: str, args: Any) -> Any:
        return {"size": SIZES[args["v"]]} if tool == "f" else {"ok": True, "price": args["k"] * 2}

    episodes: list[list[Call]] = [
        [("f", {"v": v}), ("use", {"item": v, "k": CHANCE.randrange(1, 9)})] for v in RECURRING
    ]
    assert named(episodes, answer) == {"f": {"v"}, "use": {"item"}}
