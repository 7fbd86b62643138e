"""What learning costs as results grow wide: counted in calls of functions, not in seconds."""

import random
import sys
from typing import Any

from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.learn import learn


def wide(seed: int, fields: int) -> Episode:
    """Readings with so many numbers that have nothing to do with each other."""
    rng = random.Random(seed)

    def read(name: str, args: dict[str, Any]) -> dict[str, Any]:
        numbers = {f"f{n}": round(rng.uniform(1, 10**6), 2) for n in range(fields)}
        return {"probe": args["probe"], **numbers}

    calls: list[Call] = [("read", {"probe": f"PR-{rng.randrange(100, 104)}"}) for _ in range(3)]
    return recorded(f"e{seed}", calls, read)


def work(fields: int) -> int:
    """The functions that are called to learn a world."""
    episodes, count = [wide(seed, fields) for seed in range(10)], 0

    def note(frame: Any, event: str, of: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        learn(episodes)
    finally:
        sys.setprofile(None)
    return count


def test_work_grows_with_the_numbers_of_a_result_not_with_their_pairs() -> None:
    few, many = work(8), work(32)
    assert many < 14 * few  # four times the numbers; with every pair of them it is 28 times
