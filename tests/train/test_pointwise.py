"""What C computes between products against the same written in torch, in double precision."""

import random

import pytest
import torch
import torch.nn.functional as F
from exact_models import random_rows, relative_error, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exactness import BOUND, oracle, step_gradient

from understudy.models.lora import LoraConfig, inject_lora
from understudy.train import layers
from understudy.train.pointwise import norm, pointwise, rotate, swiglu

pytestmark = pytest.mark.skipif(pointwise() is None, reason="no C compiler here")
torch.set_num_threads(1)
HALF, SINGLE = torch.bfloat16, torch.float32
TYPES = st.sampled_from([HALF, SINGLE])
NEAR = {SINGLE: 1e-5, HALF: 6e-3}  # bf16 rounds by up to 2^-9


def drawn(*shape, dtype=SINGLE):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def compared(ours, plain, inputs, dtypes):
    """Outputs and gradients of both, each near in its type."""
    mine = [x.clone().requires_grad_() for x in inputs]
    exact = [x.double().requires_grad_() for x in inputs]
    out, right = ours(*mine), plain(*exact)
    grad = drawn(*out.shape, dtype=out.dtype)
    got = torch.autograd.grad(out, mine, grad)
    wanted = torch.autograd.grad(right, exact, grad.double())
    for a, b, dtype in zip((out, *got), (right, *wanted), dtypes, strict=True):
        assert a.dtype == dtype
        assert relative_error(a.detach().double(), b.detach()) < NEAR[dtype]


def plain_norm(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 9), width=st.integers(8, 70), dtype=TYPES, to=TYPES)
def test_norm(rows, width, dtype, to):
    compared(
        lambda x, w: norm(x, w, 1e-6, to),
        lambda x, w: plain_norm(x, w, 1e-6),
        [drawn(2, rows, width, dtype=dtype), drawn(width) + 2],
        (to, dtype, SINGLE),
    )


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 9),
    heads=st.integers(1, 5),
    half=st.integers(4, 40),
    dtype=TYPES,
    normed=st.booleans(),
    heads_first=st.booleans(),
)
def test_rotation(rows, heads, half, dtype, normed, heads_first):
    angles = drawn(rows, half).repeat(1, 2)
    cosine, sine = angles.cos(), angles.sin()

    def ours(x, weight=None):
        y = rotate(x, weight, 1e-6, cosine, sine)
        # a gradient that lies as attention's does
        return y.transpose(0, 1).contiguous().transpose(0, 1) if heads_first else y

    def plain(x, weight=None):
        x = x if weight is None else plain_norm(x, weight, 1e-6)
        turned = torch.cat((-x[..., half:], x[..., :half]), -1)
        return x * cosine.double()[:, None] + turned * sine.double()[:, None]

    inputs = [drawn(rows, heads, 2 * half, dtype=dtype), drawn(2 * half) + 2][: 1 + normed]
    compared(ours, plain, inputs, (SINGLE, dtype, SINGLE)[: 2 + normed])


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 9), width=st.integers(1, 70), dtype=TYPES)
def test_swiglu(rows, width, dtype):
    inputs = [drawn(rows, width, dtype=dtype) * 4, drawn(rows + 1, width, dtype=dtype)[:rows]]
    compared(swiglu, lambda g, u: F.silu(g) * u, inputs, (dtype,) * 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e4, -1e4])
def test_what_is_large_or_not_finite(bad):
    weight, angles = torch.ones(6), torch.zeros(2, 6)
    x = drawn(2, 6)
    x[1, 2] = bad
    for dtype in (SINGLE, HALF):
        y = norm(x, weight, 1e-6, dtype)
        right = plain_norm(x.double(), weight, 1e-6)
        assert relative_error(y[0].double(), right[0]) < NEAR[dtype]
        assert torch.equal(torch.isfinite(y), torch.isfinite(right))
        gated = swiglu(x.to(dtype), torch.ones(2, 6, dtype=dtype))
        assert torch.equal(torch.isfinite(gated), torch.isfinite(x))
        ordinary = torch.isfinite(x)
        assert torch.allclose(gated[ordinary].float(), F.silu(x[ordinary]), rtol=2e-2, atol=1e-6)
    turned = rotate(x[:, None], None, 0.0, angles.cos(), angles.sin())[:, 0]
    assert torch.isfinite(turned[0]).all()
    assert torch.isfinite(turned[1]).all() == torch.isfinite(x[1]).all()


@pytest.mark.parametrize("kind", ["qwen3", "llama", "qwen2"])
def test_layers_in_c_are_the_models_own(kind, monkeypatch):
    rows = random_rows(random.Random(0), count=12)
    chosen, own = [], layers.fusing
    monkeypatch.setattr(
        "understudy.train.tree_batch.fusing", lambda *x: (chosen.append(own(*x)), chosen[-1])[1]
    )
    loss, gradient, _ = oracle(small_model(kind, SINGLE), rows)
    model = small_model(kind, SINGLE)
    got_loss, got, _ = step_gradient(model, rows)
    assert got_loss == pytest.approx(loss, rel=BOUND[SINGLE])
    assert relative_error(got, gradient) < BOUND[SINGLE]
    assert set(chosen) == {"c"}


def test_where_c_does_not_run():
    def chosen(model):
        return layers.fusing(model.get_decoder(), False)

    model = small_model("qwen3", SINGLE)
    inject_lora(model, LoraConfig(rank=1))
    assert chosen(model) == "c"
    assert chosen(small_model("qwen3", torch.float64)) == "plain"
    model.get_decoder().layers[1].mlp.act_fn = torch.nn.GELU()
    assert chosen(model) == "plain"
