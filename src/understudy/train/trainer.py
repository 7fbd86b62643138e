"""The trainer: rows in, one optimiser step out. It does not know which algorithm made the rows.

A stream's loss is the sum of its entries' terms over the number of its entries of non-zero weight
in the *whole* batch, counted before rows are merged into trees and cut into micro-batches. So the
step depends neither on packing nor on the order of the rows, and rows of weight zero change
nothing and cost nothing.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from understudy.core.rows import Row, trim
from understudy.core.token_tree import STREAMS
from understudy.train.losses import StreamLoss, ce_loss, kl_estimate, kl_loss, rl_loss
from understudy.train.optimiser import TrainerConfig, make_optimiser, trainable
from understudy.train.tree_batch import MicroBatch, forward, micro_batches


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite."""


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One step. Ratios, KL and clipping are over `rl` entries, entropy over all; None: no such
    entries."""

    step: int
    loss: dict[str, float]
    count: dict[str, int]  # entries of non-zero weight
    grad_norm: float  # before clipping
    lr: float
    tokens_computed: int
    tokens_in_rows: int  # of rows with something to train, after their last trained position
    microbatches: int
    seconds: float
    tokens_per_s: float  # tokens in rows
    entropy: float | None = None
    ratio_mean: float | None = None
    ratio_max: float | None = None
    kl: float | None = None  # KL(sampler || policy), k3
    clipped_share: float | None = None
    skipped: str | None = None  # why no step was taken

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class _Sums:
    """What a step adds up over its micro-batches."""

    loss: dict[str, float] = field(default_factory=dict)
    entropy: float = 0.0
    entries: int = 0
    rl: int = 0
    ratio: float = 0.0
    ratio_max: float = 0.0
    kl: float = 0.0
    clipped: float = 0.0

    def add_rl(self, part: StreamLoss) -> None:
        assert part.ratio_E is not None
        assert part.clipped_E is not None
        assert part.gap_E is not None
        self.rl += len(part.ratio_E)
        self.ratio += float(part.ratio_E.sum())
        self.ratio_max = max(self.ratio_max, float(part.ratio_E.max()))
        self.kl += float(kl_estimate(part.gap_E).sum())
        self.clipped += float(part.clipped_E.sum())


class Trainer:
    """Trains what requires a gradient in a Hugging Face causal LM.

    `steps` counts optimiser steps taken. The model is put in eval mode: dropout would make the
    trained distribution another one than the sampled.
    """

    def __init__(self, model: nn.Module, config: TrainerConfig | None = None) -> None:
        self.model = model
        self.config = config or TrainerConfig()
        self.parameters = trainable(model)
        self.optimiser = make_optimiser(list(self.parameters.values()), self.config)
        self.steps = 0
        self.skipped_in_a_row = 0
        model.eval()

    def step(self, rows: Sequence[Row]) -> StepMetrics:
        """One optimiser step on all rows.

        Rows without entries of non-zero weight are left aside. With nothing to train, or with a
        loss or gradient that is not finite, no step is taken and `skipped` says why. Raises
        ValueError for `rl` and `kl` entries without an anchor, NonFiniteError after
        `max_skipped` non-finite steps in a row.
        """
        begun = time.perf_counter()
        kept = [row for row in map(trim, rows) if row.entries]
        counts = _counts(kept)
        lr = self.config.lr_at(self.steps)
        batches = micro_batches(kept, self.config.max_tokens_per_microbatch, self.config.layout)
        self.optimiser.zero_grad(set_to_none=True)
        sums = _Sums()
        for batch in batches:
            loss = self._loss(batch, counts, sums)
            loss.backward()  # type: ignore[no-untyped-call]
        skipped, norm = self._update(lr, sums, trained=bool(kept))
        seconds = time.perf_counter() - begun
        in_rows = sum(len(row.ids) for row in kept)
        metrics = StepMetrics(
            step=self.steps,
            loss=sums.loss,
            count=dict(counts),
            grad_norm=norm,
            lr=lr,
            tokens_computed=sum(b.tokens_computed for b in batches),
            tokens_in_rows=in_rows,
            microbatches=len(batches),
            seconds=seconds,
            tokens_per_s=in_rows / seconds,
            entropy=sums.entropy / sums.entries if sums.entries else None,
            ratio_mean=sums.ratio / sums.rl if sums.rl else None,
            ratio_max=sums.ratio_max if sums.rl else None,
            kl=sums.kl / sums.rl if sums.rl else None,
            clipped_share=sums.clipped / sums.rl if sums.rl else None,
            skipped=skipped,
        )
        if self.skipped_in_a_row >= self.config.max_skipped:
            raise NonFiniteError(
                f"{self.skipped_in_a_row} steps in a row were not finite; lower the learning rate "
                "or look at the last batch's anchors and weights"
            )
        return metrics

    @torch.no_grad()
    def logprobs(self, rows: Sequence[Row]) -> list[list[float]]:
        """Teacher-forced natural-log probabilities of each row's entries, in their order, under
        the distribution at the configured temperature. Weights are ignored."""
        found: list[list[float]] = [[] for _ in rows]
        kept = [Row(row.ids[: max((e.position for e in row.entries), default=-1) + 1], row.entries)
                for row in rows]  # fmt: skip
        limit = self.config.max_tokens_per_microbatch
        for batch in micro_batches(kept, limit, self.config.layout):
            out = self._forward(batch).tolist()
            for row, value in zip(batch.tree.row_E.tolist(), out, strict=True):
                found[batch.rows[row]].append(value)
        return found

    def _forward(self, batch: MicroBatch) -> Tensor:
        with self._precision():
            return forward(self.model, batch, self.config.temperature).logprobs_E

    def _loss(self, batch: MicroBatch, counts: Counter[str], sums: _Sums) -> Tensor:
        """The micro-batch's part of the batch's loss."""
        with self._precision():
            out = forward(self.model, batch, self.config.temperature)
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
            part = self._stream(stream, out.logprobs_E.index_select(0, at), weight, anchor)
            if stream == "rl":
                sums.add_rl(part)
            loss = part.total / counts[stream]
            sums.loss[stream] = sums.loss.get(stream, 0.0) + float(loss.detach())
            total = total + loss
        sums.entropy += float(out.entropy_E.sum())
        sums.entries += len(tree.node_E)
        return total

    def _stream(self, stream: str, logprobs: Tensor, weight: Tensor, anchor: Tensor) -> StreamLoss:
        if stream == "ce":
            return ce_loss(logprobs, weight)
        if stream == "kl":
            return kl_loss(logprobs, weight, anchor)
        return rl_loss(logprobs, weight, anchor, self.config.loss)

    def _update(self, lr: float, sums: _Sums, trained: bool) -> tuple[str | None, float]:
        """Clips and steps; why not, and the gradient's norm."""
        if not trained:
            return "nothing to train: every entry has weight zero", 0.0
        parameters = list(self.parameters.values())
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.grad_clip or math.inf))
        if not math.isfinite(norm) or not all(map(math.isfinite, sums.loss.values())):
            self.skipped_in_a_row += 1
            self.optimiser.zero_grad(set_to_none=True)
            return "the loss or its gradient is not finite", norm
        self.skipped_in_a_row = 0
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.steps += 1
        return None, norm

    def _precision(self) -> torch.autocast:
        device = next(iter(self.parameters.values())).device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.config.precision == "bf16")


def _counts(rows: Sequence[Row]) -> Counter[str]:
    """Entries of each stream. Raises ValueError for an entry that lacks its anchor."""
    counts: Counter[str] = Counter()
    for row in rows:
        for entry in row.entries:
            counts[entry.stream] += 1
            if entry.anchor is None and entry.stream != "ce":
                raise ValueError(
                    f"an {entry.stream} entry of {entry.sample_id or 'a row'} has no anchor "
                    "logprob; the engine must record logprobs"
                )
    return counts
