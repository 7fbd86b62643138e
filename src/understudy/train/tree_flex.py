"""Exact attention over a token tree by FlexAttention (arXiv 2412.05496), torch's kernel for GPUs.

In depth-first order a node's descendants lie right behind it: node k is seen by the nodes from k to
its end, and by nobody else. That one comparison is the mask. Which blocks of `BLOCK` queries and
keys are empty, or need no mask, follows from each block's least and largest end, without looking at
pairs. There is no kernel for double precision.

The kernel is compiled once for a model's heads and scale, and once more for passes without a
gradient. What changes from tree to tree is dynamic: the number of nodes, the mask's tensors and the
numbers that it holds. A tree of one block would be a case of its own (torch compiles dimensions of
size 1 apart), so it is filled up to two.
Dimensions: N nodes, H query heads, G key/value heads, D head width, Q blocks.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from understudy.core.token_tree import Ints

BLOCK = 128


@dataclass(slots=True, eq=False)
class Spans:
    """Who sees whom: node k is seen by the nodes k..end_N[k], the last one left out."""

    end_N: Ints
    _masks: dict[tuple[int, torch.device], BlockMask] = field(default_factory=dict)

    def mask(self, nodes: int, device: torch.device) -> BlockMask:
        """The mask of so many nodes: those beyond the tree see themselves alone. Made once."""
        if (nodes, device) not in self._masks:
            end_N = np.append(self.end_N, np.arange(len(self.end_N), nodes) + 1)
            self._masks[nodes, device] = block_mask(end_N, device)
        return self._masks[nodes, device]


def block_mask(end_N: Ints, device: torch.device) -> BlockMask:
    """FlexAttention's mask of a tree, by its nodes' ends."""
    nodes = len(end_N)
    blocks = -(-nodes // BLOCK)
    first_Q = np.arange(blocks) * BLOCK
    last_Q = np.minimum(first_Q + BLOCK, nodes) - 1
    most_Q = np.maximum.reduceat(end_N, first_Q)
    least_Q = np.minimum.reduceat(end_N, first_Q)
    before_QQ = np.tri(blocks, k=-1, dtype=bool)  # keys of an earlier block than the queries'
    some_QQ = before_QQ & (most_Q[None] > first_Q[:, None])
    all_QQ = before_QQ & (least_Q[None] > last_Q[:, None])
    masked = _listed((some_QQ & ~all_QQ) | np.eye(blocks, dtype=bool), device)
    whole = _listed(all_QQ, device)
    end = torch.from_numpy(end_N).to(device)

    def sees(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < end[key])

    mask: BlockMask = BlockMask.from_kv_blocks(
        *masked, *whole, BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(nodes, nodes)
    )
    return mask


def attend(q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float) -> Tensor:
    """softmax(q k^T * scale) v over a tree: q (H, N, D), k and v (G, N, D) -> (N, H, D). On a CPU
    FlexAttention has no backward pass: there it raises NotImplementedError for what requires a
    gradient."""
    fused = q.device.type != "cpu" and q.dtype != torch.float64
    return attend_by(compiled() if fused else flex_attention, q, k, v, spans, scale)


def attend_by(kernel: Any, q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float) -> Tensor:
    """The same by FlexAttention as it is, or as `compiled` made it."""
    from torch._dynamo import mark_static  # takes seconds to import

    nodes = q.shape[1]
    filling = max(0, BLOCK + 1 - nodes)
    # copies: views, and strides of another order, would each be compiled apart
    given = [x[None].clone(memory_format=torch.contiguous_format) for x in (q, k, v)]
    if filling:
        given = [F.pad(x, (0, 0, 0, filling)) for x in given]
    for x in given:
        mark_static(x, [1, 3])  # heads and their width: numbers in the kernel's code
    mask = spans.mask(nodes + filling, q.device)
    out: Tensor = kernel(*given, block_mask=mask, scale=scale, enable_gqa=True)
    return out[0, :, :nodes].transpose(0, 1)


def _listed(is_QQ: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many key blocks each query block has, and which, first: (1, 1, Q) and (1, 1, Q, Q)."""
    order = np.argsort(~is_QQ, axis=1, kind="stable").astype(np.int32)
    count = is_QQ.sum(axis=1).astype(np.int32)
    return tuple(torch.from_numpy(a).to(device)[None, None] for a in (count, order))  # type: ignore[return-value]


@cache
def compiled(backend: str = "inductor") -> Any:
    """FlexAttention, compiled when it is first called, for any number of nodes."""
    return torch.compile(flex_attention, dynamic=True, backend=backend)
