"""A decoder's weight matrices, in the layout whose products this machine computes fastest.

oneDNN's float32 products (models.linear), over a weight that was laid out for them once, are faster
than MKL's from a dozen rows on, and slower for a single row of a small matrix. So small matrices
are kept in both forms, large ones in oneDNN's alone.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.models.linear import filled, has_onednn

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
            x = F.pad(x, (0, 0, 0, filled(rows) - rows)).contiguous()
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
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and has_onednn():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        plain = weight if weight.numel() <= SMALL else None
    rows, columns = weight.shape
    return Matrix(plain, packed, (rows, columns), weight.nbytes, weight.dtype)
