"""Exact attention over a token tree, inside any Hugging Face causal LM.

Nodes lie on one axis in depth-first order, so whatever a chain of nodes may look at is a few
slices of that axis: the part of each ancestor chain above the branching point, then the chain
itself, causally. GPUs attend by one mask (tree_flex.py), full precision on the CPU by those slices
(tree_flash.py). Here is what half precision on the CPU does: each chain is a small dense problem;
nothing is computed for pairs of nodes that do not see each other, but for the triangle of one query
block. The backward pass computes probabilities again: to keep them is no faster.

oneDNN, which multiplies half precision on CPUs, compiles a kernel for each shape that it meets, and
that takes longer than most of these products. Blocks are therefore filled up to multiples of
`QUERIES` and `KEYS`: keys that nobody sees, queries whose gradient is zero.

The model is not patched: the function is registered with transformers' attention interface and
chosen by the configuration while a tree runs; the plan travels as a keyword argument.
Dimensions: N nodes, H query heads, G key/value heads, D head width.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from understudy.core.token_tree import TokenTree
from understudy.train.tree_flash import Slices, TreeFlash, slices_of
from understudy.train.tree_flex import Spans, attend

NAME = "understudy_tree"
QUERY_BLOCK = 256
QUERIES, KEYS = 32, 64


@dataclass(frozen=True, slots=True)
class Block:
    """Queries start..stop of one chain; they see `above` (slices of nodes) and their own chain
    from `own` on, causally."""

    start: int
    stop: int
    own: int
    above: tuple[tuple[int, int], ...]

    @property
    def queries(self) -> int:
        """As many as are computed."""
        return -(-(self.stop - self.start) // QUERIES) * QUERIES

    @property
    def seen(self) -> int:
        """Keys of which at least one query sees each."""
        return self.stop - self.own + sum(k1 - k0 for k0, k1 in self.above)

    @property
    def keys(self) -> int:
        """As many as are computed."""
        return -(-self.seen // KEYS) * KEYS


@dataclass(frozen=True, slots=True)
class Plan:
    """What each part of a tree looks at."""

    blocks: tuple[Block, ...]
    slices: Slices
    spans: Spans
    nodes: int

    @property
    def pairs(self) -> int:
        """Query-key products that the plan computes."""
        return sum(b.queries * b.keys for b in self.blocks)


def plan_of(tree: TokenTree, query_block: int = QUERY_BLOCK) -> Plan:
    """The blocks of a tree: one for each chain and `query_block` queries, of equal sizes."""
    above: dict[int, tuple[tuple[int, int], ...]] = {}
    starts = tree.chains_C2[:, 0]
    chain_of_node = starts.searchsorted(tree.parent_N[starts], side="right") - 1
    blocks: list[Block] = []
    for c, (start, stop) in enumerate(tree.chains_C2.tolist()):
        parent = int(tree.parent_N[start])
        if parent < 0:
            above[c] = ()
        else:
            up = int(chain_of_node[c])
            above[c] = (*above[up], (int(starts[up]), parent + 1))
        count = -(-(stop - start) // query_block)
        edges = [start + (stop - start) * i // count for i in range(count + 1)]
        blocks += [Block(a, b, start, above[c]) for a, b in pairwise(edges)]
    return Plan(tuple(blocks), slices_of(tree), Spans(tree.end_N), len(tree))


class TreeAttention(torch.autograd.Function):
    """softmax(q k^T * scale) v over a plan: q (H, N, D), k and v (G, N, D) -> (N, H, D)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
        heads, n, width = q.shape
        q = q * scale
        out = q.new_zeros(n, heads, width)
        unseen = _unseen(plan, q)
        for block in plan.blocks:
            keys, values = _gather(k, block), _gather(v, block)
            probs = _probs(_queries(q, block, k.shape[0]), keys, block, unseen)
            rows = torch.bmm(probs, values).view(heads, -1, width)
            out[block.start : block.stop] = rows[:, : block.stop - block.start].transpose(0, 1)
        ctx.save_for_backward(q, k, v)
        ctx.plan, ctx.scale = plan, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        q, k, v = ctx.saved_tensors
        plan: Plan = ctx.plan
        heads, _, width = q.shape
        groups = k.shape[0]
        unseen = _unseen(plan, q)
        grad_q, grad_k, grad_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        grad_HND = grad.transpose(0, 1)
        for block in plan.blocks:
            queries, keys, values = (
                _queries(q, block, groups),
                _gather(k, block),
                _gather(v, block),
            )
            probs = _probs(queries, keys, block, unseen)
            g = _queries(grad_HND, block, groups)
            _scatter(grad_v, torch.bmm(probs.transpose(1, 2), g), block)
            grad_probs = torch.bmm(g, values.transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_probs, probs, -1, probs.dtype)
            own = torch.bmm(grad_scores, keys).view(heads, -1, width)
            grad_q[:, block.start : block.stop] = own[:, : block.stop - block.start]
            _scatter(grad_k, torch.bmm(grad_scores.transpose(1, 2), queries), block)
        return grad_q.mul_(ctx.scale), grad_k, grad_v, None, None


