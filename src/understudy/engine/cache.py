"""Keys and values of the conversations of one shard.

A slot holds one sequence: its ids, and the cache of its suffix. What comes before the suffix, the
system prompt and tools that many conversations share, lies once in a prefix entry, so that
attention to it is one matrix product for all rows (cascade attention). A finished sequence's
slot stays as cache until it is needed. Nothing is ever shared across models or versions.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from understudy.engine.adapters import Model
from understudy.engine.weights import Shape

SHARED_MIN = 64  # tokens; a shorter common prefix is copied rather than shared
MAX_ENTRIES = 16

Ids = npt.NDArray[np.int32]


@dataclass(eq=False, slots=True)
class Entry:
    """A prefix shared by slots: ids (P,), and kv (layers, 2, kv_heads, P, head_dim)."""

    model: Model
    ids: Ids
    kv: Tensor
    used: int = 0


@dataclass(eq=False, slots=True)
class Slot:
    """One sequence's place. Its first `Cache.lengths[index]` tokens have keys and values, of
    them `Cache.plens[index]` in `entry`; position p after those is row p - plen of the slot."""

    index: int
    model: Model | None = None
    entry: Entry | None = None
    active: bool = False
    used: int = 0


@dataclass(frozen=True, slots=True)
class Match:
    """The longest usable prefix of a prompt: `length` tokens held by a slot or an entry."""

    length: int = 0
    slot: Slot | None = None
    entry: Entry | None = None
    in_place: bool = False


class Cache:
    """All slots and entries of a shard. Grows on demand up to `max_slots`, in doublings."""

    def __init__(
        self, shape: Shape, max_slots: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape, self.max_slots, self.dtype, self.device = shape, max_slots, dtype, device
        self.slots: list[Slot] = []
        self.entries: list[Entry] = []
        self.capacity = 256
        self.kv = [self._empty(0, self.capacity) for _ in range(shape.layers)]
        self.ids: Ids = np.zeros((0, 256), dtype=np.int32)
        self.lengths = np.zeros(0, dtype=np.int64)  # tokens with keys and values
        self.plens = np.zeros(0, dtype=np.int64)  # of those, in the slot's entry
        self.idle = np.zeros(0, dtype=bool)  # holds a finished sequence
        self.clock = 0

    def _empty(self, slots: int, capacity: int) -> Tensor:
        s = self.shape
        size = (slots, 2, s.kv_heads, capacity, s.head_dim)
        return torch.empty(size, dtype=self.dtype, device=self.device)

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    # -- finding ---------------------------------------------------------------------------

    def continuation(self, model: Model, ids: Ids) -> Slot | None:
        """The idle slot whose whole sequence is the longest proper prefix of `ids`."""
        lengths = self.lengths
        likely = np.flatnonzero(self.idle & (lengths > 0) & (lengths < len(ids)))
        if len(likely):
            at = lengths[likely] - 1
            likely = likely[self.ids[likely, at] == ids[at]]
        best, most = None, 0
        for i in likely:
            slot, n = self.slots[i], int(lengths[i])
            if slot.model is model and n > most and np.array_equal(self.ids[i, :n], ids[:n]):
                best, most = slot, n
        return best

    def match(self, model: Model, ids: Ids) -> Match:
        """Where the longest prefix of `ids` lies; at least the last token is left to compute."""
        best = Match()
        if len(ids) < 2:
            return best
        slot = self.continuation(model, ids)
        if slot is not None:
            best = Match(int(self.lengths[slot.index]), slot=slot, in_place=True)
            if len(ids) - best.length <= 2 * SHARED_MIN:
                return best
        for entry in self.entries:
            if entry.model is model:
                n = min(common_prefix(entry.ids, ids), len(ids) - 1)
                if n > best.length:
                    best = Match(n, entry=entry)
        held = [
            s.index for s in self.slots if s.model is model and self.lengths[s.index] > best.length
        ]
        if held:
            longest = min(int(self.lengths[held].max()), len(ids) - 1)
            same = self.ids[held, :longest] == ids[:longest]
            common = np.where(same.all(1), longest, same.argmin(1))
            common = np.minimum(common, self.lengths[held])
            i = int(common.argmax())
            if common[i] > best.length:
                best = Match(int(common[i]), slot=self.slots[held[i]])
        return best

    def order(self, slot: Slot | None) -> tuple[int, int]:
        """What a prefill is sorted by: slots that lean on one entry lie side by side."""
        if slot is None or slot.entry is None:
            return 0, 0
        return slot.entry.used, int(self.plens[slot.index])

    # -- taking ----------------------------------------------------------------------------

    def take(self, keep: Slot | None = None) -> Slot | None:
        """An empty slot: a new one, or the one idle for longest (not `keep`); None if all run."""
        free = next((s for s in self.slots if s.model is None), None)
        if free is None and len(self.slots) < self.max_slots:
            self._grow(min(self.max_slots, max(16, 2 * len(self.slots))), self.capacity)
            free = next(s for s in self.slots if s.model is None)
        if free is None:
            idle = [s for s in self.slots if not s.active and s is not keep]
            free = min(idle, key=lambda s: s.used, default=None)
        if free is not None:
            self.clear(free)
        return free

    def clear(self, slot: Slot) -> None:
        slot.model, slot.entry, slot.active = None, None, False
        i = slot.index
        self.lengths[i], self.plens[i], self.idle[i] = 0, 0, False

    def truncate(self, slot: Slot, length: int) -> None:
        """Keep the first `length` tokens of an idle slot."""
        i = slot.index
        self.lengths[i], self.plens[i] = length, min(int(self.plens[i]), length)
        if not self.plens[i]:
            slot.entry = None

    def activate(self, slot: Slot, model: Model, ids: Ids, total: int) -> None:
        """Mark as running `ids`; there is room for `total` tokens afterwards."""
        slot.model, slot.active, slot.used = model, True, self.tick()
        if slot.entry is not None:
            slot.entry.used = slot.used
        self.idle[slot.index] = False
        if total > self.ids.shape[1]:
            wide = np.zeros((len(self.ids), _power(total)), dtype=np.int32)
            wide[:, : self.ids.shape[1]] = self.ids
            self.ids = wide
        rows = total - int(self.plens[slot.index])
        if rows > self.capacity:
            self._grow(len(self.slots), _power(rows))
        self.ids[slot.index, : len(ids)] = ids

    def release(self, slot: Slot) -> None:
        """The sequence has left the batch; its tokens stay as cache."""
        slot.active, slot.used = False, self.tick()
        self.idle[slot.index] = True
        if slot.entry is not None:
            slot.entry.used = slot.used

    def drop(self, model: Model) -> None:
        """Forget what is cached for a model that is gone; running sequences keep theirs."""
        for slot in self.slots:
            if slot.model is model and not slot.active:
                self.clear(slot)
        self.entries = [e for e in self.entries if e.model is not model]

    # -- sharing ---------------------------------------------------------------------------

    def adopt(self, slot: Slot, match: Match) -> None:
        """Give the empty `slot` the matched prefix: by reference as far as it lies in an entry or
        is long enough to become one, by copying for the rest."""
        source, length, i = match.slot, match.length, slot.index
        if source is None:
            if match.entry is not None and length >= SHARED_MIN:
                slot.entry, self.plens[i], self.lengths[i] = match.entry, length, length
            return
        if length >= SHARED_MIN and source.entry is None:
            self._promote(source, length)
        plen = min(int(self.plens[source.index]), length)
        slot.entry = source.entry if plen else None
        self.plens[i], self.lengths[i] = plen, length
        if length > plen:
            for kv in self.kv:
                kv[i, :, :, : length - plen] = kv[source.index, :, :, : length - plen]

    def _promote(self, source: Slot, length: int) -> None:
        """Move the first `length` tokens of a slot that holds them itself into an entry."""
        assert source.model is not None
        i = source.index
        parts = [kv[i, :, :, :length] for kv in self.kv]
        entry = Entry(source.model, self.ids[i, :length].copy(), torch.stack(parts), self.tick())
        rest = int(self.lengths[i]) - length
        for kv in self.kv:
            kv[i, :, :, :rest] = kv[i, :, :, length : length + rest].clone()
        source.entry, self.plens[i] = entry, length
        self.entries.append(entry)
        self._trim(entry)

    def _trim(self, keep: Entry) -> None:
        """Forget the entries idle for longest, with the idle slots that lean on them."""
        running = {id(s.entry) for s in self.slots if s.active} | {id(keep)}
        idle = sorted((e for e in self.entries if id(e) not in running), key=lambda e: e.used)
        for entry in idle[: max(0, len(self.entries) - MAX_ENTRIES)]:
            self.entries.remove(entry)
            for slot in self.slots:
                if slot.entry is entry:
                    self.clear(slot)

    def _grow(self, slots: int, capacity: int) -> None:
        rows = self.lengths - self.plens
        for layer, old in enumerate(self.kv):
            new = self._empty(slots, capacity)
            for i, n in enumerate(rows):
                if n:
                    new[i, :, :, :n] = old[i, :, :, :n]
            self.kv[layer] = new
        self.capacity = capacity
        more = slots - len(self.slots)
        if more:
            self.ids = np.concatenate([self.ids, np.zeros((more, self.ids.shape[1]), np.int32)])
            self.lengths = np.concatenate([self.lengths, np.zeros(more, np.int64)])
            self.plens = np.concatenate([self.plens, np.zeros(more, np.int64)])
            self.idle = np.concatenate([self.idle, np.zeros(more, bool)])
            self.slots.extend([Slot(len(self.slots) + i) for i in range(more)])


def common_prefix(a: Ids, b: Ids) -> int:
    """Length of the common prefix of two id arrays."""
    n = min(len(a), len(b))
    same = a[:n] == b[:n]
    return n if same.all() else int(same.argmin())


def _power(n: int) -> int:
    return max(256, 1 << (n - 1).bit_length())
