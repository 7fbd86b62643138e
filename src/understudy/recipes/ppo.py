"""PPO on logged episodes: single interactions with what people said of them, no groups, no replay.

Proximal policy optimisation (arXiv 1707.06347) where the old policy is whoever sampled the logs: a
value head learns what return a state lets one expect, advantages are generalised advantage
estimates over sampled tokens, normalised over the batch, and several epochs of mini-batches raise
the surrogate against the logged logprobs. Logs are all the way that there is to go, so its trust
region is wide, and of probabilities instead of ratios (loss.rl=dppo, train.losses): tight bounds
mask most of what stale data can teach (arXiv 2510.01161). What keeps the policy whole is that a
failed episode lowers the tokens that were unlikely (`estimation.blame`): lowering all of them, as
the plain estimate does, undoes what good and bad episodes share, and the policy with it. With a
`kl_bound`, an epoch ends early where the policy has left the sampler's by more than that, and
training with it where one ends at its first step. `imitate` also teaches what went better than the
mean by cross-entropy.
The value head is fitted to the logs' returns before the first policy step (VC-PPO, arXiv
2503.01491, warms it up; here in closed form, train.value_fit) and stays as it is: the logs are one
policy's. In a world see recipes.ppo_world.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from understudy.core.rows import Row
from understudy.core.types import Episode
from understudy.judges.check import Check
from understudy.recipes.actor_critic import (
    Estimate,
    Estimation,
    beyond,
    critic_rows,
    estimate,
    mini_batches,
    values_of,
)
from understudy.recipes.batches import take_step
from understudy.recipes.checkpoints import Checkpoints
from understudy.recipes.learner import bound_to, make_value_head, training
from understudy.recipes.lineage import save_trained
from understudy.recipes.logged import LogConfig, Logged, changes, in_split, logged, none_left
from understudy.recipes.resuming import begun_with, from_checkpoint
from understudy.recipes.rollouts import RolloutConfig
from understudy.recipes.trust import Trust
from understudy.recipes.tuning import Tuned
from understudy.runs.directory import Run, read_json
from understudy.runs.progress import Progress
from understudy.train.losses import LossConfig
from understudy.train.optimiser import Schedule, TrainerConfig
from understudy.train.trainer import Trainer
from understudy.train.value_head import ValueConfig

VALUES = "values.json"


class PlayConfig(RolloutConfig):
    """Playing in a world, a step's episodes at a time: each scenario once, by the newest policy."""

    steps: PositiveInt = 40
    epochs: PositiveInt = 2  # over a step's episodes
    # of a step's returns in the next fit of values: 0.8 keeps five steps' worth
    value_memory: float = Field(default=0.8, ge=0, lt=1)
    scenarios_per_step: PositiveInt = 64
    group_size: int = Field(default=1, ge=1, le=1)
    max_staleness: int = Field(default=0, ge=0, le=0)
    again: float = Field(default=0.0, ge=0, lt=1)
    # What is said when all is done changes no reward, and without a group nothing tells it apart:
    # policies came to end in babble (DAPO's overlong punishment, arXiv 2503.14476)
    cut_off_cost: float = Field(default=0.5, ge=0)
    trust: Trust = Trust()  # what the world's fidelity must show, or training in it warns
    language: str | None = None  # a run whose model fills the world's gaps; see `train world`


class PpoConfig(Tuned):
    start: str | None = None  # the adapter that sampled the logs
    log: LogConfig = LogConfig()
    play: PlayConfig = PlayConfig()
    estimation: Estimation = Estimation(blame=1.0)
    value: ValueConfig = ValueConfig(share=0.1)  # in a world the model learns to tell values too
    epochs: PositiveInt = 3
    batch_episodes: PositiveInt = 64  # of a mini-batch
    kl_bound: PositiveFloat | None = None  # a step's mean over its tokens, KL(sampler || policy)
    lr: PositiveFloat = 5e-4  # 1e-5 to 4e-5 on models of 4 billion parameters and more
    schedule: Schedule = "linear"  # to 0 at the end of the logs, or of play
    warmup_steps: NonNegativeInt = 2
    beta2: float = Field(default=0.98, gt=0, lt=1)  # AdamW's; runs have hundreds of steps
    loss: LossConfig = LossConfig(rl="dppo", clip_low=0.5, clip_high=0.9)
    imitate: NonNegativeFloat = 0.0  # weight of `ce` on logged episodes better than their mean
    echo: NonNegativeFloat = 0.0  # weight of `ce` on what tools and users said; 0.05 to 0.1
    max_tokens_per_microbatch: PositiveInt = 4096
    checkpoint_every: PositiveInt = 10
    keep_checkpoints: PositiveInt = 2  # the newest


@dataclass(frozen=True, slots=True)
class PpoResult:
    adapter: Path  # with tune=full a model's folder
    episodes: int
    left_out: dict[str, int]  # reason -> episodes
    changed: dict[str, int]  # what is not as it was logged -> how often
    steps: int  # taken
    epochs_cut: int  # that ended early, or that were not begun


