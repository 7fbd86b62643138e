"""Every loss of the `rl` stream against a plain reference, and what must change nothing."""

import math
import random

import pytest
import torch
from exact_models import random_rows, relative_error, small_model
from oracles import (
    BOUND,
    backward,
    broken,
    level,
    plain_rl,
    row_logprobs,
    step,
    trained,
    weightless,
)
from pydantic import ValidationError

from understudy.core.rows import Row
from understudy.runs.config import load_config
from understudy.train.aggregate import aggregate
from understudy.train.losses import LossConfig
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer

torch.set_num_threads(1)
NEAR = {"clip_low": 0.1, "clip_high": 0.15}
LOSSES = {
    "cispo": LossConfig(),
    "cispo, tight": LossConfig(ratio_cap=0.7),
    "cispo, sequence": LossConfig(ratio_level="sequence", ratio_cap=2.0),
    "clip": LossConfig(rl="clip"),
    "clip, capped": LossConfig(rl="clip", ratio_cap=1.5),
    "gspo": LossConfig(rl="gspo", **NEAR),
    "gspo, capped": LossConfig(rl="gspo", ratio_cap=1.2, **NEAR),
    "dppo": LossConfig(rl="dppo", clip_low=0.01, clip_high=0.02),
    "dppo, capped": LossConfig(rl="dppo", clip_low=0.01, clip_high=0.02, ratio_cap=1.2),
    "reinforce": LossConfig(rl="reinforce"),
    "truncated": LossConfig(rl="reinforce", ratio_cap=1.5),
    "sequence mask": LossConfig(sequence_mask=3.0),
    "off-policy mask": LossConfig(rl="clip", off_policy_mask=0.2),
    "difference mask": LossConfig(rl="gspo", difference_mask=0.02, **NEAR),
    "all masks": LossConfig(
        rl="reinforce", sequence_mask=3.0, off_policy_mask=0.2, difference_mask=0.02
    ),
}


def near(model, rows):
    """The rows as if sampled by a policy that differs a little, more in one episode than in
    another."""
    rng, episodes = random.Random(1), random.Random(2)
    names = sorted({e.sample_id for row in rows for e in row.entries})
    apart = {name: episodes.gauss(0, 0.25) for name in names}
    found = []
    for row in rows:
        if row.entries:
            logp = row_logprobs(model, row.ids, row.entries).tolist()
            moved = zip(row.entries, logp, strict=True)
            row = Row(
                row.ids,
                tuple(
                    e._replace(anchor=v + apart[e.sample_id] + rng.gauss(0, 0.5)) for e, v in moved
                ),
            )
        found.append(row)
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_a_plain_reference(name, parts, dtype):
    loss = LOSSES[name]
    model = small_model(dtype=dtype, seed=4)
    rows = broken(random_rows(random.Random(11), streams=("rl",), count=12), parts)
    rows = near(model, rows)
    expected, masked = plain_rl(model, rows, loss)
    gradient = backward(model, expected)
    got, metrics = step(model, rows, loss=loss)
    assert metrics.loss["rl"] == pytest.approx(float(expected.detach()), rel=BOUND[dtype])
    assert relative_error(got, gradient) < BOUND[dtype]
    assert (metrics.masked or {}) == masked
    assert all(0 < n < metrics.count["rl"] for n in masked.values())
    if name not in ("cispo", "reinforce", "sequence mask", "all masks"):
        assert 0 < metrics.clipped_share < 1


def test_gspo_on_equal_weights_is_the_papers():
    """-min(s A, clip(s) A) an episode, whose gradient goes through the mean of all its tokens,
    wherever its history broke."""
    loss = LossConfig(rl="gspo", **NEAR)
    model = small_model(seed=1)
    rows = near(model, level(broken(random_rows(random.Random(3), streams=("rl",), count=9))))
    terms = []
    for name in sorted({e.sample_id for row in rows for e in row.entries}):
        gaps, weight = [], 0.0
        for row in rows:
            entries = [e for e in trained(row) if e.sample_id == name]
            if entries:
                anchors = torch.tensor([e.anchor for e in entries], dtype=torch.float64)
                gaps.append(row_logprobs(model, row.ids, entries) - anchors)
                weight = entries[0].weight
        ratio = torch.cat(gaps).mean().exp()
        terms.append(-torch.minimum(ratio * weight, ratio.clamp(0.9, 1.15) * weight))
    assert len(terms) == 3
    expected = torch.stack(terms).mean()
    gradient = backward(model, expected)
    got, metrics = step(model, aggregate(rows, "rollout"), loss=loss)
    assert metrics.loss["rl"] == pytest.approx(float(expected.detach()), rel=1e-10)
    assert relative_error(got, gradient) < 1e-10


