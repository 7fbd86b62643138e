"""The initialisation: induction heads and a number line, from the first step.

The residual is divided at the start: dimension 0 is constant, 1 to 8 carry the value of number
tokens, 9 to 63 tell tokens apart, 64 to 95 and 96 to 127 receive the tokens one and two places
back (layer 0, heads 0 and 1). Layer 1, head 0 matches the current token with those one place back
and copies what followed; head 2 does so for pairs of tokens. Training is free to change all of it.
The circuit is Olsson et al. 2022's; the rest starts near silent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .net import Shape, TinyNet

CONST, NUMBER, WORD = 0, slice(1, 9), slice(9, 64)
TOKEN = slice(1, 64)


def number_code(text: str) -> list[float]:
    """Eight smooth features of a run of one to three digits."""
    v = int(text)
    log = math.log1p(v) / math.log(1000)
    turn = 2 * math.pi
    return [
        2 * v / 999 - 1,
        2 * log - 1,
        math.sin(math.pi * v / 999),
        math.sin(turn * v / 999),
        math.cos(turn * v / 100),
        math.sin(turn * v / 100),
        math.sin(turn * log),
        len(text) - 2.0,
    ]


@torch.no_grad()
def initialise(net: TinyNet, tokens: Sequence[str], seed: int, induction: bool = True) -> None:
    """Fill the parameters; `tokens` are the vocabulary's strings by id."""
    s = net.shape
    gen = torch.Generator().manual_seed(seed)

    def normal(shape: Sequence[int], std: float) -> Tensor:
        return torch.randn(*shape, generator=gen) * std

    for name, p in net.weights.items():
        if p.dim() == 1:
            p.fill_(1.0)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            p.copy_(normal(p.shape, 0.003))
        else:
            p.copy_(normal(p.shape, 0.06))
    emb = net.weights["model.embed_tokens.weight"]
    if not induction:
        emb.copy_(normal(emb.shape, 0.08))
        return
    emb.copy_(normal(emb.shape, 0.02))
    emb[:, WORD] = normal((s.vocab, 55), 0.11)
    emb[:, CONST] = 0.3
    for i, text in enumerate(tokens):
        if text.isascii() and text.isdigit() and len(text) <= 3:
            emb[i, NUMBER] += torch.tensor(number_code(text)) * 0.15
    _previous_token_heads(net, gen)
    _induction_heads(net, gen)


def _basis(gen: torch.Generator, rows: int, cols: int) -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(cols, cols, generator=gen))
    return q[:rows]


def _previous_token_heads(net: TinyNet, gen: torch.Generator) -> None:
    """Layer 0: heads 0 and 1 look one and two places back and write what they see."""
    w, hd = net.weights, net.shape.head_dim
    a = "model.layers.0.self_attn."
    freq = net.shape.theta ** -(torch.arange(0, hd, 2).float() / hd)
    size = torch.zeros(hd // 2)
    size[:5] = torch.tensor([1.0, 0.9, 0.6, 0.4, 0.25])
    q, k = w[a + "q_proj.weight"], w[a + "k_proj.weight"]
    k[:hd] *= 0.02
    k[:hd, CONST] = torch.cat((size, 0 * size))
    for head in (0, 1):
        rows = slice(head * hd, (head + 1) * hd)
        back = (head + 1) * freq
        q[rows] *= 0.02
        q[rows, CONST] = torch.cat((size * back.cos(), -size * back.sin()))
    v, o = w[a + "v_proj.weight"], w[a + "o_proj.weight"]
    v[:hd] = 0
    v[:hd, TOKEN] = _basis(gen, hd, 63)
    for head in (0, 1):
        at = 64 + 32 * head
        o[at : at + 32, head * hd : (head + 1) * hd] += torch.eye(hd) * 0.07
    w[a + "q_norm.weight"].fill_(2.2)
    w[a + "k_norm.weight"].fill_(2.2)


def _induction_heads(net: TinyNet, gen: torch.Generator) -> None:
    """Layer 1: head 0 matches one token, head 2 a pair, and both copy what followed."""
    w, hd = net.weights, net.shape.head_dim
    a = "model.layers.1.self_attn."
    read = w["model.layers.0.self_attn.v_proj.weight"][:hd, TOKEN]  # how layer 0 saw tokens
    slow = torch.cat((torch.arange(7, 16), torch.arange(23, 32)))  # dimensions RoPE hardly turns
    n = len(slow)
    q, k = w[a + "q_proj.weight"], w[a + "k_proj.weight"]
    v, o = w[a + "v_proj.weight"], w[a + "o_proj.weight"]
    for rows in (slice(0, hd), slice(2 * hd, 3 * hd)):
        q[rows] = 0
    k.zero_()
    v.zero_()
    one = torch.zeros(n, 32)
    one[:, :n] = torch.eye(n)
    other = torch.zeros(n, 32)
    other[:, 32 - n :] = torch.eye(n)
    q[slow, TOKEN] = one @ read
    k[slow, 64:96] = one
    q[2 * hd + slow, TOKEN] = other @ read
    q[2 * hd + slow, 64:96] = one
    k[hd + slow, 64:96] = other
    k[hd + slow, 96:128] = one
    v[:hd, 1:33] = torch.eye(hd)
    v[hd : 2 * hd - 1, 33:64] = torch.eye(31)
    o[1:33, :hd] += torch.eye(hd) * 0.15
    o[33:64, 2 * hd : 3 * hd] += torch.eye(hd)[:31] * 0.15
    w[a + "q_norm.weight"].fill_(2.2)
    w[a + "k_norm.weight"].fill_(2.2)
