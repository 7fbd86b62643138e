"""Supervised fine-tuning: distil captured episodes into a small model.

Each kept episode is one row, rendered turn by turn as the engine will see it, cross-entropy on the
assistant's tokens alone. Episodes are kept by an owner's check or by feedback (rejection
sampling), or all of them. Episodes share their system prompt and tools: a batch is one token tree,
which computes them once.

Defaults: two epochs, learning rate ten times that of full fine-tuning ("LoRA Without Regret"),
linear decay; a tiny model takes far more than a large one.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from understudy.core.rows import Row, RowStats, supervised_rows
from understudy.core.types import Episode, JudgeFailed, select_reward
from understudy.judges.check import Check, conversation
from understudy.recipes.learner import Learner, Lora, make_learner, prompt_of
from understudy.runs.config import Config
from understudy.runs.directory import Run
from understudy.runs.progress import Progress
from understudy.train import checkpoint
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer


class SftConfig(Config):
    base: str = "tiny"
    start: str | None = None  # an adapter folder to go on from
    lora: Lora = Lora()
    keep: Literal["all", "check", "feedback"] = "all"
    feedback: str = "thumb"  # the name that `keep=feedback` selects by
    threshold: float = 1.0  # kept from this reward on
    epochs: PositiveInt = 2
    batch_episodes: PositiveInt = 16
    lr: PositiveFloat = 4e-3
    warmup_steps: int = Field(default=10, ge=0)
    precision: Literal["fp32", "bf16"] = "bf16"
    max_tokens: PositiveInt = 2048
    max_tokens_per_microbatch: PositiveInt = 4096
    checkpoint_every: PositiveInt = 50
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SftResult:
    adapter: Path
    kept: int
    left_out: dict[str, int]  # reason -> episodes
    steps: int


def sft(
    run: Run,
    episodes: Sequence[Episode],
    config: SftConfig,
    check: Check | None = None,
    quiet: bool = False,
) -> SftResult:
    """Train an adapter on the episodes that are kept; resumes from the run's checkpoint.

    Raises ValueError where nothing is left to train on.
    """
    kept, left_out = select(episodes, config, check)
    learner = make_learner(
        config.base, config.lora, config.seed, Path(config.start) if config.start else None
    )
    rows, stats = episode_rows(kept, learner, config.max_tokens)
    if stats.refused_rows:
        left_out["longer than max_tokens"] += stats.refused_rows
    if not rows:
        raise ValueError(f"no episode is left to train on: {dict(left_out) or 'none were given'}")
    order = _order(len(rows), config)
    trainer = Trainer(learner.base.model, trainer_config(config, len(order)))
    begin = _resume(run, trainer)
    with Progress("distil", total=len(order), unit="steps", quiet=quiet) as progress:
        progress.advance(begin)
        for step in range(begin, len(order)):
            metrics = trainer.step([rows[i] for i in order[step]])
            run.log(step, **{k: v for k, v in metrics.as_dict().items() if k != "step"})
            progress.advance(
                loss=metrics.loss.get("ce"), tokens_per_second=round(metrics.tokens_per_s)
            )
            if (step + 1) % config.checkpoint_every == 0:
                checkpoint.save(run.checkpoints / "last", trainer, {"step": step + 1})
    first = kept[0]
    metadata = {
        "recipe": "sft",
        "prompt": prompt_of(first.messages, first.tools),
        "episodes": len(kept),
        "left_out": dict(left_out),
    }
    adapter = learner.save(run.path / "adapter", metadata)
    run.write_artefact("sft.json", metadata | {"rows": len(rows), "steps": len(order)})
    return SftResult(adapter, len(kept), dict(left_out), len(order))


def select(
    episodes: Sequence[Episode], config: SftConfig, check: Check | None
) -> tuple[list[Episode], Counter[str]]:
    """The episodes to learn from, and why the others are left out."""
    if config.keep == "check" and check is None:
        raise ValueError("keep=check needs a check; pass --check FILE or choose keep=all")
    kept: list[Episode] = []
    left_out: Counter[str] = Counter()
    for episode in episodes:
        reward: float | None
        if config.keep == "all":
            reward = config.threshold
        elif config.keep == "check":
            assert check is not None
            verdict = check.judge_episode(episode)
            if isinstance(verdict, JudgeFailed):
                left_out[f"check failed: {verdict.reason}"] += 1
                continue
            reward = select_reward([verdict], check.name)
        else:
            reward = select_reward(episode.feedback, config.feedback)
        if reward is None:
            left_out[f"no feedback named {config.feedback}"] += 1
        elif reward < config.threshold:
            left_out[f"below {config.threshold:g}"] += 1
        else:
            kept.append(episode)
    return kept, left_out


def episode_rows(
    episodes: Sequence[Episode], learner: Learner, max_tokens: int
) -> tuple[list[Row], RowStats]:
    """One row per conversation, `ce` on what the assistant said."""
    rows: list[Row] = []
    stats = RowStats()
    for episode in episodes:
        more, counted = supervised_rows(
            conversation(episode),
            episode.tools,
            learner.base.renderer,
            sample_id=episode.id,
            max_tokens=max_tokens,
        )
        rows.extend(more)
        stats += counted
    return rows, stats


def trainer_config(config: SftConfig, steps: int) -> TrainerConfig:
    return TrainerConfig(
        lr=config.lr,
        schedule="linear",
        warmup_steps=min(config.warmup_steps, steps // 4),
        total_steps=steps,
        precision=config.precision,
        max_tokens_per_microbatch=config.max_tokens_per_microbatch,
    )


def _order(rows: int, config: SftConfig) -> list[list[int]]:
    """The rows of each step: every epoch a new permutation, the last batch possibly smaller."""
    rng = random.Random(config.seed)
    steps: list[list[int]] = []
    for _ in range(config.epochs):
        permutation = rng.sample(range(rows), rows)
        size = config.batch_episodes
        steps += [permutation[i : i + size] for i in range(0, rows, size)]
    return steps


def _resume(run: Run, trainer: Trainer) -> int:
    """The step to go on from: 0, or what the run's last checkpoint says."""
    folder = run.checkpoints / "last"
    if not folder.exists():
        return 0
    state: dict[str, Any] = checkpoint.load(folder, trainer)
    run.rewind(state["step"] - 1)
    return int(state["step"])
