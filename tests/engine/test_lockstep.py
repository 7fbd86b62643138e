"""In lockstep the same requests meet in the same batches, however busy their callers are."""

import asyncio
import random
import threading

from engine_models import make_model
from test_engine_exactness import prompts_for

from understudy.core.types import ModelRef, Sample, Sampling
from understudy.engine.torch_engine import TorchEngine

BASE = "base"
TURNS = 30  # of the loop, in which a caller does other work


async def busy() -> None:
    for _ in range(TURNS):
        sum(range(200_000))
        await asyncio.sleep(0)


async def sampled(engine: TorchEngine, prompt: list[int], after: bool) -> Sample:
    if after:
        await busy()
    return await engine.sample(prompt, ModelRef(BASE), Sampling(max_tokens=8, seed=1))


def in_lockstep() -> TorchEngine:
    return TorchEngine(make_model("qwen3"), BASE, (), threads=1, lockstep=True)


async def steps_alone(prompt: list[int]) -> int:
    engine = in_lockstep()
    await sampled(engine, prompt, after=False)
    await engine.aclose()
    return engine.counters().steps


async def test_requests_that_come_while_the_engine_is_told_something_meet_in_one_batch() -> None:
    one, other = prompts_for(2, 4, random.Random(1))
    engine, first_is_there = in_lockstep(), threading.Event()
    engine.shards[0].call(lambda: first_is_there.wait() and None)

    async def second() -> Sample:
        await busy()
        first_is_there.set()
        return await sampled(engine, other, after=True)

    await asyncio.gather(sampled(engine, one, after=False), second())
    await engine.aclose()
    assert engine.counters().steps == await steps_alone(one)


async def test_what_is_asked_after_a_score_meets_in_one_batch() -> None:
    prompts = prompts_for(4, 4, random.Random(1))
    engine = in_lockstep()

    async def lesson(prompt: list[int], number: int) -> None:
        await engine.score(prompt, ModelRef(BASE))
        await sampled(engine, prompt, after=number > 0)

    await asyncio.gather(*(lesson(p, n) for n, p in enumerate(prompts)))
    await engine.aclose()
    assert engine.counters().steps == await steps_alone(prompts[0])
