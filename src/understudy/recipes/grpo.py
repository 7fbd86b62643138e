"""GRPO in a learned world: sample groups, judge them, push up what beat its group's mean.

Group relative policy optimisation (arXiv 2402.03300) with what the field has settled on since:
mean-centred advantages without the standard deviation (Dr. GRPO, arXiv 2503.20783), token-level
aggregation over the whole batch (DAPO, arXiv 2503.14476), no KL term and no reference model, the
sampler's recorded logprobs as the only anchor, groups with equal rewards left out before any
forward pass. `preset` chooses another published set of options (recipes.objective). One step: draw
scenarios, play `group_size` episodes of each, judge, one optimiser step, hand the adapter to the
engine. With `max_staleness`, episodes of the next steps are played while one is trained
(recipes.ahead).
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from understudy.core.cores import LoadWatch, threads_for_load, usable_cores
from understudy.core.rows import Row, RowStats, TooLong, policy_rows
from understudy.core.types import Episode
from understudy.engine.chat import LocalChat
from understudy.engine.vllm import VllmEngine
from understudy.judges.check import Check
from understudy.recipes.actor import Acting, Actor
from understudy.recipes.ahead import Ahead
from understudy.recipes.batches import described, take_step
from understudy.recipes.checkpoints import Checkpoints, Score, recent_mean
from understudy.recipes.learner import Learner, bound_to, make_engine, training
from understudy.recipes.lineage import save_trained
from understudy.recipes.objective import Objective, Preset, sampled_tokens, with_preset
from understudy.recipes.over_vllm import VllmActor
from understudy.recipes.rehearsal import Played
from understudy.recipes.resuming import from_checkpoint
from understudy.recipes.rewards import why_nothing
from understudy.recipes.rollouts import RolloutConfig, Rollouts
from understudy.recipes.trust import Trust, warn
from understudy.recipes.tuning import Tuned
from understudy.recipes.world_language import filling, language_of
from understudy.runs.directory import Run
from understudy.runs.progress import Progress
from understudy.train.losses import LossConfig
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import StepMetrics
from understudy.world.language.filler import counts_of
from understudy.world.model import World


class GrpoConfig(RolloutConfig, Tuned):
    renderer: str | None = None  # a chat format in the place of the base's own
    steps: PositiveInt = 40
    lr: PositiveFloat = 7e-4  # 1e-5 to 4e-5 on models of 4 billion parameters and more
    warmup_steps: int = Field(default=2, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    min_lr_share: float = Field(default=0.3, ge=0, le=1)
    preset: Preset | None = None  # a named set of the options below; see recipes.objective
    objective: Objective = Objective()
    loss: LossConfig = LossConfig()
    max_tokens_per_microbatch: PositiveInt = 4096
    max_row_tokens: PositiveInt | None = None  # None: as long as the engine's context lets them be
    long_rows: TooLong = "refuse"  # longer ones are left out; `cut`: their ends
    echo: NonNegativeFloat = 0.0  # weight of `ce` on what tools and users said; 0.05 to 0.1
    vllm: str | None = None  # the URL of a vLLM that plays in the embedded engine's place
    trust: Trust = Trust()  # what the world's fidelity must show, or training warns
    language: str | None = None  # a run whose model fills the world's gaps; see `train world`
    checkpoint_every: PositiveInt = 10
    keep_checkpoints: PositiveInt = 2  # the newest; the best stays too

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.group_size < 2:
            raise ValueError("an episode beats its group's mean only in a group: group_size >= 2")
        if self.exact and self.max_staleness:
            raise ValueError("exact runs are synchronous: leave max_staleness at 0")
        if self.vllm and (self.exact or self.tune == "full"):
            raise ValueError("a vLLM plays adapters, and never exactly: leave exact and tune alone")
        if self.max_staleness and self.loss.rl == "reinforce":
            raise ValueError("loss.rl=reinforce is for on-policy data: leave max_staleness at 0")
        return self

    @model_validator(mode="before")
    @classmethod
    def _over_preset(cls, values: Any) -> Any:
        return with_preset(values)


@dataclass(frozen=True, slots=True)
class GrpoResult:
    adapter: Path  # with tune=full a model's folder
    steps: int
    reward: float  # of the last step
    success: float
    stopped: str | None = None  # the alarms that ended it


async def grpo(
    run: Run,
    world: World,
    check: Check,
    config: GrpoConfig,
    workload: str = "default",
    threads: int | None = None,
    quiet: bool = False,
) -> GrpoResult:
    """Train an adapter in `world` with `check` as the reward; resumes from the last checkpoint.
    With guards, their alarms end it early: `stopped` says why, and the adapter is as it was then.

    Without `threads`, the cores of each step's training are those that others left free during its
    rollouts. Raises ValueError where the world has nothing to rehearse, RuntimeError after three
    steps without any reward, NonFiniteError after three whose loss or gradient is not finite.
    """
    warn(run, world, config.trust)
    language = language_of(config.language, config)
    rollouts = Rollouts(world, check, config, workload)
    about = {"recipe": "grpo", **bound_to(rollouts.scenarios, world.tools())}
    guards, total, overlap = rollouts.guards, config.steps, config.max_staleness > 0
    threads = 1 if config.exact else threads
    cores = threads or usable_cores()
    learner = config.learner(config.renderer)
    async with AsyncExitStack() as stack:
        trained = training(learner, _trainer_config(config), cores, beside=overlap)
        trainer = stack.enter_context(trained)
        state = from_checkpoint(run, trainer)
        rollouts.restore(state)
        begin = steps = int(state["step"])
        versions = 1 if config.exact else 2 + config.max_staleness
        chat, actor = await stack.enter_async_context(
            _played_by(learner, config, run, threads, versions)
        )
        filled = await stack.enter_async_context(filling(language, threads, chat))
        environment = filled(world)
        rollouts.on(chat, actor, environment)
        await actor.deliver(begin)
        pool = stack.enter_context(ThreadPoolExecutor(1))
        ahead = await stack.enter_async_context(
            Ahead(rollouts.plan, range(begin, total), config.max_staleness,
                  config.scenarios_per_step)
        )  # fmt: skip
        progress = stack.enter_context(Progress("rehearse", total=total, unit="steps", quiet=quiet))
        progress.advance(begin)
        if len(rollouts.scenarios) < config.scenarios_per_step:
            few = f"the traffic gives {len(rollouts.scenarios)} scenarios: each step plays all"
            progress.note(few)
        kept = Checkpoints(run, config.keep_checkpoints)
        before = run.metrics().rows[-1:] if begin else ()
        reward, success = next(((r["reward"], r["success"]) for r in before), (0.0, 0.0))

        def train(rows: Sequence[Row], step: int, free: int) -> StepMetrics:
            trainer.use_cores(free)
            return take_step(run, trainer, rows, step)

        for step in range(begin, total):
            begun, load = time.perf_counter(), LoadWatch()
            if config.exact and steps > begin:  # an evaluation leaves nothing behind
                await actor.deliver(step)
            ahead.at(step)
            known = len(guards.alarms) if guards else 0
            played, counted = rollouts.looked_over(step, await ahead.batch(step))
            for alarm in guards.alarms[known:] if guards else ():
                progress.note(f"alarm: {alarm}")
            waited = time.perf_counter() - begun
            rows, more = training_rows(
                played, config.objective, config.echo, config.max_row_tokens, config.long_rows
            )
            if overlap:
                running = asyncio.get_running_loop().run_in_executor
                metrics = await running(pool, train, rows, step, cores)
            else:
                metrics = train(rows, step, threads or threads_for_load(busy=load.busy()))
            await actor.deliver(step + 1)
            seconds, steps = time.perf_counter() - begun, step + 1
            values = metrics.as_dict() | described(played, step)
            del values["step"]  # the trainer's count of updates; skipped steps are logged too
            reward, success = values["reward"], values["success"]
            values |= {"rollout_seconds": waited, "step_seconds": seconds}  # `seconds`: training
            values |= {"counted": dict(counted + more)}
            values |= {"guards": guards.figures} if guards else {}
            values |= {"language": counts_of(environment)} if config.language else {}
            if rollouts.evaluated_after(steps, total):
                values["evaluation"] = (await rollouts.evaluate()).as_dict()
            run.log(step, **values)
            stopped = guards.stopped if guards else None
            evaluated = values.get("evaluation")
            if steps % config.checkpoint_every == 0 or steps == total or stopped or evaluated:
                best = kept.save(steps, trainer, rollouts.state(), _score(run, config, evaluated))
                if best:
                    save_trained(run, learner, about | {"success": success}, name="best")
            progress.advance(
                reward=round(reward, 3),
                success=f"{success:.0%}",
                tokens_per_second=round(values["sampled_tokens"] / seconds),
                entropy=metrics.entropy,
                flat=more["flat groups"],
                alarm=f"{guards.level:.0%}" if guards else None,
            )
            if metrics.skipped:
                why = metrics.skipped if rows else f"nothing to learn: {why_nothing(played)}"
                progress.note(f"step {step}: no update, {why}")
            if stopped:
                progress.note(f"stopped: {stopped}")
                break
    adapter = save_trained(run, learner, about | {"success": success})
    return GrpoResult(adapter, steps, reward, success, guards.stopped if guards else None)


@asynccontextmanager
async def _played_by(
    learner: Learner, config: GrpoConfig, run: Run, threads: int | None, versions: int
) -> AsyncIterator[tuple[LocalChat, Acting]]:
    """Where episodes are played and by whom: the embedded engine, or a vLLM that is there."""
    if config.vllm is None:
        engine, chat = make_engine(learner.base, threads, versions, config.exact, run)
        try:
            yield chat, Actor(learner, engine, config.sampling)
        finally:
            await engine.aclose()
        return
    base = learner.base
    async with VllmEngine(
        config.vllm, base.name, base.renderer.stop_ids, keep_versions=versions
    ) as remote:
        actor = VllmActor(learner, remote, config.sampling, run.path / "delivered")
        try:
            yield LocalChat(remote, base.renderer, base.name, origin=base.origin), actor
        finally:
            await actor.aclose()


def training_rows(
    played: list[Played],
    objective: Objective | None = None,
    echo: float = 0.0,
    max_tokens: int | None = None,
    too_long: TooLong = "refuse",
) -> tuple[list[Row], Counter[str]]:
    """Rows of every group whose rewards differ, and what was left out, counted. With `echo` (see
    core.rows) those of the other groups too, for what tools and users said in them. Rows are of at
    most `max_tokens`; the rewards of longer ones' episodes count in their group's mean."""
    objective = objective or Objective()
    chosen: list[tuple[Episode, float]] = []
    heard: list[tuple[Episode, float]] = []  # flat groups' episodes
    rows: list[Row] = []
    counted: Counter[str] = Counter()
    stats = RowStats()
    for item in played:
        counted.update(item.without_reward)
        episodes = item.group.episodes
        weights = item.weights or (1.0,) * len(episodes)
        trainable = [sampled_tokens(e) > 0 for e in episodes]
        advantages = objective.of_group(item.group.rewards or (), trainable)
        if advantages.flat:
            counted["flat groups"] += 1
            heard += [(episode, 0.0) for episode in episodes] if echo else []
            continue
        counted["down-weighted"] += sum(0.0 < w < 1.0 for w in weights)
        for episode, advantage, weight in zip(episodes, advantages.values, weights, strict=True):
            if advantage is None:
                counted["episodes without a sampled token"] += 1
                continue
            chosen.append((episode, advantage * weight))
    for episode, advantage in (*objective.of_batch(chosen), *heard):
        more, seen = policy_rows(
            episode, advantage, echo=echo, max_tokens=max_tokens, too_long=too_long
        )
        rows.extend(more)
        stats += seen
    counted["rows"], counted["broken rows"] = stats.rows, stats.broken
    counted["rows that are too long, left out"] += stats.refused_rows
    counted["rows that are too long, cut"] += stats.cut_rows
    return objective.of_rows(rows, sum(len(p.group.episodes) for p in played)), counted


def _score(run: Run, config: GrpoConfig, evaluated: dict[str, Any] | None) -> Score | None:
    """How good the policy is now: as evaluated, or by what it earns where nothing is evaluated."""
    if evaluated is not None:
        return Score(float(evaluated["mean"]), "success on held-out scenarios")
    return None if config.evaluate_every else recent_mean(run, "reward")


def _trainer_config(config: GrpoConfig) -> TrainerConfig:
    return TrainerConfig(
        lr=config.lr,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        total_steps=config.steps,
        min_lr_share=config.min_lr_share,
        **config.of_steps(),
        max_tokens_per_microbatch=config.max_tokens_per_microbatch,
        temperature=config.temperature,
        loss=config.loss,
    )
