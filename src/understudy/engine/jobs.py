"""Requests on their way through a shard, and their results on the way back."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from understudy.core.types import Sample, Sampling
from understudy.engine.adapters import Model
from understudy.engine.cache import Ids, Slot
from understudy.engine.errors import EngineError
from understudy.engine.terms import Asked


@dataclass(eq=False, slots=True)
class Job:
    """A request on its way through a shard. `ids` are to be fed: the prompt, and behind it what
    was drawn before the request had to make room (with its logprobs in `drawn`)."""

    ids: Ids
    model: Model
    sampling: Sampling
    seed: int
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Sample]"
    on_chunk: Callable[[Sequence[int]], None] | None = None
    asked: Asked | None = None  # of its draws
    slot: Slot | None = None
    cached: int | None = None  # tokens of the prompt that were there when it was first admitted
    filled: int = 0  # of `ids`, that its slot has
    sent: int = 0  # ids given to on_chunk
    cancelled: bool = False
    drawn: Any = ()
    prompt: int = 0  # tokens

    def __post_init__(self) -> None:
        self.prompt = len(self.ids)

    @property
    def watched(self) -> bool:
        return bool(self.on_chunk or self.sampling.stop)

    def stopped(self, sampled: Ids, decode: Callable[[Sequence[int]], str]) -> bool:
        """Whether a stop string is in the text of what was sampled."""
        longest = max(len(s) for s in self.sampling.stop)
        text = decode(sampled[max(0, len(sampled) - longest - 8) :].tolist())
        return any(s in text for s in self.sampling.stop)


class Rows(NamedTuple):
    """Per-slot state of running requests, one array entry a slot."""

    temperature: Any
    top_p: Any
    top_k: Any
    seed: Any
    count: Any  # tokens drawn
    limit: Any  # most tokens to draw
    next_id: Any  # drawn, not yet fed
    watched: Any  # looked at after every token: streams, or has stop strings
    asks: Any  # something of its draws: its job's `asked`

    @staticmethod
    def empty(n: int) -> "Rows":
        f, i = np.zeros(n), np.zeros(n, dtype=np.int64)
        seed = np.zeros(n, dtype=np.uint64)
        asks, watched = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
        return Rows(f, f.copy(), i, seed, i.copy(), i.copy(), i.copy(), watched, asks)

    def grown(self, n: int) -> "Rows":
        """The same for at least as many slots."""
        new = Rows.empty(n)
        for old, room in zip(self, new, strict=True):
            room[: len(old)] = old
        return new


@dataclass(slots=True)
class Counters:
    """What a shard has done since it started."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    sampled_tokens: int = 0
    steps: int = 0
    finished: int = 0
    preempted: int = 0
    busy_s: float = 0.0
    prefill_s: float = 0.0

    def __add__(self, other: "Counters") -> "Counters":
        return Counters(*(getattr(self, n) + getattr(other, n) for n in Counters.__slots__))


Told = list[int] | Sample | EngineError  # new ids of a stream, or how it ended


def deliver(told: list[tuple[Job, Told]]) -> None:
    """Hand chunks and results to their event loops, in order, one wake-up a loop."""
    by_loop: dict[int, list[tuple[Job, Told]]] = {}
    for job, what in told:
        by_loop.setdefault(id(job.loop), []).append((job, what))
    for each in by_loop.values():
        loop = each[0][0].loop
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, each)


def _resolve(told: list[tuple[Job, Told]]) -> None:
    for job, result in told:
        if job.future.done():
            continue
        if isinstance(result, list):
            if job.on_chunk is not None:
                job.loop.call_soon(job.on_chunk, result)  # what it raises is its own
        elif isinstance(result, EngineError):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
