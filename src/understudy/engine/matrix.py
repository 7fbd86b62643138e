"""A decoder's weight matrices, in the layout whose products this machine computes fastest.

torch's float32 products on x86 are MKL's, which on AMD's processors run kernels for older
instructions. oneDNN's, over a weight that was laid out for them once, are faster from a dozen rows
on, and slower for a single row of a small matrix. So small matrices are kept in both forms, large
ones in oneDNN's alone. oneDNN compiles a kernel for each
number of rows that it meets, which takes longer than most products, so rows are filled up to few
different numbers.
"""

import platform
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 12  # from so many rows on, oneDNN's form of a small matrix is the faster
SMALL = 1 << 20  # weights; above, oneDNN is faster for a single row too


@dataclass(frozen=True, slots=True)
class Matrix:
    """(out, in), plain, packed for oneDNN, or both."""

    plain: Tensor | None
    packed: Tensor | None
    shape: tuple[int, int]
    nbytes: int  # of one form
    dtype: torch.dtype

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (N, in) times the matrix transposed, plus `bias` (out,): (N, out)."""
        if self.packed is not None and (self.plain is None or len(x) >= ROWS):
            product = torch.ops.mkldnn._linear_pointwise.default  # the packet resolves it slowly
            rows = len(x)
            x = F.pad(x, (0, 0, 0, _filled(rows) - rows)).contiguous()
            y: Tensor = product(x, self.packed, bias, "none", [], "")
            return y[:rows]
        assert self.plain is not None
        return F.linear(x, self.plain, bias)

    def added(self, y: Tensor, x: Tensor) -> Tensor:
        """y (N, out) plus x (N, in) times the matrix transposed; y stays."""
        if self.packed is not None and (self.plain is None or len(x) >= ROWS):
            return self(x).add_(y)
        assert self.plain is not None
        return torch.addmm(y, x, self.plain.T)

    def dense(self) -> Tensor:
        """(out, in) as a plain tensor; not to be written to."""
        if self.plain is not None:
            return self.plain
        assert self.packed is not None
        return self.packed.to_dense()


def matrix(weight: Tensor) -> Matrix:
    """The matrix of a weight (out, in), which may be kept, not copied."""
    plain: Tensor | None = weight
    packed: Tensor | None = None
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and _packs():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        plain = weight if weight.numel() <= SMALL else None
    rows, columns = weight.shape
    return Matrix(plain, packed, (rows, columns), weight.nbytes, weight.dtype)


def _filled(rows: int) -> int:
    """The number of rows to compute: a multiple of about an eighth of them."""
    step = max(4, 1 << max(0, rows.bit_length() - 4))
    return -(-rows // step) * step


def _packs() -> bool:
    """Whether oneDNN's products are there."""
    on_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return (
        on_x86
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
