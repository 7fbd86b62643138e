"""What the recipes that learn from preferences and thumbs share: rows, reference scores, steps."""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from pydantic import Field, PositiveFloat, PositiveInt

from understudy.core.rows import Row, supervised_rows, unheard
from understudy.core.types import Message
from understudy.models.lora import base_only
from understudy.recipes.batches import take_step
from understudy.recipes.checkpoints import Checkpoints
from understudy.recipes.learner import Learner
from understudy.recipes.preference_data import Said, Splits
from understudy.recipes.resuming import from_checkpoint
from understudy.recipes.tuning import Tuned
from understudy.runs.directory import Run, read_json
from understudy.runs.progress import Progress
from understudy.train.optimiser import TrainerConfig
from understudy.train.preferences import PreferenceLoss, pushed, scores
from understudy.train.trainer import Trainer


class PreferenceConfig(Tuned):
    split: Splits = "train"  # of captured episodes; `heldout` is what `eval` plays
    feedback: str = "outcome"  # the name that rewards are selected by
    epochs: PositiveInt = 1
    batch: int = Field(default=16, ge=2)  # pairs or thumbs a step
    lr: PositiveFloat = 5e-4  # 5e-6 to 5e-5 on models of 4 billion parameters and more
    warmup_steps: int = Field(default=5, ge=0)
    max_tokens: PositiveInt = 2048
    max_tokens_per_microbatch: PositiveInt = 4096
    checkpoint_every: PositiveInt = 50
    keep_checkpoints: PositiveInt = 2  # the newest


@dataclass(frozen=True, slots=True)
class PreferenceResult:
    adapter: Path  # with tune=full a model's folder
    used: int  # pairs, or thumbs
    steps: int
    left_out: dict[str, int]  # what and why -> how many


def said_row(said: Said, learner: Learner, max_tokens: int, echo: float = 0.0) -> Row | str:
    """The conversation with an entry of weight 1 on each token that the assistant said after the
    prompt, with `echo` (core.rows) also what tools and users said in between; or why there is no
    such row."""
    before = [_unlearned(m) if m["role"] == "assistant" else m for m in said.prompt]
    rows, counted = supervised_rows(
        [*before, *said.completion],
        said.tools,
        learner.base.renderer,
        sample_id=said.id,
        echo=echo,
        max_tokens=max_tokens,
    )
    if len(rows) == 1:
        return rows[0]
    if counted.refused_rows:
        return "longer than max_tokens"
    return "nothing to train on" if not rows else "of several rows"


def paired_rows(
    pairs: Sequence[tuple[Row | str, Row | str]],
) -> tuple[list[tuple[Row, Row]], Counter[str]]:
    """The pairs of which both sides have a row, and why others are left out.

    Raises ValueError where none is left.
    """
    whole: list[tuple[Row, Row]] = []
    left_out: Counter[str] = Counter()
    for one, other in pairs:
        if isinstance(one, str) or isinstance(other, str):
            left_out[f"pairs, {one if isinstance(one, str) else other}"] += 1
        else:
            whole.append((one, other))
    if not whole:
        raise ValueError(f"no pair is left to train on: {dict(left_out)}")
    return whole, left_out


def scored_by(trainer: Trainer, rows: Sequence[Row]) -> list[float]:
    """The rows' scores under the model as it is: of what the assistant said in them."""
    said = [unheard(row) for row in rows]
    return scores(said, trainer.logprobs(said))


def reference_scores(
    run: Run, trainer: Trainer, name: str, rows: Sequence[Row], of: Literal["start", "base"]
) -> list[float]:
    """The rows' scores under the model that training begins with, or its base without any adapter;
    with tune=full either is the base as it was loaded.

    Recorded when the run begins; to be called before a checkpoint is loaded.
    """
    file = run.artefacts / f"{name}.json"
    if not file.exists():
        with base_only(trainer.model) if of == "base" else nullcontext():
            scored = scored_by(trainer, rows)
        if not all(map(math.isfinite, scored)):
            raise ValueError("the reference's logprobs are not finite: its base is broken")
        run.write_artefact(file.name, scored)
    found: list[float] = read_json(file)
    if len(found) != len(rows):
        raise ValueError(f"{file} is of {len(found)} rows, not {len(rows)}: begin a new run")
    return found


def batches(count: int, config: PreferenceConfig) -> list[list[int]]:
    """What each step trains on: every epoch a new permutation; a last one alone joins the batch
    before it."""
    rng = random.Random(config.seed)
    steps: list[list[int]] = []
    for _ in range(config.epochs):
        permutation = rng.sample(range(count), count)
        epoch = [permutation[i : i + config.batch] for i in range(0, count, config.batch)]
        if len(epoch) > 1 and len(epoch[-1]) == 1:
            epoch[-2:] = [epoch[-2] + epoch[-1]]
        steps += epoch
    return steps


def descend(
    run: Run,
    trainer: Trainer,
    name: str,
    steps: Sequence[Sequence[int]],
    rows_of: Callable[[Sequence[int]], list[Row]],
    loss_of: Callable[[Sequence[int], list[float]], PreferenceLoss],
    config: PreferenceConfig,
    quiet: bool,
) -> None:
    """The steps from the run's last checkpoint on: score the rows, then move down the loss."""
    begin = int(from_checkpoint(run, trainer)["step"])
    kept = Checkpoints(run, config.keep_checkpoints)
    with Progress(name, total=len(steps), unit="steps", quiet=quiet) as progress:
        progress.advance(begin)
        for number in range(begin, len(steps)):
            rows = rows_of(steps[number])
            loss = loss_of(steps[number], scored_by(trainer, rows))
            metrics = take_step(run, trainer, pushed(rows, loss.slopes), number)
            values = metrics.as_dict() | {"loss": {name: loss.loss}} | loss.figures
            values.pop("step")
            run.log(number, **values)
            progress.advance(
                loss=loss.loss,
                margin=loss.figures.get("margin"),
                tokens_per_second=round(metrics.tokens_per_s),
            )
            if metrics.skipped:
                progress.note(f"step {number}: no update, {metrics.skipped}")
            if (number + 1) % config.checkpoint_every == 0 or number + 1 == len(steps):
                kept.save(number + 1, trainer, {})


def trainer_config(config: PreferenceConfig, steps: int) -> TrainerConfig:
    return TrainerConfig(
        lr=config.lr,
        schedule="linear",
        warmup_steps=min(config.warmup_steps, steps // 4),
        total_steps=steps,
        **config.of_steps(),
        max_tokens_per_microbatch=config.max_tokens_per_microbatch,
    )


def _unlearned(message: Message) -> Message:
    return cast(Message, {**message, "weight": 0})
