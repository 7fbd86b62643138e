"""Advantages, and what is done about tokens of another policy."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from exact_models import gradients, relative_error, small_model
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.rows import Entry, Row
from understudy.train.gae import gae, normalised, on_last_tokens
from understudy.train.losses import LossConfig
from understudy.train.off_policy import effective_share, negative_mask, second_moment_mask
from understudy.train.trainer import Trainer, TrainerConfig
from understudy.train.value_head import ValueHead

torch.set_num_threads(1)
number = st.floats(-5, 5, allow_nan=False)
shares = st.sampled_from([0.0, 0.3, 0.9, 1.0])
turns = st.lists(st.tuples(st.integers(1, 4), number), min_size=1, max_size=5)


def slow(rewards, values, gamma, lam, after):
    """The paper's own sum: mixing the k-step estimates, one by one."""
    n, found = len(values), []
    for t in range(n):
        ahead = [*values[1:], after]
        parts = [
            (gamma * lam) ** k * (rewards[t + k] + gamma * ahead[t + k] - values[t + k])
            for k in range(n - t)
        ]
        found.append(math.fsum(parts))
    return found


@given(turns, shares, shares, number, st.randoms())
def test_advantages_equal_the_papers_sum(turns, gamma, lam, after, rng):
    rewards = on_last_tokens([n for n, _ in turns], [r for _, r in turns])
    values = [rng.uniform(-3, 3) for _ in rewards]
    got = gae(rewards, values, gamma, lam, after)
    assert got == pytest.approx(slow(rewards, values, gamma, lam, after), abs=1e-9)


@given(turns, shares)
def test_with_lambda_one_an_advantage_is_the_return_less_the_value(turns, gamma):
    rewards = on_last_tokens([n for n, _ in turns], [r for _, r in turns])
    values = [math.sin(t) for t in range(len(rewards))]
    returns = [
        sum(gamma ** (k - t) * rewards[k] for k in range(t, len(rewards)))
        for t in range(len(rewards))
    ]
    assert gae(rewards, values, gamma, 1.0) == pytest.approx(np.subtract(returns, values))


def test_rewards_lie_on_their_turns_last_tokens_and_strange_ones_are_refused():
    assert on_last_tokens([1, 3], [0.5, 2.0]) == [0.5, 0.0, 0.0, 2.0]
    with pytest.raises(ValueError, match="not finite"):
        gae([math.nan], [0.0])
    with pytest.raises(ValueError, match="2 rewards and 1 values"):
        gae([0.0, 1.0], [0.0])
    with pytest.raises(ValueError, match="without tokens"):
        on_last_tokens([0], [1.0])


def test_normalisation_is_over_all_tokens_of_the_batch():
    parts = [np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])]
    flat = np.concatenate(normalised(parts))
    assert [len(p) for p in normalised(parts)] == [2, 3]
    assert flat.mean() == pytest.approx(0)
    assert flat.std() == pytest.approx(1)
    assert np.concatenate(normalised([np.ones(2), np.ones(1)])).tolist() == [0, 0, 0]
    assert normalised([]) == []


def test_with_lambda_one_and_no_clipping_ppo_is_the_exact_policy_gradient():
    """Three arms, two steps, softmax policy over the whole vocabulary: all sequences, each by its
    probability, whatever the value head says."""
    model = small_model()
    head = ValueHead.of(model)
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-1, 1, len(head.weight)))
    trainer = Trainer(
        model, TrainerConfig(grad_clip=None, loss=LossConfig(rl="clip")), value_head=head
    )
    prompt, arms, vocabulary = (1, 2), (3, 4, 5), range(23)
    reward = {(a, b): random.Random(9 * a + b).uniform(-1, 1) for a in arms for b in arms}
    first = torch.log_softmax(model(input_ids=torch.tensor([prompt])).logits[0, -1], -1)
    rows, expected = [], torch.zeros((), dtype=torch.float64)
    seconds = model(input_ids=torch.tensor([[*prompt, a] for a in vocabulary])).logits[:, -1]
    second = torch.log_softmax(seconds, -1)
    for a, b in itertools.product(vocabulary, vocabulary):
        logp = first[a], second[a, b]
        probability = (logp[0] + logp[1]).exp()
        expected = expected + probability * reward.get((a, b), 0.0)
        entries = [
            Entry(1 + t, (a, b)[t], "rl", float(probability.detach()), float(logp[t].detach()))
            for t in range(2)
        ]
        rows.append(Row((*prompt, a, b), tuple(entries)))
    expected.backward()
    exact = gradients(model).clone()
    learned = []
    for row, values in zip(rows, trainer.values(rows), strict=True):
        assert max(map(abs, values)) > 0.1
        advantages = gae(on_last_tokens([1, 1], [0.0, reward.get(row.ids[2:], 0.0)]), values)
        entries = [
            e._replace(weight=e.weight * a) for e, a in zip(row.entries, advantages, strict=True)
        ]
        learned.append(Row(row.ids, tuple(entries)))
    seen = {}
    trainer.optimiser.register_step_pre_hook(lambda *_: seen.update(g=gradients(model).clone()))
    metrics = trainer.step(learned)
    assert relative_error(-metrics.count["rl"] * seen["g"], exact) < 1e-10


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), max_size=30), st.floats(0.01, 1))
def test_the_second_moment_is_bounded_by_as_few_tokens_as_can_be(pairs, bound):
    gap, weight = (np.array([p[i] for p in pairs], dtype=float) for i in (0, 1))
    kept = second_moment_mask(gap, weight, bound)
    away = np.sign(gap) * np.sign(weight) > 0
    assert not (~kept & ~away).any()  # what comes back to the sampler is never left out
    squared = gap**2
    within = not kept.any() or squared[kept].mean() <= bound + 1e-9
    assert within or not (kept & away).any()
    out = np.flatnonzero(~kept)
    if len(out):
        assert squared[out].min() >= squared[kept & away].max(initial=0.0)
        least = out[squared[out].argmin()]
        again = kept.copy()
        again[least] = True
        assert squared[again].mean() > bound - 1e-9  # one fewer would not have done


def test_masks_and_effective_samples():
    gap, weight = np.array([3.0, -3.0, 3.0, 0.0]), np.array([-1.0, -1.0, 1.0, -1.0])
    assert negative_mask(gap, weight, 0.5).tolist() == [False, False, True, True]
    assert effective_share(np.full(7, 2.5)) == pytest.approx(1)
    assert effective_share(np.array([0.0, -math.inf, -math.inf, -math.inf])) == 0.25
    assert effective_share(np.array([math.log(3), 0.0])) == pytest.approx(16 / 20)
    assert effective_share(np.array([1000.0, 0.0])) == pytest.approx(0.5)
    assert effective_share(np.zeros(0)) == 0.0
