"""The initialisation: induction heads and a number line, from the first step.

The residual is divided at the start: dimension 0 is constant, 1 to 8 carry the value of
digits, 9 to 63 tell tokens apart, 64 to 127 receive the tokens one, two, and five or six places
back (layer 0). Layer 1, head 0 matches the current token with those one place back and copies what
followed; head 2 does so for pairs of tokens, head 3 for the words just before the turn. Training is
free to change all of it. The circuit is Olsson et al. 2022's; the rest starts near silent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .net import TinyNet

CONST, NUMBER, WORD = 0, slice(1, 9), slice(9, 64)
TOKEN, BACK1, BACK2, ASKED = slice(1, 64), slice(64, 86), slice(86, 107), slice(107, 128)
SHARPNESS = 1.6  # of q and k in the other layers


def number_code(digit: int) -> list[float]:
    """Eight smooth features of a digit."""
    turn = 2 * math.pi * digit / 10
    waves = [f(k * turn) for k in (1, 2, 3) for f in (math.sin, math.cos)]
    return [2 * digit / 9 - 1, math.sin(math.pi * digit / 9), *waves]


@torch.no_grad()
def initialise(net: TinyNet, tokens: Sequence[str], seed: int, induction: bool = True) -> None:
    """Fill the parameters; `tokens` are the vocabulary's strings by id."""
    s = net.shape
    gen = torch.Generator().manual_seed(seed)

    def normal(shape: Sequence[int], std: float) -> Tensor:
        return torch.randn(*shape, generator=gen) * std

    for name, p in net.weights.items():
        if p.dim() == 1:
            p.fill_(SHARPNESS if name.endswith(("q_norm.weight", "k_norm.weight")) else 1.0)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            p.copy_(normal(p.shape, 0.003))
        else:
            p.copy_(normal(p.shape, 0.06))
    emb = net.weights["model.embed_tokens.weight"]
    if not induction:
        emb.copy_(normal(emb.shape, 0.08))
        net.weights["lm_head.weight"].copy_(emb)
        return
    emb.copy_(normal(emb.shape, 0.02))
    emb[:, WORD] = normal((s.vocab, 55), 0.11)
    emb[:, CONST] = 0.3
    for i, text in enumerate(tokens):
        if text.isascii() and text.isdigit():
            emb[i, NUMBER] += torch.tensor(number_code(int(text))) * 0.15
    net.weights["lm_head.weight"].copy_(emb)  # what is written to the residual is read back
    _previous_token_heads(net, gen)
    _induction_heads(net, gen)


def _basis(gen: torch.Generator, rows: int, cols: int) -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(cols, cols, generator=gen))
    return q[:rows]


def _previous_token_heads(net: TinyNet, gen: torch.Generator) -> None:
    """Layer 0: the heads look 1, 2, 5 and 6 places back and write what they see.

    5 and 6 places before an answer's first token stand the last words of the question.
    """
    w, hd = net.weights, net.shape.head_dim
    a = "model.layers.0.self_attn."
    freq = net.shape.theta ** -(torch.arange(0, hd, 2).float() / hd)
    size = torch.zeros(hd // 2)
    top = torch.tensor([1.0, 0.9, 0.6, 0.4, 0.25]).repeat_interleave(hd // 32)
    size[: len(top)] = top
    q, k = w[a + "q_proj.weight"], w[a + "k_proj.weight"]
    v, o = w[a + "v_proj.weight"], w[a + "o_proj.weight"]
    q *= 0.02
    k *= 0.02
    basis = _basis(gen, min(hd, 63), 63)
    for group in (0, 1):
        k[group * hd : (group + 1) * hd, CONST] = torch.cat((size, 0 * size))
        v[group * hd : (group + 1) * hd] = 0
        v[group * hd : group * hd + len(basis), TOKEN] = basis
    for head, (back, place) in enumerate(
        zip((1, 2, 5, 6), (BACK1, BACK2, ASKED, ASKED), strict=True)
    ):
        rows = slice(head * hd, (head + 1) * hd)
        turn = back * freq
        q[rows, CONST] = torch.cat((size * turn.cos(), -size * turn.sin()))
        n = place.stop - place.start
        o[place, head * hd : head * hd + n] += torch.eye(n) * 0.07
    w[a + "q_norm.weight"].fill_(2.2)
    w[a + "k_norm.weight"].fill_(2.2)


def _induction_heads(net: TinyNet, gen: torch.Generator) -> None:
    """Layer 1: heads 0 and 2 match one token and a pair and copy what followed; head 3 looks up
    what stood two places after the words that were asked for."""
    w, hd = net.weights, net.shape.head_dim
    a = "model.layers.1.self_attn."
    read = w["model.layers.0.self_attn.v_proj.weight"][:hd, TOKEN]  # how layer 0 saw tokens
    half = hd // 2  # the dimensions that RoPE hardly turns
    slow = torch.cat((torch.arange(half * 7 // 16, half), torch.arange(half * 23 // 16, hd)))
    n = min(22, len(slow))
    first, last = slow[:n], slow[-n:]
    q, k = w[a + "q_proj.weight"], w[a + "k_proj.weight"]
    v, o = w[a + "v_proj.weight"], w[a + "o_proj.weight"]
    for head in (0, 2, 3):
        q[head * hd : (head + 1) * hd] = 0
    k.zero_()
    v.zero_()
    eye = torch.eye(22)
    one, other = eye[:n], eye[22 - n :]  # the first and the last of 22 components
    q[first, TOKEN] = one @ read[:22]
    k[first, BACK1] = one
    q[2 * hd + last, TOKEN] = other @ read[:22]
    q[2 * hd + first, BACK1] += one
    k[hd + last, BACK1] = other
    k[hd + first, BACK2] += one[:, :21]
    q[3 * hd + first, ASKED] = one[:, :21]
    for group, heads in ((0, (0,)), (1, (2, 3))):
        size = min(hd, 63)
        begin = 1 if group == 0 else 64 - size  # with small heads each group copies its half
        v[group * hd : group * hd + size, begin : begin + size] = torch.eye(size)
        for head in heads:
            o[begin : begin + size, head * hd : head * hd + size] += torch.eye(size) * 0.15
    w[a + "q_norm.weight"].fill_(2.2)
    w[a + "k_norm.weight"].fill_(2.2)
