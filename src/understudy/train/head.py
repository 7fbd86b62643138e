"""The LM head on trained positions only: log-probabilities and entropies, in chunks, in float32.

Full logits of a batch are its largest tensor by far and mostly not looked at. Here only positions
with entries are multiplied, a chunk at a time, forward and again in the backward pass; what is
kept is one log normaliser a position. Equal to log_softmax of full logits. A chunk has as many
positions as the vocabulary lets it have: its logits are `LOGITS` bytes at most, and two tensors of
that size are there at a time.
Dimensions: U trained positions, E entries (several may share a position), D hidden, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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
    ) -> tuple[Tensor, Tensor]:
        hidden, weight, bias = _wide(hidden_UD, weight_VD, bias_V)
        logprobs = hidden.new_empty(len(owner_E))
        entropy = hidden.new_empty(len(hidden))
        normaliser = torch.empty_like(entropy)
        chunks = _chunks(owner_E, len(hidden), chunk)
        for u0, u1, e0, e1 in chunks:
            logits = _logits(hidden[u0:u1], weight, bias, inverse_temperature)
            log_z = torch.logsumexp(logits, dim=-1)
            normalised = logits.sub_(log_z[:, None])
            logprobs[e0:e1] = normalised[owner_E[e0:e1] - u0, target_E[e0:e1]]
            entropy[u0:u1] = normalised.exp().mul_(normalised).sum(-1).neg_()
            normaliser[u0:u1] = log_z
            del logits, normalised  # before the next chunk's
        ctx.save_for_backward(hidden_UD, weight_VD, bias_V, owner_E, target_E, normaliser)
        ctx.inverse_temperature, ctx.chunks = inverse_temperature, chunks
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_E = grads[0]
        given = ctx.saved_tensors[:3]
        owner_E, target_E, normaliser = ctx.saved_tensors[3:]
        hidden, weight, bias = _wide(*given)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if bias is not None and needs_bias else None
        for u0, u1, e0, e1 in ctx.chunks:
            logits = _logits(hidden[u0:u1], weight, bias, ctx.inverse_temperature)
            owners, grad = owner_E[e0:e1] - u0, grad_E[e0:e1]
            total = grad.new_zeros(u1 - u0).index_add_(0, owners, grad)
            grad_logits = logits.sub_(normaliser[u0:u1, None]).exp_().mul_(-total[:, None])
            grad_logits.index_put_((owners, target_E[e0:e1]), grad, accumulate=True)
            grad_logits *= ctx.inverse_temperature
            if grad_hidden is not None:
                grad_hidden[u0:u1] = grad_logits @ weight
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.t(), hidden[u0:u1])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
            del logits, grad_logits
        found = (grad_hidden, grad_weight, grad_bias)
        typed = (g if g is None else g.to(x.dtype) for g, x in zip(found, given, strict=True))
        return *typed, None, None, None, None


def head_logprobs(
    hidden_UD: Tensor,
    head: nn.Module,
    owner_E: Tensor,
    target_E: Tensor,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> HeadOutput:
    """Log-probabilities of targets under softmax(head(hidden) / temperature).

    `owner_E` says for each entry which of the U positions predicts it, ascending. `chunk` is how
    many positions are multiplied at a time (None: `chunk_of`). Half precision is raised to
    float32. Raises TypeError for a head that is not a linear layer.
    """
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    if not isinstance(weight, Tensor) or hasattr(head, "lora_A") or weight.dim() != 2:
        raise TypeError("the LM head must be a plain linear layer; adapt the other layers")
    wide = torch.promote_types(hidden_UD.dtype, torch.float32)
    logprobs, entropy = _LinearLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_UD,
        weight,
        bias,
        owner_E,
        target_E,
        1.0 / temperature,
        chunk or chunk_of(len(weight), wide),
    )
    return HeadOutput(logprobs, entropy)


def chunk_of(vocabulary: int, dtype: torch.dtype) -> int:
    """Of how many positions the logits, in this type, are computed at a time."""
    return max(1, min(POSITIONS, LOGITS // (vocabulary * dtype.itemsize)))


def _wide(
    hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As they are multiplied; the backward pass keeps the narrow ones."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, factor: float) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        logits = nn.functional.linear(hidden, weight, bias)
    return logits.mul_(factor) if factor != 1.0 else logits


def _chunks(owner_E: Tensor, positions: int, chunk: int) -> list[tuple[int, int, int, int]]:
    """Slices of positions, each with the slice of its entries."""
    edges = [*range(0, positions, chunk), positions]
    bounds = torch.searchsorted(owner_E, torch.tensor(edges, device=owner_E.device)).tolist()
    return list(zip(edges[:-1], edges[1:], bounds[:-1], bounds[1:], strict=True))
