"""Exact attention over a token tree by FlexAttention (arXiv 2412.05496), torch's kernel for GPUs.

In depth-first order a node's descendants lie right behind it: node k is seen by the nodes from k to
its end, and by nobody else. That one comparison is the mask. Which blocks of `BLOCK` queries and
keys are empty, or need no mask, follows from each block's least and largest end, without looking at
pairs. The kernel is compiled once, for any number of nodes; there is none for double precision.
Dimensions: N nodes, H query heads, G key/value heads, D head width, Q blocks.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
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
    mask = spans.mask(q.shape[1], q.device)
    fused = q.device.type != "cpu" and q.dtype != torch.float64
    kernel: Any = _compiled() if fused else flex_attention
    out: Tensor = kernel(q[None], k[None], v[None], block_mask=mask, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1)


def _listed(is_QQ: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many key blocks each query block has, and which, first: (1, 1, Q) and (1, 1, Q, Q)."""
    order = np.argsort(~is_QQ, axis=1, kind="stable").astype(np.int32)
    count = is_QQ.sum(axis=1).astype(np.int32)
    return tuple(torch.from_numpy(a).to(device)[None, None] for a in (count, order))  # type: ignore[return-value]


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=True)
