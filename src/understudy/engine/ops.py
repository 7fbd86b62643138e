"""What a layer does between its matrix products, in torch: norms, RoPE, SwiGLU, attention.

Where the C kernel runs it does these instead. `compiled` has the same compiled by torch, which
joins what each of them does to one pass over its memory. The C kernel is faster than either;
compiled code beats these functions on large batches, and loses to them on a single row, whose time
goes to the calls. Compiling takes minutes, once; torch keeps what it compiled on disk.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.engine.cache import in_rows

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (N, width)."""
    return F.rms_norm(x, (x.shape[1],), weight, eps)


def silu_mul(gate_up: Tensor) -> Tensor:
    """SwiGLU: (N, 2 * width) to (N, width)."""
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def qkv_post(
    qkv: Tensor, blocks_N: Tensor, at_N: Tensor, positions_N: Tensor, rope: tuple[Tensor, Tensor],
    q_weight: Tensor | None, k_weight: Tensor | None, eps: float, kv: Tensor,
) -> Tensor:  # fmt: skip
    """q/k norm (None: none), RoPE, keys and values into the layer's cache; returns q (N, H, D)."""
    kv_heads, dim = kv.shape[2], kv.shape[4]
    heads = qkv.shape[1] // dim - 2 * kv_heads
    q, k, v = qkv.view(len(qkv), -1, dim).split_with_sizes([heads, kv_heads, kv_heads], 1)
    if q_weight is not None and k_weight is not None:
        q = F.rms_norm(q, (dim,), q_weight, eps)
        k = F.rms_norm(k, (dim,), k_weight, eps)
    cosine, sine = (t[positions_N][:, None] for t in rope)
    q, k = (rotate(x, cosine, sine) for x in (q, k))
    kv[blocks_N, :, :, at_N] = torch.stack([k, v], 1).to(kv.dtype)
    return q


def attend(
    q_NHD: Tensor, kv: Tensor, tables_NM: Tensor, beyond_NL: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """One query a row against the rows of its blocks: out (N, H, D) and log-sum-exp (N, H).
    `beyond_NL` are the rows that it does not see, `mask` is the same, additive."""
    n, heads, dim = q_NHD.shape
    # masked rows may hold anything, a NaN included: 0 * NaN would spread
    rows = in_rows(kv, tables_NM).masked_fill(beyond_NL[:, None, None, :, None], 0.0)
    q = q_NHD.view(n, kv.shape[2], -1, dim).to(kv.dtype)
    out, lse = attention(q, rows[:, 0], rows[:, 1], scale, mask)
    return out.reshape(n, heads, dim).to(q_NHD.dtype), lse.reshape(n, heads).to(q_NHD.dtype)


# q (N, H, D), kv, tables (N, M), lens (N,) and scale to out (N, H, D) and log-sum-exp (N, H)
Paged = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


class Ops(NamedTuple):
    """The functions above, as they are or compiled."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    silu_mul: Callable[[Tensor], Tensor]
    qkv_post: Callable[..., Tensor]
    attend: Callable[..., tuple[Tensor, Tensor]]
    paged: Paged | None = None  # in the place of `attend`, see engine.paged


EAGER = Ops(rms_norm, silu_mul, qkv_post, attend)


@functools.cache
def compiled(device: torch.device) -> Ops:
    """Compiled when they are called first, for any number of rows: seconds, each once for a single
    row and once for more. Raises ValueError where torch cannot compile."""
    ops = Ops(
        torch.compile(rms_norm, dynamic=True),
        torch.compile(silu_mul, dynamic=True),
        torch.compile(qkv_post, dynamic=True),
        torch.compile(attend, dynamic=True),
    )
    try:
        with torch.inference_mode():
            ops.silu_mul(torch.ones(2, 4, device=device))
    except RuntimeError as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"torch cannot compile here; leave out `compile`: {why}") from error
    return ops


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """RoPE in the half-split layout: x (N, H, D), cosine and sine (N, 1, D / 2)."""
    a, b = x.to(cosine.dtype).chunk(2, -1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1).to(x.dtype)


def wide(x: Tensor) -> Tensor:
    """Half precision raised to float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def attention(
    q_BHTD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, scale: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax attention with its log-sum-exp (B, H, T). `mask` is additive."""
    if q_BHTD.device.type == "cpu":
        out, lse = _flash(q_BHTD, k_BHLD, v_BHLD, attn_mask=mask, scale=scale)
        return out, lse
    scores = wide(torch.matmul(q_BHTD, k_BHLD.transpose(-1, -2))) * scale
    if mask is not None:
        scores = scores + mask
    lse = scores.logsumexp(-1)
    return torch.matmul((scores - lse[..., None]).exp().to(v_BHLD.dtype), v_BHLD), lse


def shared_attention(q_NHD: Tensor, kv: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """All N tokens against the same keys and values (2, kv_heads, L, D)."""
    n, heads, dim = q_NHD.shape
    kv_heads = kv.shape[1]
    # (kv_heads, group, N, D): a key/value head is a batch entry, broadcast over its group
    q = q_NHD.view(n, kv_heads, heads // kv_heads, dim).permute(1, 2, 0, 3).to(kv.dtype)
    k, v = (t[:, None].expand(-1, heads // kv_heads, -1, -1) for t in kv)
    out, lse = attention(q, k, v, scale)
    return out.permute(2, 0, 1, 3).reshape(n, heads, dim).to(q_NHD.dtype), lse.permute(
        2, 0, 1
    ).reshape(n, heads).to(q_NHD.dtype)
