"""The embedded engine: many conversations and many adapters in one batch, on torch.

A CPU engine runs one single-threaded shard per core instead of one batch over several threads:
nothing waits at a barrier, so that a busy neighbour costs its share and no more. Shards have
caches of their own; a conversation returns to the shard that holds it.
"""

import asyncio
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from understudy.core.cores import threads_for_load
from understudy.core.origin import Origin
from understudy.core.types import ModelRef, Sample, Sampling, Scores
from understudy.engine.adapters import Model, lora_sites
from understudy.engine.cache import Cache
from understudy.engine.decoder import Decoder
from understudy.engine.errors import EngineError, UnknownModelError
from understudy.engine.jobs import Counters, Job
from understudy.engine.kernel import build_kernel
from understudy.engine.scoring import score_ids
from understudy.engine.shard import Shard, ShardConfig
from understudy.engine.weights import fuse, rope_tables, shape_of
from understudy.models.adapters import check_origin, load_adapter
from understudy.models.lora import LoraConfig

__all__ = ["EngineError", "TorchEngine", "UnknownModelError"]


class TorchEngine:
    """An `Engine` over a Hugging Face causal LM (Llama, Qwen2, Qwen3 families).

    model: the Hugging Face model; its weights are copied, adapters in it are left out.
    base: its name in a ModelRef. stop_ids end a sequence (the renderer's, usually).
    decode_text is needed for stop strings alone. threads: shards on a CPU, one thread each;
    "auto" takes the cores that are not busy. max_slots bounds live and cached conversations.
    keep_versions: loading a version of an adapter forgets all but this many of the newest.
    lockstep: with one thread and callers that wait for nothing else, the same requests meet in the
    same batches every time (engine.lockstep), at the price of waiting for the callers.
    origin: that of the model; adapter directories of another are refused.
    """

    def __init__(
        self,
        model: Any,
        base: str,
        stop_ids: Sequence[int],
        *,
        decode_text: Callable[[Sequence[int]], str] | None = None,
        threads: int | Literal["auto"] = "auto",
        max_slots: int = 512,
        context: int | None = None,
        keep_versions: int = 2,
        merge_bytes: int = 256 << 20,
        kernel: Literal["auto", "off"] = "auto",
        lockstep: bool = False,
        origin: Origin | None = None,
    ) -> None:
        config = model.config
        self.base, self.keep_versions, self.origin = base, keep_versions, origin
        self.stop_ids = tuple(stop_ids)
        self.shape = shape_of(config)
        self._tied = bool(config.tie_word_embeddings)
        self._weights = fuse(model.state_dict(), self.shape, self._tied)
        self.context = min(context or self.shape.context, self.shape.context)
        device = self._weights.embed.device
        dtype = self._weights.embed.dtype
        rope = rope_tables(model, self.context, device, dtype)
        compiled = None
        if kernel == "auto" and device.type == "cpu" and dtype == torch.float32:
            compiled = build_kernel(self.shape.head_dim, self.shape.kv_heads, self.shape.group)
        self.has_kernel = compiled is not None
        self._models: dict[tuple[str | None, int | None], Model] = {}
        self._models[None, None] = Model(ModelRef(base), weights=self._weights)
        self._latest: dict[str, int] = {}
        count = 1 if device.type != "cpu" else threads_for_load() if threads == "auto" else threads
        self._rope = rope
        shard_config = ShardConfig(
            base=self._weights,
            stop_ids=self.stop_ids,
            decode_text=decode_text,
            context=self.context,
            merge_bytes=merge_bytes,
            threads=1,
            ambient_threads=torch.get_num_threads(),
            lockstep=lockstep,
        )
        self.shards: list[Shard] = []
        for i in range(count):
            cache = Cache(self.shape, max(1, max_slots // count), dtype, device)
            decoder = Decoder(cache, rope, compiled)
            self.shards.append(Shard(shard_config, cache, decoder, f"engine-{i}"))

    # -- sampling --------------------------------------------------------------------------

    async def sample(
        self,
        prompt_ids: Sequence[int],
        model: ModelRef,
        sampling: Sampling,
        grammar: str | None = None,
        on_chunk: Callable[[Sequence[int]], None] | None = None,
    ) -> Sample:
        """Sample until a stop id, a stop string or max_tokens. `on_chunk` is called on the event
        loop with new ids as they come.

        Raises UnknownModelError, ValueError for a prompt or sampling that cannot be served,
        NotImplementedError for a grammar, EngineError when decoding fails.
        """
        if grammar is not None:
            raise NotImplementedError("the embedded engine has no constrained decoding yet")
        served = self.resolve(model)
        ids = self._checked(prompt_ids)
        _check_sampling(sampling)
        seed = random.getrandbits(64) if sampling.seed is None else sampling.seed % 2**64
        loop = asyncio.get_running_loop()
        job = Job(ids, served, sampling, seed, loop, loop.create_future(), on_chunk)
        self._route(served, ids).submit(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            job.cancelled = True
            raise

    async def score(self, ids: Sequence[int], model: ModelRef, top_k: int = 0) -> Scores:
        """Teacher-forced logprobs of ids[1:] at temperature 1, with the `top_k` likeliest
        (id, logprob) at each position where asked for."""
        served, checked = self.resolve(model), self._checked(ids)
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
                result = score_ids(self._weights, self._rope, served, checked, top_k)
            except (RuntimeError, ValueError) as error:
                result = EngineError(f"scoring: {error}")
            loop.call_soon_threadsafe(settle, result)

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
            if shard.cache.continuation(model, ids) is not None:
                return shard
        least = min(self.shards, key=lambda s: s.load)
        home = self.shards[zlib.crc32(ids.tobytes()) % len(self.shards)]
        return home if home.load <= least.load + 4 else least

    # -- models ----------------------------------------------------------------------------

    def resolve(self, ref: ModelRef) -> Model:
        """The loaded model that a reference names; without a version, the newest.

        Raises UnknownModelError.
        """
        version = ref.version
        if ref.adapter is not None and version is None:
            version = self._latest.get(ref.adapter)
        found = self._models.get((ref.adapter, version))
        if found is None or ref.base != self.base:
            known = ", ".join(sorted(str(m.ref) for m in self._models.values()))
            raise UnknownModelError(f"no model {str(ref)!r} here; there are: {known}")
        return found

    def models(self) -> list[Model]:
        """All that can be served, the base first."""
        return list(self._models.values())

    def load_weights(
        self, model: ModelRef, tensors: Mapping[str, Tensor], config: LoraConfig | None = None
    ) -> ModelRef:
        """Load a version from memory: LoRA tensors under PEFT's names, or a full state dict.

        The tensors are copied. Without a version it becomes the adapter's next. What is in
        flight keeps the version it started with. Returns the reference with its version.
        Raises ValueError for tensors that do not fit the base.
        """
        if model.adapter is None or model.base != self.base:
            raise ValueError(f"weights are loaded under an adapter name of base {self.base!r}")
        newest = self._latest.get(model.adapter, 0)
        version = newest + 1 if model.version is None else model.version
        ref = ModelRef(model.base, model.adapter, version)
        if any(".lora_A." in name for name in tensors):
            sites = lora_sites(tensors, config or LoraConfig(), self.shape, self._weights.embed)
            loaded = Model(ref, lora=sites)
        else:
            loaded = Model(ref, weights=fuse(tensors, self.shape, self._tied))
        self._install(loaded)
        return ref

    def _install(self, model: Model) -> None:
        adapter, version = model.ref.adapter, model.ref.version
        assert adapter is not None and version is not None  # noqa: PT018
        old = self._models.get((adapter, version))
        self._models[adapter, version] = model
        self._latest[adapter] = max(version, self._latest.get(adapter, 0))
        versions = sorted(v for a, v in self._models if a == adapter and v is not None)
        gone = [self._models.pop((adapter, v)) for v in versions[: -self.keep_versions]]
        self._drop([*gone, old] if old else gone)

    async def load(self, model: ModelRef, path: str) -> None:
        """Load an adapter directory. Raises FileNotFoundError or ValueError (corrupt, not LoRA,
        for another base or chat template)."""
        file = await asyncio.to_thread(load_adapter, path)
        if self.origin is not None:
            check_origin(file, self.origin, path)
        ref = self.load_weights(model, file.tensors, file.config)
        loaded = self.resolve(ref)
        loaded.path, loaded.metadata = str(path), file.metadata

    async def unload(self, model: ModelRef) -> None:
        """Forget a version, or all versions of an adapter. Raises UnknownModelError."""
        self.resolve(model)
        if model.adapter is None:
            raise ValueError("the base cannot be unloaded")
        keys = [k for k in self._models if k[0] == model.adapter and model.version in (None, k[1])]
        self._drop([self._models.pop(k) for k in keys])
        left = [v for a, v in self._models if a == model.adapter and v is not None]
        if left:
            self._latest[model.adapter] = max(left)
        else:
            self._latest.pop(model.adapter, None)

    def _drop(self, models: list[Model]) -> None:
        for model in models:
            for shard in self.shards:
                shard.forget(model)

    # -- the rest --------------------------------------------------------------------------

    def counters(self) -> Counters:
        """Sums over the shards since the start."""
        total = Counters()
        for shard in self.shards:
            for name in Counters.__slots__:
                setattr(total, name, getattr(total, name) + getattr(shard.counters, name))
        return total

    def close(self) -> None:
        """Stop the threads; what is in flight fails."""
        for shard in self.shards:
            shard.close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)


def _check_sampling(s: Sampling) -> None:
    if s.max_tokens < 1:
        raise ValueError("max_tokens must be at least 1")
    if not 0 <= s.temperature <= 100:
        raise ValueError("temperature must be between 0 and 100")
    if not 0 < s.top_p <= 1:
        raise ValueError("top_p must be above 0 and at most 1")
    if s.top_k < 0:
        raise ValueError("top_k must be 0 (off) or more")
