"""Requests on their way through a shard, and their results on the way back."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from understudy.core.types import Sample, Sampling
from understudy.engine.adapters import Model
from understudy.engine.cache import Ids, Slot
from understudy.engine.errors import EngineError as EngineError


@dataclass(eq=False, slots=True)
class Job:
    """A request on its way through a shard."""

    ids: Ids
    model: Model
    sampling: Sampling
    seed: int
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Sample]"
    on_chunk: Callable[[Sequence[int]], None] | None = None
    slot: Slot | None = None
    cached: int = 0
    sent: int = 0  # ids given to on_chunk
    cancelled: bool = False


class Rows(NamedTuple):
    """Per-slot state of running requests, one array entry a slot."""

    temperature: Any
    top_p: Any
    top_k: Any
    seed: Any
    count: Any  # tokens drawn
    limit: Any  # most tokens to draw
    next_id: Any  # drawn, not yet fed

    @staticmethod
    def empty(n: int) -> "Rows":
        f, i = np.zeros(n), np.zeros(n, dtype=np.int64)
        seed = np.zeros(n, dtype=np.uint64)
        return Rows(f, f.copy(), i, seed, i.copy(), i.copy(), i.copy())


@dataclass(slots=True)
class Counters:
    """What a shard has done since it started."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    sampled_tokens: int = 0
    steps: int = 0
    busy_s: float = 0.0
    prefill_s: float = 0.0


def deliver(done: list[tuple[Job, Sample | EngineError]]) -> None:
    """Hand results to their event loops, one wake-up a loop."""
    by_loop: dict[int, list[tuple[Job, Sample | EngineError]]] = {}
    for job, result in done:
        by_loop.setdefault(id(job.loop), []).append((job, result))
    for results in by_loop.values():
        loop = results[0][0].loop
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, results)


def _resolve(results: list[tuple[Job, Sample | EngineError]]) -> None:
    for job, result in results:
        if job.future.done():
            continue
        if isinstance(result, EngineError):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
