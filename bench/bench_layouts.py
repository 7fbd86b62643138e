"""Training in each layout and precision, on one core and on all: tokens per second

Groups of eight episodes that share their system prompt, tools, first message and first turns, as
rehearsal makes them; the shipped tiny model, its vocabulary, LoRA on every linear layer. Layouts
are compared on one core; `tree_bf16` also on those that are free, by threads and by processes, and
so are larger models of random weights: `train.parallel` chooses between the two by size.
"""

import random
from collections.abc import Sequence
from typing import Any, Literal

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from bench.figures import Figure, figure
from understudy.core.cores import threads_for_load
from understudy.core.rows import Entry, Row
from understudy.models.lora import inject_lora
from understudy.recipes.learner import Lora, make_learner
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer
from understudy.train.tree_batch import Layout

Precision = Literal["fp32", "bf16"]
LAYOUTS: tuple[Layout, ...] = ("tree", "packed", "padded")
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")

# tokens: of all groups, of a group, of its first turns, an episode's own
PROMPT, OPENING, SHARED, OWN = 263, 45, 120, 180


def batch(rng: random.Random, vocabulary: int, groups: int, size: int) -> list[Row]:
    def tokens(n: int) -> list[int]:
        return [rng.randrange(10, vocabulary) for _ in range(n)]

    prompt, rows = tokens(PROMPT), []
    for _ in range(groups):
        opening, shared = tokens(OPENING), tokens(SHARED)
        for i in range(size):
            ids = (*prompt, *opening, *shared, *tokens(OWN))
            at = [t for t in range(PROMPT + OPENING, len(ids)) if t % 3]  # two of three are sampled
            weight = 1.0 if i % 2 else -1.0
            rows.append(
                Row(ids, tuple(Entry(t - 1, ids[t], "rl", weight, -2.0, str(i)) for t in at))
            )
    return rows


def run(
    groups: int = 8,
    size: int = 8,
    repeats: int = 5,
    scales: Sequence[tuple[int, int]] = ((256, 6), (512, 8), (768, 12)),
) -> dict[str, Figure]:
    cores = threads_for_load()
    figures: dict[str, Figure] = {}

    def measure(
        name: str, layout: Layout, precision: Precision, threads: int, workers: int
    ) -> None:
        torch.set_num_threads(threads)
        model: Any = make_learner("tiny", Lora(), 0).base.model
        rows = batch(random.Random(0), model.config.vocab_size, groups, size)
        config = TrainerConfig(lr=1e-5, layout=layout, precision=precision)
        with Trainer(model, config, workers) as trainer:
            trainer.step(rows[:size])
            seen = [trainer.step(rows) for _ in range(repeats)]
        figures[f"{name}_tokens_per_s"] = figure([m.tokens_per_s for m in seen], "row tokens/s")
        if precision == "fp32":
            shares = [m.tokens_computed / m.tokens_in_rows for m in seen]
            figures[f"{name.removesuffix('_fp32')}_computed_share"] = figure(
                shares, "of row tokens"
            )

    for layout in LAYOUTS:
        for precision in PRECISIONS:
            measure(f"{layout}_{precision}", layout, precision, 1, 1)

    def scale(width: int, layers: int, threads: int, workers: int, how: str) -> None:
        torch.set_num_threads(threads)
        model = random_model(width, layers)
        millions = round(sum(p.numel() for p in model.parameters()) / 1e6)
        rows = batch(random.Random(0), model.config.vocab_size, 1, size)
        with Trainer(model, TrainerConfig(lr=1e-5, precision="bf16"), workers) as trainer:
            trainer.step(rows)
            seen = [trainer.step(rows).tokens_per_s for _ in range(3)]
        figures[f"{millions}M_{how}_tokens_per_s"] = figure(seen, "row tokens/s")

    if cores > 1:
        measure(f"tree_bf16_{cores}_threads", "tree", "bf16", cores, 1)
        measure(f"tree_bf16_{cores}_processes", "tree", "bf16", 1, cores)
        for width, layers in scales:
            scale(width, layers, cores, 1, f"{cores}_threads")
            scale(width, layers, 1, cores, f"{cores}_processes")
    return figures


def random_model(width: int, layers: int) -> Any:
    """A Qwen3 of random weights with LoRA on its linear layers."""
    config = Qwen3Config(
        vocab_size=16_000, hidden_size=width, intermediate_size=3 * width,
        num_hidden_layers=layers, num_attention_heads=width // 64,
        num_key_value_heads=width // 128, head_dim=64, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    inject_lora(model)
    return model
