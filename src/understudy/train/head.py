"""The LM head on trained positions only: log-probabilities and entropies, in chunks, in float32.

Full logits of a batch are its largest tensor by far and mostly not looked at. Here only positions
with entries are multiplied, a chunk at a time, forward and again in the backward pass; what is
kept is one log normaliser a position. Equal to log_softmax of full logits. A chunk has as many
positions as the vocabulary lets it have: its logits are `LOGITS` bytes at most, and two tensors of
that size are there at a time.
Dimensions: U trained positions, E entries (several may share a position), D hidden, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from understudy.train.compiling import any_number, compiled
from understudy.train.products import LinearProduct

LOGITS = 256 << 20  # bytes
POSITIONS = 4096  # of a chunk at most, where the vocabulary is small


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """Natural-log probabilities of the targets (with gradient), entropies of the distributions
    (without): what `Trainer` builds losses and metrics from."""

    logprobs_E: Tensor
    entropy_U: Tensor


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_UD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        owner_E: Tensor,
        target_E: Tensor,
        inverse_temperature: float,
        chunk: int,
        by_halves: bool,
        fused: bool,
    ) -> tuple[Tensor, Tensor]:
        product = LinearProduct(hidden_UD, weight_VD, bias_V, by_halves)
        told = _compiled(_told) if fused else _told
        logprobs = hidden_UD.new_empty(len(owner_E), dtype=product.dtype)
        entropy = logprobs.new_empty(len(hidden_UD))
        normaliser = torch.empty_like(entropy)
        chunks = _chunks(owner_E, len(hidden_UD), chunk)
        for u0, u1, e0, e1 in chunks:
            logits = product.logits(u0, u1, inverse_temperature)
            owners = owner_E[e0:e1] - u0
            logprobs[e0:e1] = logits[owners, target_E[e0:e1]]
            normaliser[u0:u1], entropy[u0:u1] = told(logits)
            logprobs[e0:e1] -= normaliser[u0:u1][owners]
            del logits  # before the next chunk's
        ctx.save_for_backward(hidden_UD, weight_VD, bias_V, owner_E, target_E, normaliser)
        ctx.inverse_temperature, ctx.chunks = inverse_temperature, chunks
        ctx.by_halves, ctx.fused = by_halves, fused
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_E = grads[0]
        given = ctx.saved_tensors[:3]
        owner_E, target_E, normaliser = ctx.saved_tensors[3:]
        product = LinearProduct(given[0], given[1], given[2], ctx.by_halves)
        softmax = _compiled(_softmax) if ctx.fused else _softmax
        found = [
            None if x is None or not needed else torch.zeros_like(x, dtype=product.dtype)
            for x, needed in zip(given, ctx.needs_input_grad[:3], strict=True)
        ]
        grad_hidden, grad_weight, grad_bias = found
        for u0, u1, e0, e1 in ctx.chunks:
            logits = product.logits(u0, u1, ctx.inverse_temperature)
            owners, grad = owner_E[e0:e1] - u0, grad_E[e0:e1]
            total = grad.new_zeros(u1 - u0).index_add_(0, owners, grad)
            grad_logits = softmax(logits, normaliser[u0:u1], -total)
            grad_logits.index_put_((owners, target_E[e0:e1]), grad, accumulate=True)
            if ctx.inverse_temperature != 1.0:
                grad_logits *= ctx.inverse_temperature
            grad_logits = product.narrowed(grad_logits)
            if grad_hidden is not None:
                grad_hidden[u0:u1] = product.to_hidden(grad_logits)
            if grad_weight is not None:
                product.add_to_weight(grad_weight, grad_logits, u0, u1)
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
            del logits, grad_logits
        typed = (g if g is None else g.to(x.dtype) for g, x in zip(found, given, strict=True))
        return *typed, *(None for _ in range(6))


def _compiled(function: Any) -> Callable[..., Any]:
    """The function compiled, for any number of positions."""
    return lambda *tensors: compiled(function)(*(any_number(x, 0) for x in tensors))


def _told(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log normaliser and entropy of each row of logits, which are overwritten."""
    log_z = torch.logsumexp(logits, dim=-1)
    normalised = logits.sub_(log_z[:, None])
    return log_z, normalised.exp().mul_(normalised).sum(-1).neg_()


def _softmax(logits: Tensor, log_z: Tensor, factor: Tensor) -> Tensor:
    """Probabilities times each row's factor, in the place of the logits."""
    return logits.sub_(log_z[:, None]).exp_().mul_(factor[:, None])


def head_logprobs(
    hidden_UD: Tensor,
    head: nn.Module,
    owner_E: Tensor,
    target_E: Tensor,
    temperature: float = 1.0,
    chunk: int | None = None,
    by_halves: bool | None = None,
    fused: bool = False,
) -> HeadOutput:
    """Log-probabilities of targets under softmax(head(hidden) / temperature).

    `owner_E` says for each entry which of the U positions predicts it, ascending. `chunk` is how
    many positions are multiplied at a time (None: `chunk_of`). Half precision is raised to
    float32. `by_halves` multiplies by bf16 halves (train.products; None: on CUDA, under autocast or
    where all is bf16). `fused` compiles what comes after the product. Raises TypeError for a head
    that is not a linear layer.
    """
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    if not isinstance(weight, Tensor) or hasattr(head, "lora_A") or weight.dim() != 2:
        raise TypeError("the LM head must be a plain linear layer; adapt the other layers")
    kind, wide = hidden_UD.device.type, torch.promote_types(hidden_UD.dtype, torch.float32)
    if by_halves is None:
        narrow = hidden_UD.dtype == weight.dtype == torch.bfloat16
        by_halves = kind == "cuda" and (narrow or torch.is_autocast_enabled(kind))
    with torch.autocast(kind, enabled=False):
        logprobs, entropy = _LinearLogprobs.apply(  # type: ignore[no-untyped-call]
            hidden_UD,
            weight,
            bias,
            owner_E,
            target_E,
            1.0 / temperature,
            chunk or chunk_of(len(weight), wide),
            by_halves,
            fused,
        )
    return HeadOutput(logprobs, entropy)


def chunk_of(vocabulary: int, dtype: torch.dtype) -> int:
    """Of how many positions the logits, in this type, are computed at a time."""
    return max(1, min(POSITIONS, LOGITS // (vocabulary * dtype.itemsize)))


def _chunks(owner_E: Tensor, positions: int, chunk: int) -> list[tuple[int, int, int, int]]:
    """Slices of positions, each with the slice of its entries."""
    edges = [*range(0, positions, chunk), positions]
    bounds = torch.searchsorted(owner_E, torch.tensor(edges, device=owner_E.device)).tolist()
    return list(zip(edges[:-1], edges[1:], bounds[:-1], bounds[1:], strict=True))
