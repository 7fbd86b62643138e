"""Training: a step against TRL's GRPOTrainer on the same rollouts, and what the tree saves.

Both sides train the shipped tiny model with LoRA of rank 16 on every linear layer, on the same
cores, with the same loss; their steps alternate, and a ratio is TRL's seconds over ours, the median
of the pairs. TRL takes the rows a forward pass that are fastest for it here (`..._trl_rows`): of 4
to 64 in whole groups, of fewer where there is but one group.

`multi-turn` episodes part ways turn by turn; `multi_turn_bound` is what their sharing can gain at
TRL's own speed, were attention to what is shared free. `arithmetic_ratio` is a tree's seconds for
its counted arithmetic (products with weights, and of all pairs of tokens that see each other) over
those of a plain batch of as many tokens; `token_ratio` counts tokens instead. `linear_16x` is the
seconds of 16 times the groups over 16 times those of one. Memory is the peak above what was loaded,
each side in a process of its own.
"""

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bench.figures import Figure, figure
from bench.training_rollouts import groups, parting, rows_of, unshared
from bench.trl_peer import Rollout, StepSeconds, trl_steps
from understudy.core.cores import threads_for_load
from understudy.core.rows import Row, trim
from understudy.core.token_tree import build
from understudy.core.types import ModelRef, Sampling
from understudy.engine.torch_engine import TorchEngine
from understudy.models.lora import adapter_tensors, lora_layers
from understudy.recipes.learner import Lora, make_learner
from understudy.train.optimiser import TrainerConfig
from understudy.train.parallel import processes_for
from understudy.train.trainer import Trainer
from understudy.train.tree_batch import Layout

ROOT = Path(__file__).resolve().parents[1]
Precision = Literal["fp32", "bf16"]
MICRO = (4, 8, 16, 32, 64)  # rows a forward pass that TRL may take


def run(
    prompt: int = 512,
    size: int = 16,
    rest: int = 64,
    turns: int = 6,
    pairs: int = 5,
    scales: Sequence[int] = (1, 4, 16),
) -> dict[str, Figure]:
    cores = threads_for_load()
    vocabulary = int(make_learner("tiny", Lora(), 0).base.model.config.vocab_size)  # type: ignore[union-attr, arg-type, operator]
    shared = groups(vocabulary, 4, size, prompt, rest)
    found: dict[str, Figure] = {}
    micro: dict[Precision, int] = {}
    for precision in ("fp32", "bf16"):
        micro[precision] = _best_micro(shared, precision, size, cores)
        name = f"step_ratio_trl_{precision}"
        found |= _step(name, shared, precision, size, pairs, micro[precision], cores)
    many_turns = parting(vocabulary, size, turns, prompt)
    for precision in ("fp32", "bf16"):
        name = f"multi_turn_ratio_trl_{precision}"
        rows = _best_micro(many_turns, precision, size, cores)
        found |= _step(name, many_turns, precision, size, pairs, rows, cores)
        own = _layouts(rows_of(many_turns), precision, ("tree", "packed"), pairs, cores)
        ratios = [p / t for t, p in zip(own["tree"], own["packed"], strict=True)]
        found[f"tree_ratio_multi_turn_{precision}"] = figure(ratios, "x packed rows")
        found[f"multi_turn_bound_trl_{precision}"] = _bound(
            many_turns, vocabulary, precision, rest, found[f"{name}_trl_seconds"], pairs, cores
        )
    alone = unshared(vocabulary, 4 * size, 16, rest)
    for precision in ("fp32", "bf16"):
        name = f"short_prompt_ratio_trl_{precision}"
        rows = _best_micro(alone, precision, 2, cores)
        found |= _step(name, alone, precision, 2, pairs, rows, cores)
    found |= _whole(shared, size, rest, pairs, micro["bf16"], cores)
    found |= _arithmetic(vocabulary, prompt, size, rest, pairs, scales, cores)
    found |= _memory(prompt, size, rest, micro, pairs)
    return found | _worse(found)


def _worse(found: dict[str, Figure]) -> dict[str, Figure]:
    """Of figures that both precisions have, the worse one."""
    names = {"tree_ratio_multi_turn": min, "short_prompt_ratio_trl": min,
             "multi_turn_ratio_trl": min, "peak_memory_ratio_trl": max}  # fmt: skip
    return {
        name: worse((found[f"{name}_{p}"] for p in ("fp32", "bf16")), key=lambda f: f["value"])
        for name, worse in names.items()
    }


def _trainer(precision: Precision, cores: int, layout: Layout = "tree") -> Trainer:
    """A trainer of the tiny model on so many cores, as recipes make it."""
    torch.set_num_threads(1)
    model: Any = make_learner("tiny", Lora(), 0).base.model
    config = TrainerConfig(lr=1e-5, precision=precision, layout=layout)
    trainer = Trainer(model, config, processes_for(model, cores))
    trainer.use_cores(cores)
    return trainer


