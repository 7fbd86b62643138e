"""How long calls take in a learned world: as long as in the traffic, by outcome."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.traffic.delays import delay, mine_delays

SLOW, FAST = 1.5, 0.05  # medians of answers and of refusals, in seconds


def weighed(seed: int, times: int = 20) -> Episode:
    """Weights of crates; what is too heavy is refused, and soon."""
    rng = random.Random(seed)
    calls: list[Call] = [("weigh", {"kilos": rng.randint(1, 100)}) for _ in range(times)]

    def answer(name: str, args: Any) -> Any:
        return "too heavy for this scale" if args["kilos"] > 70 else {"kilos": args["kilos"]}

    played = recorded(f"e{seed}", calls, answer)
    results = {
        k: replace(r, latency_s=(FAST if r.is_error else SLOW) * rng.lognormvariate(0, 0.8))
        for k, r in played.results.items()
    }
    return replace(played, results=results)


@pytest.fixture(scope="module")
def world() -> World:
    return learn([weighed(seed) for seed in range(60)])


def taken(world: World, kilos: int) -> list[float]:
    session = world.session(5)
    told = [session.step("weigh", json.dumps({"kilos": kilos})) for _ in range(400)]
    return [r.latency_s for r in told if r.latency_s is not None]


@pytest.mark.parametrize(("kilos", "median"), [(20, SLOW), (90, FAST)])
def test_the_world_takes_as_long_as_the_traffic_by_outcome(
    world: World, kilos: int, median: float
) -> None:
    seconds = taken(world, kilos)
    assert len(seconds) == 400
    deciles = quantiles(seconds, n=10)
    for rank, z in ((0, -1.2816), (4, 0.0), (8, 1.2816)):
        assert abs(math.log(deciles[rank] / median) - 0.8 * z) < 0.35


def test_a_saved_world_takes_as_long(world: World, tmp_path: Path) -> None:
    world.save(tmp_path)
    assert taken(World.load(tmp_path), 20) == taken(world, 20)


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=2000))
def test_quantiles_are_those_of_all_latencies(seconds: list[float]) -> None:
    kept = mine_delays(("ok:text", s) for s in seconds)[""]
    ordered = sorted(seconds)
    for share in (0.1, 0.5, 0.9):
        low, high = (int(min(max(share + by, 0), 1) * (len(ordered) - 1)) for by in (-0.02, 0.02))
        assert (
            ordered[low] <= kept[int(share * len(kept))] <= ordered[min(high + 1, len(ordered) - 1)]
        )


def test_an_outcome_without_latencies_of_its_own_takes_as_long_as_its_like() -> None:
    known = mine_delays([("ok:a", 1.0)] * 30 + [("err:b", 9.0)] * 3 + [("err:c", None)] * 9)
    rng = random.Random(0)
    assert [delay(known, label, rng) for label in ("ok:a", "ok:z", "err:c")] == [1.0, 1.0, 9.0]
    assert delay({}, "ok:a", rng) is None
    assert delay(mine_delays([("ok:a", 1.0)]), "err:c", rng) == 1.0


def captured(seed: int, ids: tuple[str, str] = ("c1", "c2")) -> Episode:
    """Two calls as a gateway captures them: it sees when the model is asked, and no tool."""
    rng = random.Random(seed)
    played = recorded(f"e{seed}", [("weigh", {"kilos": n}) for n in (3, 4)], lambda _, a: dict(a))
    (whole,) = played.completions
    said, completions, now = list(whole.request.messages), [], 1000.0
    for n, call_id in enumerate([*ids, None]):
        reply: Any = {"role": "assistant", "content": "done"}
        if call_id is not None:
            (call,) = said[1 + 2 * n]["tool_calls"]
            reply = {**said[1 + 2 * n], "tool_calls": [{**call, "id": call_id}]}
            said[1 + 2 * n], said[2 + 2 * n] = reply, {**said[2 + 2 * n], "tool_call_id": call_id}
        request = replace(whole.request, messages=tuple(said[: 1 + 2 * n]))
        one = replace(whole, id=f"{seed}.{n}", request=request, message=reply)
        completions.append(replace(one, started_at=now, finished_at=now + 0.5))
        now += 0.5 + SLOW * rng.lognormvariate(0, 0.8)
    return replace(played, completions=tuple(completions), results={})


def test_captured_traffic_shows_how_long_its_calls_took() -> None:
    seconds = taken(learn([captured(seed) for seed in range(100)]), 4)
    assert len(seconds) == 400
    assert abs(math.log(sorted(seconds)[200] / SLOW)) < 0.25
    assert not taken(learn([captured(seed, ("c1", "c1")) for seed in range(9)]), 4)
