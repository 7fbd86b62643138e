"""Kahneman-Tversky optimisation (KTO, arXiv 2402.01306): from thumbs alone, no pairs needed.

Each completion moves up or down as it was found good or not, the more the nearer its reward
beta * (policy - reference) is to a reference point: an estimate of the policy's KL divergence from
the reference, from the batch's prompts paired with the completions of others. The reference is the
model that training begins with (or its base); its logprobs are recorded once, those of the
mismatched pairs too. Steps as in `dpo`.

Defaults: beta 0.1 (the paper; TRL). Where thumbs up and down differ in number the rarer kind weighs
more, so that both sum to the same (eq. 8 of the paper allows ratios of 1 to 4/3).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat

from understudy.core.rows import Row, unheard
from understudy.recipes.learner import bound_to, training
from understudy.recipes.lineage import save_trained
from understudy.recipes.preference_data import Thumb
from understudy.recipes.preferring import (
    PreferenceConfig,
    PreferenceResult,
    batches,
    descend,
    reference_scores,
    said_row,
    scored_by,
    trainer_config,
)
from understudy.runs.directory import Run
from understudy.train.preferences import PreferenceLoss, kl_point, kto_loss


class KtoConfig(PreferenceConfig):
    feedback: str = "thumb"
    threshold: float = 1.0  # desirable from this reward on
    beta: PositiveFloat = 0.1
    reference: Literal["start", "base"] = "start"
    echo: NonNegativeFloat = 0.0  # weight of `ce` on what tools and users said; 0.05 to 0.1
    desirable_weight: PositiveFloat | None = None  # None: the rarer kind weighs more
    undesirable_weight: PositiveFloat | None = None


def kto(
    run: Run,
    thumbs: Sequence[Thumb],
    config: KtoConfig,
    left_out: Counter[str] | None = None,
    quiet: bool = False,
) -> PreferenceResult:
    """Train an adapter on thumbs; resumes from the run's checkpoint. `left_out` counts what gave
    none. Raises ValueError where fewer than two are left to train on."""
    learner = config.learner()
    reasons = Counter(left_out or {})
    rows: list[Row] = []
    good: list[bool] = []
    for thumb in thumbs:
        row = said_row(thumb.said, learner, config.max_tokens, config.echo)
        if isinstance(row, str):
            reasons[f"conversations, {row}"] += 1
        else:
            rows.append(row)
            good.append(thumb.desirable)
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} thumbs are left to train on, 2 are needed: {dict(reasons)}")
    up, down = weights_of(good, config)
    steps = batches(len(rows), config)
    # Of each step, its prompts with the completions of those before them in it.
    crossed = [[mismatched(rows[i], rows[j]) for i, j in rotated(step)] for step in steps]

    def rows_of(step: Sequence[int]) -> list[Row]:
        return [rows[i] for i in step]

    with training(learner, trainer_config(config, len(steps)), torch.get_num_threads()) as trainer:
        anchors = reference_scores(run, trainer, "reference", rows, config.reference)
        every = [row for step in crossed for row in step]
        flat = iter(reference_scores(run, trainer, "mismatched", every, config.reference))
        others = {
            tuple(step): (found, [next(flat) for _ in found])
            for step, found in zip(steps, crossed, strict=True)
        }

        def loss_of(step: Sequence[int], scored: list[float]) -> PreferenceLoss:
            other, anchor = others[tuple(step)]
            point = kl_point(scored_by(trainer, other), anchor)
            anchored, liked = [anchors[i] for i in step], [good[i] for i in step]
            return kto_loss(scored, anchored, liked, point, config.beta, up, down)

        descend(run, trainer, "kto", steps, rows_of, loss_of, config, quiet)
    metadata: dict[str, Any] = {"recipe": "kto", **bound_to(t.said.conversation for t in thumbs)}
    metadata |= {"thumbs": len(rows), "desirable": sum(good), "left_out": dict(reasons)}
    adapter = save_trained(run, learner, metadata)
    return PreferenceResult(adapter, len(rows), len(steps), dict(reasons))


def weights_of(desirable: Sequence[bool], config: KtoConfig) -> tuple[float, float]:
    """The weights of desirable and undesirable completions; those not configured are such that
    the rarer kind sums to as much as the other."""
    up, down = sum(desirable), len(desirable) - sum(desirable)
    ratio = down / up if up and down else 1.0
    return (
        config.desirable_weight or max(1.0, ratio),
        config.undesirable_weight or max(1.0, 1 / ratio),
    )


def mismatched(prompt: Row, completion: Row) -> Row:
    """The prompt of one row, what was said after it from another, which is what is scored."""
    keep, drop = prompt.entries[0].position + 1, completion.entries[0].position + 1
    ids = prompt.ids[:keep] + completion.ids[drop:]
    said = unheard(completion).entries
    return Row(ids, tuple(e._replace(position=e.position - drop + keep) for e in said))


def rotated(step: Sequence[int]) -> list[tuple[int, int]]:
    """Each with the one before it, the first with the last."""
    return [(step[n], step[n - 1]) for n in range(len(step))]
