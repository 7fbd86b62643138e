"""Preconditions on what a record holds: bounds of its numbers, lengths of its lists, one number
against another."""

import json
import random
from typing import Any

import pytest
from recorded import recorded

from understudy.core.types import Episode
from understudy.world.describing.describe import describe
from understudy.world.learn import learn
from understudy.world.model import World


def shown(code: str) -> dict[str, Any]:
    """A record whose numbers and list hang on nothing but its code."""
    rng = random.Random(code)
    parts = [f"p{k}" for k in range(rng.randrange(5))]
    debt, room = rng.randrange(0, 400) / 10, rng.randrange(1, 5)
    return {"code": code, "debt": debt, "parts": parts, "room": room}


def full(record: dict[str, Any]) -> bool:
    return len(record["parts"]) >= int(record["room"])


def owing(record: dict[str, Any]) -> bool:
    return float(record["debt"]) > 25


def crowded(record: dict[str, Any]) -> bool:
    return len(record["parts"]) > 2


REASONS = {"full": full, "owing": owing, "crowded": crowded}


def episode(seed: int, reason: str) -> Episode:
    """A record is shown, then a call that its state may forbid."""
    code = f"K-{1000 + seed}"

    def answer(tool: str, args: Any) -> Any:
        if tool == "show":
            return shown(args["code"])
        return f"refused: {reason}" if REASONS[reason](shown(code)) else {"done": True}

    return recorded(f"e{seed}", [("show", {"code": code}), ("use", {"code": code})], answer)


@pytest.fixture(scope="module", params=sorted(REASONS))
def taught(request: pytest.FixtureRequest) -> tuple[str, World]:
    return request.param, learn([episode(seed, request.param) for seed in range(160)])


def test_a_new_record_is_refused_for_what_it_holds(taught: tuple[str, World]) -> None:
    """Records that the traffic never showed, and whose numbers it never showed together."""
    reason, world = taught
    right = []
    for seed in range(400, 520):
        record = shown(f"K-{1000 + seed}")
        session = world.session(0)
        state = session.state
        args = {"code": record["code"]}
        state.observe("show", args, "ok:{code,debt,parts,room}", record)
        told = session.step("use", json.dumps(args), greedy=True)
        right.append(told.is_error == REASONS[reason](record))
    assert sum(right) >= 0.97 * len(right)


def test_the_condition_is_told_in_words(taught: tuple[str, World]) -> None:
    reason, world = taught
    told = " ".join(f.text for f in describe(world)["use"] if f.kind == "fails")
    words = {
        "full": "the number of items in `parts` is not below `room`, both of the record that "
        "`code` names",
        "owing": "`debt` of the record that `code` names is above ",
        "crowded": "the number of items in `parts` of the record that `code` names is above 2",
    }
    assert words[reason] in told


def test_numbers_that_say_nothing_make_no_condition() -> None:
    """Failures by chance: no bound explains them."""

    def by_chance(seed: int) -> Episode:
        code, fails = f"K-{1000 + seed}", random.Random(seed).random() < 0.3

        def answer(tool: str, args: Any) -> Any:
            return shown(code) if tool == "show" else "refused" if fails else {"done": True}

        return recorded(f"e{seed}", [("show", {"code": code}), ("use", {"code": code})], answer)

    world = learn([by_chance(seed) for seed in range(160)])
    told = [f.text for f in describe(world)["use"] if f.kind == "fails"]
    assert "feature" not in world.models["use"].tree
    assert "No sign of it was found beforehand." in told


@pytest.mark.parametrize("mended", [True, False])
def test_a_failure_that_a_call_mended_does_not_pass_by_itself(mended: bool) -> None:
    """The same call went well the second time: after a call that lifted the cause, or after
    nothing at all."""

    def retried(seed: int) -> Episode:
        code, state = f"K-{1000 + seed}", {"blocked": seed % 2 == 0}

        def answer(tool: str, args: Any) -> Any:
            if tool == "lift":
                state["blocked"] = False
                return {"lifted": args["code"]}
            if state["blocked"]:
                state["blocked"] = mended
                return "refused"
            return {"done": True}

        between = [("lift", {"code": code})] if mended else []
        calls = [("use", {"code": code}), *between, ("use", {"code": code})]
        return recorded(f"e{seed}", calls, answer)

    world = learn([retried(seed) for seed in range(60)])
    told = [f.text for f in describe(world)["use"] if f.kind == "fails"]
    assert any(text.startswith("Fails in") for text in told)
    assert any(text.startswith("Passes") for text in told) is not mended
