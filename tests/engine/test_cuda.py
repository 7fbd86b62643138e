"""The engine on a GPU: graphs replayed, attention by Triton, against passes of the same model on a
CPU. What can be shown without a GPU is in test_graphs, test_paged and test_other_device."""

import asyncio
import random
from typing import Any

import pytest
import torch
from engine_models import VOCAB, make_model
from test_adapters import adapted
from test_engine_equals_trainer import flat, relative_error
from test_engine_exactness import BASE, engine_for, max_gap, prompts_for, teacher_logprobs

from understudy.core.types import ModelRef, Sample, Sampling
from understudy.engine.paged import _difference, paged_for
from understudy.engine.torch_engine import TorchEngine
from understudy.engine.weights import Shape
from understudy.models.lora import adapter_tensors

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

WAYS = [
    pytest.param({}, id="graphs"),
    pytest.param({"kernel": "off"}, id="graphs-without-triton"),
    pytest.param({"graphs": False}, id="step-by-step"),
]


def on_gpu(family: str = "qwen3", **options: Any) -> TorchEngine:
    return engine_for(make_model(family).cuda(), memory=64 << 20, **options)


@torch.no_grad()
def top_gaps(model: Any, prompt: list[int], sample: Sample) -> list[float]:
    """How far each token that was taken is below the likeliest."""
    ids = torch.tensor([[*prompt, *sample.ids]])
    logits = model(ids).logits[0, len(prompt) - 1 : -1]
    taken = logits.gather(1, ids[0, len(prompt) :, None])[:, 0]
    return (logits.amax(1) - taken).tolist()


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("options", WAYS)
async def test_greedy_and_logprobs_with_interleaved_arrivals(family: str, options: Any) -> None:
    model, engine, rng = make_model(family), on_gpu(family, **options), random.Random(1)
    prompts = prompts_for(12, 0, rng) + prompts_for(12, 90, rng)

    async def one(i: int, temperature: float) -> Sample:
        for _ in range(i % 5):
            await engine.sample([5, 6, 7], BASE, Sampling(max_tokens=2))
        return await engine.sample(prompts[i], BASE, Sampling(temperature, max_tokens=40))

    greedy = await asyncio.gather(*(one(i, 0.0) for i in range(len(prompts))))
    drawn = await asyncio.gather(*(one(i, 1.0) for i in range(len(prompts))))
    graphs = engine.shards[0].graphs
    engine.close()
    for prompt, g, d in zip(prompts, greedy, drawn, strict=True):
        assert max(top_gaps(model, prompt, g)) < 1e-4
        assert max_gap(g.logprobs, teacher_logprobs(model, prompt, g)) < 1e-4
        assert max_gap(d.logprobs, teacher_logprobs(model, prompt, d)) < 1e-4
    assert (graphs is None) == (options.get("graphs") is False)
    if graphs is not None:
        captured = [c for shapes in graphs.seen.values() for c in shapes.values()]
        assert captured
        assert all(c is not None for c in captured), "a shape ran without its graph"


@pytest.mark.parametrize("options", WAYS)
async def test_turns_behind_a_common_prompt(options: Any) -> None:
    model, engine, rng = make_model(), on_gpu(**options), random.Random(3)
    system = [rng.randrange(3, VOCAB) for _ in range(100)]

    async def conversation(seed: int) -> None:
        own = random.Random(seed)
        ids = system + [own.randrange(3, VOCAB) for _ in range(10)]
        for turn in range(4):
            s = await engine.sample(ids, BASE, Sampling(max_tokens=12, seed=seed))
            assert max_gap(s.logprobs, teacher_logprobs(model, ids, s)) < 1e-4
            assert not turn or s.cached_tokens >= 100
            ids = [*ids, *s.ids] + [own.randrange(3, VOCAB) for _ in range(own.randrange(5, 30))]

    await asyncio.gather(*(conversation(i) for i in range(20)))
    engine.close()


@pytest.mark.parametrize("options", WAYS)
async def test_adapters_in_one_batch_and_replaced(options: Any) -> None:
    """Of different ranks, with the base, each replaced by its next version while others stay; then
    one alone, on merged weights."""
    engine = on_gpu(**options)
    prompts = prompts_for(12, 70, random.Random(5))
    for version in (1, 2, 3):
        models = [adapted("qwen3", 10 * version + i, 2 + 3 * i) for i in range(4)]
        refs = [
            engine.load_weights(ModelRef("base", f"a{i}"), adapter_tensors(m), config)
            for i, (m, config) in enumerate(models)
        ]
        teachers = [make_model(), *(m for m, _ in models)]
        who = [i % 5 for i in range(len(prompts))]
        samples = await asyncio.gather(
            *(
                engine.sample(p, [BASE, *refs][w], Sampling(max_tokens=10, seed=i))
                for i, (p, w) in enumerate(zip(prompts, who, strict=True))
            )
        )
        alone = await engine.sample(prompts[1], refs[0], Sampling(max_tokens=10, seed=1))
        for p, s, w in zip([*prompts, prompts[1]], [*samples, alone], [*who, 1], strict=True):
            assert max_gap(s.logprobs, teacher_logprobs(teachers[w], p, s)) < 1e-4
    engine.close()


async def test_in_bf16_it_is_as_near_to_float32_as_bf16_is() -> None:
    half, exact = make_model().bfloat16(), make_model().bfloat16().float()
    engine = engine_for(half.cuda(), memory=64 << 20)
    prompts = prompts_for(12, 90, random.Random(3))
    samples = await asyncio.gather(
        *(engine.sample(p, BASE, Sampling(max_tokens=16, seed=i)) for i, p in enumerate(prompts))
    )
    engine.close()
    expected = [teacher_logprobs(exact, p, s) for p, s in zip(prompts, samples, strict=True)]
    assert relative_error(flat([s.logprobs for s in samples]), flat(expected)) < 0.03


@pytest.mark.parametrize("sizes", [(4, 2, 32), (16, 8, 128), (32, 8, 128), (8, 1, 64)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_tritons_attention_is_torchs(
    sizes: tuple[int, int, int], dtype: torch.dtype, bound: float
) -> None:
    pytest.importorskip("triton")
    shape, gpu = Shape(1, 64, *sizes, 64, 100, 1e-6, 100), torch.device("cuda", 0)
    assert _difference(shape, dtype, gpu) < bound
    assert paged_for(shape, dtype, gpu) is not None
