"""PPO in a learned world, on-policy: each step's episodes are played by the policy as it then is.

As recipes.ppo, but that a step plays `play.scenarios_per_step` scenarios once each, judges them,
and goes over them `play.epochs` times before the adapter is handed to the engine again. No groups:
the value head is the baseline. It is fitted anew before each step, in closed form, to that step's
returns and to those of the steps before, which fade (`play.value_memory`). What is played, and what
of it may be learned from, is as for GRPO (recipes.rollouts): guards, doubt, curriculum, evaluation.
`seed` is the recipe's, and what is logged is what was played, its rewards as they were vetted: of
`log`, only `max_tokens` and `long_rows` have a say here.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.core.cores import usable_cores
from understudy.core.rows import Row
from understudy.judges.check import Check
from understudy.recipes.actor import Actor
from understudy.recipes.actor_critic import (
    actor_rows,
    beyond,
    critic_rows,
    estimate,
    mini_batches,
    values_of,
)
from understudy.recipes.batches import described, take_step
from understudy.recipes.checkpoints import Checkpoints, Score
from understudy.recipes.learner import (
    bound_to,
    make_engine,
    make_value_head,
    training,
)
from understudy.recipes.lineage import save_trained
from understudy.recipes.logged import Logged, changes, logged
from understudy.recipes.ppo import PpoConfig, trainer_config
from understudy.recipes.rehearsal import Played, gather
from understudy.recipes.resuming import from_checkpoint
from understudy.recipes.rollouts import Rollouts
from understudy.recipes.trust import warn
from understudy.recipes.world_language import filling, language_of
from understudy.runs.directory import Run
from understudy.runs.progress import Progress
from understudy.train.trainer import StepMetrics, Trainer
from understudy.world.language.filler import counts_of
from understudy.world.model import World


@dataclass(frozen=True, slots=True)
class PlayedResult:
    adapter: Path  # with tune=full a model's folder
    steps: int
    reward: float  # of the last step
    success: float
    stopped: str | None = None  # the alarms that ended it


async def ppo_in_world(
    run: Run,
    world: World,
    check: Check,
    config: PpoConfig,
    workload: str = "default",
    threads: int | None = None,
    quiet: bool = False,
) -> PlayedResult:
    """Train an adapter in `world` with `check` as the reward; resumes from the last checkpoint.
    With guards, their alarms end it early: `stopped` says why, and the adapter is as it was then.

    Raises ValueError where the world has nothing to rehearse, RuntimeError after three steps
    without any reward, NonFiniteError after three whose loss or gradient is not finite.
    """
    config = of_the_world(config)
    play = config.play
    warn(run, world, play.trust)
    language = language_of(play.language, config)
    rollouts = Rollouts(world, check, play, workload)
    guards = rollouts.guards
    learner = config.learner()
    head = make_value_head(learner, config.start_folder)
    reward = success = 0.0
    threads = 1 if play.exact else threads
    cores = threads or usable_cores()
    async with AsyncExitStack() as stack:
        # its own rate is constant: `_learn` lets it fall
        steady = trainer_config(config.model_copy(update={"schedule": "constant"}))
        trainer = stack.enter_context(training(learner, steady, cores, head))
        state = from_checkpoint(run, trainer)
        rollouts.restore(state)
        kept = Checkpoints(run, config.keep_checkpoints)
        begin = steps = int(state["step"])
        versions = 1 if play.exact else 2
        engine, chat = make_engine(learner.base, threads, versions, play.exact, run)
        stack.push_async_callback(engine.aclose)
        filled = await stack.enter_async_context(filling(language, threads, chat))
        environment, actor = filled(world), Actor(learner, engine, play.sampling)
        rollouts.on(chat, actor, environment)
        progress = stack.enter_context(
            Progress("rehearse", total=play.steps, unit="steps", quiet=quiet)
        )
        progress.advance(begin)
        for step in range(begin, play.steps):
            begun, known = time.perf_counter(), len(guards.alarms) if guards else 0
            await actor.deliver(step)
            found = await gather([start_one() for start_one in rollouts.plan(step)])
            played, counted = rollouts.looked_over(step, found)
            for alarm in guards.alarms[known:] if guards else ():
                progress.note(f"alarm: {alarm}")
            seconds, steps = time.perf_counter() - begun, step + 1
            rewards = _by_episode(played, lambda p: p.group.rewards)
            weights = _by_episode(played, lambda p: p.weights)
            given = [e for p in played for e in p.group.episodes]
            episodes, left_out = logged(given, config.log, None, rewards, config.echo)
            counted += left_out + changes(episodes)
            counted += sum((p.without_reward for p in played), Counter())
            values: dict[str, Any] = {"skipped": "nothing to learn from"}
            if episodes:
                before = trainer.steps
                metrics, skipped, foretold = _learn(run, trainer, episodes, weights, config, step)
                none_taken = trainer.steps == before
                values = metrics.as_dict() | {"skipped": metrics.skipped if none_taken else None}
                values["values_foretold"] = foretold
                counted.update({f"updates skipped: {why}": n for why, n in skipped.items()})
            values |= described(played, step)
            values.pop("step", None)  # the trainer's count of updates
            reward, success = values["reward"], values["success"]
            values |= {"rollout_seconds": seconds, "counted": dict(counted)}
            values |= {"guards": guards.figures} if guards else {}
            values |= {"language": counts_of(environment)} if play.language else {}
            score = None if play.evaluate_every else Score(success, "success of the step")
            if rollouts.evaluated_after(steps, play.steps):
                await actor.deliver(steps)
                values["evaluation"] = (evaluated := await rollouts.evaluate()).as_dict()
                score = Score(evaluated.mean, "success on held-out scenarios")
            run.log(step, **values)
            stopped = guards.stopped if guards else None
            last = steps == play.steps or stopped
            if steps % config.checkpoint_every == 0 or last or "evaluation" in values:
                kept.save(steps, trainer, rollouts.state(), score)
            progress.advance(
                reward=round(reward, 3),
                success=f"{success:.0%}",
                tokens_per_second=round(values["sampled_tokens"] / (time.perf_counter() - begun)),
            )
            if values["skipped"]:
                progress.note(f"step {step}: no update, {values['skipped']}: {dict(counted)}")
            elif skipped:
                progress.note(f"step {step}: updates skipped, {dict(skipped)}")
            if len(earned := {e.reward for e in episodes}) == 1:
                alike = f"all rewards are {earned.pop():g}, none is better than another"
                progress.note(f"step {step}: {alike}")
            if stopped:
                progress.note(f"stopped: {stopped}")
                break
    metadata = {"recipe": "ppo", **bound_to(rollouts.scenarios, world.tools())}
    adapter = save_trained(run, learner, metadata | {"success": success}, head)
    return PlayedResult(adapter, steps, reward, success, guards.stopped if guards else None)


def of_the_world(config: PpoConfig) -> PpoConfig:
    """The configuration with one seed and one temperature; what is logged is what was played, and
    the rate falls with the steps of play, whatever their updates. Raises ValueError for options
    that are of logs alone."""
    if config.schedule == "cosine":
        raise ValueError("in a world schedule is linear or constant, not cosine")
    if config.imitate:
        raise ValueError("imitate is of logs: in a world the policy plays what it learns from")
    of_play = {"split": "all", "temperature": config.play.temperature}
    log = config.log.model_copy(update=of_play)
    play = config.play.model_copy(update={"seed": config.seed})
    return config.model_copy(update={"log": log, "play": play})


def _by_episode(
    played: Sequence[Played], told: Callable[[Played], Sequence[float] | None]
) -> dict[str, float]:
    """What is told of the episodes of each group, by their ids; nothing where that is None."""
    return {
        e.id: value
        for item in played
        for e, value in zip(item.group.episodes, told(item) or (), strict=False)
    }


def _learn(
    run: Run,
    trainer: Trainer,
    found: list[Logged],
    weights: dict[str, float],
    config: PpoConfig,
    step: int,
) -> tuple[StepMetrics, Counter[str], float]:
    """The updates on a step's episodes, `weights` being those of doubtful ones; the last one's
    metrics, why others were skipped, and the share of the variance of other episodes' returns that
    the value head foretells."""
    size, skipped = config.batch_episodes, Counter[str]()

    share = 1.0 if config.schedule == "constant" else 1 - step / config.play.steps

    def update(rows: list[Row]) -> StepMetrics:
        metrics = take_step(run, trainer, rows, step, share)
        skipped.update([metrics.skipped] if metrics.skipped else [])
        return metrics

    critic = [r for e in found for r in critic_rows(e, config.estimation)]
    foretold = trainer.fit_values(critic, config.play.value_memory)
    estimates = estimate(found, values_of(trainer, found), config.estimation, weights)
    for epoch in range(config.play.epochs):
        for batch in mini_batches(len(found), size, f"{config.seed}/{step}/{epoch}"):
            metrics = update([r for n in batch for r in actor_rows(found[n], estimates[n])])
            if beyond(metrics.kl, config.kl_bound):
                return metrics, skipped, foretold
    return metrics, skipped, foretold