def ppo(
    run: Run,
    episodes: Sequence[Episode],
    config: PpoConfig,
    check: Check | None = None,
    quiet: bool = False,
) -> PpoResult:
    """Train an adapter on what was logged; resumes from the last checkpoint with the episodes that
    it began with. Raises ValueError where none can be learned from, or all have one reward."""
    given, apart = in_split(episodes, config.log)

    def choose(given: Sequence[Episode]) -> tuple[list[Episode], Counter[str]]:
        found, why = logged(given, config.log, check)
        usable = {e.id for e in found}
        return [e for e in given if e.id in usable], why

    _, kept, left_out = begun_with(run, given, choose)
    left_out += Counter({f"not of the split {config.log.split}": apart})
    if not kept:
        raise none_left(left_out)
    learned, _ = logged(kept, config.log, check, echo=config.echo)
    changed = changes(learned)
    _check_they_differ(learned)
    usual = sum(e.reward for e in learned) / len(learned)
    learner = config.learner()
    learner.check_completions(c for e in kept for c in e.made_for("agent"))
    head = make_value_head(learner, config.start_folder)
    plan = _plan(len(learned), config)
    cores = torch.get_num_threads()
    with (
        training(learner, trainer_config(config, len(plan)), cores, head) as trainer,
        Progress("learn", total=len(plan), unit="steps", quiet=quiet) as progress,
    ):
        state = from_checkpoint(run, trainer)
        begin, cut = int(state["step"]), set(state.get("cut", ()))
        saved = Checkpoints(run, config.keep_checkpoints)
        estimates: list[Estimate] | None = None
        progress.advance(begin)
        for number in range(begin, len(plan)):
            epoch, place, batch = plan[number]
            progress.advance()
            if epoch in cut:
                continue
            estimates = estimates or _estimates(run, trainer, learned, config, number, progress)
            rows = [r for n in batch for r in _rows(learned[n], estimates[n], usual, config)]
            metrics = take_step(run, trainer, rows, number)
            run.log(
                number, epoch=epoch, **{k: v for k, v in metrics.as_dict().items() if k != "step"}
            )
            progress.update(
                kl=metrics.kl,
                clipped=metrics.clipped_share,
                tokens_per_second=round(metrics.tokens_per_s),
            )
            if metrics.skipped:
                progress.note(f"step {number}: no update, {metrics.skipped}")
            if beyond(metrics.kl, config.kl_bound):
                cut |= {epoch} if place else set(range(epoch, config.epochs))
                progress.note(f"epoch {epoch} ends at KL {metrics.kl:.3f}, its step {place + 1}")
            if (number + 1) % config.checkpoint_every == 0 or number + 1 == len(plan):
                saved.save(number + 1, trainer, {"cut": sorted(cut)})
        steps = trainer.steps
    metadata = {
        "recipe": "ppo",
        **bound_to(kept),
        "episodes": len(kept),
        "left_out": dict(+left_out),
        "changed": dict(changed),
    }
    adapter = save_trained(run, learner, metadata, head)
    run.write_artefact("ppo.json", metadata | {"steps": steps, "epochs_cut": sorted(cut)})
    return PpoResult(adapter, len(kept), dict(+left_out), dict(changed), steps, len(cut))


def _check_they_differ(learned: Sequence[Logged]) -> None:
    """Raises ValueError where every episode has the same reward, at its end: normalised advantages
    would be the value head's errors and nothing else."""
    rewards = {e.reward for e in learned}
    if len(rewards) == 1 and not any(any(e.rewards[:-1]) for e in learned):
        raise ValueError(
            f"all {len(learned)} episodes have the reward {rewards.pop():g}: there is nothing to "
            "tell better from worse by; give feedback, or a check, that tells them apart"
        )


def _rows(episode: Logged, estimated: Estimate, usual: float, config: PpoConfig) -> list[Row]:
    """What the policy learns from an episode."""
    imitate = config.imitate if episode.reward > usual else 0.0
    return episode.weighted(estimated.advantages, imitate=imitate)


def _plan(n: int, config: PpoConfig) -> list[tuple[int, int, list[int]]]:
    """Epoch, place in it and the episodes' numbers of each step."""
    return [
        (epoch, place, batch)
        for epoch in range(config.epochs)
        for place, batch in enumerate(
            mini_batches(n, config.batch_episodes, f"{config.seed}/{epoch}")
        )
    ]


def _estimates(
    run: Run,
    trainer: Trainer,
    learned: Sequence[Logged],
    config: PpoConfig,
    taken: int,
    progress: Progress,
) -> list[Estimate]:
    """Advantages by a value head that is fitted before the first policy step. The values are
    written down: a resumed run has them from there, one that begins from another's checkpoint
    fits its own."""
    if taken == 0 or not (run.artefacts / VALUES).exists():
        rows = [r for e in learned for r in critic_rows(e, config.estimation)]
        explained = trainer.fit_values(rows)
        progress.note(f"values: {explained:.0%} of what the returns of other episodes differ by")
        run.write_artefact(VALUES, values_of(trainer, learned))
        run.write_artefact("value_head.json", {"explained": explained})
    values = read_json(run.artefacts / VALUES)
    return estimate(learned, values, config.estimation)


def trainer_config(config: PpoConfig, total_steps: int | None = None) -> TrainerConfig:
    return TrainerConfig(
        lr=config.lr,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        total_steps=total_steps,
        betas=(0.9, config.beta2),
        **config.of_steps(),
        max_tokens_per_microbatch=config.max_tokens_per_microbatch,
        temperature=config.log.temperature,
        loss=config.loss,
        value=config.value,
    )
