"""Adapters in the engine: delivery, mixed batches, versions, isolation of prefixes."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import make_model
from test_engine_exactness import BASE, engine_for, max_gap, prompts_for, teacher_logprobs

from understudy.core.types import ModelRef, Sampling
from understudy.engine.adapters import merge
from understudy.engine.torch_engine import TorchEngine, UnknownModelError
from understudy.models.adapters import save_adapter
from understudy.models.lora import LoraConfig, adapter_tensors, inject_lora, lora_parameters


def adapted(family: str, seed: int, rank: int = 4) -> tuple[Any, LoraConfig]:
    model, config = make_model(family), LoraConfig(rank=rank, alpha=8, seed=seed)
    inject_lora(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in lora_parameters(model):
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return model, config


@pytest.mark.parametrize("family", ["qwen3", "llama"])
async def test_mixed_adapters_equal_each_alone(family: str) -> None:
    """Five adapters of different ranks and the base: two with many rows, four with few."""
    models = [adapted(family, seed, rank) for seed, rank in enumerate((4, 8, 2, 4, 4), start=1)]
    engine = engine_for(make_model(family))
    refs = [BASE]
    for i, (model, config) in enumerate(models):
        ref = ModelRef("base", f"a{i}")
        refs.append(engine.load_weights(ref, adapter_tensors(model), config))
    teachers = [make_model(family)] + [m for m, _ in models]
    who = [0, 0, 3, 4, 5, 5] + [1] * 10 + [2] * 9
    prompts = prompts_for(len(who), 70, random.Random(5))
    samples = await asyncio.gather(
        *(
            engine.sample(p, refs[w], Sampling(max_tokens=10, seed=i))
            for i, (p, w) in enumerate(zip(prompts, who, strict=True))
        )
    )
    for i in (0, 2, 3, 4, 6, 16):
        expected = teacher_logprobs(teachers[who[i]], prompts[i], samples[i])
        assert max_gap(samples[i].logprobs, expected) < 1e-4
        wrong = teacher_logprobs(teachers[who[i] - 1], prompts[i], samples[i])
        assert max_gap(samples[i].logprobs, wrong) > 1e-2
        fresh = engine_for(make_model(family))
        if who[i]:
            model, config = models[who[i] - 1]
            fresh.load_weights(refs[who[i]], adapter_tensors(model), config)
        alone = await fresh.sample(prompts[i], refs[who[i]], Sampling(max_tokens=10, seed=i))
        fresh.close()
        assert alone.ids == samples[i].ids
        assert max_gap(alone.logprobs, samples[i].logprobs) < 1e-4
    engine.close()


async def test_delivery_moves_the_logprobs_to_the_trainers() -> None:
    """A training step, then the engine's scores are the trained model's and not the old ones."""
    model, config = adapted("qwen3", 1)
    engine = engine_for(make_model())
    ids = prompts_for(1, 60, random.Random(1))[0]
    row = torch.tensor([ids])

    def trained() -> list[float]:
        with torch.no_grad():
            logprobs = torch.log_softmax(model(row).logits[0, :-1], -1)
        return logprobs.gather(1, row[0, 1:, None])[:, 0].tolist()

    actor = ModelRef("base", "actor")
    engine.load_weights(actor, adapter_tensors(model), config)
    before = (await engine.score(ids, actor)).logprobs
    assert max_gap(before, trained()) < 1e-4
    optimizer = torch.optim.SGD(lora_parameters(model), lr=0.05)
    model(row, labels=row).loss.backward()
    optimizer.step()
    assert max_gap((await engine.score(ids, actor)).logprobs, before) == 0
    ref = engine.load_weights(actor, adapter_tensors(model), config)
    after = (await engine.score(ids, actor)).logprobs
    engine.close()
    assert ref.version == 2
    assert max_gap(after, before) > 1e-3
    assert max_gap(after, trained()) < 1e-4


async def test_full_fine_tune_is_served_as_weights_of_its_own() -> None:
    engine, other = engine_for(make_model()), make_model(seed=7)
    ref = engine.load_weights(ModelRef("base", "full"), other.state_dict())
    prompt = prompts_for(1, 30, random.Random(4))[0]
    a, b = await asyncio.gather(
        engine.sample(prompt, ref, Sampling(max_tokens=8)),
        engine.sample(prompt, BASE, Sampling(max_tokens=8)),
    )
    engine.close()
    assert max_gap(a.logprobs, teacher_logprobs(other, prompt, a)) < 1e-4
    assert max_gap(b.logprobs, teacher_logprobs(make_model(), prompt, b)) < 1e-4


async def test_a_replaced_adapter_never_serves_a_stale_prefix() -> None:
    engine = engine_for(make_model())
    prompt = prompts_for(1, 120, random.Random(6))[0]
    name = ModelRef("base", "actor")
    for seed in (1, 2, 3, 4):
        model, config = adapted("qwen3", seed)
        engine.load_weights(name, adapter_tensors(model), config)
        first = await engine.sample(prompt, name, Sampling(max_tokens=6))
        again = await engine.sample(prompt, name, Sampling(max_tokens=6))
        assert (first.cached_tokens, again.cached_tokens) == (0, len(prompt) - 1)
        for s in (first, again):
            assert s.model.version == seed
            assert max_gap(s.logprobs, teacher_logprobs(model, prompt, s)) < 1e-4
    kept = {m.ref.version for m in engine.models() if m.ref.adapter}
    engine.close()
    assert kept == {3, 4}


async def test_what_is_in_flight_keeps_its_version() -> None:
    engine = engine_for(make_model())
    prompt = prompts_for(1, 40, random.Random(8))[0]
    name = ModelRef("base", "actor")
    models = [adapted("qwen3", seed) for seed in (1, 2)]
    engine.load_weights(name, adapter_tensors(models[0][0]), models[0][1])
    running = asyncio.Event()
    options = Sampling(max_tokens=200)
    task = asyncio.create_task(
        engine.sample(prompt, name, options, on_chunk=lambda _: running.set())
    )
    await running.wait()
    engine.load_weights(name, adapter_tensors(models[1][0]), models[1][1])
    await engine.unload(ModelRef("base", "actor", 1))
    old, new = await task, await engine.sample(prompt, name, Sampling(max_tokens=9))
    engine.close()
    assert (old.model.version, new.model.version) == (1, 2)
    assert max_gap(old.logprobs, teacher_logprobs(models[0][0], prompt, old)) < 1e-4
    assert max_gap(new.logprobs, teacher_logprobs(models[1][0], prompt, new)) < 1e-4


async def test_adapters_from_disk_and_their_faults(tmp_path: Path) -> None:
    model, config = adapted("qwen3", 1)
    save_adapter(tmp_path / "a", adapter_tensors(model), config, "base", {"prompt": "x"})
    engine = engine_for(make_model())
    await engine.load(ModelRef("base", "a"), str(tmp_path / "a"))
    prompt = prompts_for(1, 20, random.Random(9))[0]
    sample = await engine.sample(prompt, ModelRef("base", "a"), Sampling(max_tokens=6))
    assert max_gap(sample.logprobs, teacher_logprobs(model, prompt, sample)) < 1e-4
    assert engine.resolve(ModelRef("base", "a")).metadata == {"prompt": "x"}
    await engine.unload(ModelRef("base", "a"))
    with pytest.raises(UnknownModelError, match="there are: base"):
        await engine.sample(prompt, ModelRef("base", "a"), Sampling())
    wide = make_model(width=96)
    inject_lora(wide, config)
    with pytest.raises(ValueError, match="another base"):
        engine.load_weights(ModelRef("base", "w"), adapter_tensors(wide), config)
    engine.close()


def test_merging_equals_the_low_rank_products() -> None:
    model, config = adapted("qwen3", 1)
    engine = TorchEngine(make_model(), "base", (2,), threads=1)
    ref = engine.load_weights(ModelRef("base", "a"), adapter_tensors(model), config)
    merged = merge(engine.resolve(BASE).weights, engine.resolve(ref))  # type: ignore[arg-type]
    engine.close()
    layer = model.model.layers[1].mlp.down_proj
    delta = config.scale * layer.lora_B @ layer.lora_A
    assert torch.allclose(merged.blocks[1].down.dense(), layer.weight + delta, atol=1e-6)
