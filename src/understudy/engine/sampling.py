"""Drawing one token for every row of a batch in a handful of tensor operations.

A row's randomness is a hash of (seed, number of tokens drawn before), so that a seeded request
gets the same tokens whatever else is in the batch. The draw inverts the cumulative distribution
in two stages, blocks of the vocabulary and then tokens of one block, in float64.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from understudy.engine.weights import VOCAB_BLOCK

Array = npt.NDArray[Any]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Terms(NamedTuple):
    """What single rows of a batch ask beyond temperature, top-p and top-k.

    Rows `masked_M` may only draw tokens whose bit in `bits_MW` is set: int32 words, the lowest bit
    first, as many as the unpadded vocabulary takes. `values_N` are added to the logits at
    (`biased_N`, `tokens_N`). Rows `told_T` want the `most` likeliest tokens.
    """

    masked_M: Tensor
    bits_MW: Tensor
    biased_N: Tensor
    tokens_N: Tensor
    values_N: Tensor
    told_T: Tensor
    most: int


class Drawn(NamedTuple):
    """Ids (R,) int64 with their logprobs (R,); for the rows `Terms.told_T` the likeliest ids and
    their logprobs, both (T, most), minus infinity where fewer can be drawn."""

    ids_R: Tensor
    logprobs_R: Tensor
    top_ids_TK: Tensor | None = None
    top_logprobs_TK: Tensor | None = None


def uniforms(seeds: Array, counts: Array) -> Array:
    """One number in [0, 1) a row: SplitMix64 (Steele et al., OOPSLA 2014) of seed and count."""
    with np.errstate(over="ignore"):
        x = seeds + _GOLDEN * (counts.astype(np.uint64) + np.uint64(1))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    unit: Array = (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return unit


def draw(
    logits_RV: Tensor,
    temperature: Array,
    top_p: Array,
    top_k: Array,
    uniform: Array,
    terms: Terms | None = None,
) -> Drawn:
    """One id and its logprob for each row, float32 or where the logits are float64 that.

    The logprobs are of the distribution that was sampled: after biases and masks, temperature,
    top-k and top-p. Temperature 0 takes the most likely token, with logprobs at temperature 1. V is
    a multiple of VOCAB_BLOCK, padded with minus infinity. A row with a NaN gets a NaN logprob.
    """
    device = logits_RV.device
    logits_RV = logits_RV.to(torch.promote_types(logits_RV.dtype, torch.float32))
    if terms is not None:
        logits_RV = _under(terms, logits_RV)
    greedy = temperature == 0
    if ((temperature != 1) & ~greedy).any():
        scale = torch.from_numpy(np.where(greedy, 1.0, temperature))
        logits_RV = logits_RV / scale.to(device, logits_RV.dtype)[:, None]
    narrowed = np.flatnonzero(((top_p < 1) | (top_k > 0)) & ~greedy)
    if len(narrowed):
        rows = torch.from_numpy(narrowed).to(device)
        logits_RV = logits_RV.index_copy(
            0, rows, _narrow(logits_RV[rows], top_p[narrowed], top_k[narrowed])
        )
    probs_RV = torch.softmax(logits_RV, -1)
    if greedy.all():
        ids_R = logits_RV.argmax(-1)
    else:
        ids_R = _invert(probs_RV, torch.from_numpy(uniform).to(device))
        if greedy.any():
            rows = torch.from_numpy(np.flatnonzero(greedy)).to(device)
            ids_R[rows] = logits_RV[rows].argmax(-1)
    logprobs_R = probs_RV.gather(1, ids_R[:, None])[:, 0].log()
    if terms is None or not len(terms.told_T):
        return Drawn(ids_R, logprobs_R)
    top = probs_RV[terms.told_T].topk(min(terms.most, probs_RV.shape[1]), -1)
    return Drawn(ids_R, logprobs_R, top.indices, top.values.log())


def _under(terms: Terms, logits_RV: Tensor) -> Tensor:
    """The logits with biases added and minus infinity where a row's mask is not set."""
    if len(terms.biased_N):
        at = (terms.biased_N, terms.tokens_N)
        logits_RV = logits_RV.index_put(at, terms.values_N.to(logits_RV.dtype), accumulate=True)
    if len(terms.masked_M):
        places_32 = torch.arange(32, device=logits_RV.device, dtype=torch.int32)
        set_MU = (terms.bits_MW[:, :, None] >> places_32 & 1).flatten(1)
        held_MV = logits_RV[terms.masked_M]
        held_MV[:, : set_MU.shape[1]].masked_fill_(set_MU == 0, -torch.inf)
        logits_RV = logits_RV.index_copy(0, terms.masked_M, held_MV)
    return logits_RV


def _invert(probs_RV: Tensor, uniform_R: Tensor) -> Tensor:
    rows, vocab = probs_RV.shape
    blocks_RBK = probs_RV.view(rows, vocab // VOCAB_BLOCK, VOCAB_BLOCK)
    sums_RB = blocks_RBK.sum(-1, dtype=torch.float64).cumsum(-1)
    target_R1 = (uniform_R * sums_RB[:, -1])[:, None]
    block_R1 = torch.searchsorted(sums_RB, target_R1, right=True).clamp_(max=sums_RB.shape[1] - 1)
    before_R1 = torch.where(block_R1 > 0, sums_RB.gather(1, (block_R1 - 1).clamp(min=0)), 0.0)
    arange = torch.arange(rows, device=probs_RV.device)
    inner_RK = blocks_RBK[arange, block_R1[:, 0]].double().cumsum(-1)
    token_R1 = torch.searchsorted(inner_RK, target_R1 - before_R1, right=True)
    ids_R1 = block_R1 * VOCAB_BLOCK + token_R1.clamp_(max=VOCAB_BLOCK - 1)
    impossible = probs_RV.gather(1, ids_R1) == 0  # rounding at the very end of a block
    if impossible.any():
        ids_R1 = torch.where(impossible, probs_RV.argmax(-1, keepdim=True), ids_R1)
    return ids_R1[:, 0]


def _narrow(logits_RV: Tensor, top_p: Array, top_k: Array) -> Tensor:
    """Minus infinity outside the top k tokens, then outside the smallest set with mass top_p."""
    vocab = logits_RV.shape[1]
    ordered_RV, order_RV = logits_RV.sort(dim=-1, descending=True, stable=True)
    k_R = torch.from_numpy(np.where(top_k > 0, top_k, vocab)).to(logits_RV.device)
    rank_V = torch.arange(vocab, device=logits_RV.device)
    ordered_RV = ordered_RV.masked_fill(rank_V >= k_R[:, None], -torch.inf)
    probs_RV = torch.softmax(ordered_RV, -1)
    before_RV = probs_RV.double().cumsum(-1) - probs_RV
    p_R = torch.from_numpy(top_p.astype(np.float64)).to(logits_RV.device)
    beyond_RV = (before_RV >= p_R[:, None]) & (rank_V > 0) & (p_R[:, None] < 1)
    ordered_RV = ordered_RV.masked_fill(beyond_RV, -torch.inf)
    return torch.full_like(logits_RV, -torch.inf).scatter(1, order_RV, ordered_RV)
