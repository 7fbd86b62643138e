"""The LM head on trained positions only: log-probabilities and entropies, in chunks, in float32.

Full logits of a batch are its largest tensor by far and mostly not looked at. Here only positions
with entries are multiplied, `chunk` at a time, forward and again in the backward pass; what is
kept is one log normaliser a position. Equal to log_softmax of full logits.
Dimensions: U trained positions, E entries (several may share a position), D hidden, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CHUNK = 4096


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
        logprobs = hidden_UD.new_empty(len(owner_E))
        entropy = hidden_UD.new_empty(len(hidden_UD))
        normaliser = torch.empty_like(entropy)
        for u0, u1, e0, e1 in _chunks(owner_E, len(hidden_UD), chunk):
            logits = _logits(hidden_UD[u0:u1], weight_VD, bias_V, inverse_temperature)
            log_z = torch.logsumexp(logits, dim=-1)
            logprobs[e0:e1] = logits[owner_E[e0:e1] - u0, target_E[e0:e1]]
            logprobs[e0:e1] -= log_z[owner_E[e0:e1] - u0]
            probs = (logits - log_z[:, None]).exp_()
            entropy[u0:u1] = log_z - (probs * logits).sum(-1)
            normaliser[u0:u1] = log_z
        ctx.save_for_backward(hidden_UD, weight_VD, bias_V, owner_E, target_E, normaliser)
        ctx.inverse_temperature, ctx.chunk = inverse_temperature, chunk
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_E = grads[0]
        hidden, weight, bias, owner_E, target_E, normaliser = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if needs_bias else None
        for u0, u1, e0, e1 in _chunks(owner_E, len(hidden), ctx.chunk):
            logits = _logits(hidden[u0:u1], weight, bias, ctx.inverse_temperature)
            owners, grad = owner_E[e0:e1] - u0, grad_E[e0:e1]
            total = grad.new_zeros(u1 - u0).index_add_(0, owners, grad)
            grad_logits = (logits - normaliser[u0:u1, None]).exp_().mul_(-total[:, None])
            grad_logits.index_put_((owners, target_E[e0:e1]), grad, accumulate=True)
            grad_logits *= ctx.inverse_temperature
            if grad_hidden is not None:
                grad_hidden[u0:u1] = grad_logits @ weight
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.t(), hidden[u0:u1])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def head_logprobs(
    hidden_UD: Tensor,
    head: nn.Module,
    owner_E: Tensor,
    target_E: Tensor,
    temperature: float = 1.0,
    chunk: int = CHUNK,
) -> HeadOutput:
    """Log-probabilities of targets under softmax(head(hidden) / temperature).

    `owner_E` says for each entry which of the U positions predicts it, ascending. Half precision
    is raised to float32. Raises TypeError for a head that is not a linear layer.
    """
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    if not isinstance(weight, Tensor) or hasattr(head, "lora_A") or weight.dim() != 2:
        raise TypeError("the LM head must be a plain linear layer; adapt the other layers")
    wide = torch.promote_types(hidden_UD.dtype, torch.float32)
    logprobs, entropy = _LinearLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_UD.to(wide),
        weight.to(wide),
        None if bias is None else bias.to(wide),
        owner_E,
        target_E,
        1.0 / temperature,
        chunk,
    )
    return HeadOutput(logprobs, entropy)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, factor: float) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        logits = nn.functional.linear(hidden, weight, bias)
    return logits.mul_(factor) if factor != 1.0 else logits


def _chunks(owner_E: Tensor, positions: int, chunk: int) -> list[tuple[int, int, int, int]]:
    """Slices of positions, each with the slice of its entries."""
    edges = [*range(0, positions, chunk), positions]
    bounds = torch.searchsorted(owner_E, torch.tensor(edges, device=owner_E.device)).tolist()
    return list(zip(edges[:-1], edges[1:], bounds[:-1], bounds[1:], strict=True))
