"""The forward pass over a batch whose sequences have their keys and values in a `Cache`.

Sequences of one batch may be at any position. A decode batch has one new token a row, a prefill
batch has a run of new tokens for each of a few rows, packed. Attention splits into the shared
prefix entries, one product for all rows that lean on one, and the slots' own rows; the two are
joined by their log-sum-exps (cascade attention; the arithmetic of FlashAttention's blocks).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.engine.cache import BLOCK, Cache, Entry, Slot, blocks_for, in_rows
from understudy.engine.kernel import Kernel
from understudy.engine.lora_batch import LoraBatch
from understudy.engine.matrix import Matrix
from understudy.engine.weights import Block, Weights

Ints = npt.NDArray[Any]

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class Shared(NamedTuple):
    """Tokens of a batch (a slice, or their indices) that lean on an entry's first `length`."""

    tokens: Any  # slice or Tensor
    entry: Entry
    length: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """New tokens of a batch: ids, positions, and the block and its row where their keys and values
    go, all (N,) int64."""

    ids_N: Tensor
    positions_N: Tensor
    blocks_N: Tensor
    at_N: Tensor

    @staticmethod
    def of(cache: Cache, ids: Ints, slots: Ints, positions: Ints) -> "Tokens":
        """Tokens of running slots that have the blocks for them."""
        rows = positions - cache.plens[slots]
        blocks = cache.tables[slots, rows // BLOCK]
        each = (ids, positions, blocks, rows % BLOCK)
        return Tokens(*(torch.from_numpy(a.astype(np.int64)).to(cache.device) for a in each))


class Rows(Protocol):
    """Queries of a batch and what they attend to."""

    @property
    def shared(self) -> Sequence[Shared]: ...

    def own(self, q_NHD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Attention to the slots' own rows: out (N, H, D) and log-sum-exp (N, H)."""
        ...


class Batch(Protocol):
    """`last`, where given: the positions whose output is wanted, with the rows that they are.
    The last layer computes only keys and values for the others."""

    @property
    def tokens(self) -> Tokens: ...

    @property
    def rows(self) -> Rows: ...

    @property
    def last(self) -> tuple[Tensor, Rows] | None: ...


class Decoder:
    """Runs batches over one cache with any set of weights of the same shape."""

    def __init__(self, cache: Cache, rope: tuple[Tensor, Tensor], kernel: Kernel | None) -> None:
        self.cache, self.rope, self.kernel = cache, rope, kernel
        self.scale = cache.shape.head_dim**-0.5

    def forward(
        self,
        weights: Weights,
        batch: Batch,
        lora: LoraBatch | None = None,
        last_lora: LoraBatch | None = None,
    ) -> Tensor:
        """Hidden states before the final norm, (N, width) or of `batch.last` alone; keys and
        values go into the cache. `last_lora` is for the rows of `batch.last`."""
        hidden = F.embedding(batch.tokens.ids_N, weights.embed)
        rows = batch.rows
        for i, block in enumerate(weights.blocks):
            x = self._norm(hidden, block.norm_in)
            qkv = block.qkv(x, block.qkv_bias)
            if lora:
                lora.add(i, "qkv", x, qkv)
            q_NHD = self._post(block, batch.tokens, qkv, self.cache.kv[i])
            if batch.last and i == len(weights.blocks) - 1:
                wanted, rows = batch.last
                hidden, q_NHD, lora = hidden[wanted], q_NHD[wanted], last_lora
            x = self._attention(i, rows, q_NHD)
            hidden = self._join(hidden, x, block.o, block.o_bias)
            if lora:
                lora.add(i, "o", x, hidden)
            x = self._norm(hidden, block.norm_mlp)
            gate_up = block.gate_up(x, block.gate_up_bias)
            if lora:
                lora.add(i, "gate_up", x, gate_up)
            x = self._silu_mul(gate_up)
            hidden = self._join(hidden, x, block.down, block.down_bias)
            if lora:
                lora.add(i, "down", x, hidden)
        return hidden

    def logits(self, weights: Weights, hidden: Tensor) -> Tensor:
        """(N, padded vocabulary), minus infinity in the padding."""
        x = self._norm(hidden, weights.norm)
        return weights.head(x, weights.head_bias)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        eps = self.cache.shape.eps
        if self.kernel:
            return self.kernel.rms_norm(x, weight, eps)
        return F.rms_norm(x, (x.shape[1],), weight, eps)

    def _silu_mul(self, gate_up: Tensor) -> Tensor:
        if self.kernel:
            return self.kernel.silu_mul(gate_up)
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate) * up

    @staticmethod
    def _join(hidden: Tensor, x: Tensor, weight: Matrix, bias: Tensor | None) -> Tensor:
        hidden = weight.added(hidden, x)
        return hidden if bias is None else hidden.add_(bias)

    def _attention(self, layer: int, rows: Rows, q_NHD: Tensor) -> Tensor:
        out_NHD, lse_NH = rows.own(q_NHD, layer)
        for tokens_of, entry, length in rows.shared:
            q = q_NHD[tokens_of]
            before, lse = shared_attention(q, entry.kv[layer, :, :, :length], self.scale)
            share = torch.sigmoid(lse - lse_NH[tokens_of])[:, :, None]
            if isinstance(tokens_of, slice):
                out_NHD[tokens_of].lerp_(before, share)
            else:
                out_NHD[tokens_of] = out_NHD[tokens_of].lerp(before, share)
        return out_NHD.reshape(len(q_NHD), -1)

    def _post(self, block: Block, tokens: Tokens, qkv: Tensor, kv: Tensor) -> Tensor:
        """q/k norm, RoPE, keys and values into the cache; returns q (N, H, D)."""
        s = self.cache.shape
        if self.kernel:
            q = qkv.new_empty(len(qkv), s.heads, s.head_dim)
            self.kernel.qkv_post(
                qkv, tokens.blocks_N, tokens.at_N, tokens.positions_N, self.rope,
                block.q_norm, block.k_norm, s.eps, kv, q,
            )  # fmt: skip
            return q
        q, k, v = qkv.view(len(qkv), -1, s.head_dim).split_with_sizes(
            [s.heads, s.kv_heads, s.kv_heads], 1
        )
        if block.q_norm is not None and block.k_norm is not None:
            q = F.rms_norm(q, (s.head_dim,), block.q_norm, s.eps)
            k = F.rms_norm(k, (s.head_dim,), block.k_norm, s.eps)
        cosine, sine = (t[tokens.positions_N][:, None] for t in self.rope)
        q, k = (rotate(x, cosine, sine) for x in (q, k))
        kv[tokens.blocks_N, :, :, tokens.at_N] = torch.stack([k, v], 1).to(kv.dtype)
        return q


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


class DecodeBatch:
    """One new token a row. `next_ids` (R,), rows in the order of `slots`; `shared` as `shared_rows`
    gives it for them."""

    last = None

    def __init__(
        self, decoder: Decoder, slots: Ints, next_ids: Ints, shared: Sequence[Shared]
    ) -> None:
        cache = decoder.cache
        positions = cache.lengths[slots]
        self.tokens = Tokens.of(cache, next_ids, slots, positions)
        self.rows = SingleRows(decoder, slots, positions - cache.plens[slots] + 1, shared)


class SingleRows:
    """One query a slot, at the last of its first `lens` rows."""

    def __init__(self, decoder: Decoder, slots: Ints, lens: Ints, shared: Sequence[Shared]) -> None:
        cache, to = decoder.cache, decoder.cache.device
        self.decoder, self.shared = decoder, shared
        tables = cache.tables[slots, : blocks_for(int(lens.max()))]
        self.tables_RM = torch.from_numpy(tables).to(to)
        self.lens_R = torch.from_numpy(lens).to(to)
        longest = tables.shape[1] * BLOCK
        if decoder.kernel:
            self.scratch = torch.empty(cache.shape.group, longest)
        else:
            self.beyond_RL = torch.arange(longest, device=to) >= self.lens_R[:, None]
            zeros = torch.zeros(self.beyond_RL.shape, dtype=cache.dtype, device=to)
            self.mask = zeros.masked_fill(self.beyond_RL, -torch.inf)[:, None, None]

    def own(self, q_NHD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        n, heads, dim = q_NHD.shape
        kv = self.decoder.cache.kv[layer]
        if self.decoder.kernel:
            out, lse = torch.empty_like(q_NHD), q_NHD.new_empty(n, heads)
            self.decoder.kernel.attend(
                q_NHD, kv, self.tables_RM, self.lens_R, out, lse, self.scratch,
                self.decoder.scale,
            )  # fmt: skip
            return out, lse
        # masked rows may hold anything, a NaN included: 0 * NaN would spread
        rows = in_rows(kv, self.tables_RM).masked_fill(self.beyond_RL[:, None, None, :, None], 0.0)
        q = q_NHD.view(n, kv.shape[2], -1, dim).to(kv.dtype)
        out, lse = attention(q, rows[:, 0], rows[:, 1], self.decoder.scale, self.mask)
        return (
            out.reshape(n, heads, dim).to(q_NHD.dtype),
            lse.reshape(n, heads).to(q_NHD.dtype),
        )


def shared_rows(cache: Cache, slots: Ints) -> list[Shared]:
    """Which rows lean on which entry, and how far."""
    groups: dict[tuple[int, int], list[int]] = {}
    entries: dict[int, Entry] = {}
    for row, (slot, plen) in enumerate(zip(slots.tolist(), cache.plens[slots].tolist())):  # noqa: B905
        if plen:
            entry = cache.slots[slot].entry
            assert entry is not None
            entries[id(entry)] = entry
            groups.setdefault((id(entry), plen), []).append(row)
    shared = []
    for (key, plen), rows in groups.items():
        whole = rows[-1] - rows[0] + 1 == len(rows)
        tokens = slice(rows[0], rows[-1] + 1) if whole else torch.tensor(rows, device=cache.device)
        shared.append(Shared(tokens, entries[key], plen))
    return shared


class PrefillBatch:
    """A run of new tokens for each of a few slots, packed one after the other. The output is that
    of each run's last token, or with `every` of all."""

    def __init__(
        self,
        decoder: Decoder,
        slots: Sequence[Slot],
        runs: Sequence[Ints],
        every: bool = False,
    ) -> None:
        cache = decoder.cache
        where = np.array([s.index for s in slots])
        starts, sizes = cache.lengths[where], np.array([len(r) for r in runs])
        offsets = np.cumsum([0, *sizes])
        positions = np.concatenate(
            [np.arange(v, v + n) for v, n in zip(starts, sizes, strict=True)]
        )
        ids = np.concatenate(runs)
        self.tokens = Tokens.of(cache, ids, np.repeat(where, sizes), positions)
        firsts = starts - cache.plens[where]
        self.last: tuple[Tensor, Rows] | None = None
        if not every:
            wanted = torch.from_numpy(offsets[1:] - 1).to(cache.device)
            shared = shared_rows(cache, where)
            self.last = wanted, SingleRows(decoder, where, firsts + sizes, shared)
        self.rows = RunRows(decoder, slots, firsts.tolist(), offsets.tolist())


class RunRows:
    """Packed runs: run i is queries offsets[i]:offsets[i + 1], behind `firsts[i]` rows of its
    slot."""

    def __init__(
        self, decoder: Decoder, slots: Sequence[Slot], firsts: Sequence[int], offsets: list[int]
    ) -> None:
        cache = self.cache = decoder.cache
        self.scale = decoder.scale
        self.shared: list[Shared] = []
        self.runs: list[tuple[slice, int, int, Tensor | None]] = []
        for i, slot in enumerate(slots):
            start, end = offsets[i], offsets[i + 1]
            total = firsts[i] + end - start
            mask = _causal(end - start, total, cache.dtype, cache.device)
            self.runs.append((slice(start, end), slot.index, total, mask))
            if slot.entry is None:
                continue
            length = int(cache.plens[slot.index])
            before = self.shared[-1] if self.shared else None
            if before and before[1:] == (slot.entry, length) and before.tokens.stop == start:
                start = self.shared.pop().tokens.start
            self.shared.append(Shared(slice(start, end), slot.entry, length))

    def own(self, q_NHD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        n, heads, dim = q_NHD.shape
        kv_heads = self.cache.shape.kv_heads
        q = q_NHD.view(n, kv_heads, heads // kv_heads, dim).permute(1, 2, 0, 3)
        q = q.to(self.cache.dtype)
        out, lse = torch.empty_like(q_NHD), q_NHD.new_empty(n, heads)
        out_view = out.view(n, kv_heads, -1, dim)
        lse_view = lse.view(n, kv_heads, -1)
        for tokens, slot, length, mask in self.runs:
            kv = self.cache.rows(layer, slot, length)
            k, v = (t[:, None].expand(-1, heads // kv_heads, -1, -1) for t in kv)
            o, e = attention(q[:, :, tokens], k, v, self.scale, mask)
            out_view[tokens] = o.permute(2, 0, 1, 3)
            lse_view[tokens] = e.permute(2, 0, 1)
        return out, lse


def _causal(new: int, total: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Additive mask (new, total): the last `new` of `total` tokens see what is not after them."""
    if new == 1:
        return None
    mask = torch.full((new, total), -torch.inf, dtype=dtype, device=device)
    return mask.triu_(total - new + 1)
