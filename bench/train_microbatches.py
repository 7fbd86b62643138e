"""python -m bench.train_microbatches

Seconds of CPU of a training step on one core with micro-batches of several sizes, as lines of JSON:
rows that share nothing (the overhead of a micro-batch, and what one costs that is too large for the
caches), groups that share a prompt, and episodes that part turn by turn. What `_cuts` of
train/tree_batch.py assumes.
"""

import json
import statistics
import time
from collections.abc import Sequence

import torch

from bench.training_rollouts import groups, parting, rows_of, unshared
from understudy.core.rows import Row
from understudy.recipes.learner import Lora, make_learner
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer
from understudy.train.tree_batch import split_rows

SIZES = (256, 512, 1024, 1536, 2048, 3072, 4096)
STEPS = 4


def main() -> None:
    torch.set_num_threads(1)
    model = make_learner("tiny", Lora(), 0).base.model
    vocabulary = int(model.config.vocab_size)
    rows: dict[str, Sequence[Row]] = {
        "unshared": rows_of(unshared(vocabulary, 48, 96, 32)),
        "shared": rows_of(groups(vocabulary, 2, 16, 512, 64)),
        "parting": split_rows(rows_of(parting(vocabulary)), 2)[0],
    }
    for precision in ("fp32", "bf16"):
        for name, own in rows.items():
            trainers = {
                size: Trainer(
                    model,
                    TrainerConfig(lr=1e-5, precision=precision, max_tokens_per_microbatch=size),
                )
                for size in SIZES
            }
            seconds: dict[int, list[float]] = {size: [] for size in SIZES}
            cut: dict[int, int] = {}
            for n in range(STEPS + 1):
                for size, trainer in trainers.items():
                    begun = time.process_time()
                    cut[size] = trainer.step(own).microbatches
                    if n:
                        seconds[size].append(time.process_time() - begun)
            told = {s: [cut[s], round(statistics.median(own), 3)] for s, own in seconds.items()}
            print(json.dumps({"rows": name, "precision": precision, "cut_and_seconds": told}))


if __name__ == "__main__":
    main()
