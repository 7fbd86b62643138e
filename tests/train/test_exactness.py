"""The tree, the packed rows and the padded batch compute what independent rows compute."""

import random
from itertools import chain

import numpy as np
import pytest
import torch
from exact_models import branching_rows, gradients, random_rows, relative_error, small_model

from understudy.core.rows import Row, trim
from understudy.core.token_tree import build
from understudy.train import attention
from understudy.train.losses import LossConfig
from understudy.train.trainer import Trainer, TrainerConfig

torch.set_num_threads(1)
BOUND = {torch.float64: 1e-10, torch.float32: 1e-5}


def oracle(model, rows, loss=None):
    """The batch's loss row by row, by full logits and nothing of ours: a slow plain reference."""
    loss = loss or LossConfig()
    model.zero_grad()
    counts = {s: sum(e.stream == s and e.weight != 0 for r in rows for e in r.entries)
              for s in ("rl", "ce", "kl")}  # fmt: skip
    total, logprobs = torch.zeros((), dtype=torch.float64), []
    device = next(model.parameters()).device
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids], device=device)).logits[0]
        logp = torch.log_softmax(logits, -1)
        values = []
        for e in row.entries:
            lp = logp[e.position, e.target]
            values.append(float(lp.detach()))
            if e.weight == 0:
                continue
            if e.stream == "ce":
                term = -e.weight * lp
            elif e.stream == "kl":
                term = e.weight * (lp - e.anchor) ** 2 / 2
            elif loss.rl == "cispo":
                ratio = torch.exp(lp - e.anchor).detach()
                term = -min(float(ratio.detach()), loss.ratio_cap) * e.weight * lp
            else:
                ratio = torch.exp(lp - e.anchor)
                low, high = 1 - loss.clip_low, 1 + loss.clip_high
                a, b = ratio * e.weight, torch.clamp(ratio, low, high) * e.weight
                term = -(a if float(a.detach()) < float(b.detach()) else b)
            total = total + term / counts[e.stream]
        logprobs.append(values)
    total.backward()
    return float(total.detach()), gradients(model).clone(), logprobs


def step_gradient(model, rows, monkeypatch=None, **config):
    """Loss and gradient of one step, read before the optimiser moves anything."""
    caught = {}
    trainer = Trainer(model, TrainerConfig(grad_clip=None, **config))
    plain = trainer.optimiser.step

    def keep(*args, **kwargs):
        caught["gradient"] = gradients(model).clone()

    trainer.optimiser.step = keep
    metrics = trainer.step(rows)
    trainer.optimiser.step = plain
    return sum(metrics.loss.values()), caught["gradient"], metrics


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", ["tree", "packed", "padded"])
def test_every_layout_equals_independent_rows(kind, dtype, layout):
    for seed in range(3):
        rows = random_rows(random.Random(seed))
        model = small_model(kind, dtype, seed)
        loss, gradient, logprobs = oracle(model, rows)
        ours = Trainer(model, TrainerConfig(layout=layout)).logprobs(rows)
        flat = [torch.tensor([*chain(*values)], dtype=dtype) for values in (ours, logprobs)]
        assert relative_error(flat[0], flat[1]) < BOUND[dtype]
        got_loss, got, metrics = step_gradient(model, rows, layout=layout)
        assert got_loss == pytest.approx(loss, rel=BOUND[dtype])
        assert relative_error(got, gradient) < BOUND[dtype]
        assert metrics.tokens_in_rows >= metrics.tokens_computed or layout == "padded"


def branchings(tree, row):
    """The positions in a row after which its tree goes on in more than one way."""
    children = np.bincount(tree.parent_N[tree.parent_N >= 0], minlength=len(tree))
    return [int(tree.depth_N[n]) for n in tree.path(int(tree.leaf_R[row])) if children[n] > 1]


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("kernel", ["slices", "c"])
def test_five_branchings_deep_and_inside_turns_in_single_precision(monkeypatch, kind, kernel):
    rows = branching_rows(random.Random(4), levels=5)
    tree = build(rows)
    for number, row in enumerate(rows):
        places = branchings(tree, number)
        sampled = {e.position + 1 for e in row.entries if e.stream == "rl"}
        assert len(places) == 5
        assert all({p - 1, p, p + 1} <= sampled for p in places)  # inside turns, not between them
    assert len(tree) < sum(len(r.ids) for r in rows) / 2
    monkeypatch.setattr(attention, "kernel_for", lambda value: kernel)
    model = small_model(kind, torch.float32)
    loss, gradient, logprobs = oracle(model, rows)
    ours = Trainer(model, TrainerConfig(max_tokens_per_microbatch=100_000)).logprobs(rows)
    flat = [torch.tensor([*chain(*values)]) for values in (ours, logprobs)]
    assert relative_error(flat[0], flat[1]) < BOUND[torch.float32]
    got_loss, got, metrics = step_gradient(model, rows, max_tokens_per_microbatch=100_000)
    assert metrics.microbatches == 1
    assert metrics.tokens_computed == len(build([trim(row) for row in rows]))  # each but once
    assert got_loss == pytest.approx(loss, rel=BOUND[torch.float32])
    assert relative_error(got, gradient) < BOUND[torch.float32]


