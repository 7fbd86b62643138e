"""Losses over whole sequences: preferences between them, thumbs on them, a reward model.

They stay out of the trainer. A row's *score* is the weighted sum of its entries' logprobs: the
sequence's logprob where every weight is 1, the logit difference of two tokens where one position
has an entry for each, of weights 1 and -1 (both share the normaliser, which falls out). A scoring
pass gives the scores; a loss here gives its exact derivative by each of them; that derivative
becomes the weight of the row's `ce` entries. The trainer's gradient is then the loss's own,
whatever the micro-batches:

    scored = scores(rows, trainer.logprobs(rows))
    loss = dpo_loss(scored[:n], scored[n:], reference[:n], reference[n:], beta)  # n chosen first
    trainer.step(pushed(rows, loss.slopes))
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from understudy.core.rows import Row
from understudy.train.aggregate import undivided


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """The mean loss, its derivative by each score, and what it says in figures for a log.

    `slopes` are in the order of the scores given: of pairs, first all chosen, then all rejected.
    """

    loss: float
    slopes: tuple[float, ...]
    figures: dict[str, float]


def scores(rows: Sequence[Row], logprobs: Sequence[Sequence[float]]) -> list[float]:
    """Of each row the sum of weight * logprob over its entries; `Trainer.logprobs` gives them."""
    return [
        math.fsum(e.weight * value for e, value in zip(row.entries, values, strict=True))
        for row, values in zip(rows, logprobs, strict=True)
    ]


def pushed(rows: Sequence[Row], slopes: Sequence[float]) -> list[Row]:
    """The rows with weights by which one step of the trainer descends the loss whose derivative
    by each row's score is given. All entries are `ce`; those of what the environment said are not
    of the score, and stay as they are."""
    turned = [
        Row(row.ids, tuple(e if e.heard else e._replace(weight=-slope * e.weight)
                           for e in row.entries))
        for row, slope in zip(rows, slopes, strict=True)
    ]  # fmt: skip
    return undivided(turned, "ce")


def dpo_loss(
    chosen: Sequence[float],
    rejected: Sequence[float],
    reference_chosen: Sequence[float],
    reference_rejected: Sequence[float],
    beta: float,
) -> PreferenceLoss:
    """Direct preference optimisation (arXiv 2305.18290): the mean over pairs of
    -log sigmoid(beta * (chosen - reference of it - (rejected - reference of it))).

    Rewards in the figures are beta * (score - reference), as the paper has them.
    """
    good = [beta * (s - r) for s, r in zip(chosen, reference_chosen, strict=True)]
    bad = [beta * (s - r) for s, r in zip(rejected, reference_rejected, strict=True)]
    return _pairs(good, bad, beta)


def reward_loss(
    chosen: Sequence[float], rejected: Sequence[float], centre: float = 0.0
) -> PreferenceLoss:
    """Bradley-Terry: the mean over pairs of -log sigmoid(chosen - rejected), the scores being
    rewards; plus `centre` * (chosen + rejected)^2, which keeps rewards about zero (arXiv
    2312.09244)."""
    plain = _pairs(chosen, rejected, 1.0)
    sums = [a + b for a, b in zip(chosen, rejected, strict=True)]
    pull = [2 * centre * s / len(sums) for s in sums]
    slopes = tuple(a + b for a, b in zip(plain.slopes, [*pull, *pull], strict=True))
    loss = plain.loss + centre * fmean(s * s for s in sums)
    return PreferenceLoss(loss, slopes, plain.figures)


def kto_loss(
    scored: Sequence[float],
    reference: Sequence[float],
    desirable: Sequence[bool],
    point: float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> PreferenceLoss:
    """Kahneman-Tversky optimisation (arXiv 2402.01306, eq. 7): the mean over sequences of
    weight * (1 - sigmoid(+-(beta * (score - reference - point)))), plus where desirable.

    `point` is the batch's reference point, `kl_point` of mismatched pairs; no gradient goes through
    it.
    """
    losses, slopes, rewards = [], [], []
    for score, anchor, good in zip(scored, reference, desirable, strict=True):
        sign = 1.0 if good else -1.0
        weight = desirable_weight if good else undesirable_weight
        value = _sigmoid(sign * beta * (score - anchor - point))
        losses.append(weight * (1 - value))
        slopes.append(-weight * sign * beta * value * (1 - value) / len(scored))
        rewards.append(beta * (score - anchor))
    figures = {"kl_point": point}
    means = {}
    for name, wanted in (("desirable", True), ("undesirable", False)):
        mine = [r for r, good in zip(rewards, desirable, strict=True) if bool(good) is wanted]
        if mine:
            means[name] = fmean(mine)
    figures |= {f"reward_{name}": value for name, value in means.items()}
    if len(means) == 2:
        figures["margin"] = means["desirable"] - means["undesirable"]
    return PreferenceLoss(fmean(losses), tuple(slopes), figures)


def kl_point(scored: Sequence[float], reference: Sequence[float]) -> float:
    """KTO's reference point: the mean of score - reference over prompts paired with completions of
    others, never below 0."""
    return max(0.0, fmean(s - r for s, r in zip(scored, reference, strict=True)))


def _pairs(good: Sequence[float], bad: Sequence[float], beta: float) -> PreferenceLoss:
    """-log sigmoid(good - bad) over pairs, whose derivative by a score is beta times that by a
    reward."""
    margins = [a - b for a, b in zip(good, bad, strict=True)]
    pull = [-beta * _sigmoid(-m) / len(margins) for m in margins]
    figures = {
        "accuracy": fmean(float(m > 0) for m in margins),
        "margin": fmean(margins),
        "reward_chosen": fmean(good),
        "reward_rejected": fmean(bad),
    }
    loss = fmean(_softplus(-m) for m in margins)
    return PreferenceLoss(loss, (*pull, *(-p for p in pull)), figures)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _softplus(x: float) -> float:
    """log(1 + e^x), for any x."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
