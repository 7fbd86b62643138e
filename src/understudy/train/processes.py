"""Several processes, started by `torchrun` or whatever sets its variables, train one model.

Each computes the gradient of its part of a step's rows; the parts are summed, not averaged, for
every loss is divided by counts over the whole batch already (train.gradients). Then each takes the
same optimiser step: the sums are the same, bit for bit, in all of them.

Between CPUs words and gradients go by gloo, between GPUs gradients go by NCCL. Words are JSON:
nothing is unpickled.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from understudy.core.rows import Entry, Row
from understudy.train.gradients import Sums
from understudy.train.sharding import is_sharded
from understudy.train.tree_batch import split_rows

PATIENCE = timedelta(days=1)  # one may play episodes for hours; whose peer dies knows it at once
BUCKET = 1 << 24  # numbers summed in one go


class ProcessesError(RuntimeError):
    """Another process of the same run has ended."""


class Processes:
    """The processes of a run, as this one sees them: it is number `rank` of `size`.

    Joins the group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT name, or the one that the
    launcher has joined already (Ray does). What is done together all have to do, in one order.
    """

    def __init__(self) -> None:
        if not dist.is_initialized():
            both = torch.cuda.is_available() and dist.is_nccl_available()
            dist.init_process_group("cpu:gloo,cuda:nccl" if both else "gloo", timeout=PATIENCE)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.here = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))  # on this machine
        self._gloo = dist.new_group(backend="gloo", timeout=PATIENCE)

    def tell(self, message: Any = None, by: int = 0) -> Any:
        """What the process `by` says, JSON, in all of them."""
        text = json.dumps(message, default=_number).encode() if self.rank == by else b""
        size = self.hand(torch.tensor([len(text)]), by)
        data = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else None
        heard = self.hand(torch.empty(int(size), dtype=torch.uint8) if data is None else data, by)
        return json.loads(heard.numpy().tobytes())

    def hand(self, tensor: Tensor, by: int = 0) -> Tensor:
        """The CPU tensor of the process `by`; the others give one like it, which is filled."""
        with _together():
            dist.broadcast(tensor.view(-1).view(torch.uint8), by, group=self._gloo)
        return tensor

    def share(self, rows: Sequence[Row], whole: bool = False) -> list[Row]:
        """This process's part of the rows: all parts are of about equal work, some may be empty.
        With `whole` an episode's rows are in one."""
        return split_rows(rows, self.size, whole)[self.rank]

    def most(self, number: int) -> int:
        """The largest of everyone's numbers."""
        largest = torch.tensor([number])
        with _together():
            dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._gloo)
        return int(largest)

    def add(self, parameters: Sequence[nn.Parameter], sums: Sums) -> Sums:
        """Sums everyone's gradients into the parameters' `grad`, but for sharded ones, which the
        backward pass has summed; returns the sum of everyone's sums. A parameter that has a
        gradient nowhere is left without one."""
        mine = [p for p in parameters if not is_sharded(p)]
        some = torch.tensor([p.grad is not None for p in mine], dtype=torch.uint8)
        with _together():
            dist.all_reduce(some, dist.ReduceOp.MAX, group=self._gloo)
            for bucket in _buckets([p for p, one in zip(mine, some, strict=True) if one]):
                self._add_gradients(bucket)
        total = Sums()
        for by in range(self.size):
            said = self.tell({f.name: getattr(sums, f.name) for f in fields(sums)}, by)
            total += Sums(**(said | {"masked": Counter(said["masked"])}))
        return total

    def _add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat, group=self._gloo if flat.device.type == "cpu" else None)
        parts = torch.split(flat, [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)


@cache
def joined() -> Processes:
    """This process's own, joined once: groups are made by all processes together."""
    return Processes()


def words_of(rows: Sequence[Row]) -> list[Any]:
    """Rows as JSON; `rows_from` is the way back."""
    return [[row.ids, row.entries] for row in rows]


def rows_from(words: Sequence[Any]) -> list[Row]:
    return [Row(tuple(ids), tuple(Entry(*e) for e in entries)) for ids, entries in words]


def _number(value: Any) -> Any:
    """A number of numpy's as one of Python's."""
    return value.item()


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one type and place, up to `BUCKET` numbers or a larger one alone."""
    bucket: list[nn.Parameter] = []
    for p in parameters:
        full = sum(b.numel() for b in bucket) + p.numel() > BUCKET
        if bucket and (full or (p.dtype, p.device) != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket = []
        bucket.append(p)
    if bucket:
        yield bucket


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what gloo and NCCL raise
        raise ProcessesError(
            "another process of this run has ended; its own message says why"
        ) from error
