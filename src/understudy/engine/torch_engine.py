"""The embedded engine: many conversations and many adapters in one batch, on torch.

A CPU engine runs one single-threaded shard per core instead of one batch over several threads:
nothing waits at a barrier, so that a busy neighbour costs its share and no more. Shards have
caches of their own; a conversation returns to the shard that holds it.
"""

import asyncio
import random
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import numpy as np
import psutil
import torch
from llguidance import LLMatcher
from torch import Tensor

from understudy.core.cores import threads_for_load
from understudy.core.openai_fields import MOST_TOP
from understudy.core.origin import Origin
from understudy.core.types import ModelRef, Sample, Sampling, Scores
from understudy.engine.adapters import Model, Narrow, lora_sites
from understudy.engine.cache import BLOCK, Cache
from understudy.engine.decoder import Decoder
from understudy.engine.errors import EngineError, UnknownModelError
from understudy.engine.grammar import Grammars
from understudy.engine.jobs import Counters, Job
from understudy.engine.kernel import build_kernel
from understudy.engine.ops import EAGER, compiled
from understudy.engine.paged import paged_for
from understudy.engine.pending import Pending
from understudy.engine.reading import AdapterReader
from understudy.engine.registry import Listed, Registry
from understudy.engine.scoring import score_ids
from understudy.engine.shard import Shard, ShardConfig
from understudy.engine.terms import asked_of
from understudy.engine.weights import fuse, rope_tables, shape_of
from understudy.models.lora import LoraConfig

__all__ = ["EngineError", "TorchEngine", "UnknownModelError"]


