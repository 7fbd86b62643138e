"""Many adapters in one batch: against the bare base, against PEFT's mixed batch, and with fewer
slots than the traffic's working set."""

import asyncio
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from bench.engine_rollouts import FIRST, NEVER, forget
from understudy.core.types import ModelRef, Sampling
from understudy.engine.torch_engine import TorchEngine
from understudy.models.adapters import save_adapter
from understudy.models.lora import LoraConfig, adapter_tensors, inject_lora

Tensors = dict[str, torch.Tensor]


def random_adapters(model: Any, count: int, rank: int = 16) -> list[Tensors]:
    """`count` adapters on all linear layers, B not zero."""
    inject_lora(model, LoraConfig(rank=rank))
    names = adapter_tensors(model)
    generator = torch.Generator().manual_seed(1)
    return [
        {k: torch.randn(t.shape, generator=generator) * 0.02 for k, t in names.items()}
        for _ in range(count)
    ]


async def decoding(
    engine: TorchEngine,
    models: Sequence[ModelRef],
    vocabulary: int,
    tokens: int = 100,
    prompt: int = 64,
) -> float:
    """Sampled tokens per second, one sequence a model, all decoding together, behind prompts of so
    many tokens, which are cached."""
    rng = random.Random(0)
    prompts = [rng.choices(range(FIRST, vocabulary), k=prompt) for _ in models]

    async def all_of(sampling: Sampling) -> int:
        asked = (engine.sample(p, m, sampling) for p, m in zip(prompts, models, strict=True))
        return sum(len(s.ids) for s in await asyncio.gather(*asked))

    await all_of(Sampling(max_tokens=1))
    started = time.perf_counter()
    sampled = await all_of(Sampling(max_tokens=tokens))
    return sampled / (time.perf_counter() - started)


def reading(size: int, threads: int, times: int = 20) -> float:
    """Seconds that so many bytes take to be read once by so many threads, again and again."""
    parts = [torch.ones(size // threads // 4) for _ in range(threads)]

    def read(part: torch.Tensor) -> None:
        for _ in range(times):
            part.sum()

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # each of ours is one
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, parts))
            started = time.perf_counter()
            list(pool.map(read, parts))
            return (time.perf_counter() - started) / times
    finally:
        torch.set_num_threads(before)


def bytes_of_a_step(model: Any, tensors: Sequence[Tensors], prompt: int, tokens: int) -> list[int]:
    """What a decoding step reads, a sequence an adapter, at the middle of its `tokens`: the base
    and the keys and values; the adapters."""
    c = model.config
    wide = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 4
    held = len(tensors) * (prompt + tokens // 2) * wide
    base = sum(p.numel() * p.element_size() for p in model.parameters())
    return [base + held, sum(t.numel() * 4 for own in tensors for t in own.values())]


class PeftPeer:
    """PEFT's mixed batch: a model with all adapters, `adapter_names` a row."""

    def __init__(self, model: Any, adapters: Sequence[Tensors], rank: int = 16) -> None:
        from peft import LoraConfig as Peft
        from peft import get_peft_model, set_peft_model_state_dict

        targets = list(LoraConfig().targets)
        config = Peft(r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM")
        self.names = [f"a{i}" for i in range(len(adapters))]
        self.model = get_peft_model(model, config, adapter_name=self.names[0])
        for name, tensors in zip(self.names, adapters, strict=True):
            if name != self.names[0]:
                self.model.add_adapter(name, config)
            set_peft_model_state_dict(self.model, dict(tensors), adapter_name=name)
        self.model.eval()

    def decoding(self, vocabulary: int, tokens: int) -> float:
        """Sampled tokens per second, the first token left out: one sequence an adapter."""
        rng = random.Random(0)
        prompts = torch.tensor(
            [rng.choices(range(FIRST, vocabulary), k=64) for _ in self.names],
            device=self.model.device,
        )
        settings: dict[str, Any] = {
            "adapter_names": self.names, "do_sample": True, "top_k": 0, "eos_token_id": NEVER,
            "pad_token_id": 0,
        }  # fmt: skip
        times = []
        for count in (1, tokens + 1):
            started = time.perf_counter()
            with torch.inference_mode():
                self.model.generate(input_ids=prompts, max_new_tokens=count, **settings).tolist()
            times.append(time.perf_counter() - started)
        return len(self.names) * tokens / (times[1] - times[0])


def stored(model: Any, folder: Path, count: int, rank: int = 16) -> list[Path]:
    """Adapters as directories."""
    config = LoraConfig(rank=rank)
    return [
        save_adapter(folder / f"a{i}", tensors, config, "bench")
        for i, tensors in enumerate(random_adapters(model, count, rank))
    ]


async def traffic(
    engine: TorchEngine, refs: Sequence[ModelRef], requests: int, clients: int, seed: int
) -> float:
    """Sampled tokens per second of clients that ask one after the other: adapters by Zipf's law
    (the k-th likeliest 1/k), prompts of 64 tokens, answers of 32."""
    forget(engine)
    rng = random.Random(seed)
    weights = [1 / (k + 1) for k in range(len(refs))]
    asked = iter(rng.choices(refs, weights, k=requests))
    prompt = [rng.choices(range(FIRST, 1000), k=64) for _ in range(8)]

    async def client(i: int) -> int:
        sampled = 0
        for ref in asked:
            sample = await engine.sample(prompt[i % 8], ref, Sampling(max_tokens=32))
            sampled += len(sample.ids)
        return sampled

    started = time.perf_counter()
    counts = await asyncio.gather(*(client(i) for i in range(clients)))
    return sum(counts) / (time.perf_counter() - started)
