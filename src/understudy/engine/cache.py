"""Keys and values of the conversations of one shard, in blocks, within a budget.

A slot holds one sequence: its ids, and a table of the blocks where the keys and values of its
suffix lie (paged attention, arXiv 2309.06180). Whole blocks are shared, and freed with the last
that refers to them. What many conversations begin with while they run, a system prompt and tools,
moves into a prefix entry, so that attention to it is one matrix product for all of them (cascade
attention). A finished sequence's slot stays as cache until its blocks are
needed. Nothing is ever shared across models or versions: what is kept says whose it is
(`Model.kv`), without holding the model, whose weights come and go.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from understudy.engine.weights import Shape

BLOCK = 32  # tokens
SHARED_MIN = 64  # tokens; a shorter common prefix is shared by blocks rather than as an entry
CROWD = 4096  # see Cache
MAX_ENTRIES = 16

Ids = npt.NDArray[np.int32]


@dataclass(eq=False, slots=True)
class Entry:
    """A prefix shared by slots: ids (P,), and kv (layers, 2, kv_heads, P, head_dim)."""

    of: object  # Model.kv
    ids: Ids
    kv: Tensor
    used: int = 0
    leaning: int = 0  # slots that refer to it

    @property
    def blocks(self) -> int:
        """What it takes of the budget."""
        return blocks_for(len(self.ids))


@dataclass(eq=False, slots=True)
class Slot:
    """One sequence's place. Its first `Cache.lengths[index]` tokens have keys and values, of
    them `Cache.plens[index]` in `entry`; position p after those is row p - plen of the slot, which
    lies in block row // BLOCK of `Cache.tables[index]`."""

    index: int
    of: object = None  # Model.kv; None where it is empty
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
    """All slots, blocks and entries of a shard. Grows on demand, in doublings, up to `max_slots`
    sequences and `max_tokens` tokens; on a GPU it has its whole size from the start.

    crowd: from so many tokens on, times the running sequences that share them, they are an entry:
    a product is a call for each layer, worth it only where it stands for many reads of blocks.

    static: it never moves, for who keeps addresses (engine.graphs). It has its whole size from the
    start, a block that nobody holds, `padding`, and no entries, so that blocks alone are shared."""

    def __init__(
        self,
        shape: Shape,
        max_slots: int,
        dtype: torch.dtype,
        device: torch.device,
        max_tokens: int,
        static: bool = False,
    ) -> None:
        self.shape, self.max_slots, self.dtype, self.device = shape, max_slots, dtype, device
        self.static = static
        self.max_blocks = max(1, max_tokens // BLOCK)
        self.padding = self.max_blocks  # where it is static, a block that nobody holds
        self.slots: list[Slot] = []
        self.entries: list[Entry] = []
        self.kv = [self._empty(0) for _ in range(shape.layers)]
        self.refs = np.zeros(0, dtype=np.int32)  # tables that have the block
        self.free: list[int] = []
        self.ids: Ids = np.zeros((0, 256), dtype=np.int32)
        self.tables = np.zeros((0, 8), dtype=np.int64)  # blocks of each slot's suffix
        self.counts = np.zeros(0, dtype=np.int64)  # how many
        self.lengths = np.zeros(0, dtype=np.int64)  # tokens with keys and values
        self.plens = np.zeros(0, dtype=np.int64)  # of those, in the slot's entry
        self.idle = np.zeros(0, dtype=bool)  # holds a finished sequence
        self.crowd = CROWD
        self.clock = 0
        self.leanings = 0  # changes of who leans on which entry, and how far
        if static or device.type != "cpu":
            self._grow_pool(self.max_blocks)

    def _empty(self, blocks: int) -> Tensor:
        s = self.shape
        size = (blocks, 2, s.kv_heads, BLOCK, s.head_dim)
        return torch.empty(size, dtype=self.dtype, device=self.device)

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    # -- finding ---------------------------------------------------------------------------

    def continuation(self, of: object, ids: Ids) -> Slot | None:
        """The idle slot whose whole sequence is the longest proper prefix of `ids`. The router asks
        from another thread, while this one may grow: what it says may then be out of date."""
        lengths, idle = self.lengths, self.idle
        known = min(len(lengths), len(idle))
        lengths, idle = lengths[:known], idle[:known]
        likely = np.flatnonzero(idle & (lengths > 0) & (lengths < len(ids)))
        if len(likely):
            at = lengths[likely] - 1
            likely = likely[self.ids[likely, at] == ids[at]]
        best, most = None, 0
        for i in likely:
            slot, n = self.slots[i], int(lengths[i])
            if slot.of is of and n > most and np.array_equal(self.ids[i, :n], ids[:n]):
                best, most = slot, n
        return best

    def match(self, of: object, ids: Ids) -> Match:
        """Where the longest prefix of `ids` lies; at least the last token is left to compute."""
        best = Match()
        if len(ids) < 2:
            return best
        slot = self.continuation(of, ids)
        if slot is not None:
            best = Match(int(self.lengths[slot.index]), slot=slot, in_place=True)
            if len(ids) - best.length <= 2 * SHARED_MIN:
                return best
        for entry in self.entries:
            n = min(common_prefix(entry.ids, ids), len(ids) - 1) if entry.of is of else 0
            if n > best.length:
                best = Match(n, entry=entry)
        longer = np.flatnonzero(self.lengths > best.length).tolist()
        held = [i for i in longer if self.slots[i].of is of]
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

    # -- slots -----------------------------------------------------------------------------

    def take(self, keep: Slot | None = None) -> Slot | None:
        """An empty slot: a new one, or the one idle for longest (not `keep`); None if all run."""
        free = next((s for s in self.slots if s.of is None), None)
        if free is None and len(self.slots) < self.max_slots:
            self._grow_slots(min(self.max_slots, max(16, 2 * len(self.slots))))
            free = next(s for s in self.slots if s.of is None)
        if free is None:
            idle = [s for s in self.slots if not s.active and s is not keep]
            free = min(idle, key=lambda s: s.used, default=None)
        if free is not None:
            self.clear(free)
        return free

    def clear(self, slot: Slot) -> None:
        self._lean(slot, None)
        slot.of, slot.active = None, False
        i = slot.index
        self._shrink(i, 0)
        self.lengths[i], self.plens[i], self.idle[i] = 0, 0, False

    def truncate(self, slot: Slot, length: int) -> None:
        """Keep the first `length` tokens of an idle slot; fewer, where others share the block in
        which they end."""
        i = slot.index
        plen = min(int(self.plens[i]), length)
        rows = length - plen
        if rows % BLOCK and self.refs[self.tables[i, rows // BLOCK]] > 1:
            rows -= rows % BLOCK
        self._shrink(i, blocks_for(rows))
        self.lengths[i], self.plens[i] = plen + rows, plen
        if not plen:
            self._lean(slot, None)

    def activate(self, slot: Slot, of: object, ids: Ids, total: int) -> None:
        """Mark as running `ids`; there is room for `total` ids afterwards."""
        slot.of, slot.active, slot.used = of, True, self.tick()
        if slot.entry is not None:
            slot.entry.used = slot.used
        self.idle[slot.index] = False
        if total > self.ids.shape[1]:
            self.ids = _wider(self.ids, total)
        self.ids[slot.index, : len(ids)] = ids

    def release(self, slot: Slot) -> None:
        """The sequence has left the batch; its tokens stay as cache."""
        slot.active, slot.used = False, self.tick()
        self.idle[slot.index] = True
        if slot.entry is not None:
            slot.entry.used = slot.used

    def drop(self, of: object = None) -> None:
        """Forget what is cached for a model, or for all; running sequences keep theirs."""
        for slot in self.slots:
            if of in (None, slot.of) and not slot.active:
                self.clear(slot)
        self.entries = [e for e in self.entries if of not in (None, e.of)]

    # -- blocks ----------------------------------------------------------------------------

    def room(self) -> int:
        """Blocks of the budget that nothing holds."""
        held = len(self.refs) - len(self.free) + sum(e.blocks for e in self.entries)
        return self.max_blocks - held

    def reserve(self, slot: Slot, length: int) -> bool:
        """Blocks for the first `length` tokens of a slot, taken from what is idle where they must.
        False, and nothing changed, where the running sequences leave too few."""
        i = slot.index
        have, need = int(self.counts[i]), blocks_for(length - int(self.plens[i]))
        if need <= have:
            return True
        if not self._make_room(need - have, slot):
            return False
        if need > self.tables.shape[1]:
            self.tables = _wider(self.tables, need)
        self.tables[i, have:need] = self._take_blocks(need - have)
        self.counts[i] = need
        return True

    def _take_blocks(self, n: int) -> list[int]:
        """Blocks within the room that there is."""
        if len(self.free) < n:
            self._grow_pool(min(self.max_blocks, max(64, 2 * len(self.refs), len(self.refs) + n)))
        taken = [self.free.pop() for _ in range(n)]
        self.refs[taken] = 1
        return taken

    def _make_room(self, need: int, keep: Slot) -> bool:
        """Forget what is idle, the oldest first, until `need` blocks are free."""
        while self.room() < need:
            idle: list[Slot | Entry] = [
                s for s in self.slots if s.of is not None and not s.active and s is not keep
            ]
            idle += [e for e in self.entries if not e.leaning and e is not keep.entry]
            oldest = min(idle, key=lambda x: x.used, default=None)
            if oldest is None:
                return False
            if isinstance(oldest, Entry):
                self.entries.remove(oldest)
            else:
                self.clear(oldest)
        return True

    def _shrink(self, i: int, blocks: int) -> None:
        """Give back the blocks of slot i after its first few."""
        gone = self.tables[i, blocks : self.counts[i]]
        if len(gone):
            self._give_back(gone)
            self.counts[i] = blocks

    def _give_back(self, blocks: npt.NDArray[np.int64]) -> None:
        self.refs[blocks] -= 1
        self.free.extend(blocks[self.refs[blocks] == 0].tolist())

    def rows(self, layer: int, i: int, length: int) -> Tensor:
        """Keys and values of a slot's first `length` rows, (2, kv_heads, length, head_dim)."""
        table = torch.from_numpy(self.tables[i, : blocks_for(length)]).to(self.device)
        return in_rows(self.kv[layer], table[None])[0, :, :, :length]

    # -- sharing ---------------------------------------------------------------------------

    def adopt(self, slot: Slot, match: Match) -> None:
        """Give the empty `slot` the matched prefix: by reference as far as it lies in an entry or
        fills blocks, else as a copy."""
        source, length, i = match.slot, match.length, slot.index
        if source is None:
            if match.entry is not None and length >= SHARED_MIN:
                self._lean(slot, match.entry)
                self.plens[i], self.lengths[i] = length, length
            return
        if source.entry is None and not self.static:
            self._promote(source, length // BLOCK)
        plen = min(int(self.plens[source.index]), length)
        self._lean(slot, source.entry if plen else None)
        whole = (length - plen) // BLOCK
        shared = self.tables[source.index, :whole]
        self.refs[shared] += 1
        self.tables[i, :whole], self.counts[i] = shared, whole
        self.plens[i], self.lengths[i] = plen, plen + whole * BLOCK
        rest = length - plen - whole * BLOCK
        there = int(self.tables[source.index, whole]) if rest else -1
        if rest and self.reserve(slot, length):  # may forget the source, not what is in its block
            here = int(self.tables[i, whole])
            for kv in self.kv:
                kv[here, :, :, :rest] = kv[there, :, :, :rest].clone()
            self.lengths[i] = length

    def _lean(self, slot: Slot, entry: Entry | None) -> None:
        self.leanings += 1
        if slot.entry is not None:
            slot.entry.leaning -= 1
        if entry is not None:
            entry.leaning += 1
        slot.entry = entry

    def _promote(self, source: Slot, blocks: int) -> None:
        """Move the first blocks of a slot into an entry, for all slots that have these blocks,
        where enough of them run and the budget has room for both for a moment."""
        i, length = source.index, blocks * BLOCK
        table = self.tables[i, :blocks].copy()
        running = 1 + sum(self.slots[j].active for j in self._with(table))  # who comes, too
        enough = length >= SHARED_MIN and running * length >= self.crowd
        if not (enough and self._make_room(blocks, source)):
            return
        kv = torch.stack([self.rows(layer, i, length) for layer in range(self.shape.layers)])
        self.entries.append(Entry(source.of, self.ids[i, :length].copy(), kv, self.tick()))
        for j in self._with(table):
            rest = self.tables[j, blocks : self.counts[j]].copy()
            self._give_back(table)
            self.tables[j, : len(rest)], self.counts[j] = rest, len(rest)
            self._lean(self.slots[j], self.entries[-1])
            self.plens[j] = length
        self._trim()

    def _with(self, table: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
        """The slots that begin with these blocks."""
        alike = (self.tables[:, : len(table)] == table).all(1) & (self.plens == 0)
        return np.flatnonzero(alike & (self.counts >= len(table)))

    def _trim(self) -> None:
        """Forget the entries idle for longest, with the idle slots that lean on them."""
        running = {id(s.entry) for s in self.slots if s.active} | {id(self.entries[-1])}
        idle = sorted((e for e in self.entries if id(e) not in running), key=lambda e: e.used)
        for entry in idle[: max(0, len(self.entries) - MAX_ENTRIES)]:
            self.entries.remove(entry)
            for slot in self.slots:
                if slot.entry is entry:
                    self.clear(slot)

    # -- growing ---------------------------------------------------------------------------

    def _grow_pool(self, blocks: int) -> None:
        before = len(self.refs)
        for layer, old in enumerate(self.kv):
            self.kv[layer] = self._empty(blocks + self.static)
            self.kv[layer][:before] = old
        self.refs = np.concatenate([self.refs, np.zeros(blocks - before, np.int32)])
        self.free[:0] = range(blocks - 1, before - 1, -1)

    def _grow_slots(self, slots: int) -> None:
        more = slots - len(self.slots)
        self.ids = np.concatenate([self.ids, np.zeros((more, self.ids.shape[1]), np.int32)])
        tables = np.zeros((more, self.tables.shape[1]), np.int64)
        self.tables = np.concatenate([self.tables, tables])
        for name in ("counts", "lengths", "plens", "idle"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros(more, old.dtype)]))
        self.slots.extend([Slot(len(self.slots) + i) for i in range(more)])


def blocks_for(rows: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-rows // BLOCK)


def in_rows(kv: Tensor, tables_RM: Tensor) -> Tensor:
    """One layer's blocks of each table one after the other: (R, 2, kv_heads, M * BLOCK, D)."""
    shape = (len(tables_RM), 2, kv.shape[2], -1, kv.shape[4])
    return kv[tables_RM].permute(0, 2, 3, 1, 4, 5).reshape(shape)


def common_prefix(a: Ids, b: Ids) -> int:
    """Length of the common prefix of two id arrays."""
    same = a[: (n := min(len(a), len(b)))] == b[:n]
    return n if same.all() else int(same.argmin())


def _wider(table: npt.NDArray[Any], columns: int) -> npt.NDArray[Any]:
    power = max(8, 1 << (columns - 1).bit_length())
    return np.pad(table, ((0, 0), (0, power - table.shape[1])))
