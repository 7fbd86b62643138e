"""On-policy distillation: the student acts, and a teacher says of each token how likely it would
have been.

The student is pulled towards the teacher where the student itself goes, by the reverse KL
divergence per token (MiniLLM, arXiv 2306.08543; GKD, 2306.13649): dense where a reward is one
number an episode, and no reward is needed. core.teaching says which stream that is, and why.

It acts in a learned world, anew at each step, or its own logged episodes are taken as they are:
then the importance ratio against the recorded logprobs makes up for its having changed. The
teacher is another adapter of the base, a larger base with the same tokenizer, or either of them
under another system prompt, which the student then needs no more. With `top_k` the teacher's
likeliest tokens in each place are taught (forward KL) instead of what the student drew.

Defaults: four episodes of a scenario, as in "On-Policy Distillation" (Thinking Machines Lab, 2025);
the learning rate is that of `grpo`.
"""

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from understudy.core.cores import usable_cores
from understudy.core.protocols import Chat
from understudy.core.rows import (
    Row,
    RowStats,
    SampledRow,
    TooLong,
    echo_entries,
    limit_rows,
    rows_of,
)
from understudy.core.teaching import forward_row, reverse_row
from understudy.core.types import (
    Episode,
    ModelRef,
    Policy,
    Sampling,
    Scenario,
    Split,
    split_of,
)
from understudy.envs.rollout import rollout
from understudy.recipes.batches import take_step
from understudy.recipes.checkpoints import Checkpoints
from understudy.recipes.learner import Learner, bound_to, make_engine, training
from understudy.recipes.lineage import save_trained
from understudy.recipes.logged import agents_turns, none_left, why_unfit
from understudy.recipes.rehearsal import gather
from understudy.recipes.resuming import begun_with, from_checkpoint
from understudy.recipes.teacher import Teacher, Told, teacher_beside, under_prompt
from understudy.recipes.trust import Trust, warn
from understudy.recipes.tuning import Tuned
from understudy.runs.directory import Run
from understudy.runs.progress import Progress
from understudy.train.losses import LossConfig
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer
from understudy.world.model import World

TOO_LONG = "longer than the teacher's context"
LONG = f"rows {TOO_LONG}"  # a step's count
IDLE = 3  # steps in a row with nothing to teach, after which a run stops


