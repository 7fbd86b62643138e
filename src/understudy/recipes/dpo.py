"""Direct preference optimisation (DPO, arXiv 2305.18290): of two answers, more of the better one.

The loss is -log sigmoid(beta * difference), where the difference is by how much more the policy
prefers the chosen answer than the reference does. The reference is the model that training begins
with (or its base without an adapter); its logprobs are recorded once. Each step scores its pairs
without a gradient and then takes one step of weighted cross-entropy whose gradient is the loss's
own (train.preferences).

Defaults: beta 0.1 and one epoch (the paper; TRL), learning rate ten times that of full fine-tuning
("LoRA Without Regret"); a tiny model takes far more.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from understudy.core.rows import Row
from understudy.recipes.learner import bound_to, training
from understudy.recipes.lineage import save_trained
from understudy.recipes.preference_data import Pair
from understudy.recipes.preferring import (
    PreferenceConfig,
    PreferenceResult,
    batches,
    descend,
    paired_rows,
    reference_scores,
    said_row,
    trainer_config,
)
from understudy.runs.directory import Run
from understudy.train.preferences import PreferenceLoss, dpo_loss


class DpoConfig(PreferenceConfig):
    lr: PositiveFloat = 1e-4  # at 5e-4 some steps leap; 5e-6 on models of 4 billion parameters
    beta: PositiveFloat = 0.1
    reference: Literal["start", "base"] = "start"
    echo: NonNegativeFloat = 0.0  # weight of `ce` on what tools and users said; 0.05 to 0.1
    pairs_per_scenario: PositiveInt = 4  # of captured episodes


def dpo(
    run: Run,
    pairs: Sequence[Pair],
    config: DpoConfig,
    left_out: Counter[str] | None = None,
    quiet: bool = False,
) -> PreferenceResult:
    """Train an adapter on pairs; resumes from the run's checkpoint. `left_out` counts what made no
    pair. Raises ValueError where nothing is left to train on."""
    learner = config.learner()
    rows, more = paired_rows(
        [
            (
                said_row(pair.chosen, learner, config.max_tokens, config.echo),
                said_row(pair.rejected, learner, config.max_tokens, config.echo),
            )
            for pair in pairs
        ]
    )
    reasons = dict((left_out or Counter()) + more)
    steps = batches(len(rows), config)

    def rows_of(step: Sequence[int]) -> list[Row]:
        return [rows[i][0] for i in step] + [rows[i][1] for i in step]

    with training(learner, trainer_config(config, len(steps)), torch.get_num_threads()) as trainer:
        every = rows_of(range(len(rows)))
        anchors = reference_scores(run, trainer, "reference", every, config.reference)
        chosen, rejected = anchors[: len(rows)], anchors[len(rows) :]

        def loss_of(step: Sequence[int], scored: list[float]) -> PreferenceLoss:
            n = len(step)
            anchored = [chosen[i] for i in step], [rejected[i] for i in step]
            return dpo_loss(scored[:n], scored[n:], *anchored, config.beta)

        descend(run, trainer, "dpo", steps, rows_of, loss_of, config, quiet)
    metadata: dict[str, Any] = {"recipe": "dpo", **bound_to(p.chosen.conversation for p in pairs)}
    metadata |= {"pairs": len(rows), "left_out": reasons}
    adapter = save_trained(run, learner, metadata)
    return PreferenceResult(adapter, len(rows), len(steps), reasons)
