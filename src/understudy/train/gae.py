"""Generalised advantage estimation (arXiv 1506.02438) over an episode's sampled tokens.

A token is an action; the state that follows a turn's last token is that in which the next turn's
first token is sampled, with what the tools and the user said in between. So observation tokens are
no steps: an episode is the sequence of its sampled tokens, turn after turn, whatever lies between.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def gae(
    rewards_T: Sequence[float],
    values_T: Sequence[float],
    gamma: float = 1.0,
    lam: float = 1.0,
    after: float = 0.0,
) -> Floats:
    """The advantage of each token: the sum over k of (gamma * lam)^k times the k-th next temporal
    difference, reward + gamma * next value - value.

    `rewards_T` are what each token brought, `values_T` those of the states in which they were
    sampled, `after` that of the state after the last (0 where the episode ended there). With `lam`
    1 an advantage is the discounted return less the value. Raises ValueError for numbers that are
    not finite.
    """
    if len(rewards_T) != len(values_T):
        raise ValueError(f"{len(rewards_T)} rewards and {len(values_T)} values")
    if not all(map(math.isfinite, (*rewards_T, *values_T, after))):
        raise ValueError("a reward or a value is not finite")
    advantages = np.zeros(len(values_T))
    ahead, value_ahead = 0.0, after
    for t in range(len(values_T) - 1, -1, -1):
        difference = rewards_T[t] + gamma * value_ahead - values_T[t]
        ahead = difference + gamma * lam * ahead
        advantages[t], value_ahead = ahead, values_T[t]
    return advantages


def on_last_tokens(lengths: Sequence[int], rewards: Sequence[float]) -> list[float]:
    """Rewards of turns as rewards of tokens: each on the last of its turn's `lengths` tokens."""
    tokens: list[float] = []
    for length, reward in zip(lengths, rewards, strict=True):
        if length < 1:
            raise ValueError("a turn without tokens has no token to reward")
        tokens += [0.0] * (length - 1) + [reward]
    return tokens


def normalised(advantages: Sequence[Floats], eps: float = 1e-8) -> list[Floats]:
    """Advantages of a batch's episodes less their mean and over their standard deviation, both over
    all tokens of the batch (REINFORCE++, arXiv 2501.03262). All alike: all 0."""
    flat = np.concatenate(advantages) if len(advantages) else np.zeros(0)
    if not len(flat) or flat.max() == flat.min():
        return [np.zeros(len(a)) for a in advantages]
    mean, std = flat.mean(), flat.std()
    return [(a - mean) / (std + eps) for a in advantages]
