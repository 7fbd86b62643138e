"""The streams' losses over entries. Each returns the *sum* of its terms; the trainer divides by
the stream's count over the whole batch, so that micro-batching and packing change nothing.

`ce`   weight * -log p(target)
`rl`   policy gradient of weight (the advantage). The only anchor is the recorded sampler logprob:
       ratio = exp(logprob - anchor). A *sequence* is what the papers call a response: all that one
       episode sampled, its `rl` entries of non-zero weight in whichever rows they are, by their
       sample id (without one, those of a row). So nothing depends on where the chat template broke
       the history.
       "cispo"      -min(ratio, ratio_cap) [no gradient] * weight * log p, i.e. token-level
                    truncated importance sampling (CISPO, arXiv 2506.13585; ScaleRL, arXiv
                    2510.13786). At ratio 1 this is REINFORCE.
       "clip"       PPO's -min(ratio * weight, clip(ratio, 1 - clip_low, 1 + clip_high) * weight),
                    with the asymmetric bounds of DAPO (arXiv 2503.14476).
       "gspo"       the same with each token's ratio replaced by its sequence's, the exponential of
                    the mean log-ratio (GSPO, arXiv 2507.18071, whose bounds are the defaults). The
                    gradient goes through the token's own logprob (the paper's GSPO-token): where
                    a sequence's weights are equal, that is GSPO's.
       "dppo"       cispo's term where the step would not carry the token out of a trust region of
                    probabilities, not of ratios: left out are positive weights where p_policy -
                    p_sampler is above clip_high, negative ones where it is below -clip_low (DPPO's
                    binary total variation, arXiv 2602.04879, mostly with 0.2). A rare token that
                    a failure rests on may go all the way to nothing, and a likely one that good
                    and bad episodes share hardly moves: with ratios it is the other way round.
       "reinforce"  -weight * log p, no ratio: for data of the policy itself.
`kl`   weight * (log p - anchor)^2 / 2: for tokens drawn from the policy its gradient is that of
       the reverse KL divergence to whoever gave the anchor, the k2 estimator of
       http://joschu.net/blog/kl-approx.html.

Off-policy control of `rl`, with every surrogate:
       `ratio_cap`        no importance ratio counts for more: truncated importance sampling. Of
                          "reinforce" it switches the ratio on, which makes it "cispo"; of "clip"
                          and "gspo" it is the bound that negative weights lack (TRL's `delta`).
                          There is no weight beside the ratio: with one anchor it would correct
                          twice.
       `ratio_level`      whose ratio "cispo" corrects by: the token's, or the sequence's, the
                          product over its tokens (verl's `rollout_is`, TRL's
                          `sequence_truncate`). The product alone is unbiased over several steps,
                          and of large variance.
       `sequence_mask`    a sequence whose ratio, the product over its tokens, is above this is
                          left out (TRL's vLLM `sequence_mask`, there 3; verl's sequence-level
                          rejection).
       `off_policy_mask`  entries of negative weight are left out where the sequence's mean of
                          anchor - logprob is above this (DeepSeek-V3.2; TRL's
                          `off_policy_mask_threshold`).
       `difference_mask`  a token is left out where |p_policy - p_sampler| is above this
                          (prime-rl, there 0.2).
What is left out adds nothing to the loss and stays in the count that it is divided by (as in TRL):
masking never makes the rest weigh more. Each mask's entries are counted in `masked`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, model_validator
from torch import Tensor

# Of each surrogate, what is not given.
DEFAULTS: dict[str, dict[str, float]] = {
    "cispo": {"ratio_cap": 5.0},
    "clip": {"clip_low": 0.2, "clip_high": 0.28},
    "gspo": {"clip_low": 3e-4, "clip_high": 4e-4},
    "dppo": {"clip_low": 0.2, "clip_high": 0.2, "ratio_cap": 5.0},
    "reinforce": {},
}


class LossConfig(BaseModel):
    """Options of the `rl` stream; those not given are the surrogate's own (DEFAULTS). None: off."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    DECIDED_BY: ClassVar[str] = "rl"  # another surrogate has defaults of its own

    rl: Literal["cispo", "clip", "gspo", "dppo", "reinforce"] = "cispo"
    ratio_cap: PositiveFloat | None = None
    ratio_level: Literal["token", "sequence"] = "token"
    clip_low: PositiveFloat | None = None
    clip_high: PositiveFloat | None = None
    sequence_mask: PositiveFloat | None = None
    off_policy_mask: PositiveFloat | None = None
    difference_mask: PositiveFloat | None = None

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {**DEFAULTS.get(str(values.get("rl", "cispo")), {}), **values}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.rl in ("clip", "gspo", "dppo"):
            if self.clip_low is None or self.clip_high is None:
                raise ValueError(f"rl={self.rl} needs clip_low and clip_high")
            if self.rl == "dppo" and max(self.clip_low, self.clip_high) >= 1:
                raise ValueError("dppo's clip_low and clip_high are of probabilities: below 1")
            if self.clip_low >= 1:
                raise ValueError("clip_low must be below 1: ratios are clipped at 1 - clip_low")
            near = self.ratio_cap is not None and self.ratio_cap <= 1 + self.clip_high
            if near and self.rl != "dppo":
                raise ValueError("ratio_cap must be above 1 + clip_high, or it cuts the clip off")
        elif self.clip_low is not None or self.clip_high is not None:
            raise ValueError(f"rl={self.rl} clips nothing: leave clip_low and clip_high out")
        if self.ratio_level == "sequence" and not self.corrects:
            raise ValueError(f"rl={self.rl} has no ratio_level: it is cispo's (gspo's is its own)")
        if self.difference_mask is not None and self.difference_mask >= 1:
            raise ValueError("difference_mask must be below 1: probabilities differ by no more")
        return self

    @property
    def corrects(self) -> bool:
        """Whether log p is weighted by importance ratios."""
        truncated = self.rl == "reinforce" and self.ratio_cap is not None
        return self.rl in ("cispo", "dppo") or truncated

    @property
    def of_sequences(self) -> bool:
        """Whether an entry's term depends on the rest of its sequence, which has to be whole."""
        masks = self.sequence_mask, self.off_policy_mask
        return self.rl == "gspo" or self.ratio_level == "sequence" or masks != (None, None)


