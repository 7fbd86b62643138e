"""Decoding on a GPU against the limit of its memory: models of random weights, in bf16.

A decoding step has to read all weights and the keys and values of all rows. `..._share_...` is the
time that this takes at the GPU's measured copying speed over the time of a step, Python between two
steps included: the time of requests for many tokens less that of requests for one. `..._graphs_...`
is the speed with CUDA graphs over that without, `..._adapter_...` that of requests to one adapter
(rank 16, all linear layers, not merged) over the base's. `adapters_64_over_base_...`: seconds of a
decoding step with 64 adapters, one a row, over one of as many rows of the bare base;
`adapters_64_over_peft_...` over PEFT's mixed batch.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from bench.engine_adapters import PeftPeer, random_adapters
from bench.engine_rollouts import FIRST
from bench.figures import CannotRun, Figure, figure
from bench.gpu import wait
from understudy.core.types import ModelRef, Sampling
from understudy.engine.torch_engine import TorchEngine
from understudy.models.lora import LoraConfig, adapter_tensors, inject_lora

_QWEN3 = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "rope_theta": 1e6,
          "max_position_embeddings": 40_960, "tie_word_embeddings": True}  # fmt: skip
# config.json of Qwen/Qwen3-0.6B and Qwen/Qwen3-4B
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "0_6b": {**_QWEN3, "num_hidden_layers": 28, "hidden_size": 1024, "intermediate_size": 3072,
             "num_attention_heads": 16},
    "4b": {**_QWEN3, "num_hidden_layers": 36, "hidden_size": 2560, "intermediate_size": 9728,
           "num_attention_heads": 32},
}  # fmt: skip
PROMPT = 64  # tokens
PEFT_TOKENS = 20  # a step of its mixed batch takes long
BASE, ADAPTED = ModelRef("bench"), ModelRef("bench", "a")


def run(
    shapes: Mapping[str, Mapping[str, Any]] = SHAPES,
    batches: Sequence[int] = (1, 32, 256),
    tokens: int = 192,
    repeats: int = 5,
    adapters: int = 64,
    copied: int = 4 << 30,
    device: str = "cuda",
) -> dict[str, Figure]:
    """`copied`: bytes of the tensor whose copying is the measure."""
    if device == "cuda" and not torch.cuda.is_available():
        raise CannotRun("there is no CUDA device")
    bandwidths = [_bandwidth(copied, device) for _ in range(repeats)]
    found = {"copy_bandwidth": figure([b / 1e9 for b in bandwidths], "GB/s, read and written")}
    for name, shape in shapes.items():
        found |= asyncio.run(
            _decoded(name, shape, batches, tokens, repeats, max(bandwidths), device)
        )
        found |= asyncio.run(_many(name, shape, adapters, tokens, repeats, device))
    return found


async def _decoded(
    name: str,
    shape: Mapping[str, Any],
    batches: Sequence[int],
    tokens: int,
    repeats: int,
    bandwidth: float,
    device: str,
) -> dict[str, Figure]:
    model = _random(shape, device)
    tensors = _adapter(model)
    engines = {graphs: _engine(model, max(batches), tokens, graphs) for graphs in (True, False)}
    del model
    for engine in engines.values():
        engine.load_weights(ADAPTED, tensors, LoraConfig(rank=16))
    step_by_step, graphs = engines[False], engines[True]
    vocabulary = int(shape["vocab_size"])
    found: dict[str, Figure] = {}
    for batch in batches:
        needed = _bytes(graphs, batch, tokens) / bandwidth  # seconds a step
        plain, base, adapted = [], [], []
        for r in range(repeats + 1):
            speeds = (
                await _decoding(step_by_step, [BASE] * batch, vocabulary, tokens),
                await _decoding(graphs, [BASE] * batch, vocabulary, tokens),
                await _decoding(graphs, [ADAPTED] * batch, vocabulary, tokens),
            )
            if r:  # the first captures and compiles
                plain.append(speeds[0])
                base.append(speeds[1])
                adapted.append(speeds[2])
        key = f"decode_batch_{batch}"
        ratios = [b / p for b, p in zip(base, plain, strict=True)]
        of_base = [a / b for a, b in zip(adapted, base, strict=True)]
        found |= {
            f"{key}_tokens_per_s_{name}": figure(base, "sampled tokens/s"),
            f"{key}_share_{name}": figure([needed * b / batch for b in base], "of the limit"),
            f"{key}_graphs_{name}": figure(ratios, "speed over that without graphs"),
            f"{key}_adapter_{name}": figure(of_base, "speed over that of the base"),
        }
    for engine in engines.values():
        await engine.aclose()
    return found


async def _many(
    name: str, shape: Mapping[str, Any], count: int, tokens: int, repeats: int, device: str
) -> dict[str, Figure]:
    """Each of `count` rows with an adapter of its own, ours and PEFT's on the same weights."""
    tensors = random_adapters(_random(shape, device), count)
    engine = _engine(_random(shape, device), count, tokens, graphs=True)
    named = [ModelRef(BASE.base, f"a{i}") for i in range(count)]
    config = LoraConfig(rank=16)
    refs = [engine.load_weights(n, own, config) for n, own in zip(named, tensors, strict=True)]
    peer = PeftPeer(_random(shape, device), tensors)
    vocabulary = int(shape["vocab_size"])
    speeds = [
        (
            await _decoding(engine, [BASE] * count, vocabulary, tokens),
            await _decoding(engine, refs, vocabulary, tokens),
            peer.decoding(vocabulary, min(tokens, PEFT_TOKENS)),
        )
        for _ in range(repeats + 1)
    ]
    await engine.aclose()
    base, mixed, peft = zip(*speeds[1:], strict=True)  # the first captures and compiles
    over_base = [b / m for b, m in zip(base, mixed, strict=True)]
    over_peft = [p / m for p, m in zip(peft, mixed, strict=True)]
    return {
        f"adapters_{count}_tokens_per_s_{name}": figure(mixed, "sampled tokens/s, one a row"),
        f"adapters_{count}_over_base_{name}": figure(over_base, "time of a step over the base's"),
        f"adapters_{count}_over_peft_{name}": figure(over_peft, "time of a step over PEFT's"),
    }