@pytest.mark.parametrize("how", ["token", "rollout", "constant"])
@pytest.mark.parametrize("name", LOSSES)
def test_order_micro_batches_and_weightless_rows_change_nothing(name, how):
    rng = random.Random(5)
    rows = broken(random_rows(rng, streams=("rl",), count=12, longest=20))
    tokens = 100 if how == "constant" else None
    nothing = weightless(random_rows(rng, streams=("rl",), count=4))
    whole, metrics = step(small_model(), aggregate(rows, how, tokens=tokens), loss=LOSSES[name])
    variants = {
        "order": (rng.sample(rows, len(rows)), 100_000),
        "split": (rows, 40),
        "alone": (rows, 1),
        "weightless": ([*nothing, *rows, Row((1, 2))], 100_000),
    }
    for variant, (changed, cap) in variants.items():
        given = aggregate(changed, how, tokens=tokens)
        got, other = step(small_model(), given, loss=LOSSES[name], max_tokens_per_microbatch=cap)
        assert relative_error(got, whole) < 1e-10, variant
        assert other.masked == metrics.masked, variant
        assert other.microbatches > 1 or cap > 40


def test_several_processes_mask_and_count_as_one():
    rows = broken(random_rows(random.Random(3), streams=("rl",), count=12))
    loss = LOSSES["all masks"]
    alone, expected = step(small_model(), rows, loss=loss)
    config = TrainerConfig(grad_clip=None, loss=loss, max_tokens_per_microbatch=60)
    with Trainer(small_model(), config, workers=2) as trainer:
        metrics = trainer.step(rows)
    assert metrics.masked == expected.masked
    assert metrics.grad_norm == pytest.approx(float(alone.norm()), rel=1e-10)


def test_what_is_masked_stays_in_the_denominator():
    """So masking never makes the rest weigh more: the kept rows' gradient is what it was."""
    rows = random_rows(random.Random(7), streams=("rl",), count=8)
    model = small_model()
    ratios = []
    for row in rows:
        logs = row_logprobs(model, row.ids, row.entries).tolist()
        ratios.append(math.exp(sum(logs) - sum(e.anchor for e in row.entries)))
    cap = 1.01 * sorted(ratios)[len(ratios) // 2]
    kept = [row for row, ratio in zip(rows, ratios, strict=True) if ratio <= cap]
    masked, metrics = step(model, rows, loss=LossConfig(sequence_mask=cap))
    alone, fewer = step(small_model(), kept)
    share = fewer.count["rl"] / metrics.count["rl"]
    assert metrics.count["rl"] == sum(len(row.entries) for row in rows)
    assert metrics.masked == {"sequence_mask": metrics.count["rl"] - fewer.count["rl"]}
    assert 0 < share < 1
    assert relative_error(masked, share * alone) < 1e-10


@pytest.mark.parametrize("rl", ["cispo", "clip", "gspo"])
def test_what_is_masked_may_have_an_infinite_ratio(rl):
    rows = random_rows(random.Random(2), streams=("rl",), count=4)
    wild = rows[-1].entries[0]._replace(anchor=-1e4, weight=-1.0)
    rows[-1] = Row(rows[-1].ids, (wild, *rows[-1].entries[1:]))
    # cispo's ratio without a cap; the others' with a negative weight has none
    loss = LossConfig(rl=rl, sequence_mask=1e300, **({"ratio_cap": None} if rl == "cispo" else {}))
    got, metrics = step(small_model(), rows, loss=loss)
    assert metrics.skipped is None
    assert bool(got.isfinite().all())
    assert metrics.masked == {"sequence_mask": len(rows[-1].entries)}


def test_options_that_are_not_given_are_the_surrogates_own():
    assert LossConfig().ratio_cap == 5.0
    assert LossConfig(ratio_cap=None).ratio_cap is None
    assert (LossConfig(rl="clip").clip_low, LossConfig(rl="clip").clip_high) == (0.2, 0.28)
    assert LossConfig(rl="gspo").clip_high == 4e-4
    for loss in LOSSES.values():
        assert LossConfig.model_validate(loss.model_dump()) == loss
        assert LossConfig.model_validate_json(loss.model_dump_json()) == loss


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["rl=cispo", "clip_low=0.2"], "rl=cispo clips nothing"),
        (["rl=reinforce", "clip_high=0.2"], "rl=reinforce clips nothing"),
        (["rl=clip", "ratio_cap=1.2"], "ratio_cap must be above 1"),
        (["rl=clip", "clip_low=1"], "clip_low must be below 1"),
        (["rl=dppo", "clip_high=1.5"], "of probabilities: below 1"),
        (["rl=gspo", "clip_high=null"], "rl=gspo needs clip_low and clip_high"),
        (["rl=gspo", "ratio_level=sequence"], "rl=gspo has no ratio_level"),
        (["rl=reinforce", "ratio_level=sequence"], "rl=reinforce has no ratio_level"),
        (["difference_mask=1"], "difference_mask must be below 1"),
        (["sequence_mask=0"], "sequence_mask must be greater than 0"),
        (["rl=ppo"], "rl must be"),
    ],
)
def test_bad_combinations_are_refused_in_one_line(values, why):
    with pytest.raises(ValueError, match=why) as caught:
        load_config(TrainerConfig, overrides=[f"loss.{value}" for value in values])
    assert "\n" not in str(caught.value)
    with pytest.raises(ValidationError):
        LossConfig.model_validate({"rl": "clip", "clip_middle": 1})
