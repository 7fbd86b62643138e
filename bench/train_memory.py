"""python -m bench.train_memory ours|trl fp32|bf16 PROMPT SIZE REST MICRO

The peak of memory in two training steps above what was loaded, in MB, as one line of JSON. Memory
of all processes of the side is added up.
"""

import json
import sys
from typing import Any

import torch

from bench.training_rollouts import groups, rows_of
from bench.trl_peer import trl_steps
from understudy.core.cores import threads_for_load
from understudy.recipes.learner import Lora, make_learner
from understudy.runs.machine import PeakMemory, give_back_memory
from understudy.train.optimiser import TrainerConfig
from understudy.train.parallel import processes_for
from understudy.train.trainer import Trainer

INTERVAL = 0.01  # seconds between looks


def main(side: str, precision: Any, prompt: int, size: int, rest: int, micro: int) -> float:
    cores = threads_for_load()
    torch.set_num_threads(1 if side == "ours" else cores)
    learner = make_learner("tiny", Lora(), 0)
    model: Any = learner.base.model
    rollouts = groups(int(model.config.vocab_size), 4, size, prompt, rest)
    if side == "trl":
        del learner, model
        give_back_memory()
        watches: list[PeakMemory] = []
        before = [0.0]

        def loaded() -> None:
            watches.append(PeakMemory(interval=INTERVAL).__enter__())
            before[0] = watches[0].look()

        nothing = lambda: None  # noqa: E731
        trl_steps("tiny", rollouts, precision, size, 2, nothing, micro=micro, loaded=loaded)
        watches[0].__exit__(None, None, None)
        return watches[0].peak_mb - before[0]
    rows = rows_of(rollouts)
    config = TrainerConfig(lr=1e-5, precision=precision)
    give_back_memory()
    with Trainer(model, config, processes_for(model, cores)) as trainer:
        trainer.use_cores(cores)
        with PeakMemory(interval=INTERVAL) as memory:
            begun = memory.look()
            for _ in range(2):
                trainer.step(rows)
        return memory.peak_mb - begun


if __name__ == "__main__":
    own_side, own_precision, *own_sizes = sys.argv[1:]
    print(json.dumps({"mb": round(main(own_side, own_precision, *map(int, own_sizes)), 1)}))
