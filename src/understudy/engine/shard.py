"""One thread that decodes: continuous batching over a cache of its own.

Between steps new requests join (see `schedule`): all that wait are prefilled together, long prompts
in pieces, except those that would compute what another is about to leave in the cache. Finished
sequences leave at once. Bookkeeping is a few array operations a step; Python touches a single
sequence only when it starts and when it ends.
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
from understudy.engine.adapters import Model, merge
from understudy.engine.cache import Cache
from understudy.engine.decoder import DecodeBatch, Decoder, PrefillBatch
from understudy.engine.errors import EngineError
from understudy.engine.jobs import Counters, Job, deliver
from understudy.engine.lockstep import settle
from understudy.engine.lora_batch import LoraBatch, Stacks
from understudy.engine.sampling import draw, uniforms
from understudy.engine.schedule import Piece, Schedule
from understudy.engine.terms import TermKeeper
from understudy.engine.weights import Weights


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
    wave_tokens: int
    lockstep: bool = False  # see engine.lockstep


class Shard:
    """Runs jobs on its thread. `submit`, `cancel` and `call` may be used from any thread."""

    def __init__(self, config: ShardConfig, cache: Cache, decoder: Decoder, name: str) -> None:
        self.config, self.cache, self.decoder = config, cache, decoder
        self.inbox: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self.counters = Counters()
        self.schedule = Schedule(
            cache, self.counters, config.context, config.wave_tokens, self._ended
        )
        self.load = 0  # jobs submitted and not finished; read by the router
        self._stacks = Stacks()
        self._riding: tuple[list[Model], LoraBatch] | None = None  # of the last mixed step
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
        self.call(lambda: self.cache.drop(model))
        self.forget_weights(model)

    def forget_weights(self, model: Model) -> None:
        """Free what is kept of a model's weights; its keys and values stay."""

        def run() -> None:
            self._merged.pop(id(model), None)
            self._riding = None
            self._stacks.current = None

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
            if not self.schedule.busy:
                torch.set_num_threads(self.config.ambient_threads)
                self._receive(self.inbox.get())
                torch.set_num_threads(self.config.threads)
                if self.config.lockstep and self.schedule.waiting:
                    self._heard = self.schedule.waiting[-1].loop
            if self._heard is not None:
                settle(self._heard, lambda: self._shut)
                self._heard = None
            while not self.inbox.empty():
                self._receive(self.inbox.get())
            started = time.perf_counter()
            try:
                self._admit()
                if self.schedule.running:
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
            self.schedule.waiting.append(item)
            self._watched += bool(item.on_chunk or item.sampling.stop)
        else:
            item()

    # -- prefilling ------------------------------------------------------------------------

    def _admit(self) -> None:
        """Start what waits, in waves, as far as there is room; one wave where others decode."""
        while self.schedule.waiting or self.schedule.filling:
            pieces = self.schedule.wave()
            if not pieces:
                return
            started = time.perf_counter()
            self._prefill(pieces)
            self.counters.prefill_s += time.perf_counter() - started
            if len(self.schedule.running) > len(pieces) or not self.inbox.empty() or self._heard:
                return

    def _prefill(self, wave: list[Piece]) -> None:
        by_job = {id(p.job): p for p in wave}
        for weights, mixed, jobs in self._parts([p.job for p in wave]):
            jobs.sort(key=lambda j: self.cache.order(j.slot))
            pieces = [by_job[id(j)] for j in jobs]
            slots = [j.slot for j in jobs if j.slot is not None]
            runs = [p.job.ids[p.job.filled : p.job.filled + p.count] for p in pieces]
            batch = PrefillBatch(self.decoder, slots, runs)
            of_token = np.repeat(np.arange(len(jobs)), [len(r) for r in runs])
            lora = self._lora([jobs[i].model for i in of_token.tolist()], mixed)
            last_lora = self._lora([j.model for j in jobs], mixed)
            hidden = self.decoder.forward(weights, batch, lora, last_lora)
            whole = [i for i, p in enumerate(pieces) if p.last]
            for piece in pieces:
                self.schedule.computed(piece)
            if whole:
                where = np.array([slots[i].index for i in whole])
                hidden = hidden if len(whole) == len(pieces) else hidden[whole]
                self._sample(where, self.decoder.logits(weights, hidden))
        self.schedule.sort()

    # -- decoding --------------------------------------------------------------------------

    def _step(self) -> None:
        """One token for every running sequence."""
        self.schedule.secure()
        order = self.schedule.order  # empty where the only one had to make room
        jobs = [self.schedule.running[i] for i in order.tolist()]
        for weights, mixed, part in self._parts(jobs):
            slots = order
            if len(part) < len(jobs):
                slots = np.array([j.slot.index for j in part if j.slot is not None])
            batch = DecodeBatch(self.decoder, slots, self.schedule.rows.next_id[slots])
            lora = self._lora([j.model for j in part], mixed)
            hidden = self.decoder.forward(weights, batch, lora)
            self.cache.lengths[slots] += 1
            self._sample(slots, self.decoder.logits(weights, hidden))
        self.schedule.sort()
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

    def _lora(self, models: list[Model], mixed: bool) -> LoraBatch | None:
        """The low-rank products for rows of these models; the last step's where they are its."""
        if not mixed or not any(m.lora for m in models):
            return None
        if self._riding is not None and self._riding[0] == models:
            return self._riding[1]
        batch = LoraBatch(models, self._stacks, self.cache.device, self.decoder.kernel)
        self._riding = models, batch
        return batch

    def _sample(self, slots: np.ndarray, logits: Tensor) -> None:
        rows = self.schedule.rows
        counts = rows.count[slots]
        running = self.schedule.running
        asking = [(r, running[int(slots[r])]) for r in np.flatnonzero(rows.asks[slots])]
        asked = [(int(r), job.asked) for r, job in asking if job.asked is not None]
        drawn = draw(
            logits, rows.temperature[slots], rows.top_p[slots], rows.top_k[slots],
            uniforms(rows.seed[slots], counts), self.terms.terms(asked),
        )  # fmt: skip
        ids, logprobs = drawn.ids_R.cpu().numpy(), drawn.logprobs_R.cpu().numpy()
        rows.next_id[slots] = ids
        self.schedule.logprobs[slots, counts] = logprobs
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
        if self._watched or any(j.cancelled for j in self.schedule.running.values()):
            done += self._look(slots)
        deliver(done)
        if done and self.config.lockstep:
            self._heard = done[-1][0].loop

    def _look(self, slots: np.ndarray) -> list[tuple[Job, Sample | EngineError]]:
        """Streams, stop strings and cancellations of the rows that still run."""
        done: list[tuple[Job, Sample | EngineError]] = []
        for i in slots.tolist():
            job = self.schedule.running.get(i)
            if job is None:
                continue
            if job.cancelled:
                self.schedule.leave(job)
                continue
            n = int(self.schedule.rows.count[i])
            sampled = self.cache.ids[i, job.prompt : job.prompt + n]
            if job.sampling.stop and job.stopped(sampled, self.config.decode_text):
                done.append(self._finish(i, True, False))
            elif job.on_chunk:
                self._chunk(job, i, n)
        return done

    def _chunk(self, job: Job, i: int, n: int) -> None:
        assert job.on_chunk is not None
        fresh = self.cache.ids[i, job.prompt + job.sent : job.prompt + n].tolist()
        job.sent = n
        if fresh:
            job.loop.call_soon_threadsafe(job.on_chunk, fresh)

    def _finish(self, i: int, stopped: bool, broken: bool) -> tuple[Job, Sample | EngineError]:
        job, n = self.schedule.running[i], int(self.schedule.rows.count[i])
        if job.on_chunk and not broken:
            self._chunk(job, i, n)
        ids = self.cache.ids[i, job.prompt : job.prompt + n].tolist()
        logprobs = self.schedule.logprobs[i, :n].tolist()
        self.schedule.leave(job)
        self.counters.finished += 1
        if broken:
            if job.slot is not None:
                self.cache.clear(job.slot)
            return job, EngineError(f"the model {job.model.ref} gave NaN; its weights are broken")
        if job.asked is not None and job.asked.wrong is not None:
            return job, EngineError(f"the grammar cannot go on: {job.asked.wrong}")
        top = () if job.asked is None else tuple(job.asked.top)
        reason: FinishReason = "stop" if stopped else "length"
        cached = job.cached or 0
        return job, Sample(tuple(ids), tuple(logprobs), reason, job.model.ref, cached, top)

    def _ended(self, job: Job) -> None:
        """Nothing more is done for this request."""
        self._watched -= bool(job.on_chunk or job.sampling.stop)
        with self._lock:
            self.load -= 1

    def _fail_all(self, error: Exception) -> None:
        """Whatever runs or waits fails with this error; the cache is not trusted any more."""
        message = error if isinstance(error, EngineError) else EngineError(f"decoding: {error}")
        deliver([(job, message) for job in self.schedule.clear()])
