"""The C kernel of tree attention against softmax over the tree's mask, in double precision."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from exact_models import relative_error
from test_exactness import branching_rows, random_rows

from understudy.core.rows import Row
from understudy.core.token_tree import TokenTree, build
from understudy.train import attention
from understudy.train.tree_kernel import ChainTable, TreeKernel, filled, kernel

pytestmark = pytest.mark.skipif(kernel(16) is None, reason="no C compiler here")
torch.set_num_threads(1)


def plain(q, k, v, tree: TokenTree, scale):
    """By every pair's score, those unseen at minus infinity."""
    group = len(q) // len(k)
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    unseen = torch.from_numpy(~tree.ancestor_mask())
    scores = (q @ k.transpose(1, 2) * scale).masked_fill(unseen, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(0, 1)


def drawn(nodes, heads=4, groups=2, width=32, dtype=torch.float32, scale=1.0):
    """q, k and v as a model makes them (heads within nodes), and a gradient."""
    generator = torch.Generator().manual_seed(nodes)
    made = [torch.randn(nodes, h, width, generator=generator) * scale
            for h in (heads, groups, groups, heads)]  # fmt: skip
    q, k, v, grad = (x.to(dtype) for x in made)
    return *(x.transpose(0, 1).requires_grad_() for x in (q, k, v)), grad


def long_rows(count=5, prompt=300, rest=250):
    """Longer than the kernel's blocks, parting in the middle of one."""
    rng = random.Random(0)
    shared = tuple(rng.randrange(9) for _ in range(prompt))
    rows = []
    for n in range(count):
        own = tuple(rng.randrange(9) for _ in range(rest - 7 * n))
        rows.append(Row(shared[: prompt - 3 * n] + own, ()))
    return rows


BOUND = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # of bf16 a number has eight bits
TREES = {
    "random": lambda: random_rows(random.Random(1), count=30, longest=60),
    "five branchings deep": lambda: branching_rows(random.Random(4), levels=5),
    "longer than blocks": long_rows,
    "one token": lambda: [Row((1,), ())],
    "single tokens below": lambda: [Row((1, 2, t), ()) for t in range(40)],
}


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("rows", TREES.values(), ids=TREES)
@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 2, 32), (6, 2, 64), (2, 2, 128),
                                                        (8, 1, 8), (3, 3, 80)])  # fmt: skip
def test_it_is_softmax_over_the_mask_with_its_gradients(rows, heads, groups, width, dtype):
    tree, scale = build(rows()), width**-0.5
    *given, grad = drawn(len(tree), heads, groups, width, dtype)
    out = TreeKernel.apply(*given, ChainTable(tree), scale)
    got = torch.autograd.grad(out, given, grad)
    exact = [x.detach().double().requires_grad_() for x in given]
    wanted_out = plain(*exact, tree, scale)
    wanted = torch.autograd.grad(wanted_out, exact, grad.double())
    for mine, right in zip((out, *got), (wanted_out, *wanted), strict=True):
        apart = (mine.double() - right).norm()
        assert mine.dtype == dtype
        # where a token is alone, it has no gradient
        assert apart < BOUND[dtype] * max(right.norm(), 1.0)


def test_threads_share_heads_and_change_nothing():
    tree = build(long_rows())
    *given, grad = drawn(len(tree), 12, 6)

    def found():
        out = TreeKernel.apply(*given, ChainTable(tree), 0.2)
        return [out.detach(), *torch.autograd.grad(out, given, grad)]

    alone = found()
    torch.set_num_threads(4)
    try:
        assert all(map(torch.equal, alone, found()))
    finally:
        torch.set_num_threads(1)


def test_nodes_behind_the_tree_and_those_not_looked_at_get_nothing_and_give_nothing():
    tree = build(long_rows())
    looked_at = np.array([310, 311, 400, len(tree) - 1])
    *given, grad = drawn(len(tree) + 9)
    table = ChainTable(tree, looked_at)
    out = TreeKernel.apply(*given, table, 0.2)
    attending = np.zeros(len(tree) + 9, dtype=bool)
    for first, stop in zip(table.first, table.stop, strict=True):
        attending[first:stop] = True
    assert attending[looked_at].all()
    assert attending.sum() < len(tree) / 2
    assert not out[~attending].any()
    inner = [x[:, : len(tree)].detach().double().requires_grad_() for x in given]
    right = plain(*inner, tree, 0.2) * torch.from_numpy(attending[: len(tree)])[:, None, None]
    assert relative_error(out[: len(tree)].double(), right) < 1e-5
    got = torch.autograd.grad(out, given, grad)
    wanted = torch.autograd.grad(right, inner, grad[: len(tree)].double())
    for mine, one in zip(got, wanted, strict=True):
        assert not mine[:, len(tree) :].any()
        assert relative_error(mine[:, : len(tree)].double(), one) < 1e-5


def test_scores_far_apart_neither_overflow_nor_vanish():
    tree = build(long_rows(count=2))
    *given, grad = drawn(len(tree), scale=10.0)
    out = TreeKernel.apply(*given, ChainTable(tree), 1.0)
    got = torch.autograd.grad(out, given, grad)
    exact = [x.detach().double().requires_grad_() for x in given]
    wanted_out = plain(*exact, tree, 1.0)
    wanted = torch.autograd.grad(wanted_out, exact, grad.double())
    assert relative_error(out.double(), wanted_out) < 1e-4
    for mine, right in zip(got, wanted, strict=True):
        assert torch.isfinite(mine).all()
        assert relative_error(mine.double(), right) < 1e-3


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(bad, dtype):
    tree = build(long_rows(count=2))
    *given, grad = drawn(len(tree), dtype=dtype)
    with torch.no_grad():
        given[0][0, 5, 3] = bad
    out = TreeKernel.apply(*given, ChainTable(tree), 0.2)
    assert not torch.isfinite(out[5]).all()
    assert torch.isfinite(out[6]).all()
    assert not torch.isfinite(torch.autograd.grad(out, given, grad)[1]).all()


def test_who_attends_how():
    assert attention.kernel_for(torch.zeros(2, 3, 80)) == "c"
    assert attention.kernel_for(torch.zeros(2, 3, 80, dtype=torch.bfloat16)) == "c"
    assert attention.kernel_for(torch.zeros(2, 3, 80, dtype=torch.float64)) == "slices"
    assert [filled(80), filled(8)] == [80, 16]
    program = (
        "import torch\nfrom understudy.train import attention\n"
        "assert attention.kernel_for(torch.zeros(2, 3, 16)) == 'slices'\n"
    )
    without = os.environ | {"CC": "no-such-compiler"}
    subprocess.run([sys.executable, "-c", program], check=True, env=without)


def test_without_a_compiler_half_precision_is_raised_too(monkeypatch):
    tree = build(long_rows())
    q, k, v, grad = drawn(len(tree), dtype=torch.bfloat16)
    found = []
    for how in ("c", "slices"):
        monkeypatch.setattr(attention, "kernel_for", lambda value, how=how: how)
        out, _ = attention.tree_attention_forward(
            None, q[None], k[None], v[None], None, 0.2, understudy_plan=attention.Plan(tree)
        )
        found.append((out, *torch.autograd.grad(out, (q, k, v), grad[None])))
    for mine, other in zip(*found, strict=True):
        assert mine.dtype == other.dtype == torch.bfloat16
        assert relative_error(mine.float(), other.float()) < BOUND[torch.bfloat16]
