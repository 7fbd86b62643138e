"""The Qwen3 forward and backward, laid out for fast training on few CPU cores.

Parameters carry Hugging Face's names and shapes, so the state dict *is* the checkpoint. Documents
are concatenated along one axis of N positions without padding; each attends to itself only and its
positions start at 0. Dimensions: N positions, D hidden, V vocabulary, L length of one document.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BF16 = torch.bfloat16


@dataclass(frozen=True)
class Shape:
    """The shape of the tiny model (Qwen3 architecture, embeddings and head apart)."""

    vocab: int = 1024
    dim: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    ff: int = 384
    theta: float = 1e6
    eps: float = 1e-6
    max_positions: int = 4096


class _Attention(torch.autograd.Function):
    """Causal attention inside each document, in query blocks, scores kept in bf16 for backward."""

    BLOCK = 192

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
        """q (heads, N, head_dim) already scaled; k, v (kv_heads, N, head_dim); all bf16."""
        heads, n, hd = q.shape
        kv = k.shape[0]
        out = torch.empty_like(q)
        probs: list[Tensor] = []
        group = heads // kv
        mask = _causal_mask()
        start = 0
        for length in lengths:
            for b0 in range(0, length, _Attention.BLOCK):
                b1 = min(b0 + _Attention.BLOCK, length)
                qb = q[:, start + b0 : start + b1].reshape(kv, group * (b1 - b0), hd)
                kb, vb = k[:, start : start + b1], v[:, start : start + b1]
                s = torch.bmm(qb, kb.transpose(1, 2)).view(kv, group, b1 - b0, b1)
                s[..., b0:b1] += mask[: b1 - b0, : b1 - b0]
                p = torch.softmax(s, -1).view(kv, group * (b1 - b0), b1)
                out[:, start + b0 : start + b1] = torch.bmm(p, vb).view(heads, b1 - b0, hd)
                probs.append(p)
            start += length
        if start < n:
            out[:, start:] = 0
        ctx.save_for_backward(q, k, v, *probs)
        ctx.lengths = lengths
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *probs = ctx.saved_tensors
        dout = grads[0]
        heads, _, hd = q.shape
        kv = k.shape[0]
        group = heads // kv
        dq = torch.zeros_like(q)
        dk = torch.zeros(k.shape, dtype=torch.float32)
        dv = torch.zeros(v.shape, dtype=torch.float32)
        start, at = 0, 0
        for length in ctx.lengths:
            for b0 in range(0, length, _Attention.BLOCK):
                b1 = min(b0 + _Attention.BLOCK, length)
                p = probs[at]
                at += 1
                qb = q[:, start + b0 : start + b1].reshape(kv, group * (b1 - b0), hd)
                kb, vb = k[:, start : start + b1], v[:, start : start + b1]
                dob = dout[:, start + b0 : start + b1].reshape(kv, group * (b1 - b0), hd)
                dv[:, start : start + b1] += torch.bmm(p.transpose(1, 2), dob)
                dp = torch.bmm(dob, vb.transpose(1, 2))
                ds = torch._softmax_backward_data(dp, p, -1, BF16)
                dq[:, start + b0 : start + b1] = torch.bmm(ds, kb).view(heads, b1 - b0, hd)
                dk[:, start : start + b1] += torch.bmm(ds.transpose(1, 2), qb)
            start += length
        return dq, dk.to(BF16), dv.to(BF16), None


_MASKS: dict[int, Tensor] = {}


def _causal_mask() -> Tensor:
    size = _Attention.BLOCK
    if size not in _MASKS:
        _MASKS[size] = torch.full((size, size), float("-inf")).triu(1).to(BF16)
    return _MASKS[size]


def _softmax_gradient(z: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies (K,) of logits (K, V), and their weighted gradient in bf16."""
    z32 = z.float()
    e = (z32 - z32.amax(-1, keepdim=True)).exp()
    p = e / e.sum(-1, keepdim=True)
    one = torch.arange(z.shape[1]) == target
    nll = torch.logsumexp(z32, -1) - z32.gather(1, target)[:, 0]
    return nll, ((p - one.float()) * weight).to(BF16)


class _HeadLoss(torch.autograd.Function):
    """Sum of weighted cross-entropies; gradients are formed chunk by chunk while in cache."""

    CHUNK = 512
    softmax: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = _softmax_gradient

    @staticmethod
    def forward(ctx: Any, h_KD: Tensor, emb_VD: Tensor, target_K: Tensor, weight_K: Tensor) -> Any:
        emb = emb_VD.to(BF16)
        softmax = _HeadLoss.softmax
        dh = torch.empty_like(h_KD)
        demb = torch.zeros_like(emb_VD)
        nll = torch.empty(h_KD.shape[0])
        for i in range(0, h_KD.shape[0], _HeadLoss.CHUNK):
            j = i + _HeadLoss.CHUNK
            h = h_KD[i:j].to(BF16)
            t, w = target_K[i:j, None], weight_K[i:j, None]
            nll[i:j], g16 = softmax(h @ emb.T, t, w)
            dh[i:j] = g16 @ emb
            demb += g16.T @ h
        ctx.save_for_backward(dh, demb)
        return (nll * weight_K).sum(), nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dh, demb = ctx.saved_tensors
        return dh * grads[0], demb * grads[0], None, None


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension (Zhang and Sennrich 2019)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in Hugging Face's half-split layout; x (..., heads, head_dim)."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def attn_in(
    x: Tensor, g: Tensor, w: Tensor, qn: Tensor, kn: Tensor, cos: Tensor, sin: Tensor, s: Shape
) -> tuple[Tensor, Tensor, Tensor]:
    """Residual (N, D) to scaled, rotated q (heads, N, hd) and k, v (kv_heads, N, hd) in bf16."""
    n, hd = x.shape[0], s.head_dim
    qkv = (rms(x, g, s.eps).to(BF16) @ w.T).float().view(n, -1, hd)
    q, k, v = qkv.split([s.heads, s.kv_heads, s.kv_heads], 1)
    q = rotate(rms(q, qn, s.eps), cos, sin) * (1 / math.sqrt(hd))
    k = rotate(rms(k, kn, s.eps), cos, sin)
    out = [z.transpose(0, 1).to(BF16).contiguous() for z in (q, k, v)]
    return out[0], out[1], out[2]


