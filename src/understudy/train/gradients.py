"""The gradient of a part of a batch, and what its entries say about the policy.

Parts may be computed one after the other or in several processes: their gradients and sums add up
to those of the whole batch, because each loss is divided by counts over the whole.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from understudy.core.rows import Row
from understudy.core.token_tree import STREAMS
from understudy.train.losses import StreamLoss, ce_loss, kl_estimate, kl_loss, rl_loss
from understudy.train.optimiser import TrainerConfig
from understudy.train.tree_batch import Forward, MicroBatch, forward, micro_batches


@dataclass(slots=True)
class Sums:
    """What a step adds up over its micro-batches."""

    loss: dict[str, float] = field(default_factory=dict)
    entropy: float = 0.0
    entries: int = 0
    rl: int = 0
    ratio: float = 0.0
    ratio_max: float = 0.0
    kl: float = 0.0
    clipped: float = 0.0
    tokens_computed: int = 0
    microbatches: int = 0

    def add_loss(self, stream: str, loss: float) -> None:
        self.loss[stream] = self.loss.get(stream, 0.0) + loss

    def add_rl(self, part: StreamLoss) -> None:
        assert part.ratio_E is not None
        assert part.clipped_E is not None
        assert part.gap_E is not None
        self.rl += len(part.ratio_E)
        self.ratio += float(part.ratio_E.sum())
        self.ratio_max = max(self.ratio_max, float(part.ratio_E.max()))
        self.kl += float(kl_estimate(part.gap_E).sum())
        self.clipped += float(part.clipped_E.sum())

    def __iadd__(self, other: "Sums") -> "Sums":
        for stream, loss in other.loss.items():
            self.add_loss(stream, loss)
        self.ratio_max = max(self.ratio_max, other.ratio_max)
        self.entropy += other.entropy
        self.entries += other.entries
        self.rl += other.rl
        self.ratio += other.ratio
        self.kl += other.kl
        self.clipped += other.clipped
        self.tokens_computed += other.tokens_computed
        self.microbatches += other.microbatches
        return self


def add_gradients(
    model: nn.Module, rows: Sequence[Row], counts: Counter[str], config: TrainerConfig
) -> Sums:
    """Adds the rows' part of the gradient to the parameters' `grad`.

    `counts` are the entries of each stream over the whole batch, which these rows are a part of.
    """
    sums = Sums()
    for batch in micro_batches(rows, config.max_tokens_per_microbatch, config.layout):
        loss = _loss(model, batch, counts, config, sums)
        loss.backward()  # type: ignore[no-untyped-call]
        sums.tokens_computed += batch.tokens_computed
        sums.microbatches += 1
    return sums


def precise_forward(model: nn.Module, batch: MicroBatch, config: TrainerConfig) -> Forward:
    """The batch through the model in the configured precision."""
    device = next(model.parameters()).device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        return forward(model, batch, config.temperature, config.gradient_checkpointing)


def _loss(
    model: nn.Module, batch: MicroBatch, counts: Counter[str], config: TrainerConfig, sums: Sums
) -> Tensor:
    """The micro-batch's part of the batch's loss."""
    out = precise_forward(model, batch, config)
    device, dtype = out.logprobs_E.device, out.logprobs_E.dtype
    tree = batch.tree
    total = out.logprobs_E.new_zeros(())
    for code, stream in enumerate(STREAMS):
        mine = np.flatnonzero(tree.stream_E == code)
        if not len(mine):
            continue
        at = torch.from_numpy(mine).to(device)
        weight = torch.from_numpy(tree.weight_E[mine]).to(device, dtype)
        anchor = torch.from_numpy(tree.anchor_E[mine]).to(device, dtype)
        part = _stream(stream, out.logprobs_E.index_select(0, at), weight, anchor, config)
        if stream == "rl":
            sums.add_rl(part)
        loss = part.total / counts[stream]
        sums.add_loss(stream, float(loss.detach()))
        total = total + loss
    sums.entropy += float(out.entropy_E.sum())
    sums.entries += len(tree.node_E)
    return total


def _stream(
    stream: str, logprobs: Tensor, weight: Tensor, anchor: Tensor, config: TrainerConfig
) -> StreamLoss:
    if stream == "ce":
        return ce_loss(logprobs, weight)
    if stream == "kl":
        return kl_loss(logprobs, weight, anchor)
    return rl_loss(logprobs, weight, anchor, config.loss)
