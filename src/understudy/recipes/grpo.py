"""GRPO in a learned world: sample groups, judge them, push up what beat its group's mean.

Group relative policy optimisation (arXiv 2402.03300) with what the field has settled on since:
mean-centred advantages without the standard deviation (Dr. GRPO, arXiv 2503.20783), token-level
aggregation over the whole batch (DAPO, arXiv 2503.14476), no KL term and no reference model, the
sampler's recorded logprobs as the only anchor, groups with equal rewards left out before any
forward pass. One step: draw scenarios, play `group_size` episodes of each, judge, one optimiser
step, hand the adapter to the engine.
"""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from understudy.core.cores import LoadWatch, threads_for_load, usable_cores
from understudy.core.protocols import Environment
from understudy.core.rows import Row, RowStats, policy_rows
from understudy.core.types import ModelRef, Policy, Sampling, Scenario
from understudy.judges.check import Check
from understudy.recipes.curriculum import Curriculum
from understudy.recipes.doubt import Doubt
from understudy.recipes.guarding import GuardConfig, Guarding
from understudy.recipes.learner import Lora, make_engine, make_learner, prompt_of, training
from understudy.recipes.rehearsal import Played, gather, play_group
from understudy.recipes.resuming import from_checkpoint
from understudy.recipes.trust import Trust, warn
from understudy.recipes.world_language import Language
from understudy.runs.config import Config
from understudy.runs.directory import Run
from understudy.runs.progress import Progress
from understudy.train import checkpoint
from understudy.train.advantages import group_advantages
from understudy.train.losses import LossConfig
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import StepMetrics, Trainer
from understudy.world.model import World