def _timed(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _step(
    name: str,
    rollouts: Sequence[Rollout],
    precision: Precision,
    group: int,
    pairs: int,
    micro: int,
    cores: int,
) -> dict[str, Figure]:
    """TRL's training step over ours, the first pair left out."""
    rows, ours = rows_of(rollouts), list[float]()
    with _trainer(precision, cores) as trainer:

        def own_step() -> None:
            threads = torch.get_num_threads()
            trainer.use_cores(cores)
            ours.append(_timed(lambda: trainer.step(rows)))
            torch.set_num_threads(threads)

        own_step()
        ours.clear()
        torch.set_num_threads(cores)
        theirs = trl_steps("tiny", rollouts, precision, group, pairs + 1, own_step, micro=micro)
    seconds = list(zip([s.training for s in theirs[1:]], ours[1:], strict=True))
    found = {name: figure([t / o for t, o in seconds], "x TRL's speed")}
    found[f"{name}_seconds"] = figure([o for _, o in seconds], "s a step, ours")
    found[f"{name}_trl_seconds"] = figure([t for t, _ in seconds], "s a step, TRL")
    found[f"{name}_trl_rows"] = figure([micro], "rows a forward pass, TRL")
    return found


def _bound(
    rollouts: Sequence[Rollout],
    vocabulary: int,
    precision: Precision,
    rest: int,
    whole: Figure,
    pairs: int,
    cores: int,
) -> Figure:
    """TRL's seconds for rows over its seconds for short plain rows of as many tokens as the rows'
    tree has: what sharing can gain at TRL's own speed, were attention to the shared part free."""
    tree = build([trim(row) for row in rows_of(rollouts)])
    plain = unshared(vocabulary, 2 * max(1, len(tree) // (4 * rest)), rest, rest)
    micro = _best_micro(plain, precision, 2, cores)
    steps = trl_steps("tiny", plain, precision, 2, pairs + 1, lambda: None, micro=micro)
    share = len(plain) * 2 * rest / len(tree)
    return figure([whole["value"] * share / s.training for s in steps[1:]], "x, at TRL's speed")


def _best_micro(rollouts: Sequence[Rollout], precision: Precision, group: int, cores: int) -> int:
    """The rows a forward pass with which TRL is fastest."""
    torch.set_num_threads(cores)

    def seconds(micro: int) -> float:
        steps = trl_steps("tiny", rollouts, precision, group, 2, lambda: None, micro=micro)
        return steps[-1].training

    one = len(rollouts) == group
    fits = {m for m in MICRO if len(rollouts) % m == 0 and (one or m % group == 0)}
    fitting = sorted(fits | {len(rollouts)})
    return min(fitting, key=seconds) if len(fitting) > 1 else fitting[0]


def _layouts(
    rows: Sequence[Row], precision: Precision, layouts: Sequence[Layout], pairs: int, cores: int
) -> dict[str, list[float]]:
    """Seconds of our own step in each layout, alternating."""
    trainers = {layout: _trainer(precision, cores, layout) for layout in layouts}
    try:
        for trainer in trainers.values():
            trainer.step(rows)
        found: dict[str, list[float]] = {layout: [] for layout in layouts}
        for _ in range(pairs):
            for layout, trainer in trainers.items():
                found[layout].append(_timed(lambda t=trainer: t.step(rows)))
    finally:
        for trainer in trainers.values():
            trainer.close()
    return found


def _whole(
    rollouts: Sequence[Rollout], group: int, rest: int, pairs: int, micro: int, cores: int
) -> dict[str, Figure]:
    """A step with its rollouts: the engine samples, the trainer steps, the adapter is delivered;
    against TRL's own generation and step. Every completion has `rest` tokens."""
    prompts = [r.prompt for r in rollouts]
    ours: list[float] = []
    torch.set_num_threads(1)
    learner = make_learner("tiny", Lora(), 0)
    model: Any = learner.base.model
    config = TrainerConfig(lr=1e-5, precision="bf16")
    with Trainer(model, config, processes_for(model, cores)) as trainer, asyncio.Runner() as runner:
        engine = TorchEngine(model, "tiny", (), threads=cores)

        async def step(number: int) -> None:
            ref = ModelRef("tiny", "trained", number + 1)
            engine.load_weights(ref, adapter_tensors(model), learner.lora)
            how = Sampling(max_tokens=rest)
            async with asyncio.TaskGroup() as tasks:
                drawn = [tasks.create_task(engine.sample(p, ref, how)) for p in prompts]
            samples = [task.result() for task in drawn]
            sampled = [
                Rollout(r.prompt, tuple(s.ids), (True,) * len(s.ids), r.advantage)
                for r, s in zip(rollouts, samples, strict=True)
            ]
            rows = [
                Row(
                    row.ids,
                    tuple(
                        e._replace(anchor=p) for e, p in zip(row.entries, s.logprobs, strict=True)
                    ),
                )
                for row, s in zip(rows_of(sampled), samples, strict=True)
            ]
            trainer.use_cores(cores)
            trainer.step(rows)

        def own_step() -> None:
            threads = torch.get_num_threads()
            ours.append(_timed(lambda: runner.run(step(len(ours)))))
            torch.set_num_threads(threads)

        own_step()
        torch.set_num_threads(cores)
        theirs: list[StepSeconds] = trl_steps(
            "tiny", rollouts, "bf16", group, pairs + 1, own_step, micro=micro, sample_tokens=rest
        )
        runner.run(engine.aclose())
    seconds = list(zip([s.whole for s in theirs[1:]], ours[2:], strict=True))
    return {
        "whole_step_ratio_trl": figure([t / o for t, o in seconds], "x TRL's speed"),
        "whole_step_seconds": figure([o for _, o in seconds], "s a step, ours"),
        "whole_step_trl_seconds": figure([t for t, _ in seconds], "s a step, TRL"),
    }


def _arithmetic(
    vocabulary: int,
    prompt: int,
    size: int,
    rest: int,
    pairs: int,
    scales: Sequence[int],
    cores: int,
) -> dict[str, Figure]:
    """A tree's seconds against those of plain rows of as many tokens, and their growth."""
    found: dict[str, Figure] = {}
    for precision in ("fp32", "bf16"):
        tree = rows_of(groups(vocabulary, 4, size, prompt, rest))
        length = 2 * rest  # half of it trained, as many rows as make the same number of tokens
        count = max(1, 4 * (prompt + size * rest) // length)
        dense = rows_of(unshared(vocabulary, count, rest, rest))
        with _trainer(precision, cores) as ours, _trainer(precision, cores, "padded") as plain:
            seen = [(ours.step(tree), plain.step(dense)) for _ in range(pairs + 1)][1:]
            times = [t.seconds / d.seconds for t, d in seen]
            tokens = seen[0][0].tokens_computed / seen[0][1].tokens_computed
            work = operations(ours.model, tree) / operations(plain.model, dense)
            for name, share in (("arithmetic", work), ("token", tokens)):
                found[f"{name}_ratio_{precision}"] = figure(
                    [ratio / share for ratio in times], "x a plain batch's time for as much"
                )
            found[f"tree_tokens_per_s_{precision}"] = figure(
                [t.tokens_in_rows / t.seconds for t, _ in seen], "row tokens/s"
            )
    with _trainer("bf16", cores) as trainer:
        seconds: dict[int, list[float]] = {}
        for scale in scales:
            rows = rows_of(groups(vocabulary, scale, size, prompt, rest))
            trainer.step(rows)
            seconds[scale] = [_timed(lambda r=rows: trainer.step(r)) for _ in range(pairs)]
    first = sorted(seconds[scales[0]])[len(seconds[scales[0]]) // 2]
    for scale in scales[1:]:
        found[f"linear_{scale}x"] = figure(
            [s / (scale / scales[0]) / first for s in seconds[scale]], "x as long a group"
        )
    return found


def operations(model: Any, rows: Sequence[Row]) -> float:
    """Multiplications of a step over the rows' tree: forward and, for what is trained, twice as
    many back; a frozen weight is multiplied once on the way back (see models.lora)."""
    config, tree = model.config, build([trim(row) for row in rows])
    blocks = 0
    for _, layer in lora_layers(model):
        beside = layer.lora_A.numel() + layer.lora_B.numel()
        own = layer.weight.numel()
        blocks += 3 * own if layer.merges else 2 * own + 3 * beside
    head = 2 * len(np.unique(tree.node_E)) * model.get_output_embeddings().weight.numel()
    pairs = int((tree.depth_N + 1).sum())
    width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    return float(len(tree) * blocks + head + 3 * 2 * pairs * width)


def _memory(
    prompt: int, size: int, rest: int, micro: dict[Precision, int], repeats: int
) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for precision, rows in micro.items():
        peaks: dict[str, list[float]] = {"ours": [], "trl": []}
        for side in ("ours", "trl") * repeats:
            sizes = [str(n) for n in (prompt, size, rest, rows)]
            command = [sys.executable, "-m", "bench.train_memory", side, precision, *sizes]
            told = subprocess.run(
                command, check=True, capture_output=True, text=True, cwd=ROOT, env=os.environ
            )
            peaks[side].append(float(json.loads(told.stdout.splitlines()[-1])["mb"]))
        shares = [ours / trl for ours, trl in zip(peaks["ours"], peaks["trl"], strict=True)]
        found[f"peak_memory_ratio_trl_{precision}"] = figure(shares, "of TRL's")
        found[f"peak_memory_mb_{precision}"] = figure(peaks["ours"], "MB above what was loaded")
        found[f"peak_memory_trl_mb_{precision}"] = figure(peaks["trl"], "MB, TRL")
    gc.collect()
    return found
