"""Hindsight distillation: "that was wrong; in this situation do it so", in words, taught.

The policy that has read the correction is the teacher of the policy that has not (SDPO, arXiv
2601.20802; OpenClaw-RL, arXiv 2603.10165). At each corrected turn both reply, several times:

    the student's replies   reverse KL to the teacher, token by token (core.teaching): what it does
                            and the teacher would not do is unlearned
    the teacher's replies   cross-entropy: what the student would never have tried is learned
    a demonstration         cross-entropy, where the right reply was given

The teacher is the policy as it was before, so that what it says does not drift. Everything else is
held where it was: at turns of episodes without corrections the student's replies are held to the
policy before by `kl`. With `speaks`, a turn is not held where a correction, read there, changes
what the policy would reply by so much: it may speak of that turn too, and nobody looked at it. That
is for models that read corrections as narrowly as they are meant.

Defaults: the learning rate of `grpo`; three quarters of a step's turns are replayed: with half of
them, other behaviours went too on two of six seeds of bench/bench_correct.py.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from understudy.core.cores import usable_cores
from understudy.core.rows import Row
from understudy.core.types import Completion, Episode, ModelRef, Split, split_of
from understudy.recipes.batches import take_step
from understudy.recipes.checkpoints import Checkpoints
from understudy.recipes.corrections import Correction, Place, corrections_of, turns_of
from understudy.recipes.learner import bound_to, make_engine, training
from understudy.recipes.lineage import save_trained
from understudy.recipes.rehearsal import gather
from understudy.recipes.resuming import begun_with, from_checkpoint
from understudy.recipes.tuning import Tuned
from understudy.recipes.tutor import Held, Lesson, Tutor
from understudy.runs.directory import Run
from understudy.runs.progress import Progress
from understudy.train.losses import LossConfig
from understudy.train.optimiser import TrainerConfig

_MEASURED = 64  # turns of each kind that are measured before and after


class CorrectConfig(Tuned):
    start: str | None = None  # the adapter folder of the policy that was corrected
    split: Split | Literal["all"] = "train"
    feedback: str | None = None  # only feedback of this name; else whatever people said in words
    place: Place = "system"  # where the teacher reads the correction; see corrections.hindsight
    form: str = "Correction: {text}"  # how it reads it
    steps: PositiveInt = 20
    exact: bool = False  # bit for bit the same run each time: on one core, in lockstep
    turns_per_step: PositiveInt = 8  # corrected ones
    replay: float = Field(default=0.75, ge=0, lt=1)  # share of a step's turns that are replayed
    samples: PositiveInt = 2  # of student and teacher, at each corrected turn
    reverse: NonNegativeFloat = 1.0  # weight of the reverse KL on the student's replies
    imitate: NonNegativeFloat = 1.0  # weight of the teacher's replies; 0: none is drawn
    shown: NonNegativeFloat = 1.0  # weight of demonstrations
    hold: NonNegativeFloat = 1.0  # weight of the KL to the policy before
    speaks: PositiveFloat | None = None  # nats by which a correction changes a reply, e.g. 1
    echo: NonNegativeFloat = 0.0  # weight of `ce` on what tools and users said; 0.05 to 0.1
    lr: PositiveFloat = 7e-4
    warmup_steps: int = Field(default=2, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    min_lr_share: float = Field(default=0.3, ge=0, le=1)
    loss: LossConfig = LossConfig()
    max_tokens_per_microbatch: PositiveInt = 4096
    max_tokens: PositiveInt = 128  # a reply
    checkpoint_every: PositiveInt = 10
    keep_checkpoints: PositiveInt = 2  # the newest

    @field_validator("form")
    @classmethod
    def _has_a_place_for_the_text(cls, form: str) -> str:
        if "{text}" not in form:
            raise ValueError("must hold {text}, where the correction's words go")
        return form


@dataclass(frozen=True, slots=True)
class CorrectResult:
    """`gap`: log student - log teacher of the student's replies at corrected turns, in nats a
    reply; `drift`: KL(student || policy before) at replayed turns, in nats a token."""

    adapter: Path  # with tune=full a model's folder
    corrections: int
    gap_before: float
    gap: float
    drift: float
    left_out: dict[str, int]  # reason -> feedback, turns or episodes


async def correct(
    run: Run,
    episodes: Sequence[Episode],
    config: CorrectConfig,
    threads: int | None = None,
    quiet: bool = False,
) -> CorrectResult:
    """Train an adapter on what people said of its turns; resumes from the last checkpoint, with the
    episodes that it began with. Raises ValueError where nobody corrected anything."""
    given = [e for e in episodes if config.split in ("all", split_of(e.scenario_id or e.id))]
    ours = {e.id for e in given}
    apart = [e for e in episodes if e.id not in ours]
    given, corrected, left_out = begun_with(run, given, lambda es: _corrected(es, config.feedback))
    lost = sum(len(corrections_of(e, config.feedback)[0]) for e in apart)
    left_out[f"corrections, not of the split {config.split}"] += lost
    left_out[f"episodes, not of the split {config.split}"] += len(apart)
    said = [c for e in corrected for c in corrections_of(e, config.feedback)[0]]
    known = {e.id for e in corrected}
    others = [turn for e in given if e.id not in known for turn in turns_of(e)]
    learner = config.learner()
    threads = 1 if config.exact else threads
    with training(learner, _trainer_config(config), threads or usable_cores()) as trainer:
        # of the base as before any step
        engine, _ = make_engine(learner.base, threads, lockstep=config.exact, run=run)
        base = learner.base.name
        before = ModelRef(base, "before", 1) if config.start else ModelRef(base)
        try:
            if config.start:
                await engine.load(before, config.start)
            tutor = Tutor(engine, learner.base.renderer, before, config)
            taught = [c for c in said if tutor.fits(c)]
            left_out["corrections, longer than the context"] += len(said) - len(taught)
            if not taught:
                raise ValueError(f"nobody corrected anything here: {dict(+left_out) or 'no words'}")

            def student(version: int) -> ModelRef:
                if config.exact:
                    engine.forget_past()
                return engine.load_weights(
                    ModelRef(base, "student", version), learner.tensors(), learner.lora
                )

            state = from_checkpoint(run, trainer)
            begin, kept = int(state["step"]), Checkpoints(run, config.keep_checkpoints)
            gap_before = state.get("gap_before")
            if gap_before is None:
                gap_before, _ = await _measure(tutor, taught, (), student(0), config)
            with Progress("correct", total=config.steps, unit="steps", quiet=quiet) as progress:
                progress.advance(begin)
                for step in range(begin, config.steps):
                    now = student(step + 1)
                    lessons, held, heard = await _step(tutor, taught, others, now, step, config)
                    rows = [row for lesson in lessons for row in lesson.rows]
                    rows += [row for turn in held for row in turn.rows] + heard
                    metrics = take_step(run, trainer, rows, step)
                    values: dict[str, Any] = metrics.as_dict() | _figures(lessons, held)
                    values.pop("step")
                    run.log(step, **values)
                    progress.advance(
                        gap=values["gap"],
                        drift=values["drift"],
                        tokens_per_second=round(metrics.tokens_per_s),
                    )
                    if metrics.skipped:
                        progress.note(f"step {step}: no update, {metrics.skipped}")
                    if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                        kept.save(step + 1, trainer, {"gap_before": gap_before})
            gap, drift = await _measure(tutor, taught, others, student(config.steps + 1), config)
        finally:
            await engine.aclose()
    figures = {"gap_before": gap_before, "gap": gap, "drift": drift, "left_out": dict(+left_out),
               "corrections": len(taught)}  # fmt: skip
    metadata = {"recipe": "correct", **bound_to(given)}
    adapter = save_trained(run, learner, metadata | figures)
    run.write_artefact("correct.json", figures)
    return CorrectResult(adapter, len(taught), gap_before, gap, drift, dict(+left_out))


def _corrected(episodes: Sequence[Episode], name: str | None) -> tuple[list[Episode], Counter[str]]:
    """The episodes with corrections, and why other feedback of people is left out."""
    kept: list[Episode] = []
    left_out: Counter[str] = Counter()
    for episode in episodes:
        found, counted = corrections_of(episode, name)
        left_out += Counter({f"feedback, {reason}": n for reason, n in counted.items()})
        if found:
            kept.append(episode)
    return kept, left_out


async def _step(
    tutor: Tutor,
    taught: Sequence[Correction],
    others: Sequence[Completion],
    now: ModelRef,
    step: int,
    config: CorrectConfig,
) -> tuple[list[Lesson], list[Held], list[Row]]:
    """The lessons of one step: corrected turns in the order of a permutation that is drawn anew
    when it ends, and replayed ones drawn at random; and what was heard before either."""
    rng = random.Random(f"correct:{config.seed}:{step}")
    size = min(config.turns_per_step, len(taught))
    drawn = [taught[i] for i in _turns(len(taught), step * size, size, config.seed)]
    count = round(len(drawn) * config.replay / (1 - config.replay)) if others else 0
    replayed = [rng.choice(others) for _ in range(count)]
    lessons = [tutor.lesson(c, now, rng.getrandbits(31)) for c in drawn]
    held = [tutor.held(t, rng.choice(taught), now, rng.getrandbits(31)) for t in replayed]
    found = await gather([*lessons, *held])
    turns = {id(turn): turn for turn in (*(c.turn for c in drawn), *replayed)}
    heard = [row for turn in turns.values() for row in tutor.heard(turn)]
    return found[: len(drawn)], found[len(drawn) :], heard


def _turns(n: int, begin: int, size: int, seed: int) -> list[int]:
    """Numbers below n at places begin..begin+size of an endless row of permutations."""
    found: list[int] = []
    for place in range(begin, begin + size):
        again, at = divmod(place, n)
        found.append(random.Random(f"order:{seed}:{again}").sample(range(n), n)[at])
    return found


async def _measure(
    tutor: Tutor,
    taught: Sequence[Correction],
    others: Sequence[Completion],
    now: ModelRef,
    config: CorrectConfig,
) -> tuple[float, float]:
    """Gap and drift of the student as it is now; always on the same turns and seeds."""
    rng = random.Random(f"measure:{config.seed}")
    told = [c for c in taught if c.told]
    chosen = rng.sample(told, min(_MEASURED, len(told)))
    aside = rng.sample(list(others), min(_MEASURED, len(others)))
    lessons = await gather([tutor.lesson(c, now, n, measured=True) for n, c in enumerate(chosen)])
    held = await gather([tutor.held(t, rng.choice(taught), now, n) for n, t in enumerate(aside)])
    found = _figures(lessons, held)
    return found["gap"] or 0.0, found["drift"] or 0.0


def _figures(lessons: Sequence[Lesson], held: Sequence[Held]) -> dict[str, Any]:
    """What a step's metrics say of them; None: nothing to say it of."""
    gaps = [gap for lesson in lessons for gap in lesson.gaps]
    drifts = [drift for item in held for drift in item.drifts]
    return {
        "gap": sum(gaps) / len(gaps) if gaps else None,
        "drift": sum(drifts) / len(drifts) if drifts else None,
        "corrected_turns": len(lessons),
        "held_turns": sum(bool(item.rows) for item in held),
        "not_held": dict(Counter(item.why for item in held if item.why)),
    }


def _trainer_config(config: CorrectConfig) -> TrainerConfig:
    return TrainerConfig(
        lr=config.lr,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        total_steps=config.steps,
        min_lr_share=config.min_lr_share,
        **config.of_steps(),
        max_tokens_per_microbatch=config.max_tokens_per_microbatch,
        loss=config.loss,
    )
