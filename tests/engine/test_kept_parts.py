"""What a decoding step keeps from the step before is given up when it no longer holds."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from engine_models import make_model
from test_engine_exactness import BASE, engine_for, max_gap, prompts_for, teacher_logprobs

from understudy.core.types import Sampling


@pytest.mark.parametrize("kernel", ["auto", "off"])
async def test_a_prefix_that_becomes_shared_while_its_owner_decodes(kernel: str) -> None:
    """A second prompt moves what it shares with the first into an entry and then takes many waves,
    in which the first one decodes on, alone as before."""
    model, rng = make_model(), random.Random(1)
    first = prompts_for(1, 150, rng)[0]
    second = first[:140] + prompts_for(1, 500, rng)[0]
    engine = engine_for(model, kernel=kernel, wave_tokens=16)
    engine.shards[0].cache.crowd = 0
    began, seen = asyncio.Event(), list[int]()

    def heard(ids: Sequence[int]) -> None:
        seen.extend(ids)
        began.set()

    one = asyncio.create_task(
        engine.sample(first, BASE, Sampling(max_tokens=120, seed=1), on_chunk=heard)
    )
    await began.wait()
    two = await engine.sample(second, BASE, Sampling(max_tokens=4, seed=2))
    meanwhile = len(seen)
    entries = [len(e.ids) for e in engine.shards[0].cache.entries]
    sample = await one
    engine.close()
    assert meanwhile > (len(second) - 140) // 16, "it waited for the whole of the other's prompt"
    assert entries == [128]  # whole blocks
    assert two.cached_tokens == 140
    assert max_gap(sample.logprobs, teacher_logprobs(model, first, sample)) < 1e-4
    assert max_gap(two.logprobs, teacher_logprobs(model, second, two)) < 1e-4


async def test_one_of_several_is_cancelled_though_nobody_streams() -> None:
    """The slot is free for a third request long before the second one has ended."""
    engine = engine_for(make_model(), max_slots=2)
    prompts = prompts_for(3, 40, random.Random(5))
    began = asyncio.Event()
    long = Sampling(max_tokens=800, seed=2)
    tasks = [
        asyncio.create_task(engine.sample(prompts[0], BASE, long)),
        asyncio.create_task(engine.sample(prompts[1], BASE, long, None, lambda _: began.set())),
    ]
    await began.wait()
    tasks[0].cancel()
    await engine.sample(prompts[2], BASE, Sampling(max_tokens=3))
    assert engine.counters().steps < 700
    assert engine.shards[0].load == 1
    await tasks[1]
    assert engine.shards[0].load == 0
    engine.close()