@pytest.mark.parametrize("layout", ["tree", "packed", "padded"])
def test_micro_batches_order_and_weightless_rows_change_nothing(layout):
    rng = random.Random(3)
    rows = random_rows(rng, count=20)
    model = small_model()
    loss, whole, _ = step_gradient(model, rows, layout=layout, max_tokens_per_microbatch=100_000)
    shuffled = rng.sample(rows, len(rows))
    nothing = [
        Row(r.ids, tuple(e._replace(weight=0.0) for e in r.entries))
        for r in random_rows(rng, count=5)
    ]
    variants = {"order": (shuffled, 100_000), "split": (rows, 40), "alone": (rows, 1),
                "weightless": ([*nothing, *rows, Row((1, 2))], 100_000)}  # fmt: skip
    for name, (variant, cap) in variants.items():
        model = small_model()
        got_loss, got, metrics = step_gradient(
            model, variant, layout=layout, max_tokens_per_microbatch=cap
        )
        assert got_loss == pytest.approx(loss, rel=1e-10), name
        assert relative_error(got, whole) < 1e-10, name
        assert metrics.microbatches > 1 or cap > 40


def test_siblings_are_invisible_and_a_shared_prefix_collects_the_branches_gradients():
    rng = random.Random(8)
    trunk = tuple(rng.randrange(23) for _ in range(9))
    rows = random_rows(rng, count=1)
    branches = [
        Row((*trunk, first, *r.ids), tuple(e._replace(position=e.position + 10) for e in r.entries))
        for first, r in enumerate(rows * 3)
    ]
    model = small_model()
    trainer = Trainer(model, TrainerConfig())
    alone = trainer.logprobs(branches[:1])[0]
    changed = [branches[0], *(Row((*b.ids[:-1], 7), b.entries[:-1]) for b in branches[1:])]
    assert trainer.logprobs(branches)[0] == pytest.approx(alone, rel=1e-12)
    assert trainer.logprobs(changed)[0] == pytest.approx(alone, rel=1e-12)
    parts = []
    for branch in branches:
        parts.append(step_gradient(small_model(), [branch])[1])
    together = step_gradient(small_model(), branches)[1]
    assert relative_error(together * 3, sum(parts)) < 1e-10  # counts: three times as many


@pytest.mark.parametrize("loss", [LossConfig(), LossConfig(ratio_cap=0.7), LossConfig(rl="clip")])
def test_losses_equal_the_plain_oracle(loss):
    rows = random_rows(random.Random(11), streams=("rl",), count=12)
    model = small_model(seed=4)
    expected, gradient, _ = oracle(model, rows, loss)
    got_loss, got, metrics = step_gradient(model, rows, loss=loss)
    assert got_loss == pytest.approx(expected, rel=1e-10)
    assert relative_error(got, gradient) < 1e-10
    assert 0 < metrics.clipped_share < 1
    assert metrics.ratio_max > 1 > 0


def test_bf16_is_near():
    rows = random_rows(random.Random(2), streams=("ce",))
    model = small_model(dtype=torch.float32)
    expected = step_gradient(model, rows)
    got = step_gradient(model, rows, precision="bf16")
    assert got[0] == pytest.approx(expected[0], rel=0.03)
    assert relative_error(got[1], expected[1]) < 0.1


def test_the_models_own_attention_is_back_after_a_step():
    model = small_model()
    before = model(input_ids=torch.tensor([[1, 2, 3]])).logits
    Trainer(model, TrainerConfig()).logprobs(random_rows(random.Random(1)))
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(input_ids=torch.tensor([[1, 2, 3]])).logits, before)