@dataclass(frozen=True, slots=True)
class StreamLoss:
    """A stream's summed loss, and what its entries say about the policy (detached, per entry)."""

    total: Tensor
    ratio_E: Tensor | None = None  # rl: importance ratios of tokens
    clipped_E: Tensor | None = None  # rl: whose gradient the trust region changed
    gap_E: Tensor | None = None  # rl, kl: logprob - anchor
    masked: dict[str, int] = field(default_factory=dict)  # rl: entries that each mask left out


def ce_loss(logprobs_E: Tensor, weight_E: Tensor) -> StreamLoss:
    return StreamLoss(-(weight_E * logprobs_E).sum())


def kl_loss(logprobs_E: Tensor, weight_E: Tensor, anchor_E: Tensor) -> StreamLoss:
    gap = logprobs_E - anchor_E
    return StreamLoss((weight_E * gap.square()).sum() / 2, gap_E=gap.detach())


def rl_loss(
    logprobs_E: Tensor, weight_E: Tensor, anchor_E: Tensor, sequence_E: Tensor, config: LossConfig
) -> StreamLoss:
    """`sequence_E` says which entries are of one sequence; sequences are whole: all of an episode's
    rows are here (train.tree_batch)."""
    gap = logprobs_E - anchor_E
    masks = _masks(logprobs_E.detach(), weight_E, anchor_E, sequence_E, config)
    left_out = torch.zeros_like(sequence_E, dtype=torch.bool)
    for mask in masks.values():
        left_out = left_out | mask
    weight = weight_E.masked_fill(left_out, 0.0)
    log_ratio = gap
    if config.rl == "gspo":
        log_ratio = _means(gap.detach(), sequence_E) + (gap - gap.detach())
    elif config.ratio_level == "sequence":
        log_ratio = _sums(gap.detach(), sequence_E)
    ratio = log_ratio.masked_fill(left_out, 0.0).exp()  # what is left out may be infinite
    capped = ratio if config.ratio_cap is None else ratio.clamp(max=config.ratio_cap)
    if config.rl == "dppo":
        gone = _outside(logprobs_E.detach(), weight, anchor_E, config)
        total = -(capped.detach() * weight.masked_fill(gone, 0.0) * logprobs_E).sum()
        changed = gone | (ratio > capped)
    elif config.clip_low is not None and config.clip_high is not None:
        low, high = 1 - config.clip_low, 1 + config.clip_high
        total = -torch.minimum(capped * weight, ratio.clamp(low, high) * weight).sum()
        changed = torch.where(weight > 0, ratio > high, ratio < low) | (ratio > capped)
    else:
        held = capped.detach() if config.corrects else torch.ones_like(weight)
        total = -(held * weight * logprobs_E).sum()
        changed = ratio > capped
    counted = {name: int(mask.sum()) for name, mask in masks.items()}
    return StreamLoss(total, gap.detach().exp(), changed.detach(), gap.detach(), counted)


def _masks(
    logprobs_E: Tensor, weight_E: Tensor, anchor_E: Tensor, sequence_E: Tensor, config: LossConfig
) -> dict[str, Tensor]:
    """Of each mask that is on, which entries it leaves out."""
    gap = logprobs_E - anchor_E
    masks: dict[str, Tensor] = {}
    if config.sequence_mask is not None:
        masks["sequence_mask"] = _sums(gap, sequence_E).exp() > config.sequence_mask
    if config.off_policy_mask is not None:
        away = -_means(gap, sequence_E) > config.off_policy_mask
        masks["off_policy_mask"] = away & (weight_E < 0)
    if config.difference_mask is not None:
        difference = (logprobs_E.exp() - anchor_E.exp()).abs()
        masks["difference_mask"] = difference > config.difference_mask
    return masks


def _outside(logprobs_E: Tensor, weight_E: Tensor, anchor_E: Tensor, config: LossConfig) -> Tensor:
    """dppo: whose weight would move a probability further out of the trust region."""
    assert config.clip_low is not None
    assert config.clip_high is not None
    moved_E = logprobs_E.exp() - anchor_E.exp()
    return torch.where(weight_E > 0, moved_E > config.clip_high, moved_E < -config.clip_low)


def _sums(value_E: Tensor, sequence_E: Tensor) -> Tensor:
    """Of each entry, the sum over the entries of its sequence."""
    count = int(sequence_E.max()) + 1
    return value_E.new_zeros(count).index_add_(0, sequence_E, value_E)[sequence_E]


def _means(value_E: Tensor, sequence_E: Tensor) -> Tensor:
    return _sums(value_E, sequence_E) / _sums(torch.ones_like(value_E), sequence_E)


def kl_estimate(gap_E: Tensor) -> Tensor:
    """Per entry, the k3 estimate of KL(sampler || policy) from logprob - anchor: never negative,
    unbiased where the entries were drawn from the anchor's distribution."""
    return gap_E.expm1() - gap_E
