"""Supervised fine-tuning: distil captured episodes into a small model.

What each agent of a kept episode said, as it ended, is one row: rendered turn by turn as the
engine will see it, with that agent's own tools, cross-entropy on the assistant's tokens alone.
Rows are equal in weight, 1 on each trained token, so an episode of two agents weighs as much as
two episodes. Episodes are kept by an owner's check or by feedback (rejection sampling), or all.
Episodes share their system prompt and tools: a batch is one token tree, which computes them once.

Defaults: two epochs, learning rate ten times that of full fine-tuning ("LoRA Without Regret"),
linear decay; a tiny model takes far more than a large one.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from understudy.core.forest import Conversation, final_conversations
from understudy.core.rows import Row, TooLong, supervised_rows
from understudy.core.turns import FormatError
from understudy.core.types import (
    Episode,
    JudgeFailed,
    Split,
    is_function,
    select_reward,
    split_of,
    why_no_reward,
)
from understudy.judges.check import Check
from understudy.recipes.batches import take_step
from understudy.recipes.checkpoints import Checkpoints, Score
from understudy.recipes.learner import Learner, bound_to, training
from understudy.recipes.lineage import save_trained
from understudy.recipes.resuming import begun_with, from_checkpoint
from understudy.recipes.tuning import Tuned
from understudy.runs.directory import Run
from understudy.runs.progress import Progress
from understudy.runs.statistics import Interval
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer


class SftConfig(Tuned):
    renderer: str | None = None  # a chat format in the place of the base's own
    split: Split | Literal["all"] = "train"  # `heldout` is what `eval` plays
    keep: Literal["all", "check", "feedback"] = "all"
    feedback: str = "thumb"  # the name that `keep=feedback` selects by
    threshold: float = 1.0  # kept from this reward on
    epochs: PositiveInt = 2
    batch_episodes: PositiveInt = 16  # rows a step: conversations, where agents share an episode
    lr: PositiveFloat = 4e-3
    beta2: float = Field(default=0.98, gt=0, lt=1)  # AdamW's; runs have hundreds of steps
    warmup_steps: int = Field(default=10, ge=0)
    shard: bool = False  # each of several processes holds a part of the model (train.sharding)
    max_tokens: PositiveInt = 2048  # of a row
    long_rows: TooLong = "refuse"  # a longer one is left out; `cut`: its end
    echo: NonNegativeFloat = 0.0  # weight of `ce` on what tools and users said; 0.05 to 0.1
    max_tokens_per_microbatch: PositiveInt = 4096
    evaluate_every: NonNegativeInt = 0  # steps, where `sft` is told how; 0: never
    evaluate_scenarios: PositiveInt = 100  # at most, of the held-out split; greedy
    checkpoint_every: PositiveInt = 50
    keep_checkpoints: PositiveInt = 2  # the newest; the best stays too

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.shard and self.evaluate_every:
            raise ValueError("evaluate_every needs the whole model in one process: leave shard off")
        return self


class ViewConfig(SftConfig):
    """Of a model that speaks for others than the agent, in conversations made for it: an adapter,
    which is tried beside its base in one engine."""

    tune: Literal["lora"] = "lora"

    @field_validator("echo")
    @classmethod
    def _hears_nothing_of_the_traffic(cls, echo: float) -> float:
        if echo:
            raise ValueError("is for the agent's recipes: what this one reads is written for it")
        return echo


Evaluate = Callable[[Learner, Run], Interval]


@dataclass(frozen=True, slots=True)
class SftResult:
    adapter: Path  # with tune=full a model's folder
    kept: int
    rows: int
    left_out: dict[str, int]  # reason -> episodes
    rows_left_out: dict[str, int]  # reason -> conversations of kept episodes
    steps: int


def sft(
    run: Run,
    episodes: Sequence[Episode],
    config: SftConfig,
    check: Check | None = None,
    quiet: bool = False,
    evaluate: Evaluate | None = None,
) -> SftResult:
    """Train an adapter on the episodes that are kept; resumes from the run's checkpoint.

    A resumed run goes on with the episodes that it began with, whatever else is given. `evaluate`
    says how good the learner is now (recipes.evaluate). Raises ValueError where some of the
    episodes are gone, or nothing is left to train on, NonFiniteError after three steps whose loss
    or gradient is not finite.
    """
    given = [e for e in episodes if config.split in ("all", split_of(e.scenario_id or e.id))]
    apart = len(episodes) - len(given)
    episodes, kept, left_out = begun_with(run, given, lambda es: select(es, config, check))
    left_out += Counter({f"not of the split {config.split}": apart})
    learner = config.learner(config.renderer)
    rows, rows_left_out = episode_rows(
        kept, learner, config.max_tokens, config.long_rows, config.echo
    )
    if not rows:
        why = dict(left_out + rows_left_out) or "none were given"
        raise ValueError(f"no episode is left to train on: {why}")
    order = _order(len(rows), config)
    cores = torch.get_num_threads()
    trained = training(learner, trainer_config(config, len(order)), cores, shard=config.shard)
    with trained as trainer:
        steps = [[rows[i] for i in step] for step in order]
        measure = partial(evaluate, learner, run) if evaluate else None
        _train(run, trainer, steps, config, quiet, measure)
    metadata = {
        "recipe": "sft",
        **bound_to(kept),
        "episodes": len(kept),
        "left_out": dict(left_out),
        "rows_left_out": dict(rows_left_out),
    }
    adapter = save_trained(run, learner, metadata)
    run.write_artefact("sft.json", metadata | {"rows": len(rows), "steps": len(order)})
    return SftResult(adapter, len(kept), len(rows), dict(left_out), dict(rows_left_out), len(order))


def _train(
    run: Run,
    trainer: Trainer,
    steps: Sequence[Sequence[Row]],
    config: SftConfig,
    quiet: bool,
    evaluate: Callable[[], Interval] | None,
) -> None:
    """The steps from the run's last checkpoint on."""
    begin = int(from_checkpoint(run, trainer)["step"])
    kept = Checkpoints(run, config.keep_checkpoints)
    every, total = config.evaluate_every if evaluate else 0, len(steps)
    with Progress("distil", total=total, unit="steps", quiet=quiet) as progress:
        progress.advance(begin)
        for number in range(begin, total):
            metrics, done = take_step(run, trainer, steps[number], number), number + 1
            values = {k: v for k, v in metrics.as_dict().items() if k != "step"}
            score = None
            if evaluate is not None and every and (done % every == 0 or done == total):
                found = evaluate()
                values["evaluation"] = found.as_dict()
                score = Score(found.mean, "success on held-out scenarios")
            run.log(number, **values)
            progress.advance(
                loss=metrics.loss.get("ce"),
                tokens_per_second=round(metrics.tokens_per_s),
                evaluated=f"{score.value:.0%}" if score else None,
            )
            if metrics.skipped:
                progress.note(f"step {number}: no update, {metrics.skipped}")
            if done % config.checkpoint_every == 0 or done == total or score:
                kept.save(done, trainer, {}, score)


