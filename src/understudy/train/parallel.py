"""Gradients of one batch on several cores, each a process of its own.

The operations of a small model are too short for threads to share: two of them bring little more
than one. Whole rows are not. Helpers are forks of the training process, one thread each: the base
is the parent's memory, the trained parameters and each helper's gradient lie in memory that both
see, and only rows and sums are sent. A fork has the audit hooks of its parent, so a helper may do
what its parent may do and no more.

Helpers add to the gradient in a fixed order: a batch's gradient is the same, bit for bit, whenever
it is computed with the same number of them. It ends with its parent, however that ends.
"""

import mmap
import multiprocessing
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn

from understudy.core.rows import Row
from understudy.train.gradients import Sums

Work = Callable[[Sequence[Row], Counter[str]], Sums]
ALIGNED = 64  # bytes; where each tensor begins
SMALL = 100_000_000  # parameters; larger models were not measured (`python -m bench layouts`)


class HelperError(RuntimeError):
    """A helper failed or has ended; the message says why."""


def processes_for(model: nn.Module, threads: int) -> int:
    """How many processes should share a step where `threads` cores are free: all of them for a
    small model on the CPU, else one."""
    parameters = list(model.parameters())
    small = sum(p.numel() for p in parameters) <= SMALL
    on_cpu = all(p.device.type == "cpu" for p in parameters)
    return threads if small and on_cpu and sys.platform == "linux" else 1


class Helpers:
    """`count` forks that run `work`, which adds to the `grad` of `parameters`.

    The parameters are moved into shared memory, in place: they stay the same objects. Between
    `start` and `finish` they must not change.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], work: Work, count: int) -> None:
        self.parameters = parameters
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._grads: list[list[Tensor]] = []
        self._busy: list[int] = []
        with torch.no_grad():
            for parameter, place in zip(parameters, _shared_like(parameters), strict=True):
                parameter.data = place.copy_(parameter)
        for _ in range(count):
            self._fork(work)

    @property
    def count(self) -> int:
        return len(self._processes)

    def start(self, shares: Sequence[Sequence[Row]], counts: Counter[str]) -> None:
        """Gives each helper its rows; an empty share keeps it idle. Raises HelperError."""
        self._busy = [n for n, share in enumerate(shares) if share]
        for n in self._busy:
            try:
                self._pipes[n].send((shares[n], counts))
            except OSError as error:
                raise HelperError(self._ended(n)) from error

    def finish(self) -> Sums:
        """Waits for those started; their gradients are added to the parameters', their sums
        returned. Raises HelperError where one failed, and then adds nothing of it."""
        total = Sums()
        busy, self._busy = self._busy, []
        replies = [self._reply(n) for n in busy]
        for n, reply in zip(busy, replies, strict=True):
            if isinstance(reply, str):
                raise HelperError(f"a training process failed: {reply}")
            total += reply
            for parameter, grad in zip(self.parameters, self._grads[n], strict=True):
                if parameter.grad is None:
                    parameter.grad = grad.clone()
                else:
                    parameter.grad += grad
        return total

    def close(self) -> None:
        """Ends the helpers; may be called again."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
            process.join()
        self._pipes, self._processes, self._busy = [], [], []

    def _fork(self, work: Work) -> None:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        grads = _shared_like(self.parameters)
        others = [*self._pipes, ours]
        process = context.Process(
            target=_serve, args=(theirs, others, self.parameters, grads, work), daemon=True
        )
        with warnings.catch_warnings():  # of threads that a fork does not have: it uses none
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        self._pipes.append(ours)
        self._processes.append(process)
        self._grads.append(grads)

    def _reply(self, n: int) -> Sums | str:
        try:
            reply: Sums | str = self._pipes[n].recv()
        except (EOFError, OSError) as error:
            raise HelperError(self._ended(n)) from error
        return reply

    def _ended(self, n: int) -> str:
        self._processes[n].join(1)
        return f"a training process has ended, exit status {self._processes[n].exitcode}"


def _serve(
    pipe: Connection,
    others: Sequence[Connection],
    parameters: Sequence[nn.Parameter],
    grads: Sequence[Tensor],
    work: Work,
) -> None:
    """A helper's life: rows in, gradients into `grads`, sums out, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:  # the parent's ends: held here, they would outlive it
        other.close()
    torch.set_num_threads(1)
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    while True:
        try:
            rows, counts = pipe.recv()
        except EOFError:
            return
        for grad in grads:
            grad.zero_()
        reply: Sums | str
        try:
            reply = work(rows, counts)
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent waits for it
            reply = f"{type(error).__name__}: {error}"
        try:
            pipe.send(reply)
        except OSError:  # the parent has ended meanwhile
            return


def _shared_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Zeros of the same shapes and types in anonymous memory that forks share."""
    starts, size = [], 0
    for tensor in tensors:
        starts.append(size)
        size += -(-tensor.numel() * tensor.element_size() // ALIGNED) * ALIGNED
    memory = mmap.mmap(-1, max(size, ALIGNED))
    return [
        torch.frombuffer(memory, dtype=t.dtype, count=t.numel(), offset=start).view(t.shape)
        for t, start in zip(tensors, starts, strict=True)
    ]
