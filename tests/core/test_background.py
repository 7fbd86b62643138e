"""Asynchronous things for code that does not await."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from understudy.core.background import background, straight


@asynccontextmanager
async def opened(log: list[str], wrong: str = "") -> AsyncIterator[asyncio.Queue[int]]:
    """A queue that is of the loop on which it was opened."""
    task = asyncio.current_task()
    if wrong == "enter":
        raise ValueError("will not open")
    log.append("in")
    try:
        yield asyncio.Queue()
    finally:
        log.append("out")
        assert asyncio.current_task() is task  # as cancel scopes need it
    if wrong == "leave":
        raise ValueError("will not close")


async def put_and_get(queue: "asyncio.Queue[int]", n: int) -> tuple[int, str]:
    taken = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    await queue.put(n)
    return await taken, threading.current_thread().name


def test_any_thread_may_wait_for_what_runs_there() -> None:
    log: list[str] = []
    with background(opened(log)) as (queue, wait), ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda n: wait(put_and_get(queue, n)), range(40)))
        assert log == ["in"]
    assert sorted(n for n, _ in found) == list(range(40))
    assert len({name for _, name in found} - {threading.current_thread().name}) == 1
    assert log == ["in", "out"]


async def test_it_waits_inside_of_another_loop_too() -> None:
    with background(opened([])) as (queue, wait):
        assert wait(put_and_get(queue, 3))[0] == 3


@pytest.mark.parametrize(("wrong", "why"), [("enter", "not open"), ("leave", "not close")])
def test_what_goes_wrong_is_raised(wrong: str, why: str) -> None:
    log, before = list[str](), threading.active_count()
    with pytest.raises(ValueError, match=why), background(opened(log, wrong)):
        assert log == ["in"]
    with pytest.raises(KeyError), background(opened(log)):
        raise KeyError("of the block")
    assert log[-1] == "out"
    assert threading.active_count() == before


async def test_what_waits_for_nothing_goes_straight() -> None:
    async def three() -> int:
        return 3

    assert straight(three()) == 3
    with pytest.raises(RuntimeError, match="await it"):
        straight(asyncio.sleep(0))
