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
from understudy.engine.decoder import DecodeBatch, Decoder, PrefillBatch, Shared, shared_rows
from understudy.engine.errors import EngineError
from understudy.engine.graphs import Graphs
from understudy.engine.jobs import Counters, Job, Told, deliver
from understudy.engine.lockstep import settle
from understudy.engine.lora_batch import LoraBatch, Stacks
from understudy.engine.sampling import draw, uniforms
from understudy.engine.schedule import Piece, Schedule
from understudy.engine.terms import TermKeeper
from understudy.engine.weights import Weights

_WORTH_MERGING = 256  # tokens of a wave; for fewer the adapter's own products are cheaper


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
    graphs: bool = False  # see engine.graphs


@dataclass(eq=False, slots=True)
class Part:
    """Running requests that decode on the same weights."""

    weights: Weights
    slots: np.ndarray
    models: list[Model]  # of the rows, where they need low-rank products
    shared: list[Shared]
    lora: LoraBatch | None = None


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
        self.graphs = Graphs(decoder, config.base) if config.graphs else None
        self._stacks = Stacks()
        self._parts: tuple[object, int, list[Part]] | None = None  # see `_decoding`
        self._merged: dict[int, tuple[Model, Weights]] = {}  # keeps the model, so the id is its own
        self._cancelled = False  # some job was, since a step last looked
        self._heard: asyncio.AbstractEventLoop | None = None  # in lockstep: to be waited for
        self._settled = False  # it was, and nothing was said to it since
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

    def cancel(self, job: Job) -> None:
        """Nobody waits for its answer any more."""
        job.cancelled = True
        self._cancelled = True

    def call(self, function: Callable[[], None]) -> None:
        """Run between two steps. Raises EngineError when the shard is closed."""
        with self._lock:
            if self._shut:
                raise EngineError("the engine was closed")
            self.inbox.put(function)

    def forget(self, model: Model) -> None:
        """Free what is kept for a model that nobody can name any more."""
        self.call(lambda: self.cache.drop(model.kv))
        self.forget_weights(model)

    def forget_weights(self, model: Model) -> None:
        """Free what is kept of a model's weights; its keys and values stay."""
        model.leaving = True

        def run() -> None:
            self._merged.pop(id(model), None)
            self._parts = None
            if self.graphs is not None:
                self.graphs.drop(model)
            self._stacks.current = None

        self.call(run)

    def forget_past(self) -> None:
        """Free what is kept of requests that have ended."""

        def run() -> None:
            self.cache.drop()
            self._merged.clear()
            self._parts = None

        self.call(run)

    def close(self) -> None:
        with self._lock:
            self._shut = True
            self.inbox.put(None)
        self.thread.join()

    # -- the loop --------------------------------------------------------------------------

    @torch.inference_mode()
    def _run(self) -> None:
        if self.cache.device.type == "cuda":
            torch.cuda.set_device(self.cache.device)  # this thread's: Triton starts kernels there
        torch.set_num_threads(self.config.threads)
        while not self._closed:
            if not self.schedule.busy:
                torch.set_num_threads(self.config.ambient_threads)
                self._receive(self.inbox.get())
                torch.set_num_threads(self.config.threads)
            while self._heard is not None or not self.inbox.empty():
                if self._heard is not None:  # then all that it asks for is in the inbox
                    settle(self._heard, lambda: self._shut)
                    self._heard, self._settled = None, True
                else:
                    self._receive(self.inbox.get())
            self._settled = False
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

    def answered(self, loop: asyncio.AbstractEventLoop) -> None:
        """From this thread: `loop` was told something. In lockstep, it is waited for."""
        if self.config.lockstep:
            self._heard, self._settled = loop, False

    def _receive(self, item: Job | Callable[[], None] | None) -> None:
        if item is None:
            self._closed = True
        elif isinstance(item, Job):
            self.schedule.waiting.append(item)
            if not self._settled:  # more may come with it
                self.answered(item.loop)
        else:
            item()

    # -- prefilling ------------------------------------------------------------------------

    def _admit(self) -> None:
        """Start what waits, in waves, as far as there is room; one wave where others decode."""
        while self.schedule.waiting or self.schedule.filling:
            pieces = self.schedule.wave()
            if not pieces:
                return
            begun = sum(p.last for p in pieces)
            started = time.perf_counter()
            self._prefill(pieces)
            self.counters.prefill_s += time.perf_counter() - started
            if len(self.schedule.running) > begun or not self.inbox.empty() or self._heard:
                return

    def _prefill(self, wave: list[Piece]) -> None:
        by_job = {id(p.job): p for p in wave}
        tokens = sum(p.count for p in wave)
        for weights, mixed, jobs in self._by_weights([p.job for p in wave], tokens):
            jobs.sort(key=lambda j: self.cache.order(j.slot))
            pieces = [by_job[id(j)] for j in jobs]
            slots = [j.slot for j in jobs if j.slot is not None]
            runs = [p.job.ids[p.job.filled : p.job.filled + p.count] for p in pieces]
            batch = PrefillBatch(self.decoder, slots, runs)
            models = [j.model for j in jobs]
            lora = self._lora(models, [len(r) for r in runs]) if mixed else None
            last_lora = self._lora(models) if mixed else None
            hidden = self.decoder.forward(weights, batch, lora, last_lora)
            whole = [i for i, p in enumerate(pieces) if p.last]
            for piece in pieces:
                self.schedule.computed(piece)
            if whole:
                where = np.array([slots[i].index for i in whole])
                hidden = hidden if len(whole) == len(pieces) else hidden[whole]
                self._sample(where, self.decoder.logits(weights, hidden))

    # -- decoding --------------------------------------------------------------------------

    def _step(self) -> None:
        """One token for every running sequence."""
        if self._cancelled:
            self._cancelled = False  # before the look: what is cancelled from here on sets it anew
            for job in [j for j in self.schedule.running.values() if j.cancelled]:
                self.schedule.leave(job)
        self.schedule.secure()
        for part in self._decoding():
            hidden = self._hidden(part)
            self.cache.lengths[part.slots] += 1
            self._sample(part.slots, self.decoder.logits(part.weights, hidden))
        self.counters.steps += 1

    def _hidden(self, part: Part) -> Tensor:
        next_ids = self.schedule.rows.next_id[part.slots]
        if self.graphs is not None:
            hidden = self.graphs.hidden(part.weights, part.slots, next_ids, part.models)
            if hidden is not None:
                return hidden
        if part.models and part.lora is None:
            part.lora = self._lora(part.models)
        batch = DecodeBatch(self.decoder, part.slots, next_ids, part.shared)
        return self.decoder.forward(part.weights, batch, part.lora)

    def _decoding(self) -> list[Part]:
        """The running requests by the weights that they run on: the last step's parts, until
        others run or lean on other entries. Empty where the only one had to make room."""
        order, leanings = self.schedule.order, self.cache.leanings
        if self._parts and self._parts[0] is order and self._parts[1] == leanings:
            return self._parts[2]
        jobs = [self.schedule.running[i] for i in order.tolist()]
        parts = []
        for weights, mixed, of in self._by_weights(jobs):
            slots = np.array([j.slot.index for j in of if j.slot is not None])
            models = [j.model for j in of] if mixed and any(j.model.lora for j in of) else []
            parts.append(Part(weights, slots, models, shared_rows(self.cache, slots)))
        self._parts = order, leanings, parts
        return parts

    def _by_weights(
        self, jobs: list[Job], tokens: int | None = None
    ) -> list[tuple[Weights, bool, list[Job]]]:
        """The batch by the weights that it runs on: (weights, with low-rank products, jobs in
        the order of `jobs`). `tokens` are a wave's; decoding goes on for longer."""
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
                weights = self._merged_weights(model, tokens is None or tokens >= _WORTH_MERGING)
            if weights is not None and (own or on_base == 1):
                parts.append((weights, False, group))
            else:
                riding.add(id(model))
        if riding:
            together = [j for j in jobs if id(j.model) in riding]
            parts.append((self.config.base, True, together))
        return parts

    def _merged_weights(self, model: Model, worth: bool) -> Weights | None:
        """The base with the adapter merged in float32, where the budget allows and it is there
        or `worth` the work. A shard keeps its own: the newest few."""
        if id(model) in self._merged:
            return self._merged[id(model)][1]
        base = self.config.base
        size = sum(t.nbytes for b in base.blocks for t in (b.qkv, b.o, b.gate_up, b.down))
        worth = worth and not model.leaving and base.head.dtype == torch.float32
        if not worth or size > self.config.merge_bytes:
            return None
        while self._merged and (len(self._merged) + 1) * size > self.config.merge_bytes:
            del self._merged[next(iter(self._merged))]
        merged = merge(base, model)
        self._merged[id(model)] = (model, merged)
        return merged

    def _lora(self, models: list[Model], sizes: Sequence[int] | None = None) -> LoraBatch | None:
        """The low-rank products for runs of rows of these models."""
        if not any(m.lora for m in models):
            return None
        return LoraBatch(models, self._stacks, self.cache.device, self.decoder.kernel, sizes)

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
        finished = self.counters.finished
        told: list[tuple[Job, Told]] = []
        for r in np.flatnonzero(ended).tolist():
            told += self._finish(int(slots[r]), bool(stopped[r]), bool(broken[r]))
        for i in slots[rows.watched[slots]].tolist():
            job = self.schedule.running.get(i)
            if job is not None:
                told += self._look(job, i)
        deliver(told)
        if self.counters.finished > finished:
            self.answered(told[-1][0].loop)

    def _look(self, job: Job, i: int) -> list[tuple[Job, Told]]:
        """The stream and stop strings of a request that still runs."""
        n = int(self.schedule.rows.count[i])
        sampled = self.cache.ids[i, job.prompt : job.prompt + n]
        decode = self.config.decode_text  # there where anything asks for stop strings
        if job.sampling.stop and decode is not None and job.stopped(sampled, decode):
            return self._finish(i, True, False)
        return self._chunk(job, i, n)

    def _chunk(self, job: Job, i: int, n: int) -> list[tuple[Job, Told]]:
        if job.on_chunk is None or job.sent == n:
            return []
        fresh = self.cache.ids[i, job.prompt + job.sent : job.prompt + n].tolist()
        job.sent = n
        return [(job, fresh)]

    def _finish(self, i: int, stopped: bool, broken: bool) -> list[tuple[Job, Told]]:
        job, n = self.schedule.running[i], int(self.schedule.rows.count[i])
        told = [] if broken else self._chunk(job, i, n)
        ids = self.cache.ids[i, job.prompt : job.prompt + n].tolist()
        logprobs = self.schedule.logprobs[i, :n].tolist()
        self.schedule.leave(job)
        self.counters.finished += 1
        if broken:
            if job.slot is not None:
                self.cache.clear(job.slot)
            error = EngineError(f"the model {job.model.ref} gave NaN; its weights are broken")
            return [(job, error)]
        if job.asked is not None and job.asked.wrong is not None:
            return [*told, (job, EngineError(f"the grammar cannot go on: {job.asked.wrong}"))]
        top = () if job.asked is None else tuple(job.asked.top)
        reason: FinishReason = "stop" if stopped else "length"
        cached = job.cached or 0
        sample = Sample(tuple(ids), tuple(logprobs), reason, job.model.ref, cached, top)
        return [*told, (job, sample)]

    def _ended(self, job: Job) -> None:
        """Nothing more is done for this request."""
        with self._lock:
            self.load -= 1

    def _fail_all(self, error: Exception) -> None:
        """Whatever runs or waits fails with this error; the cache is not trusted any more."""
        message = error if isinstance(error, EngineError) else EngineError(f"decoding: {error}")
        deliver([(job, message) for job in self.schedule.clear()])
