"""The sampled distribution, seeds, stops, limits, faults."""

import asyncio
import random

import numpy as np
import pytest
import torch
from engine_models import VOCAB, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_exactness import BASE, engine_for, max_gap, prompts_for, teacher_logprobs

from understudy.core.types import ModelRef, Sampling
from understudy.engine.sampling import draw, uniforms
from understudy.engine.torch_engine import EngineError, UnknownModelError


def draw_many(logits: torch.Tensor, t: float, p: float, k: int, n: int = 4000):
    rows = logits.repeat(n, 1)
    u = uniforms(np.arange(n, dtype=np.uint64), np.zeros(n, dtype=np.int64))
    return draw(rows, np.full(n, t), np.full(n, p), np.full(n, k), u)[:2]


def test_frequencies_follow_the_distribution() -> None:
    logits = torch.full((1, 128), -torch.inf)
    logits[0, [3, 40, 63, 64, 127]] = torch.tensor([1.0, 0.5, 0.0, -1.0, 0.7])
    ids, logprobs = draw_many(logits, 1.0, 1.0, 0, 20000)
    probs = torch.softmax(logits[0], -1)
    share = torch.bincount(ids, minlength=128) / len(ids)
    assert (share - probs).abs().max() < 4 * 0.5 / 20000**0.5
    assert torch.allclose(logprobs, probs.log()[ids], atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.05, 3), st.floats(0.05, 1), st.integers(0, 10))
def test_truncation_keeps_a_legal_set_and_its_logprobs(
    seed: int, t: float, p: float, k: int
) -> None:
    logits = torch.randn(1, 64, generator=torch.Generator().manual_seed(seed)) * 2
    ids, logprobs = draw_many(logits, t, p, k, 64)
    probs = torch.softmax(logits[0].double() / t, -1)
    order = probs.argsort(descending=True)
    kept = order[: k or 64]
    within = probs[kept] / probs[kept].sum()
    smallest = int((within.cumsum(0) < p - 1e-6).sum()) + 1
    allowed = kept[: smallest if p < 1 else len(kept)]
    assert set(ids.tolist()) <= set(kept[: smallest + 1].tolist())
    expected = (probs / probs[allowed].sum()).log()[ids]
    likely = torch.isin(ids, allowed)
    assert torch.allclose(logprobs[likely].double(), expected[likely], atol=2e-2 if p < 1 else 1e-4)


def test_uniforms_are_uniform_and_depend_on_seed_and_count() -> None:
    seeds = np.repeat(np.arange(100, dtype=np.uint64), 100)
    counts = np.tile(np.arange(100, dtype=np.int64), 100)
    u = uniforms(seeds, counts)
    assert len(np.unique(u)) == len(u)
    assert u.min() >= 0
    assert u.max() < 1
    assert np.abs(np.histogram(u, 10, (0, 1))[0] - 1000).max() < 150


async def test_a_seeded_request_does_not_see_its_company() -> None:
    engine = engine_for(make_model())
    rng = random.Random(1)
    prompt = prompts_for(1, 80, rng)[0]
    options = Sampling(0.8, max_tokens=30, seed=7)
    alone = await engine.sample(prompt, BASE, options)
    others = [engine.sample(p, BASE, Sampling(max_tokens=25)) for p in prompts_for(30, 20, rng)]
    crowd = await asyncio.gather(engine.sample(prompt, BASE, options), *others)
    different = await engine.sample(prompt, BASE, Sampling(0.8, max_tokens=30, seed=8))
    engine.close()
    assert crowd[0].ids == alone.ids
    assert max_gap(crowd[0].logprobs, alone.logprobs) < 1e-4
    assert different.ids != alone.ids


async def test_logprobs_are_of_the_tempered_distribution() -> None:
    model = make_model()
    engine = engine_for(model)
    prompt = prompts_for(1, 40, random.Random(2))[0]
    s = await engine.sample(prompt, BASE, Sampling(0.5, max_tokens=20))
    engine.close()
    assert max_gap(s.logprobs, teacher_logprobs(model, prompt, s, 0.5)) < 1e-4