class GrpoConfig(Config):
    base: str = "tiny"
    renderer: str | None = None  # a chat format in the place of the base's own
    start: str | None = None  # an adapter folder to go on from; usually a distilled one
    lora: Lora = Lora()
    steps: PositiveInt = 40
    scenarios_per_step: PositiveInt = 16
    group_size: int = Field(default=8, ge=2)
    lr: PositiveFloat = 7e-4  # 1e-5 to 4e-5 on models of 4 billion parameters and more
    warmup_steps: int = Field(default=2, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    min_lr_share: float = Field(default=0.3, ge=0, le=1)
    loss: LossConfig = LossConfig()
    precision: Literal["fp32", "bf16"] = "bf16"
    gradient_checkpointing: bool = False  # less memory, more time
    max_tokens_per_microbatch: PositiveInt = 4096
    temperature: PositiveFloat = 1.0  # recorded logprobs are those of the sampled distribution
    max_tokens: PositiveInt = 128  # a turn
    max_turns: PositiveInt = 16
    pool: PositiveInt = 2000  # scenarios recombined from the traffic
    again: float = Field(default=0.25, ge=0, lt=1)  # see recipes.curriculum
    trust: Trust = Trust()  # what the world's fidelity must show, or training warns
    doubt: Doubt = Doubt()  # what becomes of steps that the world doubts
    guards: GuardConfig | None = None  # against holes in the world; see recipes.guarding
    language: str | None = None  # a run whose model fills the world's gaps; see `train world`
    checkpoint_every: PositiveInt = 10
    seed: int = 0


@dataclass(frozen=True, slots=True)
class GrpoResult:
    adapter: Path
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
    rollouts.
    """
    warn(run, world, config.trust)
    learner = make_learner(
        config.base,
        config.lora,
        config.seed,
        Path(config.start) if config.start else None,
        config.renderer,
    )
    scenarios = world.scenarios(config.pool, config.seed)
    curriculum = Curriculum(len(scenarios), config.again, config.seed)
    guards = Guarding(config.guards, world, check, config.seed) if config.guards else None
    with training(learner, _trainer_config(config), threads or usable_cores()) as trainer:
        begin = _resume(run, trainer, curriculum, guards)
        engine, chat = make_engine(learner.base, threads)
        filling = Language.load(Path(config.language)) if config.language else None

        async def play(
            rehearsed_in: Environment, step: int, drawn: Sequence[tuple[int, Scenario]]
        ) -> list[Played]:
            model = ModelRef(learner.base.name, "rehearsed", step)
            engine.load_weights(model, learner.tensors(), learner.lora)
            sampling = Sampling(temperature=config.temperature, max_tokens=config.max_tokens)
            policy = Policy("rehearsed", model, sampling=sampling)
            groups = [
                play_group(
                    chat,
                    policy,
                    rehearsed_in,
                    world.user,
                    scenario,
                    config.group_size,
                    seed=config.seed * 1_000_003 + step * 4099 + n,
                    check=check,
                    max_turns=config.max_turns,
                    workload=workload,
                    doubt=config.doubt,
                )
                for n, scenario in drawn
            ]
            return await gather(groups)

        done = run.metrics().rows[-1:] if begin else []
        reward, success = next(((r["reward"], r["success"]) for r in done), (0.0, 0.0))
        steps = begin
        try:
            async with AsyncExitStack() as stack:
                owner = None
                if filling is not None:
                    beside = filling.beside(world, engine, chat)
                    owner = await stack.enter_async_context(beside)
                rehearsed_in: Environment = owner or world
                progress = stack.enter_context(
                    Progress("rehearse", total=config.steps, unit="steps", quiet=quiet)
                )
                progress.advance(begin)
                if len(scenarios) < config.scenarios_per_step:
                    few = f"the traffic gives {len(scenarios)} scenarios: each step plays all"
                    progress.note(few)
                for step in range(begin, config.steps):
                    begun, load = time.perf_counter(), LoadWatch()
                    numbers = curriculum.draw(config.scenarios_per_step, step)
                    drawn = [(n, scenarios[n]) for n in numbers]
                    canaries = guards.canaries(step, [s for _, s in drawn]) if guards else []
                    impossible = [(len(scenarios) + i, c.scenario) for i, c in enumerate(canaries)]
                    played = await play(rehearsed_in, step, [*drawn, *impossible])
                    if guards is not None:
                        tried = list(zip(canaries, played[len(drawn) :], strict=True))
                        played = guards.watch(step, played[: len(drawn)], tried)
                    rollout_seconds = time.perf_counter() - begun
                    for n, group in zip(numbers, played, strict=True):
                        curriculum.saw(n, group.rate)
                    trainer.use_cores(threads or threads_for_load(busy=load.busy()))
                    rows, counted = training_rows(played)
                    metrics = trainer.step(rows)
                    reward, success = _means(played)
                    more = {"guards": guards.figures} if guards else {}
                    more |= {"language": dict(owner.counted)} if owner else {}
                    shown: dict[str, Any] = {"alarm": f"{guards.level:.0%}"} if guards else {}
                    _log(run, step, played, metrics, counted, rollout_seconds, more)
                    progress.advance(
                        reward=round(reward, 3),
                        success=f"{success:.0%}",
                        entropy=metrics.entropy,
                        flat=counted["flat groups"],
                        **shown,
                    )
                    steps = step + 1
                    if metrics.skipped:
                        progress.note(f"step {step}: no update, {metrics.skipped}")
                    if (step + 1) % config.checkpoint_every == 0:
                        state = {"step": step + 1, "curriculum": curriculum.state()}
                        state |= {"guards": guards.state()} if guards else {}
                        checkpoint.save(run.checkpoints / "last", trainer, state)
                    if guards is not None and guards.stopped:
                        progress.note(f"stopped: {guards.stopped}")
                        break
        finally:
            await engine.aclose()
    first = scenarios[0]
    metadata = {"recipe": "grpo", "prompt": prompt_of(first.messages, first.tools)}
    adapter = learner.save(run.path / "adapter", metadata | {"success": success})
    stopped = guards.stopped if guards else None
    return GrpoResult(adapter, steps, reward, success, stopped)


def training_rows(played: list[Played]) -> tuple[list[Row], Counter[str]]:
    """Rows of every group whose rewards differ, and what was left out, counted."""
    rows: list[Row] = []
    counted: Counter[str] = Counter()
    stats = RowStats()
    for item in played:
        counted.update({f"unjudged: {reason}": n for reason, n in item.failed.items()})
        counted.update({f"withheld: {reason}": n for reason, n in item.withheld.items()})
        episodes = item.group.episodes
        weights = item.weights or (1.0,) * len(episodes)
        trainable = [any(c.output_ids for c in e.completions) for e in episodes]
        advantages = group_advantages(item.group.rewards or (), trainable)
        if advantages.flat:
            counted["flat groups"] += 1
            continue
        counted["down-weighted"] += sum(w < 1.0 for w in weights)
        for episode, advantage, weight in zip(episodes, advantages.values, weights, strict=True):
            if advantage is None:
                counted["episodes without a sampled token"] += 1
                continue
            more, seen = policy_rows(episode, advantage * weight)
            rows.extend(more)
            stats += seen
    counted["rows"], counted["broken rows"] = stats.rows, stats.broken
    return rows, counted


def _means(played: list[Played]) -> tuple[float, float]:
    rewards = [r for item in played for r in item.group.rewards or ()]
    n = max(1, len(rewards))
    return sum(rewards) / n, sum(r >= 1.0 for r in rewards) / n


def _log(
    run: Run,
    step: int,
    played: list[Played],
    metrics: StepMetrics,
    counted: Counter[str],
    rollout_seconds: float,
    more: dict[str, Any],
) -> None:
    reward, success = _means(played)
    episodes = [e for item in played for e in item.group.episodes]
    turns = [len(e.completions) for e in episodes]
    ended = Counter(e.ended or "?" for e in episodes)
    sampled = sum(len(c.output_ids or ()) for e in episodes for c in e.completions)
    values: dict[str, Any] = metrics.as_dict() | {
        "reward": reward,
        "success": success,
        "turns": sum(turns) / max(1, len(turns)),
        "sampled_tokens": sampled,
        "rollout_seconds": rollout_seconds,  # `seconds` is the training alone
        "ended": dict(ended),
        "counted": dict(counted),
        **more,
    }
    values.pop("step")  # the trainer's count of updates; skipped steps are logged too
    run.log(step, **values)


def _trainer_config(config: GrpoConfig) -> TrainerConfig:
    return TrainerConfig(
        lr=config.lr,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        total_steps=config.steps,
        min_lr_share=config.min_lr_share,
        precision=config.precision,
        gradient_checkpointing=config.gradient_checkpointing,
        max_tokens_per_microbatch=config.max_tokens_per_microbatch,
        temperature=config.temperature,
        loss=config.loss,
    )


def _resume(run: Run, trainer: Trainer, curriculum: Curriculum, guards: Guarding | None) -> int:
    state = from_checkpoint(run, trainer)
    if "curriculum" in state:
        curriculum.restore(state["curriculum"])
    if guards is not None and "guards" in state:
        guards.restore(state["guards"])
    return int(state["step"])
