"""The LM head's products: in float32 (models.linear), or by bf16 halves.

A float32 number is the sum of two bf16 numbers but for 2^-17 of itself. A GPU multiplies bf16
numbers exactly and adds in float32, many times as fast as it multiplies float32 numbers.
So high with high, low with high and high with low stand for a product in float32: as one product
over an inner dimension three times as long, twice where one matrix is bf16 already, and as it is
where both are. Gradients are products of the high halves alone: those of all other layers of a step
in bf16 are no more exact.
Dimensions: U positions, D hidden, V vocabulary, K what of D's halves lies side by side.
"""

import torch
from torch import Tensor

from understudy.models.linear import inner_product, product


class LinearProduct:
    """`hidden_UD @ weight_VD.T + bias_V` and its gradients, for slices of the positions. To be used
    where autocast is off: it would round the operands."""

    def __init__(
        self, hidden_UD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, by_halves: bool
    ) -> None:
        self.dtype = torch.promote_types(hidden_UD.dtype, torch.float32)
        self.by_halves, self.inner = by_halves, hidden_UD.shape[1]
        self.bias = None if bias_V is None else bias_V.to(self.dtype)
        if by_halves:
            self.hidden, self.weight = halved(hidden_UD, weight_VD)
        else:
            self.hidden, self.weight = hidden_UD.to(self.dtype), weight_VD.to(self.dtype)

    def logits(self, u0: int, u1: int, factor: float) -> Tensor:
        """(u1 - u0, V) times `factor`, in a new tensor."""
        if self.by_halves:
            logits = _wide_product(self.hidden[u0:u1], self.weight.t())
            if self.bias is not None:
                logits += self.bias
        else:
            logits = product(self.hidden[u0:u1], self.weight, self.bias)
        return logits.mul_(factor) if factor != 1.0 else logits

    def narrowed(self, grad_logits: Tensor) -> Tensor:
        """The logits' gradient as it is multiplied."""
        return grad_logits.bfloat16() if self.by_halves else grad_logits

    def to_hidden(self, grad_logits: Tensor) -> Tensor:
        """(positions, D): the gradient of the positions that the logits are of."""
        if self.by_halves:
            return _wide_product(grad_logits, self.weight[:, : self.inner])
        return product(grad_logits, self.weight.t())

    def add_to_weight(self, grad_weight: Tensor, grad_logits: Tensor, u0: int, u1: int) -> None:
        """Adds the part of these positions to the weight's gradient (V, D)."""
        if self.by_halves:
            grad_weight += _wide_product(grad_logits.t(), self.hidden[u0:u1, : self.inner])
        else:
            grad_weight += inner_product(grad_logits, self.hidden[u0:u1])


def halved(a_UD: Tensor, b_VD: Tensor) -> tuple[Tensor, Tensor]:
    """bf16 matrices (U, K) and (V, K) whose product is a's and b's; the first D columns are the
    high halves."""
    (a_high, a_low), (b_high, b_low) = _halves(a_UD), _halves(b_VD)
    pairs = [(a_high, b_high)]
    if a_low is not None:
        pairs.append((a_low, b_high))
    if b_low is not None:
        pairs.append((a_high, b_low))
    if len(pairs) == 1:
        return pairs[0]
    return torch.cat([a for a, _ in pairs], 1), torch.cat([b for _, b in pairs], 1)


def _halves(x: Tensor) -> tuple[Tensor, Tensor | None]:
    if x.dtype == torch.bfloat16:
        return x, None
    high = x.bfloat16()
    return high, (x - high).bfloat16()


def _wide_product(a: Tensor, b: Tensor) -> Tensor:
    """The product of two bf16 matrices in float32, not rounded between: CUDA alone has it."""
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()
