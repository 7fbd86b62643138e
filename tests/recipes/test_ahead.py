"""Batches ahead of training: how old what is trained on can be, and that nothing is lost."""

import asyncio
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.recipes.ahead import Ahead


@settings(deadline=None)
@given(
    staleness=st.integers(0, 3),
    places=st.integers(1, 5),
    turns=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=6),
    begin=st.integers(0, 3),
)
def test_nothing_is_older_than_allowed_and_batches_come_whole_and_in_order(
    staleness: int, places: int, turns: list[list[int]], begin: int
) -> None:
    version, running = begin, 0
    most = 0

    async def part(step: int, n: int, rounds: int) -> tuple[int, int, int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        sampled = version
        for _ in range(rounds):
            await asyncio.sleep(0)
        running -= 1
        return step, n, sampled

    async def train() -> None:
        nonlocal version
        steps = range(begin, begin + len(turns))
        planned = [
            [partial(part, step, n, rounds) for n, rounds in enumerate(own)]
            for step, own in zip(steps, turns, strict=True)
        ]
        async with Ahead(lambda step: planned[step - begin], steps, staleness, places) as ahead:
            for step in steps:
                version = step
                ahead.at(step)
                found = await ahead.batch(step)
                assert [(s, n) for s, n, _ in found] == [
                    (step, n) for n in range(len(turns[step - begin]))
                ]
                assert all(0 <= step - sampled <= staleness for _, _, sampled in found)
                for _ in range(3):  # a training step, beside which others go on
                    await asyncio.sleep(0)

    asyncio.run(train())
    assert running == 0
    if staleness:
        assert most <= places


async def test_the_next_batch_takes_the_places_that_a_batch_leaves() -> None:
    begun: list[tuple[int, int]] = []
    last = asyncio.Event()

    async def part(step: int, n: int) -> None:
        begun.append((step, n))
        if (step, n) == (0, 1):
            await last.wait()

    plan = {step: [partial(part, step, n) for n in range(2)] for step in range(2)}
    async with Ahead(lambda step: plan[step], range(2), 1, places=2) as ahead:
        ahead.at(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert begun == [(0, 0), (0, 1), (1, 0), (1, 1)]
        last.set()
        await ahead.batch(0)


async def test_a_failure_ends_what_still_runs() -> None:
    ended: list[str] = []

    async def fails() -> None:
        raise ValueError("no user today")

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def train() -> None:
        async with Ahead(lambda step: [fails, waits], range(2), 1, places=9) as ahead:
            ahead.at(0)
            await ahead.batch(0)

    with pytest.raises(ExceptionGroup) as caught:
        await train()
    assert "no user today" in str(caught.value.exceptions[0])
    assert len(ended) == 2  # of this batch, and of the next
