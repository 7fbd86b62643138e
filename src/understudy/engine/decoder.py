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

from understudy.engine.cache import BLOCK, Cache, Entry, Slot, blocks_for
from understudy.engine.kernel import Kernel, Products
from understudy.engine.lora_batch import LowRank
from understudy.engine.matrix import Matrix
from understudy.engine.ops import EAGER, Ops, attention, shared_attention
from understudy.engine.weights import Block, Weights

Ints = npt.NDArray[Any]


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
    """Runs batches over one cache with any set of weights of the same shape: with the C kernel
    where there is one, else with `ops`."""

    def __init__(
        self, cache: Cache, rope: tuple[Tensor, Tensor], kernel: Kernel | None, ops: Ops = EAGER
    ) -> None:
        if kernel is not None:
            ops = ops._replace(rms_norm=kernel.rms_norm, silu_mul=kernel.silu_mul)
        self.cache, self.rope, self.kernel, self.ops = cache, rope, kernel, ops
        self.scale = cache.shape.head_dim**-0.5

    def forward(
        self,
        weights: Weights,
        batch: Batch,
        lora: LowRank | None = None,
        last_lora: LowRank | None = None,
    ) -> Tensor:
        """Hidden states before the final norm, (N, width) or of `batch.last` alone; keys and
        values go into the cache. `last_lora` is for the rows of `batch.last`."""
        hidden = F.embedding(batch.tokens.ids_N, weights.embed)
        rows = batch.rows
        left: Products | None = None  # of the low-rank products, for the next call
        for i, block in enumerate(weights.blocks):
            x = self._norm(hidden, block.norm_in, left)
            qkv = block.qkv(x, block.qkv_bias)
            left = lora.add(i, "qkv", x, qkv) if lora else None
            q_NHD = self._post(block, batch.tokens, qkv, self.cache.kv[i], left)
            if batch.last and i == len(weights.blocks) - 1:
                wanted, rows = batch.last
                hidden, q_NHD, lora = hidden[wanted], q_NHD[wanted], last_lora
            x = self._attention(i, rows, q_NHD)
            hidden = self._join(hidden, x, block.o, block.o_bias)
            left = lora.add(i, "o", x, hidden) if lora else None
            x = self._norm(hidden, block.norm_mlp, left)
            gate_up = block.gate_up(x, block.gate_up_bias)
            left = lora.add(i, "gate_up", x, gate_up) if lora else None
            x = self._silu_mul(gate_up, left)
            hidden = self._join(hidden, x, block.down, block.down_bias)
            left = lora.add(i, "down", x, hidden) if lora else None
        if left is not None and self.kernel is not None:
            self.kernel.lora_add(left)
        return hidden

    def logits(self, weights: Weights, hidden: Tensor) -> Tensor:
        """(N, padded vocabulary), minus infinity in the padding."""
        x = self._norm(hidden, weights.norm)
        return weights.head(x, weights.head_bias)

    def _norm(self, x: Tensor, weight: Tensor, left: Products | None = None) -> Tensor:
        if left is not None and self.kernel is not None:
            return self.kernel.rms_norm(x, weight, self.cache.shape.eps, left)
        return self.ops.rms_norm(x, weight, self.cache.shape.eps)

    def _silu_mul(self, gate_up: Tensor, left: Products | None) -> Tensor:
        if left is not None and self.kernel is not None:
            return self.kernel.silu_mul(gate_up, left)
        return self.ops.silu_mul(gate_up)

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

    def _post(
        self, block: Block, tokens: Tokens, qkv: Tensor, kv: Tensor, left: Products | None
    ) -> Tensor:
        """q/k norm, RoPE, keys and values into the cache; returns q (N, H, D)."""
        s = self.cache.shape
        if self.kernel:
            q = qkv.new_empty(len(qkv), s.heads, s.head_dim)
            self.kernel.qkv_post(
                qkv, tokens.blocks_N, tokens.at_N, tokens.positions_N, self.rope,
                block.q_norm, block.k_norm, s.eps, kv, q, left,
            )  # fmt: skip
            return q
        return self.ops.qkv_post(
            qkv, tokens.blocks_N, tokens.at_N, tokens.positions_N, self.rope,
            block.q_norm, block.k_norm, s.eps, kv,
        )  # fmt: skip


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
        self.rows = SingleRows.of(decoder, slots, positions - cache.plens[slots] + 1, shared)


class SingleRows:
    """One query a row, at the last of the first `lens_R` rows in the blocks of its table."""

    def __init__(
        self, decoder: Decoder, tables_RM: Tensor, lens_R: Tensor, shared: Sequence[Shared]
    ) -> None:
        self.decoder, self.shared = decoder, shared
        self.tables_RM, self.lens_R = tables_RM, lens_R
        longest, device = tables_RM.shape[1] * BLOCK, lens_R.device
        if decoder.kernel:
            self.scratch = torch.empty(decoder.cache.shape.group, longest)
        elif decoder.ops.paged is None:
            self.beyond_RL = torch.arange(longest, device=device) >= lens_R[:, None]
            zeros = torch.zeros(self.beyond_RL.shape, dtype=decoder.cache.dtype, device=device)
            self.mask = zeros.masked_fill(self.beyond_RL, -torch.inf)[:, None, None]

    @staticmethod
    def of(decoder: Decoder, slots: Ints, lens: Ints, shared: Sequence[Shared]) -> "SingleRows":
        """A row a slot."""
        to = decoder.cache.device
        tables = torch.from_numpy(decoder.cache.tables[slots, : blocks_for(int(lens.max()))])
        return SingleRows(decoder, tables.to(to), torch.from_numpy(lens).to(to), shared)

    def own(self, q_NHD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        kv = self.decoder.cache.kv[layer]
        if self.decoder.kernel:
            out, lse = torch.empty_like(q_NHD), q_NHD.new_empty(q_NHD.shape[:2])
            self.decoder.kernel.attend(
                q_NHD, kv, self.tables_RM, self.lens_R, out, lse, self.scratch,
                self.decoder.scale,
            )  # fmt: skip
            return out, lse
        ops, scale = self.decoder.ops, self.decoder.scale
        if ops.paged is not None:
            return ops.paged(q_NHD, kv, self.tables_RM, self.lens_R, scale)
        return ops.attend(q_NHD, kv, self.tables_RM, self.beyond_RL, self.mask, scale)


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
            self.last = wanted, SingleRows.of(decoder, where, firsts + sizes, shared)
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
