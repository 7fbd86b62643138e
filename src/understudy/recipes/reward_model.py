"""A reward model from preferences (Bradley-Terry): an ordinary adapter of the base, or a model.

A conversation's reward is read behind it: a question is asked, and the reward is the logprob of one
answer's first token minus that of another's. Every engine that serves it can so give it, and there
is no head beside it. The loss is -log sigmoid(chosen - rejected) over pairs, plus
`centre` * (chosen + rejected)^2, which keeps rewards about zero (arXiv 2312.09244; TRL). Steps as
in `dpo`. The metadata beside it says what is asked and which two tokens are read; `load_judge`
makes a judge of it.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, PositiveInt

from understudy.core.rows import Entry, Row
from understudy.core.types import ModelRef
from understudy.engine.torch_engine import TorchEngine
from understudy.judges.reward_model import RewardModel, Verdict
from understudy.models.adapters import load_adapter
from understudy.models.full import metadata_of
from understudy.models.loading import load_base
from understudy.recipes.learner import Learner, bound_to, make_engine, training
from understudy.recipes.lineage import save_trained
from understudy.recipes.preference_data import Pair, Said
from understudy.recipes.preferring import (
    PreferenceConfig,
    PreferenceResult,
    batches,
    descend,
    paired_rows,
    trainer_config,
)
from understudy.runs.directory import Run
from understudy.train.preferences import PreferenceLoss, reward_loss


class RewardModelConfig(PreferenceConfig):
    question: str = "Was that done well? Answer yes or no."
    good: str = "yes"  # the answers' first tokens are read
    bad: str = "no"
    centre: float = Field(default=0.01, ge=0)
    pairs_per_scenario: PositiveInt = 4  # of captured episodes


def reward_model(
    run: Run,
    pairs: Sequence[Pair],
    config: RewardModelConfig,
    left_out: Counter[str] | None = None,
    quiet: bool = False,
) -> PreferenceResult:
    """Train a reward model on pairs; resumes from the run's checkpoint. `left_out` counts what made
    no pair. Raises ValueError where nothing is left to train on."""
    learner = config.learner()
    verdict = _verdict(learner, config)
    rows, more = paired_rows(
        [
            (
                _asked(pair.chosen, verdict, learner, config.max_tokens),
                _asked(pair.rejected, verdict, learner, config.max_tokens),
            )
            for pair in pairs
        ]
    )
    reasons = dict((left_out or Counter()) + more)
    steps = batches(len(rows), config)

    def rows_of(step: Sequence[int]) -> list[Row]:
        return [rows[i][0] for i in step] + [rows[i][1] for i in step]

    def loss_of(step: Sequence[int], scored: list[float]) -> PreferenceLoss:
        return reward_loss(scored[: len(step)], scored[len(step) :], config.centre)

    with training(learner, trainer_config(config, len(steps)), torch.get_num_threads()) as trainer:
        descend(run, trainer, "reward_model", steps, rows_of, loss_of, config, quiet)
    read = {"question": verdict.question, "good": verdict.good, "bad": verdict.bad}
    bound = bound_to(p.chosen.conversation for p in pairs)
    metadata: dict[str, Any] = {"recipe": "reward_model", **bound}
    metadata |= {"verdict": read, "pairs": len(rows), "left_out": reasons}
    adapter = save_trained(run, learner, metadata)
    return PreferenceResult(adapter, len(rows), len(steps), reasons)


async def load_judge(
    adapter: Path, name: str = "reward_model", threads: int | None = None
) -> tuple[RewardModel, TorchEngine]:
    """The judge that an adapter of `reward_model` is, or with tune=full a model's folder, and the
    engine under it, to be closed when done. Raises FileNotFoundError where there is neither,
    ValueError where it is none of these.
    """
    file = None if (adapter / "config.json").exists() else load_adapter(adapter)
    read = (file.metadata if file is not None else metadata_of(adapter)).get("verdict")
    if not isinstance(read, dict):
        raise ValueError(f"{adapter} is no reward model; train one with `train reward-model`")
    base = load_base(str(adapter) if file is None else file.base or "tiny")
    engine, _ = make_engine(base, threads)
    model = ModelRef(base.name) if file is None else ModelRef(base.name, name, 1)
    if file is not None:
        await engine.load(model, str(adapter))
    verdict = Verdict(read["question"], read["good"], read["bad"])
    return RewardModel(engine, model, base.renderer, verdict, name), engine


def _verdict(learner: Learner, config: RewardModelConfig) -> Verdict:
    good, bad = (learner.base.renderer.encode(text)[:1] for text in (config.good, config.bad))
    if not good or not bad or good == bad:
        raise ValueError(f"{config.good!r} and {config.bad!r} do not begin with different tokens")
    return Verdict(config.question, good[0], bad[0])


def _asked(said: Said, verdict: Verdict, learner: Learner, max_tokens: int) -> Row | str:
    """A row whose score is the reward: weight 1 on the one answer, -1 on the other."""
    messages = (*said.prompt, *said.completion)
    ids = verdict.prompt_ids(messages, said.tools, learner.base.renderer)
    if len(ids) > max_tokens:
        return "longer than max_tokens"
    last = len(ids) - 1
    entries = (
        Entry(last, verdict.good, "ce", 1.0, None, said.id),
        Entry(last, verdict.bad, "ce", -1.0, None, said.id),
    )
    return Row(tuple(ids), entries)
