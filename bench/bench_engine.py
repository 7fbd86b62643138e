"""How fast the engine decodes: multi-turn rollouts, plain decoding, many adapters in one batch.

    python -m bench.bench_engine [--repeats 3] [--threads auto] [--base random|tiny]

Prints one JSON object, {figure: {value, unit, low, high}}: the median, least and most of the
repeats. `random` is a model of the shipped one's shape and vocabulary with random weights.
"""

import argparse
import asyncio
import copy
import json
import random
import sys
import time
from typing import Any

import torch

from bench.figures import Figure, figure
from understudy.core.types import ModelRef, Sampling
from understudy.engine.torch_engine import TorchEngine
from understudy.models.loading import load_base
from understudy.models.lora import LoraConfig, adapter_tensors, inject_lora

BASE = ModelRef("bench")
FIRST = 3  # ids below are special tokens


def random_model() -> Any:
    """A model of the shipped one's class and shape with random weights: it does not stop early."""
    shipped: Any = load_base("tiny").model
    config = copy.deepcopy(shipped.config)
    config.initializer_range = 0.08
    torch.manual_seed(0)
    return type(shipped)(config).float().eval()


def make_engine(model: Any, threads: Any) -> TorchEngine:
    return TorchEngine(model, BASE.base, (model.config.eos_token_id,), threads=threads)


def random_adapters(model: Any, count: int) -> list[dict[str, torch.Tensor]]:
    """`count` adapters of rank 16 on all linear layers, B not zero."""
    inject_lora(model, LoraConfig())
    names = adapter_tensors(model)
    generator = torch.Generator().manual_seed(1)
    return [
        {k: torch.randn(t.shape, generator=generator) * 0.02 for k, t in names.items()}
        for _ in range(count)
    ]


async def rollouts(
    engine: TorchEngine, live: int, model: ModelRef, vocabulary: int, seed: int
) -> float:
    """Sampled tokens per second over `live` conversations that start together: a shared prompt of
    350 tokens, own ones of 40, 3 to 8 turns, 20 to 40 sampled and 40 to 120 tool tokens a turn."""
    system = random.Random(0).choices(range(FIRST, vocabulary), k=350)

    async def conversation(i: int) -> int:
        rng = random.Random((seed << 16) + i)
        user = random.Random((seed << 16) + i // 8)  # groups of 8 share their scenario
        ids = system + user.choices(range(FIRST, vocabulary), k=40)
        sampled = 0
        for _ in range(rng.randrange(3, 9)):
            sample = await engine.sample(ids, model, Sampling(max_tokens=rng.randrange(20, 41)))
            sampled += len(sample.ids)
            tool = rng.choices(range(FIRST, vocabulary), k=rng.randrange(40, 121))
            ids = [*ids, *sample.ids, *tool]
        return sampled

    started = time.perf_counter()
    counts = await asyncio.gather(*(conversation(i) for i in range(live)))
    return sum(counts) / (time.perf_counter() - started)


async def decoding(
    engine: TorchEngine, models: list[ModelRef], vocabulary: int, tokens: int = 100
) -> float:
    """Sampled tokens per second, one sequence a model, all decoding together, prompts cached."""
    rng = random.Random(0)
    prompts = [rng.choices(range(FIRST, vocabulary), k=64) for _ in models]
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


async def measure(
    repeats: int, threads: Any, base: str, live: int = 128, adapters: int = 64
) -> dict[str, Figure]:
    """All figures; adapters and base are measured in alternation."""
    model = random_model() if base == "random" else load_base(base).model
    vocabulary = model.config.vocab_size
    engine = make_engine(model, threads)
    refs = [
        engine.load_weights(ModelRef(BASE.base, f"a{i}"), tensors)
        for i, tensors in enumerate(random_adapters(model, adapters))
    ]
    await rollouts(engine, min(live, 16), BASE, vocabulary, seed=10_000)  # warm up
    rolled, one, plain, mixed, per_core = [], [], [], [], []
    for r in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        rolled.append(await rollouts(engine, live, BASE, vocabulary, seed=2 * r))
        spent = (time.process_time() - cpu) / (time.perf_counter() - wall)
        per_core.append(rolled[-1] / spent)
        one.append(await rollouts(engine, live, refs[0], vocabulary, seed=2 * r + 1))
        plain.append(await decoding(engine, [BASE] * live, vocabulary))
    for _ in range(repeats):
        base_speed = await decoding(engine, [BASE] * adapters, vocabulary)
        mixed.append(base_speed / await decoding(engine, refs, vocabulary))
    shards = len(engine.shards)
    await engine.aclose()
    return {
        "rollout_tokens_per_s": figure(rolled, f"sampled tokens/s, {live} live"),
        "rollout_tokens_per_cpu_s": figure(per_core, "sampled tokens per second of CPU time"),
        "rollout_one_adapter_tokens_per_s": figure(one, f"sampled tokens/s, {live} live"),
        "decode_tokens_per_s": figure(plain, f"sampled tokens/s, batch {live}"),
        f"adapters_{adapters}_over_base": figure(mixed, "time of a step, ratio"),
        "shards": figure([shards], "threads"),
    }


def run(repeats: int = 3, live: int = 128, adapters: int = 64) -> dict[str, Figure]:
    """All figures, of a random model of the tiny one's shape, on the cores that are free."""
    return asyncio.run(measure(repeats, "auto", "random", live, adapters))


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
