"""Static batches, which a GPU replays as CUDA graphs, give what dynamic ones do. Run here without
capture; tests/engine/test_cuda.py replays them where there is a GPU."""

import asyncio
import gc
import logging
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import VOCAB, make_model
from hypothesis import given
from hypothesis import strategies as st
from test_adapters import adapted
from test_engine_exactness import BASE, engine_for, max_gap, prompts_for, teacher_logprobs

from understudy.core.types import ModelRef, Sampling
from understudy.engine.adapters import Model, lora_sites
from understudy.engine.cache import BLOCK, Cache
from understudy.engine.decoder import DecodeBatch, Decoder, PrefillBatch
from understudy.engine.graphs import Graphs, size_for
from understudy.engine.kernel import build_kernel
from understudy.engine.lora_batch import LoraBatch, Stacks
from understudy.engine.lora_columns import MOST, Columns
from understudy.engine.weights import Weights, fuse, rope_tables, shape_of
from understudy.models.lora import LoraConfig, adapter_tensors, inject_lora, lora_parameters

CPU = torch.device("cpu")


@given(n=st.integers(1, 5000))
def test_a_size_is_large_enough_and_wastes_little(n: int) -> None:
    size = size_for(n)
    assert n <= size < 2 * n
    assert n < 16 or size <= 1.5 * n
    assert size_for(size) == size


def test_there_are_few_sizes() -> None:
    assert len({size_for(n) for n in range(1, 513)}) <= 15


@dataclass
class Filled:
    """Sequences of several lengths in a static cache, whose unused memory is NaN."""

    weights: Weights
    decoder: Decoder
    graphs: Graphs
    slots: np.ndarray
    next_ids: np.ndarray

    def dynamic(self, weights: Weights, lora: LoraBatch | None = None) -> torch.Tensor:
        batch = DecodeBatch(self.decoder, self.slots, self.next_ids, [])
        hidden = self.decoder.forward(weights, batch, lora)
        return self.decoder.logits(weights, hidden)[:, :VOCAB]

    def static(self, weights: Weights, models: list[Model] | None = None) -> torch.Tensor:
        hidden = self.graphs.hidden(weights, self.slots, self.next_ids, models or [])
        assert hidden is not None
        return self.decoder.logits(weights, hidden)[:, :VOCAB]


