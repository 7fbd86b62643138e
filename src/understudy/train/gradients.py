"""The gradient of a part of a batch, and what its entries say about the policy.

Parts may be computed one after the other or in several processes: their gradients and sums add up
to those of the whole batch, because each loss is divided by counts over the whole.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from understudy.core.rows import Entry, Row
from understudy.core.token_tree import STREAMS
from understudy.train.losses import StreamLoss, ce_loss, kl_estimate, kl_loss, rl_loss
from understudy.train.optimiser import TrainerConfig
from understudy.train.sharding import METHOD
from understudy.train.tree_batch import Forward, MicroBatch, forward, micro_batches
from understudy.train.value_head import ValueHead, value_loss

IDLE = (Row((0,), (Entry(0, 0, "ce", 1.0),)),)


@dataclass(slots=True)
class Sums:
    """What a step adds up over its micro-batches."""

    loss: dict[str, float] = field(default_factory=dict)
    entropy: float = 0.0
    entries: int = 0  # that predict a token
    rl: int = 0
    ratio: float = 0.0
    ratio_max: float = 0.0
    kl: float = 0.0
    clipped: float = 0.0
    values: int = 0
    value_error: float = 0.0  # squared
    returned: float = 0.0
    returned_squared: float = 0.0
    masked: Counter[str] = field(default_factory=Counter)
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
        self.masked.update(part.masked)

    def add_values(self, values_E: Tensor, return_E: Tensor) -> None:
        self.values += len(values_E)
        self.value_error += float((values_E.detach() - return_E).square().sum())
        self.returned += float(return_E.sum())
        self.returned_squared += float(return_E.square().sum())

    @property
    def explained(self) -> float | None:
        """The share of the returns' variance that the values explain; None where all are alike."""
        spread = self.returned_squared - self.returned**2 / max(1, self.values)
        return 1 - self.value_error / spread if spread > 1e-9 * self.returned_squared else None

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
        self.values += other.values
        self.value_error += other.value_error
        self.returned += other.returned
        self.returned_squared += other.returned_squared
        self.masked.update(other.masked)
        self.tokens_computed += other.tokens_computed
        self.microbatches += other.microbatches
        return self


def add_gradients(
    model: nn.Module,
    rows: Sequence[Row],
    counts: Counter[str],
    config: TrainerConfig,
    value_head: ValueHead | None = None,
    passes: Callable[[int], int] | None = None,
) -> Sums:
    """Adds the rows' part of the gradient to the parameters' `grad`.

    `counts` are the entries of each stream over the whole batch, which these rows are a part of.
    `passes` says how many passes are to be made where these rows need so many: those beyond add a
    gradient of zero.
    """
    sums = Sums()
    limit, whole = config.max_tokens_per_microbatch, config.loss.of_sequences
    kind = next(model.parameters()).device.type
    batches = micro_batches(rows, limit, config.layout, whole, kind)
    idle = 0 if passes is None else passes(len(batches)) - len(batches)
    for batch in batches:
        loss = _loss(model, batch, counts, config, value_head, sums)
        loss.backward()  # type: ignore[no-untyped-call]
        sums.tokens_computed += batch.tokens_computed
        sums.microbatches += 1
    for batch in idle * micro_batches(IDLE, 1, config.layout):
        nothing = precise_forward(model, batch, config).logprobs_E.sum() * 0.0
        nothing.backward()  # type: ignore[no-untyped-call]
    return sums


def head_alone(counts: Counter[str]) -> bool:
    """Whether a batch trains the value head and not the model: all its entries are values."""
    return counts.keys() == {"value"}


def precise_forward(
    model: nn.Module,
    batch: MicroBatch,
    config: TrainerConfig,
    value_head: ValueHead | None = None,
    share: float = 0.0,
) -> Forward:
    """The batch through the model in the configured precision."""
    device = next(model.parameters()).device.type
    compute = partial(
        forward, model, batch, config.temperature, value_head, share, config.gradient_checkpointing,
        bool(config.compile),
    )  # fmt: skip
    gathered: Callable[[Callable[[], Forward]], Forward] | None = getattr(model, METHOD, None)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        return compute() if gathered is None else gathered(compute)


def _loss(
    model: nn.Module,
    batch: MicroBatch,
    counts: Counter[str],
    config: TrainerConfig,
    value_head: ValueHead | None,
    sums: Sums,
) -> Tensor:
    """The micro-batch's part of the batch's loss."""
    share = 0.0 if head_alone(counts) else config.value.share
    out = precise_forward(model, batch, config, value_head, share)
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
        if stream == "value":
            values = out.value_E.index_select(0, at)
            before = torch.from_numpy(tree.before_E[mine]).to(device, dtype)
            part = value_loss(values, weight, anchor, before, config.value.clip)
            sums.add_values(values, anchor)
        else:
            sequence = torch.from_numpy(tree.sequence_E[mine]).to(device)
            logprobs = out.logprobs_E.index_select(0, at)
            part = _stream(stream, logprobs, weight, anchor, sequence, config)
            sums.entries += len(mine)
        if stream == "rl":
            sums.add_rl(part)
        loss = part.total / counts[stream]
        sums.add_loss(stream, float(loss.detach()))
        total = total + loss
    sums.entropy += float(out.entropy_E.sum())
    return total


def _stream(
    stream: str,
    logprobs: Tensor,
    weight: Tensor,
    anchor: Tensor,
    sequence: Tensor,
    config: TrainerConfig,
) -> StreamLoss:
    if stream == "ce":
        return ce_loss(logprobs, weight)
    if stream == "kl":
        return kl_loss(logprobs, weight, anchor)
    return rl_loss(logprobs, weight, anchor, sequence, config.loss)
