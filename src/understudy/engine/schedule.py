"""Which of a shard's requests run: admission by memory, prompts in pieces, and who makes room.

A request is admitted when there are blocks for its prompt; its answer takes blocks as it grows.
Where they run out, the request that was admitted last goes back to the head of the queue and
continues later from what it had drawn: the same tokens, for a draw depends on seed and count alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from understudy.engine.cache import BLOCK, Cache, Match, common_prefix
from understudy.engine.jobs import Counters, Job, Rows

Slots = npt.NDArray[np.int64]

_DEFER_MIN = 32  # tokens that waiting for a wave mate must save


@dataclass(eq=False, slots=True)
class Piece:
    """`count` tokens of a job's ids to compute now, behind those that its slot has."""

    job: Job
    count: int

    @property
    def last(self) -> bool:
        """Whether the prompt is complete with it."""
        return self.job.filled + self.count == len(self.job.ids)


class Schedule:
    """The requests of one shard: waiting, being prefilled, and drawing, with the arrays of those
    that have a slot. All is called on the shard's thread. `ended` hears of a request that was
    cancelled before it drew anything. A wave has at most `wave_tokens` new tokens."""

    def __init__(
        self,
        cache: Cache,
        counters: Counters,
        context: int,
        wave_tokens: int,
        ended: Callable[[Job], None],
    ) -> None:
        self.cache, self.counters, self.context = cache, counters, context
        self.wave_tokens, self.ended = wave_tokens, ended
        self.waiting: list[Job] = []
        self.filling: list[Job] = []  # have a slot, not yet their whole prompt in it
        self.running: dict[int, Job] = {}  # by slot, in the order of admission
        self._order: Slots | None = None
        self.rows = Rows.empty(0)
        self.logprobs = np.zeros((0, 256), dtype=np.float64)  # float32 ones fit without loss

    @property
    def order(self) -> Slots:
        """Running slots, sorted; the same array until others run."""
        if self._order is None:
            self._order = np.fromiter(self.running, dtype=np.int64, count=len(self.running))
            self._order.sort()
        return self._order

    @property
    def busy(self) -> bool:
        """Whether anything is there to be done."""
        return bool(self.waiting or self.filling or self.running)

    # -- admission -------------------------------------------------------------------------

    def wave(self) -> list[Piece]:
        """The next tokens to prefill: of prompts that were begun, then of what waits, as far as
        there are slots and blocks."""
        for job in [j for j in self.filling if j.cancelled]:
            self.filling.remove(job)
            self._give_up(job)
        for job in [j for j in self.waiting if j.cancelled]:
            self.waiting.remove(job)
            self.ended(job)
        pieces: list[Piece] = []
        left = self.wave_tokens
        for job in self.filling[:]:
            left = self._add(pieces, job, left)
        later: list[Job] = []
        for n, job in enumerate(self.waiting):
            if left <= 0:
                later.extend(self.waiting[n:])
                break
            match = self.cache.match(job.model.kv, job.ids)
            new = len(job.ids) - match.length
            whole_later = pieces and left < new <= self.wave_tokens
            if whole_later or self._better_later(job, match):
                later.append(job)
                continue
            if not self._place(job, match) and not (self._alone() and self._place_afresh(job)):
                later.extend(self.waiting[n:])
                break
            self.filling.append(job)
            left = self._add(pieces, job, left)
        self.waiting = later
        return pieces

    def _add(self, pieces: list[Piece], job: Job, left: int) -> int:
        count = min(len(job.ids) - job.filled, left)
        if count > 0:
            pieces.append(Piece(job, count))
        return left - count

    def _better_later(self, job: Job, match: Match) -> bool:
        """Whether a prompt that is being prefilled leaves more of this one in the cache."""
        least = match.length + _DEFER_MIN
        if len(job.ids) - 1 < least:
            return False
        kv = job.model.kv
        return any(
            m.model.kv is kv and common_prefix(m.ids, job.ids) >= least for m in self.filling
        )

    def _alone(self) -> bool:
        return not self.running and not self.filling

    def _place_afresh(self, job: Job) -> bool:
        """Without anything that is kept, a request that passed `fits` always has room."""
        for slot in self.cache.slots:
            self.cache.clear(slot)
        self.cache.entries.clear()
        return self._place(job, Match())

    def _place(self, job: Job, match: Match) -> bool:
        cache = self.cache
        if match.in_place:
            slot = match.slot
        else:
            slot = cache.take(keep=match.slot)
            if slot is None and match.slot is not None and not match.slot.active:
                slot = match.slot
                cache.truncate(slot, match.length)
            elif slot is not None and match.length:
                cache.adopt(slot, match)
        if slot is None:
            return False
        if not cache.reserve(slot, len(job.ids)):
            if not match.in_place:
                cache.clear(slot)
            return False
        s, i = job.sampling, slot.index
        limit = min(s.max_tokens, self.context - job.prompt)
        cache.activate(slot, job.model.kv, job.ids, job.prompt + limit)
        job.slot, job.filled = slot, int(cache.lengths[i])
        self._widen(limit)
        asks, drawn = job.asked is not None, len(job.drawn)
        values = (s.temperature, s.top_p, s.top_k, job.seed, drawn, limit, 0, job.watched, asks)
        for array, value in zip(self.rows, values, strict=True):
            array[i] = value
        self.logprobs[i, : len(job.drawn)] = job.drawn
        if job.cached is None:
            job.cached = job.filled
            self.counters.prompt_tokens += len(job.ids)
            self.counters.cached_tokens += job.cached
        return True

    def _widen(self, limit: int) -> None:
        slots = len(self.cache.slots)
        if len(self.rows.seed) < slots:
            self.rows = self.rows.grown(slots)
        if self.logprobs.shape[0] < slots or self.logprobs.shape[1] < limit:
            wide = max(self.logprobs.shape[1], 1 << (limit - 1).bit_length())
            new = np.zeros((slots, wide), dtype=np.float64)
            new[: self.logprobs.shape[0], : self.logprobs.shape[1]] = self.logprobs
            self.logprobs = new

    def computed(self, piece: Piece) -> None:
        """The piece's keys and values are in the cache."""
        job = piece.job
        assert job.slot is not None
        job.filled += piece.count
        self.cache.lengths[job.slot.index] = job.filled
        if job.filled == len(job.ids):
            self.filling.remove(job)
            self.running[job.slot.index] = job
            self._order = None

    # -- growth ----------------------------------------------------------------------------

    def secure(self) -> None:
        """A block for the next token of every running sequence, at the price of the last admitted
        ones where blocks run out."""
        cache = self.cache
        order = self.order
        full = cache.lengths[order] - cache.plens[order] >= cache.counts[order] * BLOCK
        for i in order[full].tolist():
            job = self.running.get(i)
            while job is not None and not cache.reserve(cache.slots[i], int(cache.lengths[i]) + 1):
                victim = (
                    self.filling[-1] if self.filling else self.running[next(reversed(self.running))]
                )
                self._preempt(victim)
                job = self.running.get(i)

    def _preempt(self, job: Job) -> None:
        assert job.slot is not None
        i = job.slot.index
        if job in self.filling:
            self.filling.remove(job)
        else:
            drawn = int(self.rows.count[i])
            job.ids = self.cache.ids[i, : job.prompt + drawn].copy()
            job.drawn = self.logprobs[i, :drawn].copy()
            del self.running[i]
            self._order = None
        self.cache.release(job.slot)
        job.slot, job.filled = None, 0
        self.waiting.insert(0, job)
        self.counters.preempted += 1

    # -- the end ---------------------------------------------------------------------------

    def leave(self, job: Job) -> None:
        """A running request has ended; its tokens stay as cache."""
        assert job.slot is not None
        del self.running[job.slot.index]
        self._order = None
        self._give_up(job)

    def _give_up(self, job: Job) -> None:
        assert job.slot is not None
        self.cache.release(job.slot)
        self.ended(job)

    def clear(self) -> list[Job]:
        """Forget everything, the cache too; returns the requests that were there."""
        jobs = [*self.running.values(), *self.filling, *self.waiting]
        for job in jobs:
            if job.slot is not None:
                self.cache.release(job.slot)
            self.ended(job)
        self.running, self.filling, self.waiting = {}, [], []
        self._order = None
        for slot in self.cache.slots:
            self.cache.clear(slot)
        self.cache.entries.clear()
        return jobs
