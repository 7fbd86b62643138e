"""Training: a GRPO-shaped batch in each layout and precision

Groups of eight episodes that share their system prompt, tools, first message and first turns, as
rehearsal makes them; the shipped tiny model with LoRA on every linear layer.
"""

import random
import statistics
from typing import Any

import torch

from understudy.core.rows import Entry, Row
from understudy.recipes.learner import Lora, make_learner
from understudy.runs.machine import threads_for_load
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer

PROMPT, OPENING, SHARED, OWN = (
    263,
    45,
    120,
    180,
)  # tokens: all groups, a group, its first turns, own
GROUPS, SIZE, REPEATS = 8, 8, 5


def batch(rng: random.Random, vocabulary: int) -> list[Row]:
    def tokens(n: int) -> list[int]:
        return [rng.randrange(10, vocabulary) for _ in range(n)]

    prompt, rows = tokens(PROMPT), []
    for _ in range(GROUPS):
        opening, shared = tokens(OPENING), tokens(SHARED)
        for i in range(SIZE):
            ids = (*prompt, *opening, *shared, *tokens(OWN))
            at = [t for t in range(PROMPT + OPENING, len(ids)) if t % 3]  # two of three are sampled
            weight = 1.0 if i % 2 else -1.0
            rows.append(
                Row(ids, tuple(Entry(t - 1, ids[t], "rl", weight, -2.0, str(i)) for t in at))
            )
    return rows


def run() -> dict[str, Any]:
    torch.set_num_threads(threads_for_load())
    rows = batch(random.Random(0), 2560)
    figures: dict[str, Any] = {}
    for layout in ("tree", "packed", "padded"):
        for precision in ("fp32", "bf16"):
            learner = make_learner("tiny", Lora(), 0)
            config = TrainerConfig(lr=1e-5, layout=layout, precision=precision)
            trainer = Trainer(learner.base.model, config)
            trainer.step(rows[:SIZE])
            seen = [trainer.step(rows) for _ in range(REPEATS)]
            rates = [m.tokens_per_s for m in seen]
            figures[f"{layout}_{precision}_tokens_per_s"] = {
                "value": statistics.median(rates),
                "unit": "row tokens/s",
                "low": min(rates),
                "high": max(rates),
            }
            if precision == "fp32":
                share = seen[0].tokens_computed / seen[0].tokens_in_rows
                figures[f"{layout}_computed_share"] = {
                    "value": share, "unit": "of row tokens", "low": share, "high": share
                }  # fmt: skip
    return figures
