"""Attention of single rows on a GPU, read from the cache's blocks where they lie, by Triton.

In torch the blocks of each row are gathered and filled up to the longest row before they are
multiplied, so that keys and values cross the memory several times. Here each is read once. A row's
blocks are split into parts that are computed side by side, as a few long rows would leave most of
the GPU idle; the parts are joined by their log-sum-exps (flash decoding,
https://crfm.stanford.edu/2023/10/12/flashdecoding.html).
"""

import logging

import torch
from torch import Tensor

from understudy.engine.cache import BLOCK
from understudy.engine.ops import Paged, attend
from understudy.engine.weights import Shape

PROGRAMS = 512  # that keep a large GPU busy

log = logging.getLogger(__name__)


def paged_attend(
    q_NHD: Tensor, kv: Tensor, tables_NM: Tensor, lens_N: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """One query a row against its first `lens_N` rows in the blocks of its table: out (N, H, D) and
    log-sum-exp (N, H). kv (blocks, 2, kv_heads, BLOCK, D) as in `Cache.kv`."""
    from understudy.engine.paged_kernel import launch

    n, heads, dim = q_NHD.shape
    kv_heads, width = kv.shape[2], tables_NM.shape[1]
    parts = max(1, min(width, PROGRAMS // (n * kv_heads)))
    out = q_NHD.new_empty(n, parts, heads, dim, dtype=torch.float32)
    lse = q_NHD.new_empty(n, parts, heads, dtype=torch.float32)
    launch(q_NHD.to(kv.dtype).contiguous(), kv, tables_NM.contiguous(), lens_N, out, lse, scale)
    whole = lse.logsumexp(1)
    out = (out * (lse - whole[:, None]).exp()[..., None]).sum(1)
    return out.to(q_NHD.dtype), whole.to(q_NHD.dtype)


def paged_for(shape: Shape, dtype: torch.dtype, device: torch.device) -> Paged | None:
    """`paged_attend` where it computes here what torch does, which is tried. None where there is no
    Triton, heads are not of 16, 32, 64, ... numbers, or the type is float64; where it fails or
    computes something else, that is told as well."""
    dim = shape.head_dim
    if dim < 16 or dim & (dim - 1) or dtype == torch.float64:
        return None
    try:
        worst = _difference(shape, dtype, device)
    except ImportError:
        return None
    except Exception as error:  # noqa: BLE001  whatever a compiler may raise
        log.warning("attention goes on without Triton: %s", " ".join(str(error).split())[:300])
        return None
    if not worst < (1e-4 if dtype == torch.float32 else 2e-2):
        log.warning("attention goes on without Triton, whose results are %.2g off", worst)
        return None
    return paged_attend


@torch.inference_mode()
def _difference(shape: Shape, dtype: torch.dtype, device: torch.device) -> float:
    """The largest difference of a row to torch's, as a share of that row's norm, over a few rows of
    random numbers."""
    random = torch.Generator().manual_seed(0)
    size = (8, 2, shape.kv_heads, BLOCK, shape.head_dim)
    kv = torch.randn(size, generator=random).to(device, dtype)
    q = torch.randn(3, shape.heads, shape.head_dim, generator=random).to(device, dtype)
    tables = torch.tensor([[3, 0, 0, 0], [1, 7, 0, 0], [5, 2, 6, 4]], device=device)
    lens = torch.tensor([1, BLOCK + 9, 4 * BLOCK], device=device)
    beyond = torch.arange(4 * BLOCK, device=device) >= lens[:, None]
    mask = torch.zeros(beyond.shape, dtype=dtype, device=device).masked_fill(beyond, -torch.inf)
    scale = shape.head_dim**-0.5
    expected = attend(q, kv, tables, beyond, mask[:, None, None], scale)
    with torch.cuda.device_of(kv):  # type: ignore[no-untyped-call]
        found = paged_attend(q, kv, tables, lens, scale)
    pairs = zip(found, expected, strict=True)
    return max(
        float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())
        for a, b in ((a.float(), b.float()) for a, b in pairs)
    )
