"""The engine against plain Hugging Face passes, in float32."""

import asyncio
import random
from typing import Any

import pytest
import torch
from engine_models import VOCAB, make_model

from understudy.core.types import ModelRef, Sample, Sampling
from understudy.engine.cache import BLOCK
from understudy.engine.torch_engine import TorchEngine

BASE = ModelRef("base")


def engine_for(model: Any, **options: Any) -> TorchEngine:
    options = {"threads": 1, **options}
    return TorchEngine(model, "base", (2,), **options)


@torch.no_grad()
def teacher_logprobs(model: Any, prompt: list[int], sample: Sample, t: float = 1.0) -> list[float]:
    ids = torch.tensor([[*prompt, *sample.ids]])
    logits = model(ids).logits[0, len(prompt) - 1 : -1] / t
    return torch.log_softmax(logits, -1).gather(1, ids[0, len(prompt) :, None])[:, 0].tolist()


@torch.no_grad()
def check_greedy(model: Any, prompt: list[int], sample: Sample, limit: int) -> None:
    """Token by token what the argmax of a teacher-forced pass says, near-ties under 1e-5 apart."""
    ids = torch.tensor([[*prompt, *sample.ids]])
    top = model(ids).logits[0, len(prompt) - 1 : -1].topk(2, -1)
    for got, (first, second), values in zip(
        sample.ids, top.indices.tolist(), top.values.tolist(), strict=True
    ):
        if values[0] - values[1] < 1e-5:
            assert got in (first, second)
        else:
            assert got == first
    assert len(sample.ids) == limit or sample.ids[-1] == 2
    assert 2 not in sample.ids[:-1]


def prompts_for(n: int, shared: int, rng: random.Random) -> list[list[int]]:
    prefix = [rng.randrange(3, VOCAB) for _ in range(shared)]
    return [
        prefix + [rng.randrange(3, VOCAB) for _ in range(rng.randrange(1, 60))] for _ in range(n)
    ]


def max_gap(a: Any, b: Any) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("kernel", ["auto", "off"])
async def test_greedy_and_logprobs_with_interleaved_arrivals(family: str, kernel: str) -> None:
    model = make_model(family)
    rng = random.Random(1)
    prompts = prompts_for(12, 0, rng) + prompts_for(12, 90, rng)
    engine = engine_for(model, kernel=kernel)

    async def one(i: int, temperature: float) -> Sample:
        for _ in range(i % 5):
            await engine.sample([5, 6, 7], BASE, Sampling(max_tokens=2))
        return await engine.sample(prompts[i], BASE, Sampling(temperature, max_tokens=20))

    greedy = await asyncio.gather(*(one(i, 0.0) for i in range(len(prompts))))
    drawn = await asyncio.gather(*(one(i, 1.0) for i in range(len(prompts))))
    engine.close()
    for prompt, g, d in zip(prompts, greedy, drawn, strict=True):
        check_greedy(model, prompt, g, 20)
        assert max_gap(g.logprobs, teacher_logprobs(model, prompt, g)) < 1e-4
        assert max_gap(d.logprobs, teacher_logprobs(model, prompt, d)) < 1e-4


async def test_greedy_equals_generate() -> None:
    model = make_model()
    rng = random.Random(2)
    prompts = prompts_for(6, 80, rng)
    engine = engine_for(model)
    samples = await asyncio.gather(
        *(engine.sample(p, BASE, Sampling(0.0, max_tokens=16)) for p in prompts)
    )
    engine.close()
    for prompt, sample in zip(prompts, samples, strict=True):
        out = model.generate(
            torch.tensor([prompt]), max_new_tokens=16, do_sample=False, eos_token_id=2,
            attention_mask=torch.ones(1, len(prompt)),
        )  # fmt: skip
        assert list(sample.ids) == out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kernel", ["auto", "off"])
async def test_multi_turn_reuses_the_cache_exactly(kernel: str) -> None:
    model = make_model()
    rng = random.Random(3)
    engine = engine_for(model, kernel=kernel)
    engine.shards[0].cache.crowd = 1000
    system = [rng.randrange(3, VOCAB) for _ in range(100)]

    async def conversation(seed: int) -> None:
        own = random.Random(seed)
        ids = system + [own.randrange(3, VOCAB) for _ in range(10)]
        before = 0
        for turn in range(4):
            s = await engine.sample(ids, BASE, Sampling(max_tokens=12, seed=seed))
            assert max_gap(s.logprobs, teacher_logprobs(model, ids, s)) < 1e-4
            if turn:
                assert s.cached_tokens == before
            before = len(ids) + len(s.ids) - 1
            ids = [*ids, *s.ids] + [own.randrange(3, VOCAB) for _ in range(own.randrange(5, 30))]

    await asyncio.gather(*(conversation(i) for i in range(20)))
    entries = list(engine.shards[0].cache.entries)
    engine.close()
    assert [len(e.ids) for e in entries] == [len(system) // BLOCK * BLOCK]
