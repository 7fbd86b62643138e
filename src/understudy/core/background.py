"""Asynchronous things for code that does not await."""

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Wait(Protocol):
    """Waits for a coroutine's result."""

    def __call__(self, work: Coroutine[Any, Any, T]) -> T: ...


@contextmanager
def background(manager: AbstractAsyncContextManager[T]) -> Iterator[tuple[T, Wait]]:
    """An asynchronous context, held open on a loop in a thread of its own: its value, and what
    waits, in any other thread, for a coroutine that runs on that loop. Raises what entering or
    leaving the context raises."""
    ready: Future[tuple[T, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def hold() -> None:
        async with manager as value:
            stop = asyncio.Event()
            ready.set_result((value, asyncio.get_running_loop(), stop))
            await stop.wait()

    with ThreadPoolExecutor(1, thread_name_prefix="understudy-loop") as threads:
        running = threads.submit(asyncio.run, hold())
        begun: list[Future[Any]] = [ready, running]
        wait_for(begun, return_when=FIRST_COMPLETED)
        if not ready.done():
            running.result()  # raises what went wrong
        value, loop, stop = ready.result()

        def wait(work: Coroutine[Any, Any, Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(work, loop).result()

        try:
            yield value, wait
        finally:
            loop.call_soon_threadsafe(stop.set)
            running.result()


def straight(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing, so that a loop may run here or not. Raises
    RuntimeError for one that waits."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("this waits for something: await it instead")