class OpdConfig(Tuned):
    teacher: str | None = None  # an adapter folder of the teacher's base; None: that base alone
    teacher_base: str | None = None  # a folder of a model with the same tokenizer
    teacher_prompt: str | None = None  # the system prompt that the teacher reads
    top_k: NonNegativeInt = 0  # > 0: forward KL over so many of the teacher's likeliest tokens
    split: Split | Literal["all"] = "train"  # of logged episodes
    steps: PositiveInt = 40
    exact: bool = False  # bit for bit the same run each time: on one core, in lockstep
    scenarios_per_step: PositiveInt = 16
    group_size: PositiveInt = 4  # of logged episodes: that many times `scenarios_per_step` a step
    pool: PositiveInt = 2000  # scenarios recombined from the traffic
    trust: Trust = Trust()  # what the world's fidelity must show, or playing in it warns
    lr: PositiveFloat = 7e-4
    warmup_steps: int = Field(default=2, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    min_lr_share: float = Field(default=0.3, ge=0, le=1)
    loss: LossConfig = LossConfig()
    echo: NonNegativeFloat = 0.0  # weight of `ce` on what tools and users said; 0.05 to 0.1
    max_tokens_per_microbatch: PositiveInt = 4096
    max_row_tokens: PositiveInt | None = None  # None: as long as the engine's context lets them be
    long_rows: TooLong = "refuse"  # longer ones are left out; `cut`: their ends
    max_tokens: PositiveInt = 128  # a turn
    max_turns: PositiveInt = 16
    checkpoint_every: PositiveInt = 10
    keep_checkpoints: PositiveInt = 2  # the newest

    @model_validator(mode="after")
    def _taught_by_another(self) -> Self:
        if self.teacher is self.teacher_base is self.teacher_prompt is None:
            raise ValueError("name a teacher, a teacher_base or a teacher_prompt")
        return self


@dataclass(frozen=True, slots=True)
class OpdResult:
    adapter: Path  # with tune=full a model's folder
    steps: int
    gap: float  # of the last step: log student - log teacher, the mean over sampled tokens
    left_out: dict[str, int]  # reason -> logged episodes
    rows_left_out: dict[str, int]  # reason -> rows of episodes that were played


async def opd(
    run: Run,
    config: OpdConfig,
    world: World | None = None,
    episodes: Sequence[Episode] = (),
    workload: str = "default",
    threads: int | None = None,
    quiet: bool = False,
) -> OpdResult:
    """Train an adapter towards a teacher, in `world` or on logged `episodes`; resumes from the last
    checkpoint.

    Raises ValueError without either, where no logged episode has the ids and logprobs of an engine
    of ours or fits the teacher, and for a teacher of another tokenizer; RuntimeError after three
    steps in a row with nothing to teach.
    """
    logged, left_out = list[Episode](), Counter[str]()
    if world is None:
        logged, left_out = _logged(run, episodes, config)
    else:
        warn(run, world, config.trust)
    learner = config.learner()
    learner.check_completions(c for e in logged for c in e.made_for("agent"))
    scenarios = world.scenarios(config.pool, config.seed) if world is not None else []
    if world is not None and not scenarios:
        raise ValueError("the world has no scenario to play: learn it from more episodes")
    threads = 1 if config.exact else threads
    with training(learner, _trainer_config(config), threads or usable_cores()) as trainer:
        # of the base as before
        engine, chat = make_engine(learner.base, threads, lockstep=config.exact, run=run)
        begin = int(from_checkpoint(run, trainer)["step"])
        kept = Checkpoints(run, config.keep_checkpoints)
        done = run.metrics().rows[-1:] if begin else []
        gap, idle = next((r["gap"] or 0.0 for r in done), 0.0), 0
        async with AsyncExitStack() as stack:
            stack.push_async_callback(engine.aclose)
            teacher = await stack.enter_async_context(
                teacher_beside(learner.base, engine, config.teacher_base, config.teacher,
                               config.top_k, threads, config)
            )  # fmt: skip
            if world is None:
                logged, more = _fitting(logged, learner, teacher, config)
                left_out += more
            progress = stack.enter_context(
                Progress("distil on-policy", total=config.steps, unit="steps", quiet=quiet)
            )
            progress.advance(begin)
            for step in range(begin, config.steps):
                rng = random.Random(f"opd:{config.seed}:{step}")
                if world is not None:
                    drawn = rng.sample(scenarios, min(config.scenarios_per_step, len(scenarios)))
                    model = ModelRef(learner.base.name, "student", step)
                    if config.exact:
                        engine.forget_past()
                    engine.load_weights(model, learner.tensors(), learner.lora)
                    played = await _play(chat, model, world, drawn, step, config, workload)
                else:
                    size = config.scenarios_per_step * config.group_size
                    played = rng.sample(logged, min(size, len(logged)))
                fresh = world is not None
                rows, apart, stats, limits = await taught(
                    played, learner, trainer, teacher, config, fresh
                )
                gap = gap if apart is None else apart
                metrics = take_step(run, trainer, rows, step)
                values = {k: v for k, v in metrics.as_dict().items() if k != "step"}
                failed = [c.error for e in played for c in e.completions if c.error]
                counted = {
                    "rows": stats.rows,
                    "broken rows": stats.broken,
                    "turns without ids": stats.without_ids,
                    "turns that failed": len(failed),
                    LONG: stats.refused_rows,
                    "rows that are too long, left out": limits.refused_rows,
                    "rows that are too long, cut": limits.cut_rows,
                }
                run.log(step, **values, gap=apart, counted=counted)
                progress.advance(
                    gap=round(gap, 4),
                    entropy=metrics.entropy,
                    tokens_per_second=round(metrics.tokens_per_s),
                )
                nothing = f"nothing to teach ({'; '.join([*failed[:1], str(counted)])})"
                idle, why = (0, metrics.skipped) if rows else (idle + 1, nothing)
                if metrics.skipped:
                    progress.note(f"step {step}: no update, {why}")
                if idle == IDLE:
                    raise RuntimeError(
                        f"{idle} steps in a row had {nothing}: take shorter prompts and episodes, "
                        f"or a teacher of a longer context than {teacher.engine.context} tokens"
                    )
                if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                    kept.save(step + 1, trainer, {})
    bound = bound_to(logged) if world is None else bound_to(scenarios, world.tools())
    metadata = {"recipe": "opd", **bound}
    adapter = save_trained(run, learner, metadata | {"gap": gap})
    rows_left_out = Counter[str]()
    for row in run.metrics().rows:
        rows_left_out[TOO_LONG] += row["counted"].get(LONG, 0)
    return OpdResult(adapter, config.steps, gap, dict(+left_out), dict(+rows_left_out))


async def taught(
    episodes: Sequence[Episode],
    learner: Learner,
    trainer: Trainer,
    teacher: Teacher,
    config: OpdConfig,
    fresh: bool,
) -> tuple[list[Row], float | None, RowStats, RowStats]:
    """The episodes' rows as the teacher weighs them, the mean gap of their sampled tokens (those of
    rows that are too long to train on as well), what became of the turns (rows that the teacher
    cannot read are left out), and of rows that are too long to train on. Where they are not
    `fresh`, the policy of now is asked too."""
    found: list[tuple[SampledRow, str]] = []
    prompts: list[list[int] | None] = []
    stats = RowStats()
    for episode in episodes:
        asked, seen = _asked(episode, learner, teacher, config.teacher_prompt)
        stats += seen
        found += [(row, episode.id) for row, _ in asked]
        prompts += [prompt for _, prompt in asked]
    told: list[Told] = await gather(
        [teacher.told(row, prompt) for (row, _), prompt in zip(found, prompts, strict=True)]
    )
    now: Sequence[Sequence[float] | None] = [None] * len(found)
    if not fresh:
        now = trainer.logprobs([reverse_row(row, t.logprobs, sample_id=name)
                                for (row, name), t in zip(found, told, strict=True)])  # fmt: skip
    weighed = [_weighed(row, name, t, own, config)
               for (row, name), t, own in zip(found, told, now, strict=True)]  # fmt: skip
    apart = [
        p - q
        for (row, _), t, own in zip(found, told, now, strict=True)
        for p, q in zip(own or _recorded(row), t.logprobs, strict=True)
    ]
    kept, limits = limit_rows(weighed, config.max_row_tokens, config.long_rows)
    return kept, sum(apart) / len(apart) if apart else None, stats, limits


def _weighed(
    row: SampledRow, name: str, told: Told, now: Sequence[float] | None, config: OpdConfig
) -> Row:
    """The row with the entries of its sampled tokens, or of the teacher's likeliest, and of what
    was heard."""
    if config.top_k:
        weighed = forward_row(row, told.top, sample_id=name)
    else:
        weighed = reverse_row(row, told.logprobs, now, sample_id=name)
    heard = echo_entries(row, config.echo, name) if config.echo else ()
    return Row(row.ids, (*weighed.entries, *heard))


def _asked(
    episode: Episode, learner: Learner, teacher: Teacher, prompt: str | None
) -> tuple[list[tuple[SampledRow, list[int] | None]], RowStats]:
    """The episode's rows that the teacher can read, each with what it reads before the first
    sampled token (None: what the student read); and what became of the turns."""
    turns = {c.id: c for c in agents_turns(episode)}
    rows, stats = rows_of(turns.values())
    asked: list[tuple[SampledRow, list[int] | None]] = []
    for row in rows:
        request = turns[row.spans[0].completion_id].request
        reading = None
        if prompt is not None:
            messages = under_prompt(request.messages, prompt)
            reading = learner.base.renderer.prompt_ids(messages, request.tools)
        if teacher.fits(row, reading):
            asked.append((row, reading))
    return asked, replace(stats, rows=len(asked), refused_rows=len(rows) - len(asked))


def _recorded(row: SampledRow) -> list[float]:
    return [value for span in row.spans for value in span.logprobs]


async def _play(
    chat: Chat,
    model: ModelRef,
    world: World,
    drawn: Sequence[Scenario],
    step: int,
    config: OpdConfig,
    workload: str,
) -> list[Episode]:
    """`group_size` episodes of each scenario; nobody judges them."""
    policy = Policy("student", model, sampling=Sampling(max_tokens=config.max_tokens))

    async def one(scenario: Scenario, life: int, number: int) -> Episode:
        session = await world.start(scenario, life)
        try:
            return await rollout(
                chat,
                policy,
                session,
                scenario,
                world.user(scenario, life),
                max_turns=config.max_turns,
                seed=life * 1009 + number,
                workload=workload,
            )
        finally:
            await session.aclose()

    lives = [config.seed * 1_000_003 + step * 4099 + n for n in range(len(drawn))]
    return await gather(
        [one(scenario, life, number) for scenario, life in zip(drawn, lives, strict=True)
         for number in range(config.group_size)]
    )  # fmt: skip


def _logged(
    run: Run, episodes: Sequence[Episode], config: OpdConfig
) -> tuple[list[Episode], Counter[str]]:
    """The episodes that an engine of ours recorded, and why others are left out."""
    given = [e for e in episodes if config.split in ("all", split_of(e.scenario_id or e.id))]

    def choose(found: Sequence[Episode]) -> tuple[list[Episode], Counter[str]]:
        unfit = [why_unfit(agents_turns(e)) for e in found]
        kept = [e for e, why in zip(found, unfit, strict=True) if why is None]
        return kept, Counter(why for why in unfit if why is not None)

    _, kept, left_out = begun_with(run, given, choose)
    left_out += Counter({f"not of the split {config.split}": len(episodes) - len(given)})
    if not kept:
        raise none_left(left_out)
    return kept, +left_out


def _fitting(
    episodes: Sequence[Episode], learner: Learner, teacher: Teacher, config: OpdConfig
) -> tuple[list[Episode], Counter[str]]:
    """The logged episodes of which the teacher can read every row, and how many others."""
    kept = [
        e for e in episodes
        if not _asked(e, learner, teacher, config.teacher_prompt)[1].refused_rows
    ]  # fmt: skip
    if not kept:
        raise ValueError(
            f"all {len(episodes)} episodes are {TOO_LONG} of {teacher.engine.context} tokens: take "
            "a teacher of a longer one, or a shorter teacher_prompt"
        )
    return kept, Counter({TOO_LONG: len(episodes) - len(kept)})


def _trainer_config(config: OpdConfig) -> TrainerConfig:
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
