"""The trainer: rows in, one optimiser step out. It does not know which algorithm made the rows.

A stream's loss is the sum of its entries' terms over the number of its entries of non-zero weight
in the *whole* batch, counted before rows are merged into trees and cut into micro-batches. So the
step depends neither on packing nor on the order of the rows, and rows of weight zero change
nothing and cost nothing.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from understudy.core.rows import Row, trim
from understudy.train.attention import prepare_kernel
from understudy.train.gradients import Sums, add_gradients, head_alone, precise_forward
from understudy.train.layers import are_known, layers_of
from understudy.train.optimiser import TrainerConfig, make_optimiser, trainable
from understudy.train.parallel import Helpers
from understudy.train.sharding import METHOD, put, whole
from understudy.train.tree_batch import Forward, MicroBatch, micro_batches, split_rows
from understudy.train.value_fit import Known, Moments, States, fit
from understudy.train.value_head import ValueHead

if TYPE_CHECKING:
    from understudy.train.processes import Processes

KNOWN = "value_fit"  # see Trainer.tensors


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite, or weights are not."""


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One step. Ratios, KL and clipping are over `rl` entries, entropy over all that predict a
    token; None: no such entries."""

    step: int
    loss: dict[str, float]
    count: dict[str, int]  # entries of non-zero weight
    grad_norm: float  # before clipping; the value head's is clipped by itself
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
    value_explained: float | None = None  # share of the returns' variance, before the step
    masked: dict[str, int] | None = None  # entries that each mask of the loss left out
    skipped: str | None = None  # why no step was taken

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Trainer:
    """Trains what requires a gradient in a Hugging Face causal LM.

    `steps` counts optimiser steps taken, `skipped_in_a_row` the latest steps of the model that were
    not finite. The model is put in eval mode: dropout would make the trained distribution another
    one than the sampled.

    A value head is trained beside the model by the `value` entries of rows, and alone by a batch
    that has no others (train.value_head). Such a batch says nothing of the model's steps: those of
    it that are not finite are counted apart, in `head_skipped_in_a_row`.

    With `workers` above 1 that many processes share each step's rows (train.parallel), forked
    here: before threads are started. `with Trainer(...)`, or `close`, ends them. `apart`: all
    rows go to the other processes, one more than else, and this one's Python stays free for its
    other threads, which may run while `step` waits.

    `processes` are those of a launcher (train.processes). Each has a trainer of the same model and
    calls its methods with the same rows, in the same order.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainerConfig | None = None,
        workers: int = 1,
        value_head: ValueHead | None = None,
        apart: bool = False,
        processes: "Processes | None" = None,
    ) -> None:
        self.model = model
        self.processes = processes
        self.config = config = config or TrainerConfig()
        if config.compile is None:
            compiles = gains_by_compiling(model, config, alone=processes is None)
            self.config = config.model_copy(update={"compile": compiles})
        self.value_head = value_head
        own = trainable(model)
        head = {} if value_head is None else dict(value_head.named_parameters(prefix="value_head"))
        self.parameters = own | head
        self._groups = [g for g in (list(own.values()), list(head.values())) if g]
        self.optimiser = make_optimiser(self._groups[0], self.config, list(head.values()))
        self.steps = 0
        self.skipped_in_a_row = self.head_skipped_in_a_row = 0
        self._known: Known | None = None  # to the value head's fits, where they build on each other
        model.eval()
        self.workers = workers
        self._helpers: Helpers | None = None
        self._own = 0 if apart else 1  # shares of a batch that this process computes
        if workers > self._own:
            prepare_kernel(model.config)
            work = partial(add_gradients, model, config=self.config, value_head=value_head)
            self._helpers = Helpers(list(self.parameters.values()), work, workers - self._own)

    def step(self, rows: Sequence[Row], share: float = 1.0) -> StepMetrics:
        """One optimiser step on all rows, at that share of the schedule's learning rate.

        Rows without entries of non-zero weight are left aside. With nothing to train, or with a
        loss or gradient that is not finite, no step is taken and `skipped` says why. Raises
        ValueError for entries of other streams than `ce` without an anchor and for `value` entries
        without a value head, NonFiniteError after `max_skipped` non-finite steps in a row, of the
        model or of the value head alone, and where a step leaves weights that are not finite.
        """
        begun = time.perf_counter()
        kept = [row for row in map(trim, rows) if row.entries]
        counts = _counts(kept)
        lr = self.config.lr_at(self.steps) * share
        self.optimiser.zero_grad(set_to_none=True)
        sums = self._gradient(kept, counts)
        if self.processes is not None:
            sums = self.processes.add(list(self.parameters.values()), sums)
        self._forget_zeros(counts)
        skipped, norm = self._update(lr, sums, counts)
        seconds = time.perf_counter() - begun
        in_rows = sum(len(row.ids) for row in kept)
        metrics = StepMetrics(
            step=self.steps,
            loss=sums.loss,
            count=dict(counts),
            grad_norm=norm,
            lr=lr,
            tokens_computed=sums.tokens_computed,
            tokens_in_rows=in_rows,
            microbatches=sums.microbatches,
            seconds=seconds,
            tokens_per_s=in_rows / seconds,
            entropy=sums.entropy / sums.entries if sums.entries else None,
            ratio_mean=sums.ratio / sums.rl if sums.rl else None,
            ratio_max=sums.ratio_max if sums.rl else None,
            kl=sums.kl / sums.rl if sums.rl else None,
            clipped_share=sums.clipped / sums.rl if sums.rl else None,
            value_explained=sums.explained,
            masked=dict(sums.masked) if sums.masked else None,
            skipped=skipped,
        )
        alone = head_alone(counts)
        bad = self.head_skipped_in_a_row if alone else self.skipped_in_a_row
        if bad >= self.config.max_skipped:
            raise NonFiniteError(
                f"{bad} steps {'of the value head ' if alone else ''}in a row were not finite; "
                "lower the learning rate, or look at the last batch's anchors and weights, and "
                "whether the base is whole"
            )
        return metrics

    @torch.no_grad()
    def logprobs(self, rows: Sequence[Row]) -> list[list[float]]:
        """Teacher-forced natural-log probabilities of each row's entries, in their order, under
        the distribution at the configured temperature. Weights are ignored; `value` entries are
        not of the kind."""
        return self._of_entries(rows, lambda out: out.logprobs_E)

    @torch.no_grad()
    def values(self, rows: Sequence[Row]) -> list[list[float]]:
        """What the value head says at the position of each row's entries, whatever their stream, in
        their order: of the state before the entry's target."""
        valued = [Row(r.ids, tuple(e._replace(stream="value") for e in r.entries)) for r in rows]
        return self._of_entries(valued, lambda out: out.value_E)

    @torch.no_grad()
    def fit_values(self, rows: Sequence[Row], keep: float = 0.0) -> float:
        """Fits the value head to the returns that the rows' `value` entries hold, in closed form
        (train.value_fit); the share of the returns' variance that such a head foretells of episodes
        that it was not fitted to. What earlier fits were given counts `keep` times as much with
        each further one. Raises ValueError without a value head."""
        if self.value_head is None:
            raise ValueError("there is no value head: Trainer(..., value_head=...)")
        head, states = self.value_head, States(len(self.value_head.weight))
        halves = (Moments.of(len(head.weight)), Moments.of(len(head.weight)))
        only = [Row(r.ids, tuple(e for e in r.entries if e.stream == "value")) for r in rows]
        kept = [trim(row) for row in only if row.entries]
        numbers: dict[str | int, int] = {}  # of episodes: their ids are others in another run
        owner_R = [r.entries[0].sample_id or n for n, r in enumerate(kept)]
        number_R = [numbers.setdefault(owner, len(numbers)) for owner in owner_R]
        half_R = np.array([crc32(str(number).encode()) % 2 for number in number_R])
        for batch in self._micro_batches(kept):
            out = precise_forward(self.model, batch, self.config, states)
            at_E = out.value_E.long().cpu()
            of_E = half_R[np.asarray(batch.rows)[batch.tree.row_E]]
            for number, moments in enumerate(halves):
                mine = torch.from_numpy(np.flatnonzero(of_E == number))
                returns = torch.from_numpy(batch.tree.anchor_E)[mine]
                moments.add(states.seen_UD.cpu()[at_E[mine]], returns)
        known = Known(halves, len(numbers)).after(self._known, keep)
        self._known = known if keep and known.finite else None
        fit_F, explained = fit(known.halves, known.episodes)
        head.weight.copy_(fit_F[:-1])
        head.bias.copy_(fit_F[-1:])
        return explained

    def _micro_batches(self, rows: Sequence[Row]) -> list[MicroBatch]:
        kind = next(self.model.parameters()).device.type
        limit = self.config.max_tokens_per_microbatch
        return micro_batches(rows, limit, self.config.layout, device=kind)

    def _of_entries(
        self, rows: Sequence[Row], told: Callable[[Forward], Tensor]
    ) -> list[list[float]]:
        """A number for each entry, from the forward pass."""
        found: list[list[float]] = [[] for _ in rows]
        kept = [Row(row.ids[: max((e.position for e in row.entries), default=-1) + 1], row.entries)
                for row in rows]  # fmt: skip
        for batch in self._micro_batches(kept):
            out = told(precise_forward(self.model, batch, self.config, self.value_head)).tolist()
            for row, value in zip(batch.tree.row_E.tolist(), out, strict=True):
                found[batch.rows[row]].append(value)
        return found

    def _gradient(self, rows: list[Row], counts: Counter[str]) -> Sums:
        """The whole batch's gradient, each process's part of it at the same time; where there is a
        launcher, that of this one's part."""
        passes, whole = None, self.config.loss.of_sequences
        if self.processes is not None:
            rows = self.processes.share(rows, whole)
            passes = self.processes.most if hasattr(self.model, METHOD) else None
        if self._helpers is None:
            return add_gradients(self.model, rows, counts, self.config, self.value_head, passes)
        shares = split_rows(rows, self.workers, whole)
        own, others = shares[: self._own], shares[self._own :]
        self._helpers.start(others, counts)
        sums = Sums()
        try:
            for share in own:
                sums += add_gradients(self.model, share, counts, self.config, self.value_head)
        finally:  # a failure of this process's part leaves no reply behind
            theirs = self._helpers.finish()
        sums += theirs
        return sums

    def _forget_zeros(self, counts: Counter[str]) -> None:
        """Helpers send zeros for what a batch does not train; AdamW would still count a step."""
        if self._helpers is None or self.value_head is None:
            return
        model, head = self._groups
        for parameter in model if head_alone(counts) else () if counts["value"] else head:
            parameter.grad = None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """What is trained, as `parameter:NAME`, AdamW's moments, as `exp_avg:NAME` and so on, and
        what the value head's next fit builds on: whole, on the CPU."""
        for name, parameter in self.parameters.items():
            yield f"parameter:{name}", whole(parameter)
        for name, parameter in self.parameters.items():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                yield f"{key}:{name}", whole(value)
        for n, tensor in enumerate(self._known.tensors() if self._known else ()):
            yield f"{KNOWN}:{n}", tensor

    @torch.no_grad()
    def restore(
        self, tensors: Iterable[tuple[str, Tensor]], steps: int, skipped: int, head: int = 0
    ) -> None:
        """Goes on from what `tensors` said after so many steps, the last so many skipped: of the
        model, and of the value `head` alone."""
        self.optimiser.state.clear()
        known: list[Tensor] = []
        for joined, value in tensors:
            key, _, name = joined.partition(":")
            if key == KNOWN:
                known.append(value)
                continue
            parameter = self.parameters[name]
            if key == "parameter":
                parameter.copy_(put(value, parameter))
            else:
                self.optimiser.state[parameter][key] = put(value, parameter)
        self._known = Known.of(known) if known else None
        self.steps = steps
        self.skipped_in_a_row, self.head_skipped_in_a_row = skipped, head

    def use_cores(self, cores: int) -> None:
        """From the next step on: so many of the processes, of one thread each, or so many threads
        where there is but this one."""
        self.workers = 1 if self._helpers is None else min(cores, self._own + self._helpers.count)
        torch.set_num_threads(cores if self._helpers is None else 1)

    def close(self) -> None:
        """Ends the other processes, where there are some. The trainer goes on alone."""
        if self._helpers is not None:
            self._helpers.close()
            self._helpers = None
            self.workers = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _update(self, lr: float, sums: Sums, counts: Counter[str]) -> tuple[str | None, float]:
        """Clips and steps; why not, and the gradient's norm."""
        if not counts:
            return "nothing to train: every entry has weight zero", 0.0
        limit = self.config.grad_clip or math.inf
        norm = math.hypot(*(float(nn.utils.clip_grad_norm_(g, limit)) for g in self._groups))
        finite = math.isfinite(norm) and all(map(math.isfinite, sums.loss.values()))
        if head_alone(counts):
            self.head_skipped_in_a_row = 0 if finite else self.head_skipped_in_a_row + 1
        else:
            self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if not finite:
            self.optimiser.zero_grad(set_to_none=True)
            return "the loss or its gradient is not finite", norm
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group["scale"]
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.steps += 1
        weights = ([p.detach() for p in group] for group in self._groups)  # as one, on a GPU
        if not all(math.isfinite(float(nn.utils.get_total_norm(group))) for group in weights):
            raise NonFiniteError(
                f"a step at the learning rate {lr:g} left weights that are not finite: lower it, "
                "and begin anew or --from a checkpoint"
            )
        return None, norm


def gains_by_compiling(model: Any, config: TrainerConfig, alone: bool) -> bool:
    """What `compile` is where nobody says: on a GPU, wherever it can be. With several processes it
    was never tried."""
    if config.cannot_compile or not alone:
        return False
    on_gpu = next(model.parameters()).device.type == "cuda"
    return on_gpu and are_known(layers_of(model.get_decoder()))


def _counts(rows: Sequence[Row]) -> Counter[str]:
    """Entries of each stream. Raises ValueError for an entry that lacks its anchor."""
    counts: Counter[str] = Counter()
    for row in rows:
        for entry in row.entries:
            counts[entry.stream] += 1
            if entry.anchor is None and entry.stream != "ce":
                whose = f"{entry.stream} entry of {entry.sample_id or 'a row'}"
                if entry.stream == "value":
                    raise ValueError(f"a {whose} has no return to learn")
                raise ValueError(
                    f"an {whose} has no anchor logprob; the engine must record logprobs"
                )
    return counts
