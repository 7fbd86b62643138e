"""The kernel's low-rank products, and adapters in half precision."""

import asyncio
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_models import make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_adapters import adapted
from test_engine_exactness import engine_for, max_gap, prompts_for, teacher_logprobs

from understudy.core.types import ModelRef, Sampling
from understudy.engine.adapters import Model, Part, SiteLora
from understudy.engine.kernel import Kernel, build_kernel
from understudy.engine.lora_batch import SingleRows
from understudy.models.adapters import save_adapter
from understudy.models.lora import LoraConfig, adapter_tensors, lora_layers


def kernel() -> Kernel:
    built = build_kernel(16, 2, 2)
    if built is None:
        pytest.skip("no C compiler here")
    return built


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.lists(st.integers(1, 300), min_size=3, max_size=3),
    st.integers(1, 50),
    st.booleans(),
    st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_products_of_any_shape_equal_torch(
    ranks: list[int], widths: list[int], width_in: int, half: bool, seed: int
) -> None:
    """Parts of any rank and width, in float32 and in bfloat16; rows in any order."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if half else torch.float32

    def random_matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    def adapter() -> SiteLora:
        parts = []
        first = column = 0
        for rank, width in zip(ranks, widths, strict=False):
            parts.append(Part(first, column, random_matrix(rank, width)))
            first, column = first + rank, column + width
        return SiteLora(random_matrix(width_in, first), tuple(parts), column)

    sites = [adapter() for _ in range(3)]
    models = [Model(ModelRef("base", f"a{i}"), lora=({"o": s},)) for i, s in enumerate(sites)]
    rows = [np.array([4, 0]), np.array([1]), np.array([3])]  # row 2 is of no adapter
    x = torch.randn(5, width_in, generator=generator)
    y = torch.randn(5, sites[0].width, generator=generator)
    expected = y.double()
    for site, own in zip(sites, rows, strict=True):
        expected[own] += x[own].double() @ site.a.double() @ site.b().double()
    kernel().lora_add(SingleRows(models, rows).add(0, "o", x, y))
    assert torch.allclose(y.double(), expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(y[2].double(), expected[2])


async def mixed(tmp_path: Path, scale: float, half: bool) -> list[torch.dtype]:
    """Three adapters that are stored in bfloat16, each equal to its own model; the types that the
    engine keeps them in."""
    kernel()
    engine = engine_for(make_model(), half_adapters=half)
    config = LoraConfig(rank=4, alpha=4 * scale)
    teachers, refs = [], []
    for seed in (1, 2, 3):
        model, _ = adapted("qwen3", seed)
        rounded = {n: t.bfloat16() for n, t in adapter_tensors(model).items()}
        for _, layer in lora_layers(model):
            layer.scale = scale
            for p in (layer.lora_A, layer.lora_B):
                p.data = p.data.bfloat16().float()
        ref = ModelRef("base", f"a{seed}")
        save_adapter(tmp_path / f"a{seed}", rounded, config, "base")
        await engine.load(ref, str(tmp_path / f"a{seed}"))
        teachers.append(model)
        refs.append(ref)
    prompts = prompts_for(3, 40, random.Random(2))
    samples = await asyncio.gather(
        *(engine.sample(p, r, Sampling(max_tokens=8)) for p, r in zip(prompts, refs, strict=True))
    )
    for teacher, prompt, sample in zip(teachers, prompts, samples, strict=True):
        allowed = 0.05 if half and scale == 3 else 1e-4
        assert max_gap(sample.logprobs, teacher_logprobs(teacher, prompt, sample)) < allowed
    kept = [engine.resolve(r).lora[0]["o"].a.dtype for r in refs]
    engine.close()
    return kept


async def test_what_is_stored_in_half_precision_is_kept_so(tmp_path: Path) -> None:
    assert set(await mixed(tmp_path, 2.0, half=False)) == {torch.bfloat16}


async def test_a_scale_that_would_round_keeps_it_whole(tmp_path: Path) -> None:
    assert set(await mixed(tmp_path, 3.0, half=False)) == {torch.float32}
    assert set(await mixed(tmp_path, 3.0, half=True)) == {torch.bfloat16}


async def test_half_the_memory_on_demand() -> None:
    kernel()
    model, config = adapted("qwen3", 1)
    kept = []
    for half in (False, True):
        engine = engine_for(make_model(), half_adapters=half)
        ref = engine.load_weights(ModelRef("base", "a"), adapter_tensors(model), config)
        kept.append(engine.resolve(ref).lora[0]["o"].a.dtype)
        engine.close()
    assert kept == [torch.float32, torch.bfloat16]
    with pytest.raises(ValueError, match="C kernel"):
        engine_for(make_model(), half_adapters=True, kernel="off")
