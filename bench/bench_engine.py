"""How fast the engine is: multi-turn rollouts, many adapters, few slots, a cached prefix.

A model of the shipped one's shape with random weights, in float32, so that nothing stops early;
both sides of a ratio in one run, in alternation, with the same number of threads (ours a shard a
core, the others' torch threads), at least five pairs. `rollout_ratio_generate` and
`rollout_ratio_continuous_batching`: our sampled tokens per second over those of transformers, 64
conversations of six turns. `adapters_64_over_base`: seconds of a decoding step with 64 adapters
over one of the bare base, 100 tokens behind prompts of 64; `adapters_64_half_over_base` with
adapters in bfloat16, `adapters_64_bound` what it would be if a step took no longer than the base's
but for the adapters' bytes, read by as many threads that do nothing else,
`adapters_64_behind_512_over_base` behind prompts of 512, as agents have them,
`adapters_64_over_peft` over PEFT's mixed batch. `cliff_ratio`: throughput with 32 slots and a
working set of 48 of 256 adapters on disk over that with all in memory. `ttft_cached_share`: time to
the first token behind 2,000 cached tokens over that without a cache.
`seconds_per_token_256_over_32`: time of each further token of long answers over that of short ones.
"""

import asyncio
import copy
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench import engine_adapters as many
from bench.engine_rollouts import (
    FIRST,
    Conversations,
    by_continuous_batching,
    by_generate,
    forget,
    ours,
)
from bench.figures import Figure, figure
from understudy.core.cores import threads_for_load
from understudy.core.types import ModelRef, Sampling
from understudy.engine.torch_engine import TorchEngine
from understudy.models.loading import load_base

BASE = ModelRef("bench")
SIXTY_FOUR = Conversations()


def random_model() -> Any:
    """A model of the shipped one's class and shape with random weights: it does not stop early."""
    shipped: Any = load_base("tiny").model
    config = copy.deepcopy(shipped.config)
    config.initializer_range = 0.08
    torch.manual_seed(0)
    return type(shipped)(config).float().eval()


def make_engine(model: Any, threads: Any = "auto", **options: Any) -> TorchEngine:
    return TorchEngine(model, BASE.base, (), threads=threads, **options)


def run(
    repeats: int = 5,
    conversations: Conversations = SIXTY_FOUR,
    slow_repeats: int = 5,
    slow_live: int = 64,
    adapters: int = 64,
    long: int = 512,
    stored: int = 256,
    working_set: int = 48,
    slots: int = 32,
    requests: int = 2000,
    prefix: int = 2000,
) -> dict[str, Figure]:
    """`slow_...` are of continuous batching, which takes minutes a run on a CPU."""
    threads = threads_for_load()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = _rollouts(threads, repeats, conversations, slow_repeats, slow_live)
        found |= asyncio.run(_adapters(threads, repeats, adapters, long))
        found |= asyncio.run(_cliff(threads, repeats, stored, working_set, slots, requests))
        found |= asyncio.run(_latency(threads, repeats, prefix))
    finally:
        torch.set_num_threads(before)
    return found | {"threads": figure([threads], "of both sides")}


def _rollouts(
    threads: int, repeats: int, c: Conversations, slow_repeats: int, slow_live: int
) -> dict[str, Figure]:
    model = random_model()
    model.set_attn_implementation("sdpa")
    engine = make_engine(model, threads)

    def own(c: Conversations, seed: int) -> float:
        return asyncio.run(ours(engine, BASE, c, seed))

    small = Conversations(live=2, turns=2, shared=c.shared)
    own(small, 99), by_generate(model, small, 99)  # warm up
    pairs = [(own(c, r), by_generate(model, c, r)) for r in range(repeats)]
    slow = replace(c, live=slow_live)
    slow_pairs = [
        (own(slow, r), by_continuous_batching(model, slow, r)) for r in range(slow_repeats)
    ]
    engine.close()
    found = {
        "rollout_tokens_per_s": figure([a for a, _ in pairs], f"sampled tokens/s, {c.live} live"),
        "generate_tokens_per_s": figure([b for _, b in pairs], "sampled tokens/s"),
        "rollout_ratio_generate": figure([a / b for a, b in pairs], "ours over generate a turn"),
    }
    if slow_pairs:
        each = [b for _, b in slow_pairs]
        found |= {
            "continuous_batching_tokens_per_s": figure(each, f"sampled tokens/s, {slow_live} live"),
            "rollout_ratio_continuous_batching": figure(
                [a / b for a, b in slow_pairs], "ours over transformers' continuous batching"
            ),
        }
    return found


