"""Exact attention over a token tree by torch's fused kernel for CPUs: in double precision, and on
machines without a C compiler.

All nodes below a branching point see the same slice of the chain that they branch from, and they
lie side by side: one dense product for all of them, however many chains they are. Each chain sees
itself causally; neighbours of equal length go together. A node's parts are merged by their
log-sum-exp (FlashAttention, arXiv 2205.14135), and each part's gradient follows from the merged
output and log-sum-exp (Ring Attention, arXiv 2310.01889). No probabilities are kept.
Dimensions: N nodes, H query heads, G key/value heads, D head width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from understudy.core.token_tree import TokenTree


@dataclass(frozen=True, slots=True)
class Chains:
    """`count` chains of `length` nodes, one after the other from `start` on."""

    start: int
    count: int
    length: int

    def of(self, x: Tensor) -> Tensor:
        """(H, N, ...) -> a view (count, H, length, ...)."""
        own = x[:, self.start : self.start + self.count * self.length]
        return own.view(len(x), self.count, self.length, *x.shape[2:]).transpose(0, 1)


@dataclass(frozen=True, slots=True)
class Below:
    """Nodes start..stop all see nodes above..branch of the chain that they branch from."""

    start: int
    stop: int
    above: int
    branch: int


@dataclass(frozen=True, slots=True)
class Slices:
    """Who sees whom: every chain itself, causally, and what is above its branching points."""

    chains: tuple[Chains, ...]
    below: tuple[Below, ...]


def slices_of(tree: TokenTree) -> Slices:
    chains: list[Chains] = []
    below: dict[
        int, Below
    ] = {}  # by the last node seen: a branching point has one chain through it
    starts = tree.chains_C2[:, 0]
    parents = tree.parent_N[starts]
    through = starts[starts.searchsorted(parents, side="right") - 1]
    for (start, stop), parent, above in zip(
        tree.chains_C2.tolist(), parents.tolist(), through.tolist(), strict=True
    ):
        last = chains[-1] if chains else None
        if last and last.length == stop - start and last.start + last.count * last.length == start:
            chains[-1] = Chains(last.start, last.count + 1, last.length)
        else:
            chains.append(Chains(start, 1, stop - start))
        if parent >= 0:
            first = below[parent].start if parent in below else start
            below[parent] = Below(first, int(tree.end_N[start]), above, parent + 1)
    return Slices(tuple(chains), tuple(below.values()))


class TreeFlash(torch.autograd.Function):
    """softmax(q k^T * scale) v over a tree: q (H, N, D), k and v (G, N, D) -> (N, H, D)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, slices: Slices, scale: float) -> Tensor:
        heads, n, width = q.shape
        groups = len(k)
        k, v = (x.repeat_interleave(heads // groups, 0) for x in (k, v))
        out_NHD = q.new_zeros(n, heads, width)
        out, lse = out_NHD.transpose(0, 1), q.new_zeros(heads, n)
        for chains in slices.chains:
            part, part_lse = _attend(chains.of(q), chains.of(k), chains.of(v), True, scale)
            chains.of(out).copy_(part)
            chains.of(lse).copy_(part_lse)
        for b in slices.below:
            part, part_lse = _attend(
                q[None, :, b.start : b.stop],
                k[None, :, b.above : b.branch],
                v[None, :, b.above : b.branch],
                False,
                scale,
            )
            mine = lse[:, b.start : b.stop]
            both = torch.logaddexp(mine, part_lse[0])
            so_far = out[:, b.start : b.stop]
            so_far.mul_((mine - both).exp_()[..., None])
            so_far.addcmul_(part[0], (part_lse[0] - both).exp_()[..., None])
            mine.copy_(both)
        ctx.save_for_backward(q, k, v, out_NHD, lse)
        ctx.slices, ctx.scale, ctx.groups = slices, scale, groups
        return out_NHD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].transpose(0, 1)
        q, k, v, out_NHD, lse = ctx.saved_tensors
        out = out_NHD.transpose(0, 1)
        grad_q, grad_k, grad_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for chains in ctx.slices.chains:
            of = chains.of
            part_q, part_k, part_v = _attend_backward(
                of(grad), of(q), of(k), of(v), of(out), of(lse), True, ctx.scale
            )
            of(grad_q).add_(part_q)
            of(grad_k).add_(part_k)
            of(grad_v).add_(part_v)
        for b in ctx.slices.below:
            mine, seen = slice(b.start, b.stop), slice(b.above, b.branch)
            part_q, part_k, part_v = _attend_backward(
                grad[None, :, mine],
                q[None, :, mine],
                k[None, :, seen],
                v[None, :, seen],
                out[None, :, mine],
                lse[None, :, mine],
                False,
                ctx.scale,
            )
            grad_q[:, mine] += part_q[0]
            grad_k[:, seen] += part_k[0]
            grad_v[:, seen] += part_v[0]
        together = (ctx.groups, -1, *k.shape[1:])
        grad_k, grad_v = (g.reshape(together).sum(1) for g in (grad_k, grad_v))
        return grad_q, grad_k, grad_v, None, None


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """(B, H, L, D) attention and its log-sum-exp (B, H, L)."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = fused(q, k, v, 0.0, causal, scale=scale)
    return out, lse


def _attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    grad_q, grad_k, grad_v = fused(grad, q, k, v, out, lse, 0.0, causal, scale=scale)
    return grad_q, grad_k, grad_v