async def _decoding(
    engine: TorchEngine, models: Sequence[ModelRef], vocabulary: int, tokens: int
) -> float:
    """Sampled tokens per second of requests that decode together, one a model, after their first
    token."""
    rng = random.Random(0)
    prompts = [rng.choices(range(FIRST, vocabulary), k=PROMPT) for _ in models]
    times = []
    for most in (1, 1, tokens + 1):  # at first the prompts are not cached
        started = time.perf_counter()
        sampling = Sampling(max_tokens=most)
        asked = (engine.sample(p, m, sampling) for p, m in zip(prompts, models, strict=True))
        samples = await asyncio.gather(*asked)
        times.append(time.perf_counter() - started)
        assert all(len(s.ids) == most for s in samples)
    return len(models) * tokens / (times[2] - times[1])


def _engine(model: Any, batch: int, tokens: int, graphs: bool) -> TorchEngine:
    """Room for twice what the requests need: two engines are there at once."""
    config = model.config
    context = 2 * (PROMPT + tokens)
    width = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * 2
    return TorchEngine(
        model, BASE.base, (), threads=1, graphs=graphs, max_slots=batch, context=context,
        memory=batch * context * width,
    )  # fmt: skip


def _random(shape: Mapping[str, Any], device: str) -> Any:
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return Qwen3ForCausalLM(Qwen3Config(**shape)).eval()
    finally:
        torch.set_default_dtype(before)


def _adapter(model: Any) -> dict[str, torch.Tensor]:
    """An adapter of random numbers; the model keeps its layers, which the engine leaves out."""
    inject_lora(model, LoraConfig(rank=16))
    return {k: torch.randn_like(t) * 0.02 for k, t in adapter_tensors(model).items()}


def _bytes(engine: TorchEngine, batch: int, tokens: int) -> int:
    """What a step has to read, at the mean length: the weights, but for the embeddings of ids that
    are not fed, and keys and values."""
    weights = engine.resolve(BASE).weights
    assert weights is not None
    matrices = [m.nbytes for b in weights.blocks for m in (b.qkv, b.o, b.gate_up, b.down)]
    s, itemsize = weights.shape, weights.embed.element_size()
    row = s.layers * 2 * s.kv_heads * s.head_dim * itemsize
    return sum(matrices) + weights.head.nbytes + batch * (PROMPT + tokens // 2) * row


def _bandwidth(size: int, device: str) -> float:
    """Bytes a second, read and written, of the fastest of five copies."""
    source, target = (torch.ones(size // 4, device=device) for _ in range(2))
    best = 0.0
    for _ in range(5):
        wait()
        started = time.perf_counter()
        target.copy_(source)
        wait()
        best = max(best, 2 * size / (time.perf_counter() - started))
    return best
