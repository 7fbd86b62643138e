"""One thread that decodes: continuous batching over a cache of its own.

Between steps new requests join: all that wait are prefilled together, except those that would
compute what a request of the same wave is about to leave in the cache; they come a step later.
Finished sequences leave at once. Bookkeeping is a few array operations a step; Python touches a
single sequence only when it starts and when it ends.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from understudy.core.types import FinishReason, Sample
from understudy.engine.adapters import LoraBatch, Model, Stacks, merge
from understudy.engine.cache import Cache, Match, common_prefix
from understudy.engine.decoder import DecodeBatch, Decoder, PrefillBatch
from understudy.engine.jobs import Counters, EngineError, Job, Rows, deliver
from understudy.engine.lockstep import settle
from understudy.engine.sampling import draw, uniforms
from understudy.engine.terms import TermKeeper
from understudy.engine.weights import Weights

WAVE_TOKENS = 4096  # most new tokens in one prefill, unless a single prompt has more
_DEFER_MIN = 32  # tokens that waiting for a wave mate must save


@dataclass(slots=True)
class ShardConfig:
    """What a shard needs to know besides its weights."""

    base: Weights
    stop_ids: tuple[int, ...]
    decode_text: Callable[[Sequence[int]], str] | None
    context: int
    merge_bytes: int
    threads: int
    ambient_threads: int
    lockstep: bool = False  # see engine.lockstep


class Shard:
    """Runs jobs on its thread. `submit`, `cancel` and `call` may be used from any thread."""

    def __init__(self, config: ShardConfig, cache: Cache, decoder: Decoder, name: str) -> None:
        self.config, self.cache, self.decoder = config, cache, decoder
        self.inbox: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self.waiting: list[Job] = []
        self.running: dict[int, Job] = {}  # by slot
        self.order = np.zeros(0, dtype=np.int64)  # running slots
        self.rows = Rows.empty(0)
        self.logprobs = np.zeros((0, 256), dtype=np.float64)  # float32 ones fit without loss
        self.counters = Counters()
        self.load = 0  # jobs submitted and not finished; read by the router
        self._stacks = Stacks()
        self._merged: dict[int, tuple[Model, Weights]] = {}  # keeps the model, so the id is its own
        self._watched = 0  # running jobs that need a look at every token
        self._heard: asyncio.AbstractEventLoop | None = None  # in lockstep: to be waited for
        self._closed = False  # seen by the loop
        self._shut = False  # said by `close`; nothing is taken after it
        vocab = config.base.head.shape[0]
        self.terms = TermKeeper(config.base.shape.vocab, cache.device)
        self._is_stop = np.zeros(vocab, dtype=bool)
        self._is_stop[[i for i in config.stop_ids if i < vocab]] = True
        self._lock = threading.Lock()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    # -- from other threads ----------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Raises EngineError when the shard is closed."""
        with self._lock:
            if self._shut:
                raise EngineError("the engine was closed")
            self.load += 1
            self.inbox.put(job)

    def call(self, function: Callable[[], None]) -> None:
        """Run between two steps. Raises EngineError when the shard is closed."""
        with self._lock:
            if self._shut:
                raise EngineError("the engine was closed")
            self.inbox.put(function)

    def forget(self, model: Model) -> None:
        """Free what is kept for a model that nobody can name any more."""

        def run() -> None:
            self.cache.drop(model)
            self._merged.pop(id(model), None)

        self.call(run)

    def close(self) -> None:
        with self._lock:
            self._shut = True
            self.inbox.put(None)
        self.thread.join()

    # -- the loop --------------------------------------------------------------------------

    @torch.inference_mode()
    def _run(self) -> None:
        torch.set_num_threads(self.config.threads)
        while not self._closed:
            if not self.running and not self.waiting:
                torch.set_num_threads(self.config.ambient_threads)
                self._receive(self.inbox.get())
                torch.set_num_threads(self.config.threads)
                if self.config.lockstep and self.waiting:
                    self._heard = self.waiting[-1].loop
            if self._heard is not None:
                settle(self._heard, lambda: self._shut)
                self._heard = None
            while not self.inbox.empty():
                self._receive(self.inbox.get())
            started = time.perf_counter()
            try:
                self._admit()
                if self.running:
                    self._step()
            except (RuntimeError, MemoryError, ValueError, IndexError) as error:
                self._fail_all(error)
            self.counters.busy_s += time.perf_counter() - started
        while not self.inbox.empty():
            self._receive(self.inbox.get())
        self._fail_all(EngineError("the engine was closed"))

    def _receive(self, item: Job | Callable[[], None] | None) -> None:
        if item is None:
            self._closed = True
        elif isinstance(item, Job):
            self.waiting.append(item)
        else:
            item()

    # -- admission -------------------------------------------------------------------------

    def _admit(self) -> None:
        """Start what waits, in waves, as far as there are slots."""
        while self.waiting:
            wave = self._wave()
            if not wave:
                return
            started = time.perf_counter()
            self._prefill(wave)
            self.counters.prefill_s += time.perf_counter() - started
            if len(self.running) > len(wave) or not self.inbox.empty() or self._heard:
                return

    def _wave(self) -> list[Job]:
        wave: list[Job] = []
        later: list[Job] = []
        tokens = 0
        for n, job in enumerate(self.waiting):
            if job.cancelled:
                self._forget(job)
                continue
            match = self.cache.match(job.model, job.ids)
            new = len(job.ids) - match.length
            if (wave and tokens + new > WAVE_TOKENS) or self._better_later(job, match, wave):
                later.append(job)
                continue
            if not self._place(job, match):
                later.extend(self.waiting[n:])
                break
            wave.append(job)
            tokens += new
        self.waiting = later
        return wave

    @staticmethod
    def _better_later(job: Job, match: Match, wave: list[Job]) -> bool:
        least = match.length + _DEFER_MIN
        if len(job.ids) - 1 < least:
            return False
        return any(m.model is job.model and common_prefix(m.ids, job.ids) >= least for m in wave)

    def _place(self, job: Job, match: Match) -> bool:
        if match.in_place:
            slot = match.slot
        else:
            slot = self.cache.take(keep=match.slot)
            if slot is None and match.slot is not None and not match.slot.active:
                slot = match.slot
                self.cache.truncate(slot, match.length)
            elif slot is not None and match.length:
                self.cache.adopt(slot, match)
        if slot is None:
            return False
        s, i = job.sampling, slot.index
        limit = min(s.max_tokens, self.config.context - len(job.ids))
        self.cache.activate(slot, job.model, job.ids, len(job.ids) + limit)
        job.slot, job.cached = slot, int(self.cache.lengths[i])
        self._make_room(limit)
        values = (s.temperature, s.top_p, s.top_k, job.seed, 0, limit, 0, job.asked is not None)
        for array, value in zip(self.rows, values, strict=True):
            array[i] = value
        self.running[i] = job
        self._watched += bool(job.on_chunk or s.stop)
        self.counters.prompt_tokens += len(job.ids)
        self.counters.cached_tokens += job.cached
        return True

    def _make_room(self, limit: int) -> None:
        slots = len(self.cache.slots)
        if len(self.rows.seed) < slots:
            self.rows = self.rows.grown(slots)
        if self.logprobs.shape[0] < slots or self.logprobs.shape[1] < limit:
            wide = max(self.logprobs.shape[1], 1 << (limit - 1).bit_length())
            new = np.zeros((slots, wide), dtype=np.float64)
            new[: self.logprobs.shape[0], : self.logprobs.shape[1]] = self.logprobs
            self.logprobs = new

    def _prefill(self, wave: list[Job]) -> None:
        for weights, mixed, jobs in self._parts(wave):
            jobs.sort(key=lambda j: self.cache.order(j.slot))
            slots = [j.slot for j in jobs if j.slot is not None]
            runs = [j.ids[j.cached :] for j in jobs]
            batch = PrefillBatch(self.decoder, slots, runs)
            of_token = np.repeat(np.arange(len(jobs)), [len(r) for r in runs])
            lora = self._lora(of_token, jobs, mixed)
            last_lora = self._lora(np.arange(len(jobs)), jobs, mixed)
            hidden = self.decoder.forward(weights, batch, lora, last_lora)
            where = np.array([s.index for s in slots])
            self.cache.lengths[where] = [len(j.ids) for j in jobs]
            self._sample(where, self.decoder.logits(weights, hidden))
        self.order = np.fromiter(self.running, dtype=np.int64, count=len(self.running))
        self.order.sort()

    # -- decoding --------------------------------------------------------------------------

    def _step(self) -> None:
        """One token for every running sequence."""
        jobs = [self.running[i] for i in self.order.tolist()]
        for weights, mixed, part in self._parts(jobs):
            slots = self.order
            if len(part) < len(jobs):
                slots = np.array([j.slot.index for j in part if j.slot is not None])
            batch = DecodeBatch(self.decoder, slots, self.rows.next_id[slots])
            lora = self._lora(np.arange(len(part)), part, mixed)
            hidden = self.decoder.forward(weights, batch, lora)
            self.cache.lengths[slots] += 1
            self._sample(slots, self.decoder.logits(weights, hidden))
        self.order = np.fromiter(self.running, dtype=np.int64, count=len(self.running))
        self.order.sort()
        self.counters.steps += 1

    def _parts(self, jobs: list[Job]) -> list[tuple[Weights, bool, list[Job]]]:
        """The batch by the weights that it runs on: (weights, with low-rank products, jobs in
        the order of `jobs`)."""
        by_model: dict[int, list[Job]] = {}
        for job in jobs:
            by_model.setdefault(id(job.model), []).append(job)
        parts: list[tuple[Weights, bool, list[Job]]] = []
        riding: set[int] = set()
        models = [group[0].model for group in by_model.values()]
        on_base = sum(bool(m.lora) or m.weights is self.config.base for m in models)
        for group in by_model.values():
            model = group[0].model
            own = model.weights is not None and model.weights is not self.config.base
            weights = model.weights
            if on_base == 1 and model.lora:
                weights = self._merged_weights(model)
            if weights is not None and (own or on_base == 1):
                parts.append((weights, False, group))
            else:
                riding.add(id(model))
        if riding:
            together = [j for j in jobs if id(j.model) in riding]
            parts.append((self.config.base, True, together))
        return parts

    def _merged_weights(self, model: Model) -> Weights | None:
        """The base with the adapter merged in float32, where the budget allows. A shard keeps
        its own: the newest few."""
        if id(model) in self._merged:
            return self._merged[id(model)][1]
        base = self.config.base
        size = sum(t.nbytes for b in base.blocks for t in (b.qkv, b.o, b.gate_up, b.down))
        if base.head.dtype != torch.float32 or size > self.config.merge_bytes:
            return None
        while self._merged and (len(self._merged) + 1) * size > self.config.merge_bytes:
            del self._merged[next(iter(self._merged))]
        merged = merge(base, model)
        self._merged[id(model)] = (model, merged)
        return merged

    def _lora(self, job_of_row: np.ndarray, jobs: list[Job], mixed: bool) -> LoraBatch | None:
        if not mixed or not any(j.model.lora for j in jobs):
            return None
        models = [jobs[i].model for i in job_of_row.tolist()]
        return LoraBatch(models, self._stacks, self.cache.device)

    def _sample(self, slots: np.ndarray, logits: Tensor) -> None:
        rows = self.rows
        counts = rows.count[slots]
        asking = [(r, self.running[int(slots[r])]) for r in np.flatnonzero(rows.asks[slots])]
        asked = [(int(r), job.asked) for r, job in asking if job.asked is not None]
        drawn = draw(
            logits, rows.temperature[slots], rows.top_p[slots], rows.top_k[slots],
            uniforms(rows.seed[slots], counts), self.terms.terms(asked),
        )  # fmt: skip
        ids, logprobs = drawn.ids_R.cpu().numpy(), drawn.logprobs_R.cpu().numpy()
        rows.next_id[slots] = ids
        self.logprobs[slots, counts] = logprobs
        self.cache.ids[slots, self.cache.lengths[slots]] = ids
        rows.count[slots] = counts + 1
        self.counters.sampled_tokens += len(slots)
        broken = np.isnan(logprobs)
        stopped = self._is_stop[ids] | self.terms.follow(asked, ids, drawn)
        ended = stopped | (counts + 1 >= rows.limit[slots]) | broken
        done = [
            self._finish(int(slots[r]), bool(stopped[r]), bool(broken[r]))
            for r in np.flatnonzero(ended).tolist()
        ]
        if self._watched or any(j.cancelled for j in self.running.values()):
            done += self._look(slots)
        deliver(done)
        if done and self.config.lockstep:
            self._heard = done[-1][0].loop

    def _look(self, slots: np.ndarray) -> list[tuple[Job, Sample | EngineError]]:
        """Streams, stop strings and cancellations of the rows that still run."""
        done: list[tuple[Job, Sample | EngineError]] = []
        for i in slots.tolist():
            job = self.running.get(i)
            if job is None:
                continue
            if job.cancelled:
                self._leave(job)
                continue
            n = int(self.rows.count[i])
            sampled = self.cache.ids[i, len(job.ids) : len(job.ids) + n]
            if job.sampling.stop and job.stopped(sampled, self.config.decode_text):
                done.append(self._finish(i, True, False))
            elif job.on_chunk:
                self._chunk(job, i, n)
        return done

    def _chunk(self, job: Job, i: int, n: int) -> None:
        assert job.on_chunk is not None
        fresh = self.cache.ids[i, len(job.ids) + job.sent : len(job.ids) + n].tolist()
        job.sent = n
        if fresh:
            job.loop.call_soon_threadsafe(job.on_chunk, fresh)

    def _finish(self, i: int, stopped: bool, broken: bool) -> tuple[Job, Sample | EngineError]:
        job, n = self.running[i], int(self.rows.count[i])
        if job.on_chunk and not broken:
            self._chunk(job, i, n)
        ids = self.cache.ids[i, len(job.ids) : len(job.ids) + n].tolist()
        logprobs = self.logprobs[i, :n].tolist()
        self._leave(job)
        if broken:
            if job.slot is not None:
                self.cache.clear(job.slot)
            return job, EngineError(f"the model {job.model.ref} gave NaN; its weights are broken")
        if job.asked is not None and job.asked.wrong is not None:
            return job, EngineError(f"the grammar cannot go on: {job.asked.wrong}")
        top = () if job.asked is None else tuple(job.asked.top)
        reason: FinishReason = "stop" if stopped else "length"
        return job, Sample(tuple(ids), tuple(logprobs), reason, job.model.ref, job.cached, top)

    def _leave(self, job: Job) -> None:
        assert job.slot is not None
        del self.running[job.slot.index]
        self._watched -= bool(job.on_chunk or job.sampling.stop)
        self.cache.release(job.slot)
        self._forget(job)

    def _forget(self, job: Job) -> None:
        with self._lock:
            self.load -= 1

    def _fail_all(self, error: Exception) -> None:
        """Whatever runs or waits fails with this error; the cache is not trusted any more."""
        failed = [*self.running.values(), *self.waiting]
        for job in list(self.running.values()):
            self._leave(job)
        for job in self.waiting:
            self._forget(job)
        self.waiting = []
        self.order = np.zeros(0, dtype=np.int64)
        for slot in self.cache.slots:
            self.cache.clear(slot)
        self.cache.entries.clear()
        message = error if isinstance(error, EngineError) else EngineError(f"decoding: {error}")
        deliver([(job, message) for job in failed])
