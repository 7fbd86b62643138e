"""Policy gradients on a three-armed, two-step bandit whose every outcome is enumerated.

The policy is a small causal LM with three tokens, the arms: its softmax over them at each of two
steps, the second given the first.
"""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from exact_models import _with_exact_norms, relative_error
from oracles import backward, row_logprobs, step
from transformers import LlamaConfig, LlamaForCausalLM

from understudy.core.rows import Entry, Row
from understudy.train.advantages import group_advantages
from understudy.train.aggregate import undivided
from understudy.train.losses import LossConfig
from understudy.train.trainer import Trainer, TrainerConfig

torch.set_num_threads(1)
OUTCOMES = list(itertools.product(range(3), range(3)))
REWARD = [random.Random(n).uniform(-1, 1) for n in range(len(OUTCOMES))]
REWARDS = torch.tensor(REWARD, dtype=torch.float64)
PROMPT = (0, 1)
CORRECTED = LossConfig(ratio_level="sequence", ratio_cap=None)


def policy(seed=0):
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 4}
    config = LlamaConfig(
        vocab_size=3, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.4, **shape
    )
    return _with_exact_norms(LlamaForCausalLM(config))


def outcome_row(n, weight, logps):
    a, b = OUTCOMES[n]
    entries = (Entry(1, a, "rl", weight, logps[0]), Entry(2, b, "rl", weight, logps[1]))
    return Row((*PROMPT, a, b), entries)


def logprobs(model):
    """(9, 2): of each outcome the logprobs of its two steps, with gradient."""
    rows = [outcome_row(n, 1.0, (0.0, 0.0)) for n in range(9)]
    return torch.stack([row_logprobs(model, row.ids, row.entries) for row in rows])


def exact(model):
    """The gradient of the expected reward."""
    chances = logprobs(model).sum(-1).exp()
    assert float(chances.sum().detach()) == pytest.approx(1, abs=1e-12)
    return backward(model, (chances * REWARDS).sum())


def estimates(model, sampler, loss):
    """(9, P): what the trainer makes of one sample of each outcome, drawn by the sampler."""
    found = []
    for n, anchors in enumerate(sampler.tolist()):
        rows = undivided([outcome_row(n, REWARD[n], anchors)], "rl")
        found.append(-step(model, rows, loss=loss)[0])
    return torch.stack(found)


ON_POLICY = [
    LossConfig(),
    LossConfig(rl="clip"),
    LossConfig(rl="gspo"),
    LossConfig(rl="reinforce"),
    CORRECTED,
]


@pytest.mark.parametrize("loss", ON_POLICY, ids=lambda loss: f"{loss.rl} {loss.ratio_level}")
def test_on_policy_every_surrogate_is_the_exact_gradient_in_expectation(loss):
    model = policy()
    sampler = logprobs(model).detach()
    chances = sampler.sum(-1).exp()
    expectation = (chances[:, None] * estimates(model, sampler, loss)).sum(0)
    assert relative_error(expectation, exact(model)) < 1e-10


def test_off_policy_sequence_weights_are_exact_and_others_are_not():
    model, sampler = policy(), logprobs(policy(5)).detach()
    chances = sampler.sum(-1).exp()
    errors = {}
    for name, loss in {
        "none": LossConfig(rl="reinforce"),
        "token": LossConfig(ratio_cap=None),
        "sequence": CORRECTED,
    }.items():
        expectation = (chances[:, None] * estimates(model, sampler, loss)).sum(0)
        errors[name] = relative_error(expectation, exact(model))
    assert errors["sequence"] < 1e-10
    assert errors["token"] > 0.01  # the first step's ratio is missing from the second's
    assert errors["token"] < errors["none"]


def test_a_batch_of_samples_is_the_mean_of_its_estimates():
    model, sampler = policy(), logprobs(policy(5)).detach()
    drawn = np.random.default_rng(0).integers(0, 9, 50).tolist()
    rows = [outcome_row(n, REWARD[n] / len(drawn), sampler[n].tolist()) for n in drawn]
    got = -step(model, undivided(rows, "rl"), loss=CORRECTED)[0]
    assert relative_error(got, estimates(model, sampler, CORRECTED)[drawn].mean(0)) < 1e-10


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_the_others_mean_is_an_unbiased_baseline_and_the_whole_groups_shrinks(leave_one_out):
    """The expectation over all 81 groups of two."""
    model = policy()
    sampler = logprobs(model).detach()
    chances = sampler.sum(-1).exp().tolist()
    bare = estimates(model, sampler, LossConfig()) / REWARDS[:, None]
    total = torch.zeros(bare.shape[1], dtype=torch.float64)
    for group in itertools.product(range(9), repeat=2):
        found = group_advantages([REWARD[n] for n in group], leave_one_out=leave_one_out)
        for n, advantage in zip(group, found.values, strict=True):
            total += math.prod(chances[m] for m in group) * advantage * bare[n] / 2
    assert relative_error(total, (1.0 if leave_one_out else 0.5) * exact(model)) < 1e-10


def test_four_updates_stale_only_corrected_estimates_agree_with_on_policy_ones():
    model = policy()
    stale = logprobs(model).detach()
    with Trainer(model, TrainerConfig(lr=0.02, grad_clip=None)) as trainer:
        for _ in range(4):
            now = logprobs(model).detach()
            chances = now.sum(-1).exp().tolist()
            rows = [outcome_row(n, chances[n] * REWARD[n], now[n].tolist()) for n in range(9)]
            assert trainer.step(rows).skipped is None
    fresh, truth = logprobs(model).detach(), exact(model)
    rng, size = np.random.default_rng(11), 400_000

    def interval(sampler, loss):
        """Mean and 99.9% interval of the estimates along the exact gradient, of drawn outcomes."""
        along = (estimates(model, sampler, loss) @ (truth / truth.norm())).numpy()
        chances = sampler.sum(-1).exp().numpy()
        drawn = rng.choice(9, size, p=chances / chances.sum())
        sample = along[drawn]
        return sample.mean(), 3.29 * sample.std(ddof=1) / math.sqrt(size)

    mean, wide = interval(fresh, LossConfig(rl="reinforce"))
    assert abs(mean - float(truth.norm())) < wide
    corrected, corrected_wide = interval(stale, CORRECTED)
    assert abs(corrected - mean) < math.hypot(wide, corrected_wide)
    raw, raw_wide = interval(stale, LossConfig(rl="reinforce"))
    assert abs(raw - mean) > math.hypot(wide, raw_wide)
    by_token, _ = interval(stale, LossConfig())
    assert abs(by_token - mean) < abs(raw - mean)