class TorchEngine:
    """An `Engine` over a Hugging Face causal LM (Llama, Qwen2, Qwen3 families).

    model: the Hugging Face model; its weights are copied, adapters in it are left out.
    base: its name in a ModelRef. stop_ids end a sequence (the renderer's, usually).
    decode_text is needed for stop strings alone, the fast tokenizer for grammars alone. threads:
    shards on a CPU, one thread each; "auto" takes the cores that are not busy. max_slots bounds
    live and cached conversations, memory their keys and values (bytes over all shards; by default
    a quarter of what is free on a CPU, four fifths on a GPU); a budget below the model's context
    lowers `context`. wave_tokens: most new tokens between two decoding steps. max_pending: with so
    many requests, running and waiting, a further one raises EngineBusyError.
    keep_versions: loading a version of an adapter forgets all but this many of the newest.
    slots: most adapters from directories in memory at once, the rest are read when asked for
    (engine.registry); None: all. half_adapters: keep them in bfloat16 where the C kernel runs, also
    those that are stored in float32.
    lockstep: with one thread and callers that wait for nothing else, the same requests meet in the
    same batches every time (engine.lockstep), at the price of waiting for the callers.
    graphs: decode in batches of few shapes, on a GPU as CUDA graphs (engine.graphs), and share
    prefixes by blocks alone; by default on a GPU.
    compile: let torch compile what lies between the matrix products (engine.ops), where the C
    kernel does not run: other types than float32, a GPU, kernel="off".
    kernel: "off" does without the C kernel, and without Triton's attention on a GPU (engine.paged).
    origin: that of the model; adapter directories of another are refused.
    """

    def __init__(
        self,
        model: Any,
        base: str,
        stop_ids: Sequence[int],
        *,
        decode_text: Callable[[Sequence[int]], str] | None = None,
        tokenizer: Any = None,
        threads: int | Literal["auto"] = "auto",
        max_slots: int = 512,
        context: int | None = None,
        keep_versions: int = 2,
        slots: int | None = None,
        half_adapters: bool = False,
        merge_bytes: int = 256 << 20,
        kernel: Literal["auto", "off"] = "auto",
        lockstep: bool = False,
        graphs: bool | None = None,
        compile: bool = False,
        memory: int | None = None,
        wave_tokens: int = 4096,
        max_pending: int | None = None,
        origin: Origin | None = None,
    ) -> None:
        config = model.config
        self.base, self.origin = base, origin
        self.stop_ids = tuple(stop_ids)
        self.shape = shape_of(config)
        self._tied = bool(config.tie_word_embeddings)
        self._weights = fuse(model.state_dict(), self.shape, self._tied)
        self.context = min(context or self.shape.context, self.shape.context)
        device = self._weights.embed.device
        dtype = self._weights.embed.dtype
        count = 1 if device.type != "cpu" else threads_for_load() if threads == "auto" else threads
        tokens = self._tokens_for(memory, device, dtype) // count // BLOCK * BLOCK
        if tokens < BLOCK:
            raise ValueError(f"{memory} bytes hold no block of {BLOCK} tokens for each thread")
        self.context = min(self.context, tokens)
        tokens = min(tokens, max(1, max_slots // count) * (self.context + BLOCK))
        rope = rope_tables(model, self.context, device, dtype)
        c_kernel = None
        if kernel == "auto" and device.type == "cpu" and dtype == torch.float32:
            s = self.shape
            c_kernel = build_kernel(s.head_dim, s.kv_heads, s.group)
        self.has_kernel = c_kernel is not None
        if half_adapters and not self.has_kernel:
            raise ValueError("half_adapters needs the C kernel, which does not run here")
        exact: Narrow = "exact" if self.has_kernel else "never"
        self._narrow: Narrow = "always" if half_adapters else exact
        ops = compiled(device) if compile and not self.has_kernel else EAGER
        if kernel == "auto" and device.type == "cuda":
            ops = ops._replace(paged=paged_for(self.shape, dtype, device))
        self.registry = Registry(
            Model(ModelRef(base), weights=self._weights),
            slots=slots,
            keep_versions=keep_versions,
            read=AdapterReader(self.shape, self._weights.embed, self._narrow, origin).read,
            gone=lambda m: self._tell(lambda s: s.forget(m)),
            evicted=lambda m: self._tell(lambda s: s.forget_weights(m)),
        )
        self._rope, self._lockstep = rope, lockstep
        self.max_pending = max_pending
        self._pending, self._decode_text = Pending(max_pending), decode_text
        self._grammars = Grammars(tokenizer, self.shape.vocab, stop_ids)
        graphs = device.type == "cuda" if graphs is None else graphs
        shard_config = ShardConfig(
            base=self._weights,
            stop_ids=self.stop_ids,
            decode_text=decode_text,
            context=self.context,
            merge_bytes=merge_bytes,
            threads=1,
            ambient_threads=torch.get_num_threads(),
            wave_tokens=wave_tokens,
            lockstep=lockstep,
            graphs=graphs,
        )
        self.shards: list[Shard] = []
        for i in range(count):
            cache = Cache(self.shape, max(1, max_slots // count), dtype, device, tokens, graphs)
            decoder = Decoder(cache, rope, c_kernel, ops)
            self.shards.append(Shard(shard_config, cache, decoder, f"engine-{i}"))

    def _tokens_for(self, memory: int | None, device: torch.device, dtype: torch.dtype) -> int:
        """How many tokens' keys and values fit in the memory."""
        s = self.shape
        if memory is None and device.type == "cuda":
            memory = int(torch.cuda.mem_get_info(device)[0] * 0.8)
        elif memory is None:
            memory = int(psutil.virtual_memory().available) // 4
        return memory // (s.layers * 2 * s.kv_heads * s.head_dim * dtype.itemsize)

    # -- sampling --------------------------------------------------------------------------

    async def sample(
        self,
        prompt_ids: Sequence[int],
        model: ModelRef,
        sampling: Sampling,
        grammar: str | None = None,
        on_chunk: Callable[[Sequence[int]], None] | None = None,
    ) -> Sample:
        """Sample until a stop id, a stop string, max_tokens, or the grammar leaves nothing but the
        stop (which is then not sampled). `grammar` is text as engine.grammar has it. `on_chunk` is
        called on the event loop with new ids as they come.

        Raises UnknownModelError, ValueError for a prompt, sampling or grammar that cannot be
        served, EngineBusyError where too many are pending, EngineError when decoding fails or the
        grammar comes where no token goes on.
        """
        self.registry.find(model)
        ids = self._checked(prompt_ids)
        _check_sampling(sampling, self.shape.vocab)
        if sampling.stop and self._decode_text is None:
            raise ValueError("stop strings need `decode_text`: give the engine a decoder")
        with self._pending.one():
            return await self._sample(ids, model, sampling, grammar, on_chunk)

    async def _sample(
        self,
        ids: np.ndarray,
        model: ModelRef,
        sampling: Sampling,
        grammar: str | None,
        on_chunk: Callable[[Sequence[int]], None] | None,
    ) -> Sample:
        seed = random.getrandbits(64) if sampling.seed is None else sampling.seed % 2**64
        loop = asyncio.get_running_loop()
        matcher = None if grammar is None else await self._matcher(grammar)
        async with self._model(model) as served:
            job = Job(ids, served, sampling, seed, loop, loop.create_future(), on_chunk)
            job.asked = asked_of(sampling, matcher)
            shard = self._route(served, ids)
            shard.submit(job)
            try:
                return await job.future
            except asyncio.CancelledError:
                shard.cancel(job)
                raise

    @asynccontextmanager
    async def _model(self, ref: ModelRef) -> AsyncIterator[Model]:
        """A version that stays in memory meanwhile. Raises UnknownModelError, EngineError."""
        try:
            entry = await self.registry.acquire(ref)
        except UnknownModelError:
            raise
        except (OSError, ValueError) as error:
            raise EngineError(f"the adapter {ref} cannot be read: {error}") from error
        assert entry.model is not None
        try:
            yield entry.model
        finally:
            self.registry.release(entry)

    async def _matcher(self, grammar: str) -> LLMatcher:
        """Compiled beside the event loop, but in lockstep, where nothing else may set the time."""
        if self._lockstep:
            return self._grammars.matcher(grammar)
        return await asyncio.to_thread(self._grammars.matcher, grammar)

    async def score(self, ids: Sequence[int], model: ModelRef, top_k: int = 0) -> Scores:
        """Teacher-forced logprobs of ids[1:] at temperature 1, with the `top_k` likeliest
        (id, logprob) at each position where asked for."""
        checked = self._checked(ids)
        async with self._model(model) as served:
            return await self._score(served, checked, top_k)

    async def _score(self, served: Model, ids: np.ndarray, top_k: int) -> Scores:
        shard = min(self.shards, key=lambda s: s.load)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Scores] = loop.create_future()

        def settle(result: Scores | EngineError) -> None:
            if future.done():
                return
            if isinstance(result, Scores):
                future.set_result(result)
            else:
                future.set_exception(result)

        def run() -> None:
            result: Scores | EngineError
            try:
                result = score_ids(self._weights, self._rope, served, ids, top_k)
            except (RuntimeError, ValueError) as error:
                result = EngineError(f"scoring: {error}")
            loop.call_soon_threadsafe(settle, result)
            shard.answered(loop)

        shard.call(run)
        return await future

    def _checked(self, prompt_ids: Sequence[int]) -> np.ndarray:
        ids = np.asarray(prompt_ids, dtype=np.int32)
        if ids.ndim != 1 or not len(ids):
            raise ValueError("the prompt has no tokens")
        if len(ids) >= self.context:
            raise ValueError(
                f"the prompt has {len(ids)} tokens, the model's context is {self.context}"
            )
        if ids.min() < 0 or ids.max() >= self.shape.vocab:
            raise ValueError(f"a prompt id is outside the vocabulary of {self.shape.vocab}")
        return ids

    def _route(self, model: Model, ids: np.ndarray) -> Shard:
        """The shard that holds the conversation, else the least busy one; equal prompts stay
        together while that does not overload a shard."""
        if len(self.shards) == 1:
            return self.shards[0]
        for shard in self.shards:
            if shard.cache.continuation(model.kv, ids) is not None:
                return shard
        least = min(self.shards, key=lambda s: s.load)
        home = self.shards[zlib.crc32(ids.tobytes()) % len(self.shards)]
        return home if home.load <= least.load + 4 else least

    # -- models ----------------------------------------------------------------------------

    def resolve(self, ref: ModelRef) -> Model:
        """The version in memory that a reference names; without a version, the newest.

        Raises UnknownModelError, also for one that is on disk at the moment.
        """
        found = self.registry.find(ref).model
        if found is None:
            raise UnknownModelError(f"the model {str(ref)!r} is on disk, not in memory")
        return found

    def models(self) -> list[Listed]:
        """All that can be served, the base first."""
        return self.registry.all()

    def load_weights(
        self, model: ModelRef, tensors: Mapping[str, Tensor], config: LoraConfig | None = None
    ) -> ModelRef:
        """Load a version from memory: LoRA tensors under PEFT's names, or a full state dict.

        The tensors are copied. Without a version it becomes the adapter's next. What is in
        flight keeps the version it started with. Returns the reference with its version.
        Raises ValueError for tensors that do not fit the base.
        """
        ref = self._versioned(model)
        if any(".lora_A." in name for name in tensors):
            own = lora_sites(
                tensors, config or LoraConfig(), self.shape, self._weights.embed, self._narrow
            )
            loaded = Model(ref, lora=own)
        else:
            loaded = Model(ref, weights=fuse(tensors, self.shape, self._tied))
        self.registry.install(loaded)
        return ref

    def _versioned(self, model: ModelRef) -> ModelRef:
        if model.adapter is None or model.base != self.base:
            raise ValueError(f"weights are loaded under an adapter name of base {self.base!r}")
        version = model.version
        if version is None:
            version = self.registry.next_version(model.adapter)
        return ModelRef(model.base, model.adapter, version)

    async def load(self, model: ModelRef, path: str, pinned: bool = False) -> None:
        """Load an adapter directory, of a `pinned` one for good. Raises FileNotFoundError,
        ValueError (corrupt, not LoRA, for another base or chat template) or EngineError where
        pinned ones hold all slots."""
        ref = self._versioned(model)
        ready = await self.registry.read(ref, path)  # refused here, not at the first request
        self.registry.check_slots()
        entry = self.registry.register(ref, path, pinned, ready)
        try:
            self.registry.release(await self.registry.hold(entry))
        except EngineError:
            self.registry.remove(ref)
            raise

    def register(self, model: ModelRef, path: str) -> ModelRef:
        """List an adapter directory without reading it: the first request does. Returns the
        reference with its version."""
        ref = self._versioned(model)
        self.registry.register(ref, path)
        return ref

    async def unload(self, model: ModelRef) -> None:
        """Forget a version, or all versions of an adapter. Raises UnknownModelError."""
        self.registry.remove(model)

    def forget_past(self) -> None:
        """Forget what was kept of requests that have ended: keys and values, merged weights. What
        comes is then computed as by an engine that was just made, to the last bit in lockstep."""
        self._tell(Shard.forget_past)

    def _tell(self, say: Callable[[Shard], None]) -> None:
        for shard in self.shards:
            say(shard)

    # -- the rest --------------------------------------------------------------------------

    def counters(self) -> Counters:
        """Sums over the shards since the start."""
        return sum((shard.counters for shard in self.shards), Counters())

    def close(self) -> None:
        """Stop the threads; what is in flight fails."""
        for shard in self.shards:
            shard.close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)


def _check_sampling(s: Sampling, vocab: int) -> None:
    if s.max_tokens < 1:
        raise ValueError("max_tokens must be at least 1")
    if not 0 <= s.temperature <= 100:
        raise ValueError("temperature must be between 0 and 100")
    if not 0 < s.top_p <= 1:
        raise ValueError("top_p must be above 0 and at most 1")
    if s.top_k < 0:
        raise ValueError("top_k must be 0 (off) or more")
    if not 0 <= s.top_logprobs <= MOST_TOP:
        raise ValueError(f"top_logprobs must be between 0 and {MOST_TOP}")
    for token, bias in s.logit_bias:
        if not 0 <= token < vocab:
            raise ValueError(f"logit_bias names the token {token}, the vocabulary has {vocab}")
        if not -100 <= bias <= 100:
            raise ValueError("logit_bias must hold numbers from -100 to 100")
