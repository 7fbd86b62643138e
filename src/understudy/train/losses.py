"""The streams' losses over entries. Each returns the *sum* of its terms; the trainer divides by
the stream's count over the whole batch, so that micro-batching and packing change nothing.

`ce`   weight * -log p(target)
`rl`   policy gradient of weight (the advantage), importance-weighted against the recorded sampler
       logprobs, ratio = exp(logprob - anchor):
       "cispo"  -min(ratio, ratio_cap) [no gradient] * weight * log p, i.e. token-level truncated
                importance sampling (CISPO, arXiv 2506.13585; ScaleRL, arXiv 2510.13786). At ratio 1
                this is REINFORCE.
       "clip"   PPO's -min(ratio * weight, clip(ratio, 1 - clip_low, 1 + clip_high) * weight), with
                the asymmetric bounds of DAPO (arXiv 2503.14476).
`kl`   weight * (log p - anchor)^2 / 2: for tokens drawn from the policy its gradient is that of
       the reverse KL divergence to whoever gave the anchor, the k2 estimator of
       http://joschu.net/blog/kl-approx.html.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat
from torch import Tensor


class LossConfig(BaseModel):
    """Options of the `rl` stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rl: Literal["cispo", "clip"] = "cispo"
    ratio_cap: PositiveFloat = 5.0
    clip_low: PositiveFloat = 0.2
    clip_high: PositiveFloat = 0.28


@dataclass(frozen=True, slots=True)
class StreamLoss:
    """A stream's summed loss, and what its entries say about the policy (detached, per entry)."""

    total: Tensor
    ratio_E: Tensor | None = None  # rl: importance ratios
    clipped_E: Tensor | None = None  # rl: whose gradient the trust region changed
    gap_E: Tensor | None = None  # rl, kl: logprob - anchor


def ce_loss(logprobs_E: Tensor, weight_E: Tensor) -> StreamLoss:
    return StreamLoss(-(weight_E * logprobs_E).sum())


def kl_loss(logprobs_E: Tensor, weight_E: Tensor, anchor_E: Tensor) -> StreamLoss:
    gap = logprobs_E - anchor_E
    return StreamLoss((weight_E * gap.square()).sum() / 2, gap_E=gap.detach())


def rl_loss(
    logprobs_E: Tensor, weight_E: Tensor, anchor_E: Tensor, config: LossConfig
) -> StreamLoss:
    gap = logprobs_E - anchor_E
    ratio = gap.exp()
    if config.rl == "cispo":
        held = ratio.detach().clamp(max=config.ratio_cap)
        total = -(held * weight_E * logprobs_E).sum()
        clipped = ratio.detach() > config.ratio_cap
    else:
        bounded = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
        total = -torch.minimum(ratio * weight_E, bounded * weight_E).sum()
        above, below = ratio > 1 + config.clip_high, ratio < 1 - config.clip_low
        clipped = torch.where(weight_E > 0, above, below)
    return StreamLoss(total, ratio.detach(), clipped, gap.detach())


def kl_estimate(gap_E: Tensor) -> Tensor:
    """Per entry, the k3 estimate of KL(sampler || policy) from logprob - anchor: never negative,
    unbiased where the entries were drawn from the anchor's distribution."""
    return gap_E.expm1() - gap_E