def attn_out_and_mlp(
    x: Tensor, a: Tensor, wo: Tensor, g: Tensor, w13: Tensor, w2: Tensor, s: Shape
) -> Tensor:
    """Adds the attention output (heads, N, hd) and then the gated MLP to the residual (N, D)."""
    x = x + (a.transpose(0, 1).reshape(x.shape[0], -1) @ wo.T).float()
    u = (rms(x, g, s.eps).to(BF16) @ w13.T).float()
    gate, up = u.chunk(2, -1)
    return x + ((F.silu(gate) * up).to(BF16) @ w2.T).float()


class TinyNet(nn.Module):
    """Qwen3ForCausalLM's parameters under Hugging Face's names, with a packed training forward."""

    def __init__(self, shape: Shape, compile_layers: bool = False) -> None:
        super().__init__()
        self.shape = shape
        s = shape
        d, q, kv = s.dim, s.heads * s.head_dim, s.kv_heads * s.head_dim
        sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (s.vocab, d)}
        for i in range(s.layers):
            p = f"model.layers.{i}."
            sizes |= {
                p + "input_layernorm.weight": (d,),
                p + "self_attn.q_proj.weight": (q, d),
                p + "self_attn.k_proj.weight": (kv, d),
                p + "self_attn.v_proj.weight": (kv, d),
                p + "self_attn.q_norm.weight": (s.head_dim,),
                p + "self_attn.k_norm.weight": (s.head_dim,),
                p + "self_attn.o_proj.weight": (d, q),
                p + "post_attention_layernorm.weight": (d,),
                p + "mlp.gate_proj.weight": (s.ff, d),
                p + "mlp.up_proj.weight": (s.ff, d),
                p + "mlp.down_proj.weight": (d, s.ff),
            }
        sizes["model.norm.weight"] = (d,)
        sizes["lm_head.weight"] = (s.vocab, d)
        self.weights = {n: nn.Parameter(torch.ones(z)) for n, z in sizes.items()}
        for name, value in self.weights.items():
            self.register_parameter(name.replace(".", "/"), value)
        half = torch.arange(0, s.head_dim, 2).float() / s.head_dim
        angle = torch.arange(s.max_positions).float()[:, None] * s.theta**-half
        angle = torch.cat((angle, angle), -1)
        self.cos, self.sin = angle.cos(), angle.sin()
        self._in: Callable[..., Any] = attn_in
        self._out: Callable[..., Any] = attn_out_and_mlp
        if compile_layers:
            self._in = torch.compile(attn_in, dynamic=False)
            self._out = torch.compile(attn_out_and_mlp, dynamic=False)
            _HeadLoss.softmax = torch.compile(_softmax_gradient, dynamic=False)

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the weights of these names."""
        for name, p in self.weights.items():
            p.copy_(tensors[name])

    def hidden(self, ids_N: Tensor, position_N: Tensor, lengths: list[int]) -> Tensor:
        """Final normalised hidden states (N, D) of concatenated documents of these lengths."""
        s, w = self.shape, self.weights
        cos, sin = self.cos[position_N][:, None], self.sin[position_N][:, None]
        x = F.embedding(ids_N, w["model.embed_tokens.weight"])
        for i in range(s.layers):
            p = f"model.layers.{i}."
            a = p + "self_attn."
            wqkv = torch.cat([w[f"{a}{n}_proj.weight"] for n in "qkv"]).to(BF16)
            w13 = torch.cat([w[f"{p}mlp.{n}_proj.weight"] for n in ("gate", "up")]).to(BF16)
            qn, kn = w[a + "q_norm.weight"], w[a + "k_norm.weight"]
            q, k, v = self._in(x, w[p + "input_layernorm.weight"], wqkv, qn, kn, cos, sin, s)
            o = _Attention.apply(q, k, v, lengths)
            wo, w2 = w[a + "o_proj.weight"].to(BF16), w[p + "mlp.down_proj.weight"].to(BF16)
            x = self._out(x, o, wo, w[p + "post_attention_layernorm.weight"], w13, w2, s)
        return rms(x, w["model.norm.weight"], s.eps)

    def loss(
        self,
        ids_N: Tensor,
        position_N: Tensor,
        lengths: list[int],
        pick_K: Tensor,
        target_K: Tensor,
        weight_K: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum of the cross-entropies at the picked positions, and each one (K,)."""
        h = self.hidden(ids_N, position_N, lengths)[pick_K]
        out = _HeadLoss.apply(h, self.weights["lm_head.weight"], target_K, weight_K)
        return out[0], out[1]
