"""What actor and critic learn from a batch of episodes: values, advantages, mini-batches."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from understudy.core.rows import Row
from understudy.recipes.logged import Logged
from understudy.runs.config import Config
from understudy.train.gae import Floats, gae, normalised, on_last_tokens
from understudy.train.trainer import Trainer


class Estimation(Config):
    """Discount and lambdas: 1 for what the critic learns and less for what the actor does, which
    keeps long episodes' ends in sight of their beginnings (VC-PPO, arXiv 2503.01491)."""

    gamma: float = Field(default=1.0, gt=0, le=1)
    lam: float = Field(default=1.0, ge=0, le=1)  # of the actor's advantages
    lam_value: float = Field(default=1.0, ge=0, le=1)  # of the critic's returns
    blame: NonNegativeFloat = 0.0  # k: negative advantages times (1 - p_sampler)^k; see `blamed`


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one episode, a number for each sampled token in the order of sampling."""

    values: list[float]
    advantages: list[float]  # normalised over the batch
    returns: list[float]


def estimate(
    episodes: Sequence[Logged],
    values: Sequence[Sequence[float]],
    how: Estimation,
    weights: Mapping[str, float] | None = None,
) -> list[Estimate]:
    """Advantages and returns of a batch of episodes; `values` in the order of sampling. `weights`,
    by the episode's id, are multiplied with normalised advantages (recipes.doubt)."""
    rewards = [on_last_tokens(e.lengths, e.rewards) for e in episodes]
    pairs = list(zip(rewards, values, strict=True))
    advantages = normalised([gae(r, v, how.gamma, how.lam) for r, v in pairs])
    advantages = [
        blamed(a, e.logprobs, how.blame) for e, a in zip(episodes, advantages, strict=True)
    ]
    ahead = [gae(r, v, how.gamma, how.lam_value) for r, v in pairs]
    return [
        Estimate(list(v), (a * (weights or {}).get(e.id, 1.0)).tolist(), (h + v).tolist())
        for e, v, a, h in zip(episodes, values, advantages, ahead, strict=True)
    ]


def blamed(advantages_T: Floats, logprobs_T: Sequence[float], k: float) -> Floats:
    """Negative advantages times (1 - p_sampler)^k; those that are not negative as they are.

    A state's value is the mean of its actions' values, so an action of probability p is better or
    worse than it by at most 1 - p times their range. What an episode's failure says of a token that
    was as good as certain is noise, and noise is not symmetric: it cannot make such a token more
    likely, only less. So a failure is laid to what was unlikely.
    """
    if not k:
        return advantages_T
    doubt_T = -np.expm1(np.asarray(logprobs_T))
    return np.where(advantages_T < 0, advantages_T * doubt_T**k, advantages_T)


def values_of(trainer: Trainer, episodes: Sequence[Logged]) -> list[list[float]]:
    """The value head's numbers for each episode's tokens, in the order of sampling."""
    rows = [row for episode in episodes for row in episode.rows]
    found = iter(trainer.values(rows))
    return [e.in_turns([next(found) for _ in e.rows]) for e in episodes]


def critic_rows(episode: Logged, how: Estimation) -> list[Row]:
    """What the value head learns before there are values: discounted returns, and nothing else."""
    rewards = on_last_tokens(episode.lengths, episode.rewards)
    returns = gae(rewards, [0.0] * len(rewards), how.gamma, 1.0)
    return episode.weighted([0.0] * len(rewards), returns.tolist())


def actor_rows(episode: Logged, estimated: Estimate) -> list[Row]:
    """What the policy and the value head learn from an episode."""
    return episode.weighted(estimated.advantages, estimated.returns, estimated.values)


def mini_batches(n: int, size: PositiveInt, seed: str) -> list[list[int]]:
    """The numbers 0..n-1 in a random order, `size` at a time; a last batch under half as large goes
    with the one before."""
    order = random.Random(seed).sample(range(n), n)
    batches = [order[i : i + size] for i in range(0, n, size)]
    if len(batches) > 1 and len(batches[-1]) * 2 < size:
        last = batches.pop()
        batches[-1] += last
    return batches


def beyond(kl: float | None, bound: PositiveFloat | None) -> bool:
    """Whether a step was too far from the policy that sampled for its epoch to go on."""
    return bound is not None and kl is not None and kl > bound