async def test_stops_limits_and_finish_reasons() -> None:
    engine = engine_for(make_model(), decode_text=lambda ids: "".join(f"<{i}>" for i in ids))
    prompt = prompts_for(1, 40, random.Random(3))[0]
    whole = await engine.sample(prompt, BASE, Sampling(0, max_tokens=30))
    assert whole.finish_reason == ("stop" if whole.ids[-1] == 2 else "length")
    word = f"<{whole.ids[4]}>"
    first = next(i for i, t in enumerate(whole.ids) if f"<{t}>" == word)
    cut = await engine.sample(prompt, BASE, Sampling(0, max_tokens=30, stop=(word,)))
    assert (cut.ids, cut.finish_reason) == (whole.ids[: first + 1], "stop")
    short = engine_for(make_model(), context=len(prompt) + 5)
    sample = await short.sample(prompt, BASE, Sampling(0, max_tokens=30))
    assert len(sample.ids) <= 5
    with pytest.raises(ValueError, match="context is"):
        await short.sample(prompt * 2, BASE, Sampling())
    for bad in ([], [VOCAB], [-1]):
        with pytest.raises(ValueError, match="prompt"):
            await engine.sample(bad, BASE, Sampling())
    with pytest.raises(ValueError, match="max_tokens"):
        await engine.sample(prompt, BASE, Sampling(max_tokens=0))
    with pytest.raises(UnknownModelError):
        await engine.sample(prompt, ModelRef("other"), Sampling())
    engine.close()
    short.close()


async def test_chunks_are_the_sample_in_order() -> None:
    engine = engine_for(make_model())
    prompt = prompts_for(1, 40, random.Random(4))[0]
    seen: list[int] = []
    s = await engine.sample(prompt, BASE, Sampling(max_tokens=15), on_chunk=seen.extend)
    engine.close()
    assert tuple(seen) == s.ids


async def test_a_cancelled_request_frees_its_slot() -> None:
    engine = engine_for(make_model(), max_slots=1)
    prompt = prompts_for(1, 40, random.Random(5))[0]
    started = asyncio.Event()
    task = asyncio.create_task(
        engine.sample(prompt, BASE, Sampling(max_tokens=800), on_chunk=lambda _: started.set())
    )
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    after = await engine.sample(prompt, BASE, Sampling(max_tokens=3))
    assert len(after.ids) <= 3
    assert engine.shards[0].load == 0
    assert engine.counters().steps < 700
    engine.close()


async def test_more_requests_than_slots_wait_their_turn() -> None:
    model = make_model()
    engine = engine_for(model, max_slots=3)
    prompts = prompts_for(20, 0, random.Random(6))
    samples = await asyncio.gather(
        *(engine.sample(p, BASE, Sampling(max_tokens=6)) for p in prompts)
    )
    engine.close()
    for p, s in zip(prompts, samples, strict=True):
        assert max_gap(s.logprobs, teacher_logprobs(model, p, s)) < 1e-4


async def test_a_broken_adapter_fails_alone() -> None:
    engine = engine_for(make_model())
    state = {k: torch.full_like(v, torch.nan) for k, v in make_model().state_dict().items()}
    broken = engine.load_weights(ModelRef("base", "nan"), state)
    prompt = prompts_for(1, 40, random.Random(7))[0]
    results = await asyncio.gather(
        engine.sample(prompt, broken, Sampling(max_tokens=5)),
        engine.sample(prompt, BASE, Sampling(max_tokens=5)),
        return_exceptions=True,
    )
    engine.close()
    assert isinstance(results[0], EngineError)
    assert "NaN" in str(results[0])
    assert not isinstance(results[1], BaseException)
    with pytest.raises(EngineError, match="closed"):
        await engine.sample(prompt, BASE, Sampling())


async def test_two_shards_answer_as_one(renderer: object) -> None:
    model = make_model()
    engine = engine_for(model, threads=2)
    prompts = prompts_for(16, 70, random.Random(8))
    for _ in range(2):
        samples = await asyncio.gather(
            *(engine.sample(p, BASE, Sampling(max_tokens=8)) for p in prompts)
        )
        for p, s in zip(prompts, samples, strict=True):
            assert max_gap(s.logprobs, teacher_logprobs(model, p, s)) < 1e-4
        prompts = [[*p, *s.ids, 7, 8] for p, s in zip(prompts, samples, strict=True)]
    again = await engine.sample(prompts[3], BASE, Sampling(max_tokens=8))
    engine.close()
    assert again.cached_tokens == len(prompts[3]) - 3
