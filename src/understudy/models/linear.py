"""Products of float32 matrices on a CPU, by the library that is faster there.

torch's float32 products on x86 are MKL's, which on AMD's processors run kernels for older
instructions; oneDNN, which torch has for other types, takes the processor's widest vectors
everywhere. oneDNN compiles a kernel for each number of rows that it meets, which takes longer than
a small product, so rows are filled up to few different numbers.
"""

import platform
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 64  # from so many on, oneDNN is faster with a weight that it has to lay out anew


@cache
def has_onednn() -> bool:
    """Whether oneDNN's products are there."""
    on_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return (
        on_x86
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def filled(rows: int) -> int:
    """The number of rows to compute: a multiple of about an eighth of them."""
    step = max(4, 1 << max(0, rows.bit_length() - 4))
    return -(-rows // step) * step


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (N, in) times weight (out, in) transposed, plus bias (out,): without a gradient."""
    if not _by_onednn(x, weight):
        return F.linear(x, weight, bias)
    rows = len(x)
    more = filled(rows) - rows
    x = F.pad(x, (0, 0, 0, more)) if more else x
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return y[:rows]


def inner_product(x: Tensor, y: Tensor) -> Tensor:
    """x (N, a) transposed times y (N, b): without a gradient."""
    if not _by_onednn(x, y):
        return x.t() @ y
    more = filled(len(x)) - len(x)
    if more:
        x, y = (F.pad(z, (0, 0, 0, more)) for z in (x, y))
    if x.shape[1] > y.shape[1]:
        return inner_product(y, x).t()
    found: Tensor = torch.ops.mkldnn._linear_pointwise.default(x.t(), y.t(), None, "none", [], "")
    return found


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch.nn.functional.linear, as fast as this machine can."""
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    if not _by_onednn(x.flatten(0, -2), weight):
        return F.linear(x, weight, bias)
    y: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def _by_onednn(x: Tensor, y: Tensor) -> bool:
    on_cpu = x.device.type == y.device.type == "cpu"
    single = x.dtype == y.dtype == torch.float32
    return on_cpu and single and len(x) >= ROWS and has_onednn()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x.flatten(0, -2), weight, bias).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            product(grad, weight.t()).view_as(x) if to_x else None,
            inner_product(grad, x.flatten(0, -2)) if to_weight else None,
            grad.sum(0) if to_bias else None,
        )
