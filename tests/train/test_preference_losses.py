"""Preference losses: their derivatives, and the trainer's gradient, against plain references and
TRL's own DPO, KTO and reward losses on the same tensors."""

import random
from collections import defaultdict
from types import MethodType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from exact_models import VOCABULARY, relative_error, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import BOUND, backward, entries_at, row_logprobs, step, two_turns

from understudy.core.rows import Entry, Row
from understudy.recipes.kto import mismatched
from understudy.train.preferences import (
    dpo_loss,
    kl_point,
    kto_loss,
    pushed,
    reward_loss,
    scores,
)
from understudy.train.trainer import Trainer, TrainerConfig

torch.set_num_threads(1)
PAIRS = 5
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
numbers = st.floats(-50, 50)


def answers(seed=1, count=2 * PAIRS, shared=True):
    """Rows of a prompt and sampled spans, weight 1 on what was sampled."""
    rng = random.Random(seed)
    rows = []
    for n in range(count):
        ids, places = two_turns(rng, VOCABULARY, "")
        rows.append(Row(ids, entries_at(ids, places, "ce", 1.0, [None] * len(places), f"s{n}")))
    return rows


def verdicts(seed=2, count=2 * PAIRS):
    """Rows whose score is the logit difference of tokens 3 and 4 behind them."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        ids = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(3, 12)))
        last = len(ids) - 1
        rows.append(Row(ids, (Entry(last, 3, "ce", 1.0), Entry(last, 4, "ce", -1.0))))
    return rows


def score(model, row):
    """With gradient."""
    weights = torch.tensor([e.weight for e in row.entries])
    return (row_logprobs(model, row.ids, row.entries) * weights).sum()


def scored(model, rows, **config):
    return scores(rows, Trainer(model, TrainerConfig(**config)).logprobs(rows))


def somewhere(count, seed=3):
    rng = random.Random(seed)
    return [-rng.uniform(10, 40) for _ in range(count)]


def check(model, rows, loss, expected, dtype, **config):
    gradient = backward(model, expected)
    got, _ = step(model, pushed(rows, loss.slopes), **config)
    assert loss.loss == pytest.approx(float(expected.detach()), rel=BOUND[dtype])
    assert relative_error(got, gradient) < BOUND[dtype]


@DTYPES
@pytest.mark.parametrize("cap", [4096, 30])
def test_dpo_equals_trls(dtype, cap):
    trl = pytest.importorskip("trl.trainer.dpo_trainer")
    model, rows, reference = small_model(dtype=dtype), answers(), somewhere(2 * PAIRS)
    found = scored(model, rows, max_tokens_per_microbatch=cap)
    n = PAIRS
    loss = dpo_loss(found[:n], found[n:], reference[:n], reference[n:], 0.1)
    stand_in = trl_trainer(
        ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", beta=0.1,
        loss_types=["sigmoid"], loss_weights=[1.0], use_weighting=False,
    )  # fmt: skip
    inputs = padded(rows) | {
        "ref_chosen_logps": torch.tensor(reference[:n], dtype=dtype),
        "ref_rejected_logps": torch.tensor(reference[n:], dtype=dtype),
    }
    expected = trl.DPOTrainer._compute_loss(stand_in, full(model, rows, dtype), inputs, False)
    said = {k: v[-1] for k, v in stand_in._metrics["eval"].items()}
    assert loss.figures["accuracy"] == pytest.approx(said["rewards/accuracies"])
    assert loss.figures["margin"] == pytest.approx(said["rewards/margins"], rel=1e-4)
    check(model, rows, loss, expected, dtype, max_tokens_per_microbatch=cap)


@DTYPES
@pytest.mark.parametrize("cap", [4096, 30])
def test_kto_equals_trls(dtype, cap):
    trl = pytest.importorskip("trl.trainer.kto_trainer")
    model, rows = small_model(dtype=dtype), answers()
    good = [n % 3 != 0 for n in range(len(rows))]
    crossed = [mismatched(rows[n], rows[n - 1]) for n in range(len(rows))]
    before = scored(model, rows)  # a reference near the policy, so that no sigmoid is flat
    reference = [v + random.Random(n).gauss(0, 8) for n, v in enumerate(before)]
    anchor = [v - 3 for v in scored(model, crossed)]
    found = scored(model, rows, max_tokens_per_microbatch=cap)
    point = kl_point(scored(model, crossed, max_tokens_per_microbatch=cap), anchor)
    assert point > 1
    loss = kto_loss(found, reference, good, point, 0.1, 1.2, 0.7)
    stand_in = trl_trainer(
        calculate_KL=True, precompute_ref_logps=True, loss_type="kto", beta=0.1,
        desirable_weight=1.2, undesirable_weight=0.7,
    )  # fmt: skip
    stand_in._compute_kl_logps = MethodType(trl.KTOTrainer._compute_kl_logps, stand_in)
    others = {f"KL_{k}": v for k, v in padded(crossed).items()}
    inputs = (
        padded(rows)
        | others
        | {
            "label": torch.tensor(good),
            "ref_logps": torch.tensor(reference, dtype=dtype),
            "ref_KL_logps": torch.tensor(anchor, dtype=dtype),
        }
    )
    both = full(model, rows, dtype, crossed)
    expected = trl.KTOTrainer._compute_loss(stand_in, both, inputs, False)
    said = {k: v[-1] for k, v in stand_in._metrics["eval"].items()}
    assert point == pytest.approx(said["kl"], rel=1e-4)
    assert loss.figures["margin"] == pytest.approx(said["rewards/margins"], rel=1e-4)
    check(model, rows, loss, expected, dtype, max_tokens_per_microbatch=cap)


@DTYPES
@pytest.mark.parametrize("centre", [0.0, 0.1])
def test_the_reward_loss_equals_trls(dtype, centre):
    trl = pytest.importorskip("trl.trainer.reward_trainer")
    model, rows = small_model(dtype=dtype), verdicts()
    found = scored(model, rows)
    loss = reward_loss(found[:PAIRS], found[PAIRS:], centre)

    def logits(**_):  # of the tokens themselves: the normaliser falls out
        last = [model(input_ids=torch.tensor([r.ids])).logits[0, -1] for r in rows]
        return SimpleNamespace(logits=torch.stack([v[3] - v[4] for v in last])[:, None])

    stand_in = trl_trainer(args=SimpleNamespace(center_rewards_coefficient=centre or None))
    inputs = {"attention_mask": torch.ones(1)}
    expected = trl.RewardTrainer.compute_loss(stand_in, logits, inputs)
    assert loss.figures["accuracy"] == pytest.approx(stand_in._metrics["eval"]["accuracy"][-1])
    check(model, rows, loss, expected, dtype)


@DTYPES
def test_losses_equal_plain_references(dtype):
    model, rows = small_model(dtype=dtype, seed=6), answers(4)
    reference = [v + random.Random(n).gauss(0, 5) for n, v in enumerate(scored(model, rows))]
    found = scored(model, rows)
    n, anchor = PAIRS, torch.tensor(reference, dtype=dtype)
    live = torch.stack([score(model, row) for row in rows]) - anchor
    check(
        model, rows, dpo_loss(found[:n], found[n:], reference[:n], reference[n:], 0.3),
        -F.logsigmoid(0.3 * (live[:n] - live[n:])).mean(), dtype,
    )  # fmt: skip
    live = torch.stack([score(model, row) for row in rows]) - anchor
    good = torch.tensor([k % 2 == 0 for k in range(2 * n)])
    value = torch.sigmoid(0.3 * torch.where(good, live - 2.0, 2.0 - live))
    check(
        model, rows, kto_loss(found, reference, good.tolist(), 2.0, 0.3, 1.5, 0.5),
        (torch.where(good, 1.5, 0.5) * (1 - value)).mean(), dtype,
    )  # fmt: skip


def test_order_micro_batches_and_weightless_rows_change_nothing():
    rows, reference = answers(8), somewhere(2 * PAIRS, 9)
    nothing = [Row((1, 2, 3), (Entry(1, 3, "ce", 0.0),))] * 3

    def gradient(order, cap, more=()):
        model = small_model()
        mine = [rows[i] for i in order] + [rows[PAIRS + i] for i in order]
        anchor = [reference[i] for i in order] + [reference[PAIRS + i] for i in order]
        found = scored(model, mine, max_tokens_per_microbatch=cap)
        loss = dpo_loss(found[:PAIRS], found[PAIRS:], anchor[:PAIRS], anchor[PAIRS:], 0.1)
        turned = [*more, *pushed(mine, loss.slopes)]
        return step(model, turned, max_tokens_per_microbatch=cap)[0]

    whole = gradient(range(PAIRS), 10_000)
    for other in (
        gradient((3, 1, 4, 0, 2), 10_000),
        gradient(range(PAIRS), 30),
        gradient(range(PAIRS), 1),
        gradient(range(PAIRS), 10_000, nothing),
    ):
        assert relative_error(other, whole) < 1e-10


def live(values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=5))
def test_slopes_of_pairs_are_the_exact_derivatives(pairs):
    columns = [list(column) for column in zip(*pairs, strict=True)]
    chosen, rejected = live(columns[0]), live(columns[1])
    anchors = torch.tensor(columns[2:], dtype=torch.float64)
    anchored = chosen - anchors[0] - (rejected - anchors[1])
    expected = -F.logsigmoid(0.1 * anchored).mean()
    same(dpo_loss(*columns, 0.1), expected, chosen, rejected)
    chosen, rejected = live(columns[0]), live(columns[1])
    expected = (-F.logsigmoid(chosen - rejected) + 0.02 * (chosen + rejected) ** 2).mean()
    same(reward_loss(*columns[:2], 0.02), expected, chosen, rejected)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(numbers, numbers, st.booleans()), min_size=1, max_size=6), numbers)
def test_slopes_of_thumbs_are_the_exact_derivatives(thumbs, point):
    found, reference, good = (list(column) for column in zip(*thumbs, strict=True))
    moving = live(found)
    reward = 0.2 * (moving - torch.tensor(reference, dtype=torch.float64) - point)
    up = torch.tensor(good)
    value = torch.sigmoid(torch.where(up, reward, -reward))
    expected = (torch.where(up, 2.0, 0.5) * (1 - value)).mean()
    same(kto_loss(found, reference, good, point, 0.2, 2.0, 0.5), expected, moving)


def same(loss, expected, *by):
    expected.backward()
    slopes = [v for tensor in by for v in tensor.grad.tolist()]
    assert loss.loss == pytest.approx(float(expected.detach()), rel=1e-9, abs=1e-12)
    assert loss.slopes == pytest.approx(slopes, rel=1e-9, abs=1e-12)


def test_a_mismatched_row_is_one_rows_prompt_and_anothers_answer():
    prompt = Row((1, 2, 3, 4), (Entry(2, 4, "ce", 1.0),))
    answer = Row((5, 6, 7, 8, 9), (Entry(0, 6, "ce", 1.0), Entry(3, 9, "ce", 1.0)))
    crossed = mismatched(prompt, answer)
    assert crossed.ids == (1, 2, 3, 6, 7, 8, 9)
    assert [(e.position, e.target) for e in crossed.entries] == [(2, 6), (5, 9)]
    assert mismatched(answer, answer) == answer


# -- TRL's side -----------------------------------------------------------------------------


def trl_trainer(**attributes):
    """What the methods that compute losses read of their trainer."""
    return SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(
            device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x
        ),
        aux_loss_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        **attributes,
    )


def padded(rows):
    longest = max(len(row.ids) for row in rows)
    ids, mask, sampled = torch.zeros(3, len(rows), longest, dtype=torch.long)
    for n, row in enumerate(rows):
        ids[n, : len(row.ids)] = torch.tensor(row.ids)
        mask[n, : len(row.ids)] = 1
        sampled[n, [e.position + 1 for e in row.entries]] = 1
    return {"input_ids": ids, "attention_mask": mask, "completion_mask": sampled}


def full(model, rows, dtype, others=()):
    """The model as TRL's fused head returns it: logprobs of the labels, 0 where there is none."""

    def forward(input_ids, **_):
        mine = rows if torch.equal(input_ids, padded(rows)["input_ids"]) else others
        logps = torch.zeros(len(mine), input_ids.shape[1] - 1, dtype=dtype)
        for n, row in enumerate(mine):
            at = torch.tensor([e.position for e in row.entries])
            value = row_logprobs(model, row.ids, row.entries)
            logps = logps.index_put((torch.tensor(n), at), value)
        nothing = torch.zeros_like(logps)
        return SimpleNamespace(
            log_probs=logps, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )

    return forward
