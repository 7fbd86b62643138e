"""A policy gradient on a stream of single logged interactions: no groups, no environment.

SPO (arXiv 2509.13232): an episode's advantage is its reward less a baseline, what the value head
expects at the episode's first token, blended with a running mean of the scenario where it recurs.
Advantages are normalised over the batch's tokens (REINFORCE++, arXiv 2501.03262). Each token weighs
by its ratio to the logged logprob, truncated; tokens that would leave the sampler furthest are
masked until the batch's second moment of the log-ratio is under a bound, where there is one (M2PO,
arXiv 2510.01161: of logs, whose sampler never comes nearer, it leaves little to learn); a step on
too small an effective sample is skipped. As in recipes.ppo, a failed episode lowers the tokens that
were unlikely (`blame`), and the rate falls to nothing where an end is known. Episodes arrive from a
fixed set or while it runs.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from understudy.core.binding import Prompts
from understudy.core.rows import Entry, Row
from understudy.core.types import Episode
from understudy.judges.check import Check
from understudy.recipes.actor_critic import blamed
from understudy.recipes.arrivals import Arrivals, Pool, Source
from understudy.recipes.batches import take_step
from understudy.recipes.checkpoints import Checkpoints
from understudy.recipes.learner import conversations_of, make_value_head, training
from understudy.recipes.lineage import save_trained
from understudy.recipes.logged import LogConfig, Logged, changes, in_split, logged, none_left
from understudy.recipes.resuming import from_checkpoint
from understudy.recipes.tuning import Tuned
from understudy.runs.directory import Run
from understudy.runs.progress import Progress
from understudy.train.gae import normalised
from understudy.train.losses import LossConfig
from understudy.train.off_policy import effective_share, negative_mask, second_moment_mask
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer
from understudy.train.value_head import ValueConfig

RECENT = 16  # episodes of a scenario
SCENARIOS = 4096  # that are remembered


class StreamConfig(Tuned):
    start: str | None = None  # the adapter that sampled the logs
    log: LogConfig = LogConfig()
    steps: PositiveInt | None = None  # None: until each episode has been used `passes` times
    passes: PositiveInt = 3
    batch_episodes: PositiveInt = 64
    value: ValueConfig = ValueConfig()
    value_steps: NonNegativeInt = 4  # of the value head, after each of the policy
    tracker: float = Field(default=4.0, ge=0)  # observations that weigh as the head; 0: no tracker
    blame: NonNegativeFloat = 1.0  # k: negative advantages times (1 - p_sampler)^k; see `blamed`
    ratio_cap: PositiveFloat = 5.0
    second_moment: PositiveFloat | None = None  # M2PO's bound, 0.04 there; see above
    negative_kl: PositiveFloat | None = None  # bound of 2606.17250
    max_staleness: NonNegativeInt | None = None  # versions behind the newest that was logged
    min_effective: float = Field(default=0.5, ge=0, le=1)  # share of the batch's tokens
    echo: NonNegativeFloat = 0.0  # weight of `ce` on what tools and users said; 0.05 to 0.1
    lr: PositiveFloat = 5e-4  # 1e-5 to 4e-5 on models of 4 billion parameters and more
    falling: bool = True  # the policy's rate, in a straight line to 0, where an end is known
    beta2: float = Field(default=0.98, gt=0, lt=1)
    max_tokens_per_microbatch: PositiveInt = 4096
    checkpoint_every: PositiveInt = 10
    keep_checkpoints: PositiveInt = 2  # the newest
    poll_s: PositiveFloat = 5.0  # between looks at a store that is followed


@dataclass(frozen=True, slots=True)
class StreamResult:
    adapter: Path  # with tune=full a model's folder
    episodes: int
    left_out: dict[str, int]  # reason -> episodes
    changed: dict[str, int]  # what is not as it was logged -> how often
    steps: int
    skipped: int  # steps without an update


class Tracker:
    """The latest `RECENT` episodes of each scenario, with their rewards, of the `SCENARIOS` that
    were learned from last; what comes after them forgets. An episode that has no scenario's name is
    not remembered: no other is of its own."""

    def __init__(self, prior: float, seen: Iterable[tuple[str, list[list[Any]]]] = ()) -> None:
        self.prior = prior  # observations that weigh as much as the value head
        self.seen = dict(seen)  # scenario -> [episode's id, reward]; of both, the latest last

    def blend(self, episode: Logged, value: float) -> float:
        """The baseline of an episode: the value head's number and the mean reward of its scenario's
        other episodes, by their weights."""
        others = [float(r) for i, r in self.seen.get(episode.scenario, ()) if i != episode.id]
        if not others or not self.prior:
            return value
        return (self.prior * value + sum(others)) / (self.prior + len(others))

    def saw(self, episode: Logged) -> None:
        if episode.scenario == episode.id:
            return
        known = [s for s in self.seen.pop(episode.scenario, ()) if s[0] != episode.id]
        self.seen[episode.scenario] = [*known, [episode.id, episode.reward]][-RECENT:]
        if len(self.seen) > SCENARIOS:
            del self.seen[next(iter(self.seen))]

    def state(self) -> list[tuple[str, list[list[Any]]]]:
        """As JSON, in the order in which scenarios are forgotten."""
        return list(self.seen.items())


def stream(
    run: Run,
    source: Source,
    config: StreamConfig,
    check: Check | None = None,
    quiet: bool = False,
) -> StreamResult:
    """Train an adapter on episodes as they arrive; resumes from the last checkpoint, with what had
    arrived until then. A source that ends must hold something to learn from, else ValueError.
    Raises OriginError for episodes of another base or chat template, NonFiniteError after three
    steps of the policy, or of the value head, whose loss or gradient is not finite."""
    learner = config.learner()
    head = make_value_head(learner, config.start_folder)
    cores = torch.get_num_threads()
    with (
        training(learner, _trainer_config(config), cores, head) as trainer,
        Progress("learn", total=config.steps, unit="steps", quiet=quiet) as progress,
    ):
        state = from_checkpoint(run, trainer)
        step = begin = int(state["step"])
        kept = Checkpoints(run, config.keep_checkpoints)
        arrivals, pool = Arrivals(source, run, begin), Pool(config.passes, config.seed)
        tracker = Tracker(config.tracker, dict(state.get("seen", ())).items())
        left_out, changed = Counter(state.get("left_out", {})), Counter(state.get("changed", {}))
        newest, count = int(state.get("newest", -1)), int(state.get("episodes", 0))
        skipped = int(state.get("skipped", 0))
        prompts = Prompts.restore(state.get("prompts", ()))

        def taken(arrived: Sequence[Episode]) -> tuple[list[Logged], Counter[str]]:
            """The episodes that can be learned from, and why others are left out."""
            given, apart = in_split(arrived, config.log)
            found, why = logged(given, config.log, check, echo=config.echo)
            used = {e.id for e in found}
            learner.check_completions(c for e in given if e.id in used for c in e.made_for("agent"))
            for told in (c for e in given if e.id in used for c in conversations_of(e)):
                prompts.add(*told)
            return found, why + Counter({f"not of the split {config.log.split}": apart})

        def save() -> None:
            counted = {"episodes": count, "left_out": left_out, "changed": changed}
            told = {"seen": tracker.state(), "newest": newest, "skipped": skipped}
            told |= {"prompts": prompts.state()}
            kept.save(step, trainer, pool.state() | counted | told)

        unfinished = pool.unfinished(arrivals.seen, state)
        pool.add(taken(arrivals.read(unfinished))[0], unfinished)
        progress.advance(begin)
        while config.steps is None or step < config.steps:
            new, why = taken(arrivals.before(step))
            left_out += why
            changed += changes(new)
            count += len(new)
            newest = max([newest, *(e.version or 0 for e in new)])
            pool.add(new)
            stale = _stale(pool, newest, config.max_staleness)
            pool.drop(stale)
            left_out[f"more than {config.max_staleness} versions old"] += len(stale)
            share = _share(config, source, step, pool.left(count)) if config.falling else 1.0
            drawn: list[Logged] = pool.draw(config.batch_episodes, step)
            if not drawn:
                if source.ends:
                    break
                time.sleep(config.poll_s)
                continue
            rows, told = _rows(trainer, drawn, tracker, config)
            enough = not told["effective"] < config.min_effective  # not a number: the step's to say
            metrics = take_step(run, trainer, rows if enough else [], step, share)
            for _ in range(config.value_steps):
                valued = take_step(run, trainer, [_critic_row(e) for e in drawn], step)
                told["value_explained"] = valued.value_explained
                if valued.skipped:
                    progress.note(f"step {step}: no update of the value head, {valued.skipped}")
            few = f"the effective sample is {told['effective']:.0%} of the batch"
            told["skipped"] = metrics.skipped if enough else few
            skipped += told["skipped"] is not None
            run.log(step, **{k: v for k, v in metrics.as_dict().items() if k != "step"} | told)
            if told["skipped"]:
                progress.note(f"step {step}: no update, {told['skipped']}")
            progress.advance(
                reward=told["reward"],
                kl=metrics.kl,
                masked=told["masked"],
                pool=len(pool.items),
                tokens_per_second=round(metrics.tokens_per_s),
            )
            step += 1
            if step % config.checkpoint_every == 0:
                save()
                if not source.ends:  # who follows a store wants the adapter as it is now
                    save_trained(run, learner, {"recipe": "stream", **prompts.metadata()}, head)
        if step > begin and step % config.checkpoint_every:
            save()
    why_not = dict(+left_out + source.counted)
    if not step:
        raise none_left(left_out)
    metadata = {
        "recipe": "stream",
        **prompts.metadata(),
        "episodes": count,
        "left_out": why_not,
        "changed": dict(changed),
    }
    adapter = save_trained(run, learner, metadata, head)
    run.write_artefact("stream.json", metadata | {"steps": step, "skipped": skipped})
    return StreamResult(adapter, count, why_not, dict(changed), step, skipped)


def _rows(
    trainer: Trainer, drawn: Sequence[Logged], tracker: Tracker, config: StreamConfig
) -> tuple[list[Row], dict[str, Any]]:
    """What the policy learns from these episodes, and figures of it."""
    heads = trainer.values([e.start for e in drawn])
    baselines = [tracker.blend(e, v[0]) for e, v in zip(drawn, heads, strict=True)]
    for episode in drawn:
        tracker.saw(episode)
    plain = [np.full(e.tokens, e.reward - b) for e, b in zip(drawn, baselines, strict=True)]
    scaled = zip(drawn, normalised(plain), strict=True)
    weight = np.concatenate([blamed(a, e.logprobs, config.blame) for e, a in scaled])
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


def _share(config: StreamConfig, source: Source, step: int, left: float) -> float:
    """Of the learning rate: what is left of the steps, or of a source that ends; else all."""
    by_steps = 1.0 if config.steps is None else 1 - step / config.steps
    return min(by_steps, left if source.ends else 1.0)


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


def _trainer_config(config: StreamConfig) -> TrainerConfig:
    return TrainerConfig(
        lr=config.lr,
        betas=(0.9, config.beta2),
        **config.of_steps(),
        max_tokens_per_microbatch=config.max_tokens_per_microbatch,
        temperature=config.log.temperature,
        loss=LossConfig(rl="cispo", ratio_cap=config.ratio_cap),
        value=config.value,
    )
