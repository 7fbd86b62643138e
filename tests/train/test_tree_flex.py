"""Attention by one mask: what FlexAttention is told of a tree is the tree."""

import random

import numpy as np
import pytest
import torch
from exact_models import random_rows, relative_error, small_model
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_exactness import BOUND, oracle, step_gradient
from torch._dynamo.utils import counters

from understudy.core.token_tree import build
from understudy.train import attention
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer
from understudy.train.tree_flash import TreeFlash
from understudy.train.tree_flex import BLOCK, Spans, attend, attend_by, block_mask, compiled

torch.set_num_threads(1)
CPU = torch.device("cpu")


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 200)), min_size=1, max_size=8))
@example([(0, 255), (255, 1)])  # all but a block's last query see all of another
@settings(max_examples=40, deadline=None)
def test_a_block_is_left_out_where_nobody_sees_and_unmasked_where_all_do(chains):
    """Any forest: each chain hangs some steps up the path that the last one ended."""
    ups = [up if n == 0 else 0 for up, length in chains for n in range(length)]
    path: list[int] = []
    end_N = np.zeros(len(ups), dtype=np.int64)
    for n, up in enumerate(ups):
        kept = max(0, len(path) - up)
        for left in path[kept:]:
            end_N[left] = n
        path = [*path[:kept], n]
    end_N[path] = len(ups)
    places = np.arange(len(ups))
    sees = (places[None] <= places[:, None]) & (places[:, None] < end_N[None])
    mask = block_mask(end_N, CPU)
    blocks = -(-len(ups) // BLOCK)
    for q in range(blocks):
        masked, whole = (
            set(indices[0, 0, q, : int(count[0, 0, q])].tolist())
            for count, indices in (
                (mask.kv_num_blocks, mask.kv_indices),
                (mask.full_kv_num_blocks, mask.full_kv_indices),
            )
        )
        for k in range(blocks):
            pairs = sees[q * BLOCK : (q + 1) * BLOCK, k * BLOCK : (k + 1) * BLOCK]
            assert (k in masked) + (k in whole) == int(pairs.any())
            assert k not in whole or pairs.all()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("layout", ["tree", "packed"])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_logprobs_by_one_mask_are_those_of_lone_rows(monkeypatch, kind, layout):
    rows = random_rows(random.Random(4), count=30, longest=60)
    model = small_model(kind)
    trainer = Trainer(model, TrainerConfig(layout="padded", max_tokens_per_microbatch=1))
    wanted = trainer.logprobs(rows)
    monkeypatch.setattr(attention, "kernel_for", lambda value: "flex")
    config = TrainerConfig(layout=layout, max_tokens_per_microbatch=100_000)
    told = Trainer(model, config).logprobs(rows)
    for own, other in zip(told, wanted, strict=True):
        assert own == pytest.approx(other, rel=1e-10)


def tree_of(count, seed):
    """A forest of random rows, of so many nodes or a few more."""
    rows = []
    while not rows or len(build(rows)) < count:
        rows += random_rows(random.Random(seed + len(rows)), count=4, longest=60)
    return build(rows)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_one_compilation_is_for_trees_of_any_size():
    """One block, few, many; also where the same numbers of nodes see others. What the compiler of
    a GPU would be given is counted, and run as plain operations."""
    torch._dynamo.reset()
    counters.clear()
    sizes = (300, 10, 128, 129, 700, 256, 300)
    for seed, size in enumerate(sizes):
        end_N = tree_of(size, 100 * seed).end_N[:size].clip(max=size)
        q, k, v = (torch.randn(heads, size, 16) for heads in (4, 2, 2))
        if seed % 2:  # views of another order, as a model's projections are
            k, v = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in (k, v))
        spans = Spans(end_N)
        with torch.no_grad():
            out = attend_by(compiled("eager"), q, k, v, spans, 0.25)
            wanted = by_pairs(q, k, v, end_N, 0.25)
        assert out.shape == (size, 4, 16)
        assert relative_error(out, wanted) < 1e-5
    assert counters["stats"]["unique_graphs"] == 1


def by_pairs(q, k, v, end_N, scale):
    """Attention with a full mask, by torch's own."""
    places, end = torch.arange(len(end_N)), torch.from_numpy(end_N)
    sees = (places[None] <= places[:, None]) & (places[:, None] < end[None])
    out = torch.nn.functional.scaled_dot_product_attention(
        q[None], k[None], v[None], attn_mask=sees, scale=scale, enable_gqa=True
    )
    return out[0].transpose(0, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's gradients need a GPU")
def test_on_a_gpu_a_trainer_compiles_twice_whatever_the_batches():
    """Once for steps, once for passes without a gradient."""
    torch._dynamo.reset()
    counters.clear()
    model = small_model(dtype=torch.float32, head_dim=32).cuda()
    trainer = Trainer(model, TrainerConfig(max_tokens_per_microbatch=100_000, compile=False))
    for seed, count in enumerate((30, 2, 60, 8, 120)):
        rows = random_rows(random.Random(seed), count=count, longest=60)
        trainer.logprobs(rows)
        trainer.step(rows)
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's gradients need a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_by_one_mask_are_those_of_lone_rows(dtype):
    """In double precision by plain operations, in single by the compiled kernel."""
    rows = random_rows(random.Random(5), count=40, longest=60)
    assert len(build(rows)) < sum(len(r.ids) for r in rows)
    wide = dtype == torch.float32  # the kernel's heads have at least 16 numbers
    # rotary angles are float32 whatever the model is, and a GPU's cosine is another than a CPU's
    model = small_model(dtype=dtype, head_dim=32 if wide else 4).cuda()
    _, gradient, _ = oracle(model, rows)
    _, got, _ = step_gradient(model, rows, max_tokens_per_microbatch=100_000, compile=False)
    assert relative_error(got, gradient) < BOUND[dtype]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's gradients need a GPU")
def test_on_a_gpu_attention_in_bf16_is_as_exact_as_bf16_is():
    """Outputs and gradients against those of float32 on a CPU."""
    tree = tree_of(700, 3)
    plan, scale = attention.Plan(tree), 0.2
    exact = [torch.randn(heads, len(tree), 32).bfloat16().float() for heads in (4, 2, 2)]
    upstream = torch.randn(len(tree), 4, 32)

    def told(way, given, how):
        given = [x.requires_grad_() for x in given]
        out = way(*given, how, scale)
        grads = torch.autograd.grad(out, given, upstream.to(out.device, out.dtype))
        return [x.float().cpu() for x in (out, *grads)]

    wanted = told(TreeFlash.apply, exact, plan.slices)
    narrow = [x.detach().to("cuda", torch.bfloat16) for x in exact]
    for own, other in zip(told(attend, narrow, plan.spans), wanted, strict=True):
        assert relative_error(own, other) < 2e-2
