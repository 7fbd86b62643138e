"""How fast the engine decodes: multi-turn rollouts, plain decoding, many adapters in one batch.

    python -m bench.bench_engine [--repeats 3] [--threads auto] [--base random|tiny]

Prints one JSON object, {figure: {value, unit, low, high}}: the median, least and most of the
repeats. `random` is a random-weight model of the shipped one's shape.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from typing import Any

import torch

from understudy.core.types import ModelRef, Sampling
from understudy.engine.torch_engine import TorchEngine
from understudy.models.loading import load_base
from understudy.models.lora import LoraConfig, adapter_tensors, inject_lora

BASE = ModelRef("bench")
VOCAB, STOP = 2304, 2
Figure = dict[str, Any]


def random_model() -> Any:
    """A Qwen3 of the tiny model's shape (1.3 M parameters) with random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB, hidden_size=128, intermediate_size=384, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, tie_word_embeddings=True,
        max_position_embeddings=4096, initializer_range=0.08,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).float().eval()


def make_engine(model: Any, threads: Any) -> TorchEngine:
    return TorchEngine(model, BASE.base, (STOP,), threads=threads)


def random_adapters(model: Any, count: int) -> list[dict[str, torch.Tensor]]:
    """`count` adapters of rank 16 on all linear layers, B not zero."""
    inject_lora(model, LoraConfig())
    names = adapter_tensors(model)
    generator = torch.Generator().manual_seed(1)
    return [
        {k: torch.randn(t.shape, generator=generator) * 0.02 for k, t in names.items()}
        for _ in range(count)
    ]


async def rollouts(engine: TorchEngine, live: int, model: ModelRef, seed: int) -> float:
    """Sampled tokens per second over `live` conversations that start together: a shared prompt of
    350 tokens, own ones of 40, 3 to 8 turns, 20 to 40 sampled and 40 to 120 tool tokens a turn."""
    system = [random.Random(0).randrange(3, VOCAB) for _ in range(350)]

    async def conversation(i: int) -> int:
        rng = random.Random((seed << 16) + i)
        user = random.Random((seed << 16) + i // 8)  # groups of 8 share their scenario
        ids = system + [user.randrange(3, VOCAB) for _ in range(40)]
        sampled = 0
        for _ in range(rng.randrange(3, 9)):
            sample = await engine.sample(ids, model, Sampling(max_tokens=rng.randrange(20, 41)))
            sampled += len(sample.ids)
            tool = rng.choices(range(3, VOCAB), k=rng.randrange(40, 121))
            ids = [*ids, *sample.ids, *tool]
        return sampled

    started = time.perf_counter()
    counts = await asyncio.gather(*(conversation(i) for i in range(live)))
    return sum(counts) / (time.perf_counter() - started)


async def decoding(engine: TorchEngine, models: list[ModelRef], tokens: int = 100) -> float:
    """Sampled tokens per second, one sequence a model, all decoding together, prompts cached."""
    rng = random.Random(0)
    prompts = [[rng.randrange(3, VOCAB) for _ in range(64)] for _ in models]
    sampling = Sampling(max_tokens=1)
    await asyncio.gather(
        *(engine.sample(p, m, sampling) for p, m in zip(prompts, models, strict=True))
    )
    sampling = Sampling(max_tokens=tokens)
    started = time.perf_counter()
    samples = await asyncio.gather(
        *(engine.sample(p, m, sampling) for p, m in zip(prompts, models, strict=True))
    )
    return sum(len(s.ids) for s in samples) / (time.perf_counter() - started)


def figure(values: list[float], unit: str) -> Figure:
    """Median with the range of the repeats."""
    return {
        "value": round(statistics.median(values), 3),
        "unit": unit,
        "low": round(min(values), 3),
        "high": round(max(values), 3),
    }


async def measure(repeats: int, threads: Any, base: str, adapters: int = 64) -> dict[str, Figure]:
    """All figures; adapters and base are measured in alternation."""
    model = random_model() if base == "random" else load_base(base).model
    engine = make_engine(model, threads)
    load_before = os.getloadavg()[0]
    refs = [
        engine.load_weights(ModelRef(BASE.base, f"a{i}"), tensors)
        for i, tensors in enumerate(random_adapters(model, adapters))
    ]
    await rollouts(engine, 16, BASE, seed=10_000)  # warm up
    rolled, one, plain, mixed, per_core = [], [], [], [], []
    for r in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        rolled.append(await rollouts(engine, 128, BASE, seed=2 * r))
        spent = (time.process_time() - cpu) / (time.perf_counter() - wall)
        per_core.append(rolled[-1] / spent)
        one.append(await rollouts(engine, 128, refs[0], seed=2 * r + 1))
        plain.append(await decoding(engine, [BASE] * 128))
    for _ in range(repeats):
        base_speed = await decoding(engine, [BASE] * adapters)
        mixed.append(base_speed / await decoding(engine, refs))
    shards = len(engine.shards)
    await engine.aclose()
    return {
        "rollout_tokens_per_s": figure(rolled, "sampled tokens/s, 128 live"),
        "rollout_tokens_per_cpu_s": figure(per_core, "sampled tokens per second of CPU time"),
        "rollout_one_adapter_tokens_per_s": figure(one, "sampled tokens/s, 128 live"),
        "decode_tokens_per_s": figure(plain, "sampled tokens/s, batch 128"),
        f"adapters_{adapters}_over_base": figure(mixed, "time of a step, ratio"),
        "shards": figure([shards], "threads"),
        "load_average_before": figure([load_before], "1 min"),
    }


def run() -> dict[str, Figure]:
    """All figures, of a random model of the tiny one's shape, on the cores that are free."""
    return asyncio.run(measure(3, "auto", "random"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", default="auto")
    parser.add_argument("--base", default="random")
    options = parser.parse_args()
    threads = options.threads if options.threads == "auto" else int(options.threads)
    figures = asyncio.run(measure(options.repeats, threads, options.base))
    json.dump(figures, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
