"""Exact attention over a token tree by a C kernel (tree_kernel.c), for CPUs.

Each chain of nodes sees itself causally and the beginnings of the chains above it; the kernel goes
through those runs of keys in blocks, forward and backward, and computes pairs that see each other
alone. Sums are float32. So are the operands of products, or where values are in half precision and
the processor multiplies bf16, they are rounded to it once.
Dimensions: N nodes, H query heads, G key/value heads, D head width, C chains.
"""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.core.native import library
from understudy.core.token_tree import Ints, TokenTree

LANES = 16  # head widths are filled up to a multiple of it, and each chain's keys
STEP = 24  # rows that the kernel writes at a time
_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Tree(ctypes.Structure):
    _fields_ = (("chains", _I), ("start", _P), ("up", _P), ("seen", _P), ("first", _P),
                ("stop", _P), ("packed", _P))  # fmt: skip


class _Heads(ctypes.Structure):
    _fields_ = (("at", _P), ("head", _I), ("row", _I))


class ChainTable:
    """Who sees whom, a chain at a time, as the kernel reads it.

    Chain c is nodes start[c] to start[c + 1]; it sees the first seen[c] nodes of chain up[c] and
    what that sees above itself. Nodes first[c] to stop[c] attend: all, or with `looked_at` from the
    first of these nodes in the chain to the last.
    """

    def __init__(self, tree: TokenTree, looked_at: Ints | None = None) -> None:
        self.start = np.append(tree.chains_C2[:, 0], len(tree))
        begin, end = self.start[:-1], self.start[1:]
        parent = tree.parent_N[begin]
        self.up = begin.searchsorted(parent, side="right") - 1  # -1 for a root: its parent is -1
        self.seen = np.where(parent < 0, 0, parent + 1 - begin[self.up])
        self.first, self.stop = begin, end
        if looked_at is not None and len(looked_at):
            at, after = looked_at.searchsorted(begin), looked_at.searchsorted(end)
            some = at < after
            last = len(looked_at) - 1
            self.first = np.where(some, looked_at[np.minimum(at, last)], begin)
            self.stop = np.where(some, looked_at[np.maximum(after - 1, 0)] + 1, begin)
        packed = np.append(0, np.cumsum(-(-(end - begin) // LANES) * LANES))
        self.keys = int(packed[-1])
        arrays = (self.start, self.up, self.seen, self.first, self.stop, packed)
        self._kept = [np.ascontiguousarray(a, dtype=np.int64) for a in arrays]
        self.tree = _Tree(len(begin), *(a.ctypes.data for a in self._kept))

    @property
    def queries(self) -> int:
        """How many nodes attend."""
        return int((self.stop - self.first).sum())


@cache
def kernel(width: int, half: bool = False) -> ctypes.CDLL | None:
    """The kernel for heads of this width, a multiple of `LANES`; None without a C compiler."""
    macros = {"HEAD_DIM": width} | ({"HALF": 1} if half else {})
    return library(Path(__file__).with_suffix(".c"), macros)


def filled(width: int) -> int:
    """The head width that is computed."""
    return -(-width // LANES) * LANES


class TreeKernel(torch.autograd.Function):
    """softmax(q k^T * scale) v over a tree: q (H, N, D), k and v (G, N, D) -> (N, H, D) in v's
    type. Nodes that do not attend get zeros. Key heads are shared out among torch's threads."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, table: ChainTable, scale: float
    ) -> Tensor:
        wide = [_wide(x) for x in (q, k, v)]
        heads, n, width = wide[0].shape
        groups = len(k)
        out_NHD = wide[0].new_zeros(n, heads, width)
        lse = wide[0].new_empty(heads, n)
        given = [_heads(x) for x in (*wide, out_NHD.transpose(0, 1))]
        size = table.keys * width
        run = _library(width, v).attend

        def attend(first: int, last: int) -> None:
            scratch = torch.empty(2 * size)
            run(ctypes.byref(table.tree), *map(ctypes.byref, given), _P(lse.data_ptr()), _I(n),
                _P(scratch.data_ptr()), _I(size), _I(first), _I(last), _I(heads // groups),
                _F(scale))  # fmt: skip

        _shared_out(groups, attend)
        ctx.save_for_backward(q, k, v, out_NHD, lse)
        ctx.table, ctx.scale = table, scale
        return out_NHD[..., : v.shape[-1]].to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out_NHD, lse = ctx.saved_tensors
        table: ChainTable = ctx.table
        wide = [_wide(x) for x in (q, k, v)]
        grad = _wide(grads[0].transpose(0, 1))
        heads, n, width = wide[0].shape
        groups = len(k)
        grad_q = torch.zeros_like(wide[0])
        grad_k, grad_v = (grad_q.new_zeros(groups, n + STEP, width) for _ in range(2))
        given = [_heads(x) for x in (*wide, out_NHD.transpose(0, 1), grad, grad_q, grad_k, grad_v)]
        size = table.keys * width
        run = _library(width, v).attend_backward

        def attend(first: int, last: int) -> None:
            scratch = torch.empty(3 * size)
            run(ctypes.byref(table.tree), *map(ctypes.byref, given), _P(lse.data_ptr()), _I(n),
                _P(scratch.data_ptr()), _I(size), _I(first), _I(last), _I(heads // groups),
                _F(ctx.scale))  # fmt: skip

        _shared_out(groups, attend)
        found = (grad_q, grad_k[:, :n], grad_v[:, :n])
        narrow = (g[..., : x.shape[-1]].to(x.dtype) for g, x in zip(found, (q, k, v), strict=True))
        return *narrow, None, None


def _library(width: int, values: Tensor) -> ctypes.CDLL:
    found = kernel(width, half=values.dtype == torch.bfloat16)
    assert found is not None  # attention.kernel_for has looked
    return found


def _wide(x: Tensor) -> Tensor:
    """In float32, each head's rows in one piece and of a width that the kernel takes."""
    x, missing = x.float(), filled(x.shape[-1]) - x.shape[-1]
    if missing:
        return F.pad(x, (0, missing))
    return x if x.stride(-1) == 1 else x.contiguous()


def _heads(x: Tensor) -> _Heads:
    return _Heads(x.data_ptr(), x.stride(0), x.stride(1))


def _shared_out(groups: int, work: Callable[[int, int], None]) -> None:
    """`work(first, last)` for all key heads, on as many threads as torch has."""
    threads = min(torch.get_num_threads(), groups)
    edges = [groups * t // threads for t in range(threads + 1)]
    if threads == 1:
        work(0, groups)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))
