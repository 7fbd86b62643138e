"""The engine at the size that is promised: 200 prompts against generate, 32 adapters in a batch."""

import asyncio
import random

import pytest
import torch
from engine_models import make_model
from test_adapters import adapted
from test_engine_exactness import BASE, engine_for, max_gap, prompts_for, teacher_logprobs

from understudy.core.types import ModelRef, Sample, Sampling
from understudy.models.lora import adapter_tensors

LIMIT = 12


@torch.no_grad()
def near_tie(model: torch.nn.Module, ids: list[int]) -> bool:
    """Whether the two likeliest tokens after `ids` are less than 1e-5 apart."""
    first, second = model(torch.tensor([ids])).logits[0, -1].topk(2).values.tolist()
    return bool(first - second < 1e-5)


@pytest.mark.parametrize("kernel", ["auto", "off"])
async def test_two_hundred_prompts_equal_generate(kernel: str) -> None:
    """Greedy, token by token, prompts of 1 to 290 tokens, every fourth behind a common prefix,
    arriving while others decode. From a near-tie on, which is counted, the rest may differ."""
    model, rng = make_model(), random.Random(11)
    prompts = [
        p[: rng.randrange(1, 291)]
        for p in prompts_for(150, 230, rng)[:50] + [prompts_for(1, 231, rng)[0] for _ in range(150)]
    ]
    engine = engine_for(model, kernel=kernel, wave_tokens=512)

    async def one(i: int) -> Sample:
        for _ in range(i % 7):
            await engine.sample([5, 6, 7], BASE, Sampling(max_tokens=2))
        return await engine.sample(prompts[i], BASE, Sampling(0.0, max_tokens=LIMIT))

    samples = await asyncio.gather(*(one(i) for i in range(200)))
    engine.close()
    ties = 0
    for prompt, sample in zip(prompts, samples, strict=True):
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=LIMIT, do_sample=False, eos_token_id=2,
            attention_mask=torch.ones(1, len(prompt)),
        )[0, len(prompt) :].tolist()  # fmt: skip
        if list(sample.ids) != expected:
            pairs = zip(sample.ids, expected, strict=False)
            same = next(n for n, (a, b) in enumerate(pairs) if a != b)
            assert near_tie(model, [*prompt, *expected[:same]])
            ties += 1
    assert ties <= 2


@pytest.mark.parametrize("kernel", ["auto", "off"])
async def test_thirty_two_adapters_equal_each_alone(kernel: str) -> None:
    """Three requests an adapter in one batch, with those to the bare base; then each alone, where
    the adapter is merged."""
    models = [adapted("qwen3", seed, 2 + seed % 7) for seed in range(1, 33)]
    engine = engine_for(make_model(), kernel=kernel)
    refs = [
        engine.load_weights(ModelRef("base", f"a{i}"), adapter_tensors(model), config)
        for i, (model, config) in enumerate(models)
    ]
    prompts = prompts_for(3, 60, random.Random(12))
    asked = [(p, r) for r in [BASE, *refs] for p in prompts]

    async def all_of() -> list[Sample]:
        return await asyncio.gather(
            *(engine.sample(p, r, Sampling(max_tokens=8, seed=i)) for i, (p, r) in enumerate(asked))
        )

    mixed = await all_of()
    steps = engine.counters().steps
    alone = [
        await engine.sample(p, r, Sampling(max_tokens=8, seed=i)) for i, (p, r) in enumerate(asked)
    ]
    engine.close()
    assert steps < 30, "they were not decoded together"
    for together, single in zip(mixed, alone, strict=True):
        assert together.ids == single.ids
        assert max_gap(together.logprobs, single.logprobs) < 1e-4
    for i in (0, 13, 31):
        n = 3 * (i + 1)
        expected = teacher_logprobs(models[i][0], prompts[0], mixed[n])
        assert max_gap(mixed[n].logprobs, expected) < 1e-4
