"""The engine's logprobs are the trainer's: relative error of the norm, in both precisions."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from engine_models import make_model
from test_engine_exactness import BASE, engine_for, prompts_for

from understudy.core.rows import Entry, Row
from understudy.core.types import ModelRef, Sample, Sampling
from understudy.engine.torch_engine import TorchEngine
from understudy.models.lora import LoraConfig, adapter_tensors, inject_lora, set_adapter_tensors
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer

BOUND = {torch.float32: 1e-5, torch.float64: 1e-10}
LORA = LoraConfig(rank=4, alpha=8, seed=1)
PRECISIONS = [torch.float32, torch.float64]


def in_precision(model: Any, dtype: torch.dtype) -> Any:
    """Hugging Face's norms work in float32 whatever the model's type: float64 gets exact ones."""
    if dtype == torch.float64:
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if type(child).__name__.endswith("RMSNorm"):
                    norm = torch.nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon)
                    norm.load_state_dict(child.state_dict())
                    setattr(parent, name, norm)
    return model.to(dtype)


def adapted(family: str, dtype: torch.dtype) -> Any:
    model = in_precision(make_model(family), dtype)
    inject_lora(model, LORA)
    return model


def rows_of(prompts: Sequence[Sequence[int]], samples: Sequence[Sample]) -> list[Row]:
    """The rows that train on what was sampled, their weights of both signs."""
    rows = []
    for i, (prompt, sample) in enumerate(zip(prompts, samples, strict=True)):
        weight = 1.0 if i % 2 else -1.0
        entries = tuple(
            Entry(len(prompt) + t - 1, token, "rl", weight, logprob, f"s{i}")
            for t, (token, logprob) in enumerate(zip(sample.ids, sample.logprobs, strict=True))
        )
        rows.append(Row((*prompt, *sample.ids), entries))
    return rows


def flat(values: Sequence[Sequence[float]]) -> torch.Tensor:
    return torch.tensor([v for row in values for v in row], dtype=torch.float64)


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def anchors(rows: Sequence[Row]) -> torch.Tensor:
    return flat([[e.anchor for e in row.entries if e.anchor is not None] for row in rows])


async def sampled(
    engine: TorchEngine, ref: ModelRef, prompts: list[list[int]], temperature: float
) -> list[Row]:
    samples = await asyncio.gather(
        *(
            engine.sample(p, ref, Sampling(temperature, max_tokens=16, seed=i))
            for i, p in enumerate(prompts)
        )
    )
    return rows_of(prompts, samples)


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_recorded_logprobs_are_the_trainers(
    family: str, dtype: torch.dtype, temperature: float
) -> None:
    """Prompts with a shared prefix, so that prefix entries, prefill and decode all take part."""
    model = in_precision(make_model(family), dtype)
    engine = engine_for(model)
    prompts = prompts_for(5, 90, random.Random(1)) + prompts_for(3, 0, random.Random(2))
    rows = await sampled(engine, BASE, prompts, temperature)
    again = await sampled(engine, BASE, [list(r.ids) for r in rows], temperature)
    engine.close()
    trainer = Trainer(model, TrainerConfig(temperature=temperature))
    for part in (rows, again):
        assert relative_error(anchors(part), flat(trainer.logprobs(part))) < BOUND[dtype]


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("dtype", PRECISIONS)
async def test_a_delivered_adapter_moves_the_engine_to_the_trainer(
    family: str, dtype: torch.dtype
) -> None:
    """After the trainer's steps the engine samples and scores as the trainer does, and before the
    delivery as it did."""
    model = adapted(family, dtype)
    trainer = Trainer(model, TrainerConfig(lr=2e-2))
    engine = engine_for(in_precision(make_model(family), dtype))
    actor = ModelRef("base", "actor")
    engine.load_weights(actor, adapter_tensors(model), LORA)
    prompts = prompts_for(6, 70, random.Random(3))
    rows = await sampled(engine, actor, prompts, 1.0)
    old = flat(trainer.logprobs(rows))
    for _ in range(2):
        trainer.step(rows)
    new = flat(trainer.logprobs(rows))
    assert relative_error(new, old) > 1e-2

    async def scored(ref: ModelRef) -> torch.Tensor:
        scores = [await engine.score(row.ids, ref) for row in rows]
        return flat(
            [
                [s.logprobs[e.position] for e in row.entries]
                for s, row in zip(scores, rows, strict=True)
            ]
        )

    assert relative_error(await scored(actor), old) < BOUND[dtype]
    engine.load_weights(actor, adapter_tensors(model), LORA)
    assert relative_error(await scored(actor), new) < BOUND[dtype]
    alone = await sampled(engine, actor, prompts, 1.0)
    mixed, _ = await asyncio.gather(
        sampled(engine, actor, prompts, 1.0), sampled(engine, BASE, prompts[:2], 1.0)
    )
    engine.close()
    for part in (alone, mixed):
        assert relative_error(anchors(part), flat(trainer.logprobs(part))) < BOUND[dtype]


def test_the_kernel_is_for_float32_alone() -> None:
    engines = [engine_for(in_precision(make_model(), dtype)) for dtype in PRECISIONS]
    off = engine_for(make_model(), kernel="off")
    for engine in (*engines, off):
        engine.close()
    assert not engines[1].has_kernel
    assert not off.has_kernel


@pytest.mark.parametrize("family", ["qwen3", "llama"])
async def test_on_a_bf16_base_both_are_as_near_to_float32(family: str) -> None:
    """With an adapter in float32 that the trainer has moved: neither is farther from the model of
    the same numbers in float32 than bf16's rounding is."""
    models = [make_model(family) for _ in range(2)]
    for model in models:
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()
    half, exact = models[0], models[1].float()
    for model in models:
        inject_lora(model, LORA)
    trainer = Trainer(half, TrainerConfig(lr=2e-2, precision="bf16"))
    engine = engine_for(half)
    actor = ModelRef("base", "actor")
    prompts = prompts_for(6, 70, random.Random(3))
    engine.load_weights(actor, adapter_tensors(half), LORA)
    before = await sampled(engine, actor, prompts, 1.0)
    for _ in range(3):
        trainer.step(before)
    set_adapter_tensors(exact, adapter_tensors(half))
    wanted = Trainer(exact, TrainerConfig())
    assert relative_error(flat(wanted.logprobs(before)), anchors(before)) > 0.05  # it has moved
    engine.load_weights(actor, adapter_tensors(half), LORA)
    rows = await sampled(engine, actor, prompts, 1.0)
    engine.close()
    assert relative_error(anchors(rows), flat(wanted.logprobs(rows))) < 0.03
    assert relative_error(flat(trainer.logprobs(rows)), flat(wanted.logprobs(rows))) < 0.03