def _queries(q: Tensor, block: Block, groups: int) -> Tensor:
    """(H, N, D) -> (G, H/G * queries, D): the query heads of a key head side by side, zeros after
    the block's own."""
    filled = q.new_zeros(len(q), block.queries, q.shape[-1])
    filled[:, : block.stop - block.start] = q[:, block.start : block.stop]
    return filled.view(groups, -1, q.shape[-1])


def _gather(k: Tensor, block: Block) -> Tensor:
    """What the block may look at, in the order of depth, zeros after it: (G, keys, D)."""
    filling = k.new_zeros(len(k), block.keys - block.seen, k.shape[-1])
    parts = (*block.above, (block.own, block.stop))
    return torch.cat([*(k[:, a:b] for a, b in parts), filling], dim=1)


def _scatter(into: Tensor, grad: Tensor, block: Block) -> None:
    at = 0
    for a, b in (*block.above, (block.own, block.stop)):
        into[:, a:b] += grad[:, at : at + b - a]
        at += b - a


def _probs(queries: Tensor, keys: Tensor, block: Block, unseen: Tensor) -> Tensor:
    """Attention probabilities (G, H/G * queries, keys) of a block, from scaled queries."""
    scores = torch.bmm(queries, keys.transpose(1, 2))
    after = block.seen - (block.stop - block.start)  # keys that all queries of the block see
    some = scores.view(len(scores), -1, block.queries, block.keys)[..., after:]
    some += unseen[: block.queries, : block.keys - after]
    return torch.softmax(scores, dim=-1)


def _unseen(plan: Plan, like: Tensor) -> Tensor:
    """Minus infinity above the diagonal: from a block's first query on, what each may not see."""
    most = max((b.queries for b in plan.blocks), default=0)
    ones = torch.full((most, most + KEYS), float("-inf"), dtype=like.dtype, device=like.device)
    return ones.triu_(1)


def tree_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    understudy_plan: Plan | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (1, heads, N, D) in, (1, N, heads, D) out."""
    if understudy_plan is None:
        raise ValueError(f"{NAME} attention was called without a plan; use train.tree_batch")
    if dropout or (sliding_window is not None and sliding_window < understudy_plan.nodes):
        raise ValueError("tree attention knows neither dropout nor sliding windows")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # under autocast norms and rotations leave float32 behind: attention runs in the values' type
    q, k, v = query[0].to(value.dtype), key[0].to(value.dtype), value[0]
    kernel = kernel_for(v)
    if kernel == "flex":
        out = attend(q, k, v, understudy_plan.spans, scale)
    elif kernel == "slices":
        out = TreeFlash.apply(q, k, v, understudy_plan.slices, scale)  # type: ignore[no-untyped-call]
    else:
        out = TreeAttention.apply(q, k, v, understudy_plan, scale)  # type: ignore[no-untyped-call]
    return out.unsqueeze(0), None


def kernel_for(value: Tensor) -> Literal["flex", "slices", "blocks"]:
    """How attention over this is computed. In full precision torch's fused kernel for CPUs is as
    fast as products and softmax; in half it is slower."""
    if value.device.type != "cpu":
        return "flex"
    return "slices" if value.dtype in (torch.float32, torch.float64) else "blocks"


@contextmanager
def tree_attention(model: Any) -> Iterator[None]:
    """The model attends by plan while this is open."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, tree_attention_forward)
    with _attending(model, NAME):
        yield


def attention_in_use(model: Any) -> AbstractContextManager[None]:
    """Opened later, the model attends as it does now."""
    return _attending(model, model.config._attn_implementation)


@contextmanager
def _attending(model: Any, name: str) -> Iterator[None]:
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