@torch.inference_mode()
def filled(model: Any, lengths: list[int], kernel: bool = False) -> Filled:
    shape = shape_of(model.config)
    weights = fuse(model.state_dict(), shape, bool(model.config.tie_word_embeddings))
    cache = Cache(shape, 64, torch.float32, CPU, 300 * BLOCK, static=True)
    for kv in cache.kv:
        kv.fill_(torch.nan)
    compiled = build_kernel(shape.head_dim, shape.kv_heads, shape.group) if kernel else None
    decoder = Decoder(cache, rope_tables(model, 1024, CPU, torch.float32), compiled)
    rng, base = random.Random(0), Model(BASE, weights=weights)
    slots = []
    for n in lengths:
        ids = np.array(rng.choices(range(3, VOCAB), k=n), dtype=np.int32)
        slot = cache.take()
        assert slot is not None
        cache.reserve(slot, n + 1)
        cache.activate(slot, base.kv, ids, n + 1)
        decoder.forward(weights, PrefillBatch(decoder, [slot], [ids]))
        cache.lengths[slot.index] = n
        slots.append(slot.index)
    next_ids = np.array(rng.choices(range(3, VOCAB), k=len(lengths)), dtype=np.int64)
    return Filled(weights, decoder, Graphs(decoder, weights), np.array(slots), next_ids)


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 8, 17])
@torch.inference_mode()
def test_a_static_step_is_the_dynamic_one(family: str, kernel: bool, rows: int) -> None:
    """Padded rows and tables filled up change nothing, though all that is not theirs is NaN."""
    lengths = [(37 * i) % 211 + 1 for i in range(rows)]
    here = filled(make_model(family), lengths, kernel)
    before = [kv.clone() for kv in here.decoder.cache.kv]
    expected = here.dynamic(here.weights)
    after = [kv.clone() for kv in here.decoder.cache.kv]
    for kv, old in zip(here.decoder.cache.kv, before, strict=True):
        kv.copy_(old)
    assert torch.allclose(here.static(here.weights), expected, atol=1e-5)
    blocks, at = (
        here.decoder.cache.tables[here.slots, np.array(lengths) // BLOCK],
        np.array(lengths),
    )
    for kv, old, other in zip(here.decoder.cache.kv, before, after, strict=True):
        assert torch.allclose(kv[:-1], other[:-1], atol=1e-5, equal_nan=True)
        kv[blocks, :, :, at % BLOCK] = old[blocks, :, :, at % BLOCK]
        assert torch.equal(kv[:-1].nan_to_num(7), old[:-1].nan_to_num(7)), "others' memory changed"


def lora_of(seed: int, rank: int, **options: Any) -> tuple[Any, LoraConfig]:
    model, config = make_model(), LoraConfig(rank=rank, alpha=8, seed=seed, **options)
    inject_lora(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in lora_parameters(model):
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return model, config


def loaded(weights: Weights, seed: int, rank: int, **options: Any) -> Model:
    model, config = lora_of(seed, rank, **options)
    sites = lora_sites(adapter_tensors(model), config, weights.shape, weights.embed)
    return Model(ModelRef("base", f"a{seed}", 1), lora=sites)


@torch.inference_mode()
def test_adapters_side_by_side_are_each_rows_own() -> None:
    """Of different ranks and sites, with rows of the base; others take their place, and more than
    there was memory for."""
    here = filled(make_model(), [9 * i + 1 for i in range(9)])
    base = Model(BASE, weights=here.weights)
    few = [loaded(here.weights, s, r) for s, r in ((1, 4), (2, 8))]
    some = [loaded(here.weights, 3, 2, targets=("q_proj", "v_proj", "down_proj"))]
    more = [loaded(here.weights, 10 + s, 16) for s in range(4)]
    for models in (few, few + some, some, more, few, [more[0]], some):
        rows = ([base, *models] * 9)[:9]
        expected = here.dynamic(here.weights, LoraBatch(rows, Stacks(), CPU))
        assert torch.allclose(here.static(here.weights, rows), expected, atol=1e-4)
        assert (expected - here.dynamic(here.weights)).abs().max() > 1e-2
    assert here.graphs.columns.count == 64
    shapes = here.graphs.seen[here.weights]
    assert {k.columns for k in shapes} == {64}, "what was made before the memory moved is kept"


@torch.inference_mode()
def test_what_would_spoil_other_rows_or_is_too_much_goes_another_way() -> None:
    here = filled(make_model(), [5, 6])
    broken = loaded(here.weights, 1, 4)
    broken.lora[0]["o"].parts[0].b[0, 0] = torch.nan
    rows = [broken, Model(BASE, weights=here.weights)]
    assert here.graphs.hidden(here.weights, here.slots, here.next_ids, rows) is None
    many = [loaded(here.weights, s, 64) for s in range(MOST // 64 + 1)]
    assert Columns(here.weights).place(many) is None
    assert Columns(here.weights).place(many[1:]) is not None


def test_graphs_need_a_cache_that_does_not_move() -> None:
    model = make_model()
    cache = Cache(shape_of(model.config), 4, torch.float32, CPU, 8 * BLOCK)
    decoder = Decoder(cache, rope_tables(model, 64, CPU, torch.float32), None)
    with pytest.raises(ValueError, match="static=True"):
        Graphs(decoder, fuse(model.state_dict(), cache.shape, True))


@pytest.mark.parametrize("kernel", ["auto", "off"])
async def test_conversations_on_static_batches(kernel: str) -> None:
    """Turns that arrive while others decode, behind a common prompt, which is shared by blocks."""
    model = make_model()
    engine = engine_for(model, kernel=kernel, graphs=True, memory=8 << 20)
    cache = engine.shards[0].cache
    there = [kv.data_ptr() for kv in cache.kv]
    rng = random.Random(3)
    system = [rng.randrange(3, VOCAB) for _ in range(100)]

    async def conversation(seed: int) -> None:
        own = random.Random(seed)
        ids = system + [own.randrange(3, VOCAB) for _ in range(10)]
        for turn in range(3):
            s = await engine.sample(ids, BASE, Sampling(max_tokens=12, seed=seed))
            assert max_gap(s.logprobs, teacher_logprobs(model, ids, s)) < 1e-4
            if turn:
                assert s.cached_tokens >= 100
            ids = [*ids, *s.ids] + [own.randrange(3, VOCAB) for _ in range(own.randrange(5, 30))]

    await asyncio.gather(*(conversation(i) for i in range(13)))
    entries, used = list(cache.entries), len(cache.refs) - len(cache.free)
    engine.close()
    assert not entries
    assert used < 13 * 9, "the common prompt was not shared"
    assert [kv.data_ptr() for kv in cache.kv] == there


async def test_a_replaced_adapter_leaves_no_shape_of_its_weights_behind() -> None:
    """Alone, so that its weights are merged ones; then beside others, in columns; then replaced."""
    engine = engine_for(make_model(), graphs=True)
    graphs = engine.shards[0].graphs
    assert graphs is not None
    prompts = prompts_for(3, 70, random.Random(6))
    name, other = ModelRef("base", "actor"), ModelRef("base", "other")
    beside, config = adapted("qwen3", 9)
    engine.load_weights(other, adapter_tensors(beside), config)
    for seed in (1, 2, 3, 4):
        model, config = adapted("qwen3", seed, rank=2 * seed)
        engine.load_weights(name, adapter_tensors(model), config)
        alone = await engine.sample(prompts[0], name, Sampling(max_tokens=6))
        mixed = await asyncio.gather(
            *(engine.sample(p, r, Sampling(max_tokens=6)) for p, r in zip(
                prompts, (name, other, BASE), strict=True))
        )  # fmt: skip
        for s, teacher, p in (
            (alone, model, prompts[0]), (mixed[0], model, prompts[0]),
            (mixed[1], beside, prompts[1]), (mixed[2], make_model(), prompts[2]),
        ):  # fmt: skip
            assert max_gap(s.logprobs, teacher_logprobs(teacher, p, s)) < 1e-4
    await engine.unload(name)
    await engine.score(prompts[0], BASE)  # after what was told to be forgotten
    gc.collect()
    kept = [w for w in graphs.seen if w is not engine.resolve(BASE).weights]
    engine.close()
    assert not kept


async def test_a_full_fine_tune_has_shapes_of_its_own() -> None:
    engine, tuned = engine_for(make_model(), graphs=True), make_model(seed=7)
    ref = engine.load_weights(ModelRef("base", "full"), tuned.state_dict())
    prompt = prompts_for(1, 30, random.Random(4))[0]
    a, b = await asyncio.gather(
        *(engine.sample(prompt, r, Sampling(max_tokens=8)) for r in (ref, BASE))
    )
    engine.close()
    assert max_gap(a.logprobs, teacher_logprobs(tuned, prompt, a)) < 1e-4
    assert max_gap(b.logprobs, teacher_logprobs(make_model(), prompt, b)) < 1e-4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@torch.inference_mode()
def test_where_nothing_can_be_captured_decoding_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    here = filled(make_model(), [5, 40])
    here.graphs.capturing = True
    with caplog.at_level(logging.WARNING):
        found = [here.static(here.weights) for _ in range(2)]
    assert torch.allclose(found[1], here.dynamic(here.weights), atol=1e-5)
    assert len(caplog.records) == 1
    assert "without CUDA graphs" in caplog.text
