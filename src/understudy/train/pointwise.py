"""What lies between a decoder layer's products, on a CPU: norms, rotary positions and SwiGLU by C
(pointwise.c), each in one pass over memory where torch takes half a dozen, forward and backward.

Inputs are float32 or bf16; everything is computed in float32 and rounded once.
Dimensions: N nodes, W width, H heads, D head width.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.core.native import library

_FLAGS = ("-fno-signed-zeros", "-fassociative-math")
_P, _I, _F, _B = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
TYPES = (torch.float32, torch.bfloat16)


@cache
def pointwise() -> ctypes.CDLL | None:
    """The C functions; None without a C compiler."""
    found = library(Path(__file__).with_suffix(".c"), {}, _FLAGS)
    if found is not None:
        found.norm.argtypes = [_P, _B, _P, _F, _P, _B, _P, _I, _I]
        found.norm_backward.argtypes = [_P, _B, _P, _P, _P, _B, _P, _P, _I, _I]
        found.rotate.argtypes = [_P, _B, _P, _F, _P, _P, _P, _P, _I, _I, _I]
        found.rotate_backward.argtypes = [
            _P, _B, _P, _P, _P, _P, _P, _I, _I, _P, _P, _P, _I, _I, _I,
        ]  # fmt: skip
        found.swiglu.argtypes = [_P, _P, _P, _B, _I]
        found.swiglu_backward.argtypes = [_P, _P, _P, _P, _P, _B, _I]
        for name in ("norm", "norm_backward", "rotate", "rotate_backward", "swiglu",
                     "swiglu_backward"):  # fmt: skip
            getattr(found, name).restype = None
    return found


def norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """RMSNorm (arXiv 1910.07467) of each row of x (..., W), in this type."""
    y: Tensor = _Norm.apply(x, weight, eps, dtype)  # type: ignore[no-untyped-call]
    return y


def rotate(
    x: Tensor, weight: Tensor | None, eps: float, cosine_ND: Tensor, sine_ND: Tensor
) -> Tensor:
    """x (N, H, D), its norm where there is a weight (D,), turned by its node's angles (RoPE, arXiv
    2104.09864), in float32."""
    y: Tensor = _Rotate.apply(x, weight, eps, cosine_ND, sine_ND)  # type: ignore[no-untyped-call]
    return y


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (arXiv 2002.05202), of one shape and type."""
    y: Tensor = _SwiGLU.apply(gate, up)  # type: ignore[no-untyped-call]
    return y


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        ctx.kind, x, weight = weight.dtype, x.contiguous(), weight.float()
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        y, inverse = torch.empty_like(x, dtype=dtype), torch.empty(rows)
        _c().norm(_at(x), _half(x), _at(weight), eps, _at(y), _half(y), _at(inverse), rows, width)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        grad, dx = grads[0].contiguous(), torch.empty_like(x)
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        _c().norm_backward(_at(x), _half(x), _at(weight), _at(inverse), _at(grad), _half(grad),
                           _at(dx), _at(to_weight), len(inverse), x.shape[-1])  # fmt: skip
        return dx, None if to_weight is None else to_weight.to(ctx.kind), None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, eps: float, cosine: Tensor, sine: Tensor
    ) -> Tensor:
        x, cosine, sine = x.contiguous(), cosine.float().contiguous(), sine.float().contiguous()
        if weight is not None:
            ctx.kind, weight = weight.dtype, weight.float()
        y, inverse = torch.empty_like(x, dtype=torch.float32), torch.empty(x.shape[:2])
        _c().rotate(_at(x), _half(x), _at(weight), eps, _at(cosine), _at(sine), _at(y),
                    _at(inverse), *x.shape)  # fmt: skip
        ctx.save_for_backward(x, weight, inverse, cosine, sine)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse, cosine, sine = ctx.saved_tensors
        grad = grads[0] if grads[0].stride(-1) == 1 else grads[0].contiguous()
        dx, turned = torch.empty_like(x), torch.empty(x.shape[-1])
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        _c().rotate_backward(_at(x), _half(x), _at(weight), _at(inverse), _at(cosine), _at(sine),
                             _at(grad), grad.stride(0), grad.stride(1), _at(turned), _at(dx),
                             _at(to_weight), *x.shape)  # fmt: skip
        return dx, None if to_weight is None else to_weight.to(ctx.kind), None, None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        y = torch.empty_like(gate)
        _c().swiglu(_at(gate), _at(up), _at(y), _half(y), y.numel())
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        grad, to_gate, to_up = grads[0].contiguous(), torch.empty_like(gate), torch.empty_like(up)
        _c().swiglu_backward(_at(gate), _at(up), _at(grad), _at(to_gate), _at(to_up), _half(gate),
                             gate.numel())  # fmt: skip
        return to_gate, to_up


def _c() -> ctypes.CDLL:
    found = pointwise()
    assert found is not None  # layers.can_fuse has looked
    return found


def _at(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _half(x: Tensor) -> bool:
    assert x.dtype in TYPES, f"{x.dtype} in pointwise C"
    return x.dtype == torch.bfloat16
