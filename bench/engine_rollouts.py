"""Multi-turn rollouts by three engines: ours, transformers' `generate` a turn, and transformers'
continuous batching. The same conversations: a shared prompt, and each turn sampled tokens and then
a tool's answer, all conversations at once. Nothing stops early, so that all sample the same number.
"""

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import torch

from understudy.core.types import ModelRef, Sampling
from understudy.engine.torch_engine import TorchEngine

FIRST = 3  # ids below are special tokens
NEVER = -1  # the stop id of nothing: no conversation ends early


@dataclass(frozen=True, slots=True)
class Conversations:
    """Sizes of the rollouts."""

    live: int = 64
    turns: int = 6
    shared: int = 512
    sampled: int = 32
    tool: int = 48
    vocabulary: int = 1024

    @property
    def tokens(self) -> int:
        """Sampled by all of them."""
        return self.live * self.turns * self.sampled

    def start(self, seed: int) -> list[list[int]]:
        """The first prompts: what all share, and the first words of each."""
        shared = random.Random(seed).choices(range(FIRST, self.vocabulary), k=self.shared)
        return [shared + self.answer(seed, i, 0) for i in range(self.live)]

    def answer(self, seed: int, i: int, turn: int) -> list[int]:
        """What a tool says to conversation i."""
        rng = random.Random((seed << 20) + (i << 8) + turn)
        return rng.choices(range(FIRST, self.vocabulary), k=self.tool)


async def ours(engine: TorchEngine, model: ModelRef, c: Conversations, seed: int) -> float:
    """Sampled tokens per second. What was cached before is forgotten first."""
    forget(engine)

    async def conversation(i: int, ids: list[int]) -> int:
        sampled = 0
        for turn in range(c.turns):
            sample = await engine.sample(ids, model, Sampling(max_tokens=c.sampled))
            sampled += len(sample.ids)
            ids = [*ids, *sample.ids, *c.answer(seed, i, turn + 1)]
        return sampled

    prompts = c.start(seed)
    started = time.perf_counter()
    counts = await asyncio.gather(*(conversation(i, ids) for i, ids in enumerate(prompts)))
    seconds = time.perf_counter() - started
    assert sum(counts) == c.tokens, "a conversation stopped early"
    return c.tokens / seconds


def forget(engine: TorchEngine) -> None:
    """Empties the prefix caches."""
    for shard in engine.shards:
        for entry in engine.models():
            if entry.model is not None:
                shard.call(lambda s=shard, m=entry.model: s.cache.drop(m))  # type: ignore[misc]


def by_generate(model: Any, c: Conversations, seed: int) -> float:
    """transformers' `generate`, all conversations as one batch, once a turn: sampled tokens per
    second. All are of one length, so that nothing is padded."""
    settings = _generation(c)
    prompts = c.start(seed)
    started = time.perf_counter()
    for turn in range(c.turns):
        with torch.inference_mode():
            whole = model.generate(torch.tensor(prompts), generation_config=settings)
        assert whole.shape[1] == len(prompts[0]) + c.sampled, "a conversation stopped early"
        prompts = [[*ids, *c.answer(seed, i, turn + 1)] for i, ids in enumerate(whole.tolist())]
    return c.tokens / (time.perf_counter() - started)


def by_continuous_batching(model: Any, c: Conversations, seed: int) -> float:
    """transformers' continuous batching with its prefix sharing; a conversation goes on as soon as
    its turn is done. Starting the manager is not counted. The pages and blocks are those that were
    fastest here of six tried."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    page = 32
    longest = c.shared + c.turns * (c.sampled + c.tool) + c.tool
    config = ContinuousBatchingConfig(
        page_size=page,
        num_blocks=-(-longest // page) * c.live,
        max_batch_tokens=512,
    )
    prompts = c.start(seed)
    with model.continuous_batching_context_manager(
        generation_config=_generation(c), continuous_batching_config=config
    ) as manager:
        started = time.perf_counter()
        for i, ids in enumerate(prompts):
            manager.add_request(ids, request_id=f"{i}:0", max_new_tokens=c.sampled)
        left = c.live
        while left:
            result = manager.get_result(timeout=600)
            assert result is not None, "no answer in ten minutes"
            assert result.error is None, result.error
            if not result.is_finished():
                continue
            i, turn = (int(x) for x in result.request_id.split(":"))
            prompts[i] += [*result.generated_tokens, *c.answer(seed, i, turn + 1)]
            if turn + 1 == c.turns:
                left -= 1
            else:
                name = f"{i}:{turn + 1}"
                manager.add_request(prompts[i], request_id=name, max_new_tokens=c.sampled)
        seconds = time.perf_counter() - started
    return c.tokens / seconds


def _generation(c: Conversations) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=c.sampled,
        eos_token_id=NEVER, pad_token_id=0,
    )  # fmt: skip