def select(
    episodes: Sequence[Episode], config: SftConfig, check: Check | None
) -> tuple[list[Episode], Counter[str]]:
    """The episodes to learn from, by scenario, and why the others are left out."""
    if config.keep == "check" and check is None:
        raise ValueError("keep=check needs a check; pass --check FILE or choose keep=all")
    kept: list[Episode] = []
    left_out: Counter[str] = Counter()
    for episode in sorted(episodes, key=lambda e: (e.scenario_id or e.id, e.id)):
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
            left_out[why_no_reward(episode.feedback, config.feedback)] += 1
        elif reward < config.threshold:
            left_out[f"below {config.threshold:g}"] += 1
        else:
            kept.append(episode)
    return kept, left_out


def episode_rows(
    episodes: Sequence[Episode],
    learner: Learner,
    max_tokens: int,
    too_long: TooLong = "refuse",
    echo: float = 0.0,
) -> tuple[list[Row], Counter[str]]:
    """One row per conversation (more where the format writes history anew), `ce` on what the
    assistant said, and with `echo` (core.rows) what tools and users said; and what was left out,
    why.

    A sample's id is its episode's with the conversation's number in it.
    """
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    for episode in episodes:
        found = final_conversations(episode.completions)
        if not found:
            left_out["without a whole reply"] += 1
        for n, said in enumerate(found):
            if _calls_custom(said):
                left_out["calls of custom tools, which the chat format cannot say"] += 1
                continue
            try:
                more, counted = supervised_rows(
                    said.messages,
                    said.tools,
                    learner.base.renderer,
                    sample_id=f"{episode.id}/{n}",
                    echo=echo,
                    max_tokens=max_tokens,
                    too_long=too_long,
                )
            except FormatError as error:
                left_out[str(error)] += 1
                continue
            rows.extend(more)
            left_out["longer than max_tokens"] += counted.refused_rows
            left_out["of which only the end, beyond max_tokens"] += counted.cut_rows
            left_out["nothing to train on"] += counted.untrainable
    return rows, +left_out


def _calls_custom(said: Conversation) -> bool:
    calls = [call for m in said.messages for call in m.get("tool_calls") or []]
    return not all(is_function(call) for call in calls)


def trainer_config(config: SftConfig, steps: int) -> TrainerConfig:
    return TrainerConfig(
        lr=config.lr,
        betas=(0.9, config.beta2),
        schedule="linear",
        warmup_steps=min(config.warmup_steps, steps // 4),
        total_steps=steps,
        **config.of_steps(),
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
