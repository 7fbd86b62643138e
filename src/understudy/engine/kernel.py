"""The optional C kernel for decoding on a CPU: compiled once per model shape (core.native).
Without a compiler the torch operations of `decoder` do the same, more slowly (batched attention has
to gather and pad the cache there). The kernel is for float32 alone: a float64 engine, and a
half-precision one, runs on torch."""

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from understudy.core.native import library
from understudy.engine.cache import BLOCK

_FLAGS = ("-fno-signed-zeros", "-fassociative-math", "-fopenmp-simd")
LORA_PARTS = 3  # most linear layers that are fused into one
_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Products(ctypes.Structure):
    """The low-rank products of one site (kernel.c), which the next call does `first`: in a call of
    their own they would give the interpreter's lock away once more, and wait to get it back."""

    _fields_ = (
        ("x", _P), ("y", _P), ("rows", _P), ("tables", _P), ("n", _I), ("offset", _I),
        ("width_in", _I), ("width_out", _I), ("scratch", _P),
    )  # fmt: skip
    keeps: object = None  # what lies at these addresses; x and y are the caller's


@dataclass(frozen=True, slots=True)
class Kernel:
    """Calls into the compiled library. All tensors are contiguous float32 (int64 for indices)."""

    library: ctypes.CDLL
    kv_heads: int

    def qkv_post(
        self, qkv: Tensor, blocks: Tensor, at: Tensor, positions: Tensor,
        rope: tuple[Tensor, Tensor], q_weight: Tensor | None, k_weight: Tensor | None,
        eps: float, kv: Tensor, q: Tensor, first: Products | None = None,
    ) -> None:  # fmt: skip
        self.library.qkv_post(
            first and ctypes.addressof(first),
            qkv.data_ptr(), blocks.data_ptr(), at.data_ptr(), positions.data_ptr(),
            rope[0].data_ptr(), rope[1].data_ptr(),
            None if q_weight is None else q_weight.data_ptr(),
            None if k_weight is None else k_weight.data_ptr(),
            eps, kv.data_ptr(), q.data_ptr(), len(qkv), self.kv_heads,
        )  # fmt: skip

    def attend(
        self, q: Tensor, kv: Tensor, tables: Tensor, lens: Tensor, out: Tensor, lse: Tensor,
        scratch: Tensor, scale: float,
    ) -> None:  # fmt: skip
        self.library.attend(
            q.data_ptr(), kv.data_ptr(), tables.data_ptr(), lens.data_ptr(), out.data_ptr(),
            lse.data_ptr(), scratch.data_ptr(), len(tables), self.kv_heads, tables.shape[1],
            scale,
        )  # fmt: skip

    def rms_norm(
        self, x: Tensor, weight: Tensor, eps: float, first: Products | None = None
    ) -> Tensor:
        y = torch.empty_like(x)
        self.library.rms_norm(
            first and ctypes.addressof(first), x.data_ptr(), weight.data_ptr(), eps, y.data_ptr(),
            x.shape[0], x.shape[1],
        )  # fmt: skip
        return y

    def silu_mul(self, gate_up: Tensor, first: Products | None = None) -> Tensor:
        n, width = gate_up.shape
        y = gate_up.new_empty(n, width // 2)
        self.library.silu_mul(
            first and ctypes.addressof(first), gate_up.data_ptr(), y.data_ptr(), n, width // 2
        )
        return y

    def lora_add(self, products: Products) -> None:
        self.library.lora_add(ctypes.addressof(products))


def build_kernel(head_dim: int, kv_heads: int, group: int) -> Kernel | None:
    """The kernel for this shape, or None where there is no working C compiler."""
    if head_dim % 2:
        return None
    shape = {"HEAD_DIM": head_dim, "GROUP": group, "BLOCK": BLOCK}
    built = library(Path(__file__).with_name("kernel.c"), shape, _FLAGS)
    return None if built is None else Kernel(_declare(built), kv_heads)


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    library.qkv_post.argtypes = [_P, _P, _P, _P, _P, _P, _P, _P, _P, _F, _P, _P, _I, _I]
    library.attend.argtypes = [_P, _P, _P, _P, _P, _P, _P, _I, _I, _I, _F]
    library.rms_norm.argtypes = [_P, _P, _P, _F, _P, _I, _I]
    library.silu_mul.argtypes = [_P, _P, _P, _I, _I]
    library.lora_add.argtypes = [_P]
    names = ("qkv_post", "attend", "rms_norm", "silu_mul", "lora_add")
    for name in names:
        getattr(library, name).restype = None
    return library