async def _adapters(threads: int, repeats: int, count: int, long: int) -> dict[str, Figure]:
    model = random_model()
    vocabulary = model.config.vocab_size
    tensors = many.random_adapters(copy.deepcopy(model), count)
    engine, half = make_engine(model, threads), make_engine(model, threads, half_adapters=True)
    names = [ModelRef(BASE.base, f"a{i}") for i in range(count)]
    refs = [engine.load_weights(n, own) for n, own in zip(names, tensors, strict=True)]
    half_refs = [half.load_weights(n, own) for n, own in zip(names, tensors, strict=True)]
    peer = many.PeftPeer(copy.deepcopy(model), tensors)
    speeds = [
        (
            await many.decoding(engine, [BASE] * count, vocabulary),
            await many.decoding(engine, refs, vocabulary),
            await many.decoding(half, half_refs, vocabulary),
            await many.decoding(engine, [BASE] * count, vocabulary, prompt=long),
            await many.decoding(engine, refs, vocabulary, prompt=long),
            peer.decoding(vocabulary, 20),
        )
        for _ in range(repeats + 1)
    ]
    timed = speeds[1:]  # the first warms up
    base, mixed, halved, base_long, mixed_long, peft = zip(*timed, strict=True)
    await engine.aclose()
    await half.aclose()
    plain, more = many.bytes_of_a_step(model, tensors, 64, 100)
    read = [(many.reading(plain, threads), many.reading(plain + more, threads)) for _ in base]
    bound = [1 + (b - a) * s / count for s, (a, b) in zip(base, read, strict=True)]
    over_base = [b / m for b, m in zip(base, mixed, strict=True)]
    long_over_base = [b / m for b, m in zip(base_long, mixed_long, strict=True)]
    half_over_base = [b / h for b, h in zip(base, halved, strict=True)]
    over_peft = [p / m for p, m in zip(peft, mixed, strict=True)]
    return {
        "decode_tokens_per_s": figure(base, f"sampled tokens/s, the base, batch {count}"),
        f"adapters_{count}_tokens_per_s": figure(mixed, "sampled tokens/s, an adapter a row"),
        f"adapters_{count}_over_base": figure(over_base, "time of a step, ratio"),
        f"adapters_{count}_bound": figure(bound, "the same, were reading all that it costs"),
        f"adapters_{count}_behind_{long}_over_base": figure(
            long_over_base, f"the same, behind prompts of {long}"
        ),
        f"adapters_{count}_half_over_base": figure(half_over_base, "the same, in bfloat16"),
        f"adapters_{count}_over_peft": figure(over_peft, "time of a step, ratio"),
    }


async def _cliff(
    threads: int, repeats: int, stored: int, working_set: int, slots: int, requests: int
) -> dict[str, Figure]:
    model = random_model()
    with tempfile.TemporaryDirectory() as folder:
        paths = many.stored(copy.deepcopy(model), Path(folder), stored)
        few, all_in = make_engine(model, threads, slots=slots), make_engine(model, threads)
        speeds: dict[int, list[float]] = {id(few): [], id(all_in): []}
        refs = [
            [e.register(ModelRef(BASE.base, f"a{i}"), str(p)) for i, p in enumerate(paths)]
            for e in (few, all_in)
        ]
        used = random.Random(0).sample(range(stored), working_set)
        loads = []
        for r in range(repeats + 1):
            for engine, names in zip((few, all_in), refs, strict=True):
                before = engine.registry.loads
                chosen = [names[i] for i in used]
                speed = await many.traffic(engine, chosen, requests, 64, seed=r)
                if r:  # the first fills the slots
                    speeds[id(engine)].append(speed)
                    if engine is few:
                        loads.append((engine.registry.loads - before) / requests)
        alarmed = few.registry.alarmed
        await few.aclose()
        await all_in.aclose()
    assert alarmed == (working_set > slots), "the alarm for the working set"
    pairs = zip(speeds[id(few)], speeds[id(all_in)], strict=True)
    unit = f"{slots} slots, {working_set} of {stored} asked for, over all in memory"
    return {
        "cliff_ratio": figure([a / b for a, b in pairs], f"throughput, {unit}"),
        "cliff_loads": figure(loads, "adapters read from disk a request"),
        "all_in_slots_tokens_per_s": figure(speeds[id(all_in)], "sampled tokens/s"),
    }


async def _latency(threads: int, repeats: int, prefix: int) -> dict[str, Figure]:
    model = random_model()
    engine = make_engine(model, threads)
    rng = random.Random(0)
    cold, cached, slopes = [], [], []

    async def first_token(ids: list[int]) -> float:
        started = time.perf_counter()
        await engine.sample(ids, BASE, Sampling(max_tokens=1))
        return time.perf_counter() - started

    async def answering(tokens: int) -> float:
        ids = rng.choices(range(FIRST, 1000), k=64)
        started = time.perf_counter()
        await engine.sample(ids, BASE, Sampling(max_tokens=tokens))
        return time.perf_counter() - started

    await first_token(rng.choices(range(FIRST, 1000), k=prefix))  # warm up
    for _ in range(repeats):
        forget(engine)
        ids = rng.choices(range(FIRST, 1000), k=prefix)
        cold.append(await first_token([*ids, 5, 6]))
        cached.append(await first_token([*ids, 7, 8]))
        one, short, long = [await answering(n) for n in (1, 33, 257)]
        slopes.append((long - one) / 256 / ((short - one) / 32))
    await engine.aclose()
    share = [a / b for a, b in zip(cached, cold, strict=True)]
    return {
        "ttft_s": figure(cold, f"s, prompt of {prefix + 2}"),
        "ttft_cached_s": figure(cached, f"s, {prefix} of them cached"),
        "ttft_cached_share": figure(share, "cached over not"),
        "seconds_per_token_256_over_32": figure(slopes, "time a token, ratio"),
    }
