"""A policy gradient on a stream of single logged interactions: no groups, no environment.

SPO (arXiv 2509.13232): an episode's advantage is its reward less a baseline, what the value head
expects at the episode's first token, blended with a running mean of the scenario where it recurs.
Advantages are normalised over the batch's tokens (REINFORCE++, arXiv 2501.03262). Each token weighs
by its ratio to the logged logprob, truncated; tokens that would leave the sampler furthest are
masked until the batch's second moment of the log-ratio is under a bound (M2PO, arXiv 2510.01161); a
step on too small an effective sample is skipped. Episodes arrive from a fixed set or while it runs.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from understudy.core.rows import Entry, Row
from understudy.core.types import Episode
from understudy.judges.check import Check
from understudy.recipes.arrivals import ARRIVED, Arrivals, Pool, Source
from understudy.recipes.batches import take_step
from understudy.recipes.checkpoints import Checkpoints
from understudy.recipes.learner import Lora, make_learner, make_value_head, prompt_of, training
from understudy.recipes.logged import LogConfig, Logged, in_split, logged, none_left
from understudy.recipes.resuming import from_checkpoint
from understudy.runs.config import Config
from understudy.runs.directory import Run
from understudy.runs.progress import Progress
from understudy.train.gae import normalised
from understudy.train.losses import LossConfig
from understudy.train.off_policy import effective_share, negative_mask, second_moment_mask
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer
from understudy.train.value_head import ValueConfig

RECENT = 16


class StreamConfig(Config):
    base: str = "tiny"
    start: str | None = None  # the adapter that sampled the logs
    lora: Lora = Lora()
    log: LogConfig = LogConfig()
    steps: PositiveInt | None = None  # None: until each episode has been used `passes` times
    passes: PositiveInt = 8
    batch_episodes: PositiveInt = 64
    value: ValueConfig = ValueConfig()
    value_steps: NonNegativeInt = 4  # of the value head, after each of the policy
    tracker: float = Field(default=4.0, ge=0)  # observations that weigh as the head; 0: no tracker
    ratio_cap: PositiveFloat = 2.0
    second_moment: PositiveFloat | None = 0.04  # M2PO's bound
    negative_kl: PositiveFloat | None = None  # bound of 2606.17250
    max_staleness: NonNegativeInt | None = None  # versions behind the newest that was logged
    min_effective: float = Field(default=0.5, ge=0, le=1)  # share of the batch's tokens
    lr: PositiveFloat = 3e-4  # 1e-5 to 4e-5 on models of 4 billion parameters and more
    beta2: float = Field(default=0.98, gt=0, lt=1)
    precision: Literal["fp32", "bf16"] = "bf16"
    max_tokens_per_microbatch: PositiveInt = 4096
    checkpoint_every: PositiveInt = 10
    keep_checkpoints: PositiveInt = 2  # the newest
    poll_s: PositiveFloat = 5.0  # between looks at a store that is followed
    seed: int = 0


@dataclass(frozen=True, slots=True)
class StreamResult:
    adapter: Path
    episodes: int
    left_out: dict[str, int]  # reason -> episodes
    steps: int
    skipped: int  # steps without an update


class Tracker:
    """The latest `RECENT` episodes of each scenario that recurs, with their rewards."""

    def __init__(self, prior: float) -> None:
        self.prior = prior  # observations that weigh as much as the value head
        self.seen: dict[
            str, list[list[Any]]
        ] = {}  # scenario -> [episode's id, reward], latest last

    def blend(self, episode: Logged, value: float) -> float:
        """The baseline of an episode: the value head's number and the mean reward of its scenario's
        other episodes, by their weights."""
        others = [float(r) for i, r in self.seen.get(episode.scenario, ()) if i != episode.id]
        if not others or not self.prior:
            return value
        return (self.prior * value + sum(others)) / (self.prior + len(others))

    def saw(self, episode: Logged) -> None:
        known = [s for s in self.seen.get(episode.scenario, ()) if s[0] != episode.id]
        self.seen[episode.scenario] = [*known, [episode.id, episode.reward]][-RECENT:]


def stream(
    run: Run,
    source: Source,
    config: StreamConfig,
    check: Check | None = None,
    quiet: bool = False,
) -> StreamResult:
    """Train an adapter on episodes as they arrive; resumes from the last checkpoint, with what had
    arrived until then. A source that ends must hold something to learn from, else ValueError."""
    start = Path(config.start) if config.start else None
    learner = make_learner(config.base, config.lora, config.seed, start)
    head = make_value_head(learner, start)
    arrivals = Arrivals(source, run.artefacts / ARRIVED)
    pool, tracker = Pool(config.passes, config.seed), Tracker(config.tracker)
    left_out: Counter[str] = Counter()
    newest, count, skipped, prompt = -1, 0, 0, ""
    cores = torch.get_num_threads()
    with (
        training(learner, _trainer_config(config), cores, head) as trainer,
        Progress("learn", total=config.steps, unit="steps", quiet=quiet) as progress,
    ):
        state = from_checkpoint(run, trainer)
        step = begin = int(state["step"])
        kept = Checkpoints(run, config.keep_checkpoints)
        pool.uses, tracker.seen = dict(state.get("uses", {})), dict(state.get("seen", {}))
        skipped = int(state.get("skipped", 0))
        too_old = f"more than {config.max_staleness} versions old"
        left_out[too_old] = int(state.get("stale", 0))
        progress.advance(begin)
        while config.steps is None or step < config.steps:
            arrived = arrivals.before(step)
            given, apart = in_split(arrived, config.log)
            new, why = logged(given, config.log, check)
            used = {e.id for e in new}
            learner.check_completions(c for e in given if e.id in used for c in e.completions)
            left_out += why + Counter({f"not of the split {config.log.split}": apart})
            count += len(new)
            prompt = prompt or _prompt(given, new)
            newest = max([newest, *(e.version or 0 for e in new)])
            pool.add(new)
            stale = _stale(pool, newest, config.max_staleness)
            pool.drop(stale)
            left_out[too_old] += len(stale)
            drawn: list[Logged] = pool.draw(config.batch_episodes, step)
            if not drawn:
                if source.ends:
                    break
                time.sleep(config.poll_s)
                continue
            rows, told = _rows(trainer, drawn, tracker, config)
            enough = told["effective"] >= config.min_effective
            metrics = take_step(run, trainer, rows if enough else [], step)
            for _ in range(config.value_steps):
                last = trainer.step([_critic_row(e) for e in drawn])
                told["value_explained"] = last.value_explained
            few = f"the effective sample is {told['effective']:.0%} of the batch"
            told["skipped"] = metrics.skipped if enough else few
            skipped += told["skipped"] is not None
            run.log(step, **{k: v for k, v in metrics.as_dict().items() if k != "step"} | told)
            if told["skipped"]:
                progress.note(f"step {step}: no update, {told['skipped']}")
            progress.advance(
                reward=told["reward"], kl=metrics.kl, masked=told["masked"], pool=len(pool.items)
            )
            step += 1
            if step % config.checkpoint_every == 0:
                extra = {"uses": pool.uses, "seen": tracker.seen, "skipped": skipped}
                kept.save(step, trainer, extra | {"stale": left_out[too_old]})
                if not source.ends:  # who follows a store wants the adapter as it is now
                    learner.save(run.path / "adapter", {"recipe": "stream", "prompt": prompt}, head)
    why_not = dict(left_out + source.counted)
    if not count:
        raise none_left(left_out)
    metadata = {"recipe": "stream", "prompt": prompt, "episodes": count, "left_out": why_not}
    adapter = learner.save(run.path / "adapter", metadata, head)
    run.write_artefact("stream.json", metadata | {"steps": step, "skipped": skipped})
    return StreamResult(adapter, count, why_not, step, skipped)


def _rows(
    trainer: Trainer, drawn: Sequence[Logged], tracker: Tracker, config: StreamConfig
) -> tuple[list[Row], dict[str, Any]]:
    """What the policy learns from these episodes, and figures of it."""
    heads = trainer.values([e.start for e in drawn])
    baselines = [tracker.blend(e, v[0]) for e, v in zip(drawn, heads, strict=True)]
    for episode in drawn:
        tracker.saw(episode)
    plain = [np.full(e.tokens, e.reward - b) for e, b in zip(drawn, baselines, strict=True)]
    weight = np.concatenate(normalised(plain))
    now = iter(trainer.logprobs([row for e in drawn for row in e.rows]))
    parts = [np.subtract(e.in_turns([next(now) for _ in e.rows]), e.logprobs) for e in drawn]
    gap = np.concatenate(parts)
    kept = np.ones(len(gap), dtype=bool)
    if config.negative_kl is not None:
        kept &= negative_mask(gap, weight, config.negative_kl)
    if config.second_moment is not None:
        kept[kept] = second_moment_mask(gap[kept], weight[kept], config.second_moment)
    weight[~kept] = 0.0
    rows: list[Row] = []
    ends = np.cumsum([e.tokens for e in drawn])
    for episode, own in zip(drawn, np.split(weight, ends[:-1]), strict=True):
        rows += episode.weighted(own.tolist())
    return rows, {
        "reward": float(np.mean([e.reward for e in drawn])),
        "baseline": float(np.mean(baselines)),
        "episodes": len(drawn),
        "effective": effective_share(gap),
        "second_moment": float(np.mean(np.square(gap))),
        "masked": 1 - float(kept.mean()),
    }


def _critic_row(episode: Logged) -> Row:
    """What the value head learns: the reward, where the first token was sampled."""
    start = episode.start
    position = start.entries[0].position
    return Row(start.ids, (Entry(position, 0, "value", 1.0, episode.reward, episode.id),))


def _stale(pool: Pool, newest: int, most: int | None) -> list[str]:
    """The episodes that are more than `most` versions behind; one without a version is not."""
    if most is None:
        return []
    return [
        e.id for e in pool.items.values() if e.version is not None and newest - e.version > most
    ]


def _prompt(given: Sequence[Episode], new: Sequence[Logged]) -> str:
    """What the adapter is bound to: the prompt of the first episode that is learned from."""
    first = {e.id for e in new[:1]}
    return next((prompt_of(e.messages, e.tools) for e in given if e.id in first), "")


def _trainer_config(config: StreamConfig) -> TrainerConfig:
    return TrainerConfig(
        lr=config.lr,
        betas=(0.9, config.beta2),
        precision=config.precision,
        max_tokens_per_microbatch=config.max_tokens_per_microbatch,
        temperature=config.log.temperature,
        loss=LossConfig(rl="cispo", ratio_cap=config.ratio_cap),
        value=config.value,
    )
