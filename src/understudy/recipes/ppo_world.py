"""PPO in a learned world, on-policy: each step's episodes are played by the policy as it then is.

As recipes.ppo, but that a step plays `episodes_per_step` scenarios once each, judges them, and goes
over them `play.epochs` times before the adapter is handed to the engine again. No groups: the value
head is the baseline.
"""

import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from understudy.core.cores import usable_cores
from understudy.core.types import ModelRef, Policy, Sampling
from understudy.judges.check import Check
from understudy.recipes.actor_critic import (
    actor_rows,
    beyond,
    critic_rows,
    estimate,
    mini_batches,
    values_of,
)
from understudy.recipes.batches import take_step
from understudy.recipes.checkpoints import Checkpoints, Score
from understudy.recipes.curriculum import Curriculum
from understudy.recipes.learner import (
    make_engine,
    make_learner,
    make_value_head,
    prompt_of,
    training,
)
from understudy.recipes.logged import Logged, logged
from understudy.recipes.ppo import PpoConfig, trainer_config
from understudy.recipes.rehearsal import Played, gather, play_group
from understudy.recipes.resuming import from_checkpoint
from understudy.recipes.trust import warn
from understudy.recipes.world_language import filling, language_of
from understudy.runs.directory import Run
from understudy.runs.progress import Progress
from understudy.train.trainer import StepMetrics, Trainer
from understudy.world.language import counts_of
from understudy.world.model import World


@dataclass(frozen=True, slots=True)
class PlayedResult:
    adapter: Path
    steps: int
    reward: float  # of the last step
    success: float


async def ppo_in_world(
    run: Run,
    world: World,
    check: Check,
    config: PpoConfig,
    workload: str = "default",
    threads: int | None = None,
    quiet: bool = False,
) -> PlayedResult:
    """Train an adapter in `world` with `check` as the reward; resumes from the last checkpoint."""
    play = config.play
    warn(run, world, play.trust)
    language = language_of(play.language)
    start = Path(config.start) if config.start else None
    learner = make_learner(config.base, config.lora, config.seed, start)
    head = make_value_head(learner, start)
    scenarios = world.scenarios(play.pool, config.seed)
    curriculum = Curriculum(len(scenarios), 0.0, config.seed)
    log = config.log.model_copy(update={"split": "all", "reward": check.name})
    reward = success = 0.0
    cores = threads or usable_cores()
    with training(learner, trainer_config(config), cores, head) as trainer:
        state = from_checkpoint(run, trainer)
        kept = Checkpoints(run, config.keep_checkpoints)
        if "curriculum" in state:
            curriculum.restore(state["curriculum"])
        engine, chat = make_engine(learner.base, threads)
        sampling = Sampling(temperature=log.temperature, max_tokens=play.max_tokens)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(engine.aclose)
            filled = await stack.enter_async_context(filling(language, threads, chat))
            environment = filled(world)
            with Progress("rehearse", total=play.steps, unit="steps", quiet=quiet) as progress:
                progress.advance(int(state["step"]))
                for step in range(int(state["step"]), play.steps):
                    begun = time.perf_counter()
                    model = ModelRef(learner.base.name, "rehearsed", step)
                    engine.load_weights(model, learner.tensors(), learner.lora)
                    drawn = curriculum.draw(play.episodes_per_step, step)
                    played: list[Played] = await gather(
                        [
                            play_group(
                                chat,
                                Policy("rehearsed", model, sampling=sampling),
                                environment,
                                world.user,
                                scenarios[n],
                                1,
                                seed=config.seed * 1_000_003 + step * 4099 + n,
                                check=check,
                                max_turns=play.max_turns,
                                workload=workload,
                                doubt=play.doubt,
                            )
                            for n in drawn
                        ]
                    )
                    seconds = time.perf_counter() - begun
                    episodes = [e for item in played for e in item.group.episodes]
                    found, counted = logged(episodes, log)
                    for item in played:
                        counted.update({f"unjudged: {why}": n for why, n in item.failed.items()})
                    metrics = _learn(run, trainer, found, config, step) if found else None
                    reward = sum(e.reward for e in found) / max(1, len(found))
                    success = sum(e.reward >= 1.0 for e in found) / max(1, len(found))
                    became = counts_of(environment)
                    _log(run, step, found, metrics, counted, reward, success, seconds, became)
                    progress.advance(reward=round(reward, 3), success=f"{success:.0%}")
                    if metrics is None:
                        progress.note(
                            f"step {step}: no update, nothing was logged: {dict(counted)}"
                        )
                    if (step + 1) % config.checkpoint_every == 0 or step + 1 == play.steps:
                        score = Score(success, "success of the step")
                        kept.save(step + 1, trainer, {"curriculum": curriculum.state()}, score)
    first = scenarios[0]
    metadata = {"recipe": "ppo", "prompt": prompt_of(first.messages, first.tools)}
    adapter = learner.save(run.path / "adapter", metadata | {"success": success}, head)
    return PlayedResult(adapter, play.steps, reward, success)


def _learn(
    run: Run, trainer: Trainer, found: list[Logged], config: PpoConfig, step: int
) -> StepMetrics:
    """The updates on a step's episodes; the last one's metrics."""
    size = config.batch_episodes
    for epoch in range(config.value_warmup_epochs if step == 0 else 0):
        for batch in mini_batches(len(found), size, f"{config.seed}/warm-up/{epoch}"):
            rows = [r for n in batch for r in critic_rows(found[n], config.estimation)]
            take_step(run, trainer, rows, step)
    estimates = estimate(found, values_of(trainer, found), config.estimation)
    for epoch in range(config.play.epochs):
        for batch in mini_batches(len(found), size, f"{config.seed}/{step}/{epoch}"):
            rows = [r for n in batch for r in actor_rows(found[n], estimates[n])]
            metrics = take_step(run, trainer, rows, step)
            if beyond(metrics.kl, config.kl_bound):
                return metrics
    return metrics


def _log(
    run: Run,
    step: int,
    found: list[Logged],
    metrics: StepMetrics | None,
    counted: Counter[str],
    reward: float,
    success: float,
    seconds: float,
    language: dict[str, int],
) -> None:
    values = {} if metrics is None else metrics.as_dict()
    values.pop("step", None)  # the trainer's count of updates
    values |= {
        "reward": reward,
        "success": success,
        "sampled_tokens": sum(e.tokens for e in found),
        "rollout_seconds": seconds,
        "counted": dict(counted),
        **({"language": language} if language else {}),
    }
    run.log(step, **values)
