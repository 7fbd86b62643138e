"""Advantages of a group's episodes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advantages:
    """One advantage per episode, in order; None for one that has nothing to train.

    `flat`: the rewards do not differ, so nothing can be learned from the group.
    """

    values: tuple[float | None, ...]
    mean: float
    std: float
    flat: bool


def group_advantages(
    rewards: Sequence[float],
    trainable: Sequence[bool] | None = None,
    divide_by_std: bool = False,
    eps: float = 1e-6,
    leave_one_out: bool = False,
) -> Advantages:
    """Reward minus the group's mean (Dr. GRPO, arXiv 2503.20783), over its standard deviation
    where asked for (GRPO, arXiv 2402.03300), or minus the mean of the *others* (RLOO, arXiv
    2402.14740: unbiased, and n / (n - 1) times the first).

    Episodes without a trainable token (`trainable` false) neither get an advantage nor count in
    the mean. Raises ValueError for a reward that is not finite, naming its place.
    """
    able = [True] * len(rewards) if trainable is None else list(trainable)
    if len(able) != len(rewards):
        raise ValueError(f"{len(rewards)} rewards and {len(able)} trainable flags")
    wrong = [i for i, r in enumerate(rewards) if not math.isfinite(r)]
    if wrong:
        raise ValueError(f"reward {rewards[wrong[0]]} of episode {wrong[0]} is not finite")
    counted = [r for r, ok in zip(rewards, able, strict=True) if ok]
    if not counted:
        return Advantages((None,) * len(rewards), 0.0, 0.0, True)
    mean = math.fsum(counted) / len(counted)
    std = math.sqrt(math.fsum((r - mean) ** 2 for r in counted) / len(counted))
    flat = max(counted) == min(counted)
    scale = 1 / (std + eps) if divide_by_std else 1.0
    if leave_one_out and not flat:
        scale *= len(counted) / (len(counted) - 1)
    values = tuple(
        None if not ok else 0.0 if flat else (r - mean) * scale
        for r, ok in zip(rewards, able, strict=True)
    )
    return Advantages(values, mean, std, flat)


def normalised(
    values: Sequence[float], tokens: Sequence[int] | None = None, eps: float = 1e-6
) -> list[float]:
    """Advantages of a whole batch with mean 0 and standard deviation 1 (REINFORCE++, arXiv
    2501.03262), over tokens where `tokens` says how many each holds.

    Equal advantages all become 0. Raises ValueError where the lengths differ or a value is not
    finite.
    """
    weights = [1] * len(values) if tokens is None else list(tokens)
    if len(weights) != len(values):
        raise ValueError(f"{len(values)} advantages and {len(weights)} counts of tokens")
    if not all(map(math.isfinite, values)):
        raise ValueError("an advantage is not finite")
    total = sum(weights)
    if not total or max(values) == min(values):
        return [0.0] * len(values)
    mean = math.fsum(v * w for v, w in zip(values, weights, strict=True)) / total
    square = math.fsum((v - mean) ** 2 * w for v, w in zip(values, weights, strict=True)) / total
    return [(v - mean) / (math.sqrt(square) + eps) for v in values]
