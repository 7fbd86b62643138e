"""Batches of work that go on while what came of earlier ones is trained on, a few versions early.

Work of batch b may begin once the policy is at version b - `staleness`, and is done with the newest
policy at that moment: so what is trained as version b was sampled at most `staleness` versions
before, and nothing has to be dropped for its age. Batches are taken in their order and whole: what
takes long is not left out for it. With a staleness of 0 a batch begins when the one before it has
been trained; with more, work of the next takes the places that finished work leaves, so that no
core waits for a batch's last episodes (AReaL, arXiv 2505.24298, which also bounds staleness so).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

from understudy.recipes.rehearsal import gather

Done = TypeVar("Done")
Begin = Callable[[], Awaitable[Done]]


class Ahead(Generic[Done]):
    """The batches `steps`, begun as the policy's version allows. Ends what runs on leaving.

    `plan` says what a batch consists of when it may begin; each part is begun when a place is
    free. `places`: how many run at once where batches overlap.
    """

    def __init__(
        self,
        plan: Callable[[int], Sequence[Begin[Done]]],
        steps: range,
        staleness: int,
        places: int,
    ) -> None:
        self._plan, self._steps, self._staleness = plan, steps, staleness
        self._free: asyncio.Semaphore | None = asyncio.Semaphore(places) if staleness else None
        self._next = steps.start
        self._batches: dict[int, list[asyncio.Task[Done]]] = {}

    def at(self, version: int) -> None:
        """The policy is at this version: batches up to `staleness` after it may begin."""
        while self._next < self._steps.stop and self._next <= version + self._staleness:
            plan = self._plan(self._next)
            self._batches[self._next] = [asyncio.create_task(self._one(begin)) for begin in plan]
            self._next += 1

    async def batch(self, step: int) -> list[Done]:
        """What came of a batch, in the order of its plan. Raises what one of its parts raised."""
        found: list[Done] = await gather(self._batches[step])
        del self._batches[step]
        return found

    async def _one(self, begin: Begin[Done]) -> Done:
        async with self._free or contextlib.nullcontext():
            return await begin()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        left = [task for tasks in self._batches.values() for task in tasks]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
