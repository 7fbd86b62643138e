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
) -> Advantages:
    """Reward minus the group's mean (Dr. GRPO, arXiv 2503.20783), over its standard deviation
    where asked for (GRPO, arXiv 2402.03300).

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
    values = tuple(
        None if not ok else 0.0 if flat else (r - mean) * scale
        for r, ok in zip(rewards, able, strict=True)
    )
    return Advantages(values, mean, std, flat)
