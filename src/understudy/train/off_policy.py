"""What is done about tokens that another version of the policy sampled.

`gap` is a token's log-ratio, its logprob now less the recorded one; `weight` its advantage.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def effective_share(gap_T: Floats) -> float:
    """Kish's effective sample size of importance-weighted tokens over their number, (sum w)^2 /
    (n * sum w^2), w being the ratio, not truncated: weights that are all cut to one bound would
    look alike. 1: all weigh alike. 0 without tokens."""
    ratio = np.exp(np.minimum(gap_T, 50.0))
    below = len(ratio) * float(np.square(ratio).sum())
    return float(ratio.sum()) ** 2 / below if below else 0.0


def second_moment_mask(gap_T: Floats, weight_T: Floats, bound: float) -> Bools:
    """Which tokens to train on (M2PO, arXiv 2510.01161): those of the largest squared log-ratio are
    left out until the mean of the others is at most `bound`.

    Left out are only tokens that their advantage would take yet further away: ratio above 1 with a
    positive one, below 1 with a negative one. Ties are resolved by place.
    """
    away = (gap_T > 0) & (weight_T > 0) | (gap_T < 0) & (weight_T < 0)
    squared = np.square(gap_T)
    kept = np.ones(len(gap_T), dtype=bool)
    total, count = float(squared.sum()), len(gap_T)
    for t in np.argsort(-squared, kind="stable"):
        if not count or total / count <= bound:
            break
        if away[t]:
            kept[t] = False
            total, count = total - float(squared[t]), count - 1
    return kept


def negative_mask(gap_T: Floats, weight_T: Floats, bound: float) -> Bools:
    """Which tokens to train on (arXiv 2606.17250): not those of negative advantage whose k3
    estimate of the KL divergence between sampler and policy is above `bound`."""
    kl: Any = np.expm1(np.minimum(gap_T, 50.0)) - gap_T
    return np.asarray((weight_T >= 0) | (kl <= bound))
