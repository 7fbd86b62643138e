"""The value stream: equal to a plain reference, exact in trees, resumed as any other."""

import math
import random
from itertools import chain

import pytest
import torch
from exact_models import gradients, random_rows, relative_error, small_model

from understudy.core.rows import Entry, Row
from understudy.core.token_tree import build
from understudy.models.lora import LoraConfig, inject_lora
from understudy.train import checkpoint
from understudy.train.trainer import Trainer, TrainerConfig
from understudy.train.value_head import ValueConfig, ValueHead

torch.set_num_threads(1)
BOUND = {torch.float64: 1e-10, torch.float32: 1e-5}
STREAMS = ("rl", "ce", "value")


def rows_with_values(seed, count=9, streams=STREAMS):
    """Random rows; value entries know what was said before, but for some."""
    rng = random.Random(seed)
    rows = random_rows(rng, count=count, streams=streams)
    return [
        Row(
            r.ids,
            tuple(
                e._replace(before=e.anchor + rng.uniform(-2, 2))
                if e.stream == "value" and rng.random() < 0.8
                else e
                for e in r.entries
            ),
        )
        for r in rows
    ]


def head_of(model, seed=0):
    head = ValueHead.of(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
        head.bias.fill_(-2.0)
    return head


def with_head(dtype=torch.float64, seed=0, workers=1, **config):
    model = small_model(dtype=dtype, seed=seed)
    return Trainer(model, TrainerConfig(grad_clip=None, **config), workers, head_of(model, seed))


def oracle(trainer, rows):
    """The batch row by row with nothing of ours: gradients of the model and of the head, values."""
    model, head, how = trainer.model, trainer.value_head, trainer.config.value
    model.zero_grad()
    counts = {s: sum(e.stream == s for r in rows for e in r.entries) for s in STREAMS}
    total, values = torch.zeros((), dtype=torch.float64), []
    weight, bias = (p.detach().clone().requires_grad_() for p in (head.weight, head.bias))
    for row in rows:
        hidden = model.model(input_ids=torch.tensor([row.ids])).last_hidden_state[0]
        logp = torch.log_softmax(model.lm_head(hidden), -1)
        for e in row.entries:
            if e.stream == "value":
                h = hidden[e.position]
                h = how.share * h + (1 - how.share) * h.detach()
                v = (h * weight).sum() + bias[0]
                values.append(float(v.detach()))
                term = (v - e.anchor) ** 2
                if how.clip is not None and e.before is not None:
                    inside = abs(float(v.detach()) - e.before) <= how.clip
                    near = e.before + math.copysign(how.clip, float(v.detach()) - e.before)
                    if not inside and (near - e.anchor) ** 2 > float(term.detach()):
                        term = term * 0 + (near - e.anchor) ** 2  # held: no gradient
                term = e.weight * term / 2
            elif e.stream == "ce":
                term = -e.weight * logp[e.position, e.target]
            else:
                lp = logp[e.position, e.target]
                ratio = min(float(torch.exp(lp.detach() - e.anchor)), 5.0)
                term = -ratio * e.weight * lp
            total = total + term / counts[e.stream]
    total.backward()
    of_head = torch.cat([torch.zeros(0) if p.grad is None else p.grad for p in (weight, bias)])
    return float(total.detach()), gradients(model).clone(), of_head, values


def caught(trainer, rows):
    """Loss and gradients of one step, before the optimiser moves anything."""
    seen = {}

    def keep(*_):
        seen["model"] = gradients(trainer.model).clone()
        seen["head"] = gradients(trainer.value_head).clone()

    trainer.optimiser.register_step_pre_hook(keep)
    metrics = trainer.step(rows)
    return sum(metrics.loss.values()), seen["model"], seen["head"], metrics


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", ["tree", "packed", "padded"])
@pytest.mark.parametrize("value", [ValueConfig(share=0.3), ValueConfig(share=1.0, clip=0.5)])
def test_values_losses_and_gradients_equal_independent_rows(dtype, layout, value):
    rows = rows_with_values(1)
    assert len(build(rows)) < sum(len(r.ids) for r in rows)
    trainer = with_head(dtype, layout=layout, value=value, lr=1e-9)
    loss, model, head, values = oracle(trainer, rows)
    only = [Row(r.ids, tuple(e for e in r.entries if e.stream == "value")) for r in rows]
    ours = torch.tensor([*chain(*trainer.values(only))], dtype=dtype)
    assert relative_error(ours, torch.tensor(values, dtype=dtype)) < BOUND[dtype]
    got_loss, got_model, got_head, metrics = caught(trainer, rows)
    assert got_loss == pytest.approx(loss, rel=BOUND[dtype])
    assert relative_error(got_model, model) < BOUND[dtype]
    assert relative_error(got_head, head.to(dtype)) < BOUND[dtype]
    returns = torch.tensor([e.anchor for r in only for e in r.entries], dtype=torch.float64)
    errors = torch.tensor(values, dtype=torch.float64) - returns
    explained = 1 - float(errors.square().sum() / (returns - returns.mean()).square().sum())
    assert metrics.value_explained == pytest.approx(explained, rel=1e-4)


def test_a_share_of_nothing_leaves_the_policys_gradient_as_it_is():
    rows = rows_with_values(2)
    _, model, head, _ = caught(with_head(value=ValueConfig(share=0.0)), rows)
    without = [Row(r.ids, tuple(e for e in r.entries if e.stream != "value")) for r in rows]
    alone = with_head()
    _, expected, _, _ = oracle(alone, without)
    assert relative_error(model, expected) < 1e-10
    assert float(head.norm()) > 0


def test_micro_batches_and_order_change_nothing():
    rows = rows_with_values(3, count=14)
    value = ValueConfig(share=0.5, clip=1.0)
    whole = caught(with_head(value=value, max_tokens_per_microbatch=100_000), rows)
    shuffled = random.Random(0).sample(rows, len(rows))
    for variant, cap in ((shuffled, 100_000), (rows, 40), (rows, 1)):
        got = caught(with_head(value=value, max_tokens_per_microbatch=cap), variant)
        assert got[0] == pytest.approx(whole[0], rel=1e-10)
        assert relative_error(got[1], whole[1]) < 1e-10
        assert relative_error(got[2], whole[2]) < 1e-10
        assert got[3].value_explained == pytest.approx(whole[3].value_explained)
        assert got[3].entropy == pytest.approx(whole[3].entropy)


@pytest.mark.parametrize("streams", [STREAMS, ("value",), ("rl", "ce")])
def test_processes_add_up_to_one(streams):
    batches = [rows_with_values(seed, streams=streams) for seed in range(4)]
    policy = [rows_with_values(9)]  # moments would show a step that should not have been
    config = {"value": ValueConfig(share=0.5), "lr": 0.01}
    alone = with_head(**config)
    with with_head(workers=3, **config) as together:
        for rows in policy + batches + policy:
            one, three = alone.step(rows), together.step(rows)
            assert three.loss == pytest.approx(one.loss)
            assert three.value_explained == pytest.approx(one.value_explained)
        for name, parameter in alone.parameters.items():
            assert relative_error(together.parameters[name].data, parameter.data) < 1e-8, name


def test_a_batch_of_values_alone_trains_the_head_alone():
    trainer = with_head(value=ValueConfig(share=1.0, lr_scale=10.0), lr=0.01)
    before = {n: p.detach().clone() for n, p in trainer.parameters.items()}
    ids = (1, 2, 3, 4, 5)
    entries = [Entry(t, 0, "value", 1.0, float(t)) for t in range(5)]
    explained = [
        trainer.step([Row(ids, tuple(entries))]).value_explained or 0.0 for _ in range(120)
    ]
    assert explained[-1] > 0.99 > explained[0]
    for name, parameter in trainer.parameters.items():
        assert torch.equal(parameter, before[name]) != name.startswith("value_head"), name


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    batches = [rows_with_values(seed) for seed in range(6)]
    value = ValueConfig(share=0.5)
    whole = with_head(torch.float32, value=value, lr=0.01)
    for step, rows in enumerate(batches):
        if step == 3:
            checkpoint.save(tmp_path / "last", whole)
        whole.step(rows)
    resumed = with_head(torch.float32, seed=1, value=value, lr=0.01)
    checkpoint.load(tmp_path / "last", resumed)
    for rows in batches[3:]:
        resumed.step(rows)
    assert {"value_head.weight", "value_head.bias"} < set(whole.parameters)
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, resumed.parameters[name]), name
    with pytest.raises(checkpoint.CheckpointError, match=r"value_head\.bias is \(1,\) in it"):
        checkpoint.load(tmp_path / "last", Trainer(small_model(dtype=torch.float32)))


def test_bf16_is_near_and_adapters_are_trained():
    rows = rows_with_values(4)
    found = []
    for precision in ("fp32", "bf16"):
        model = small_model(dtype=torch.float32)
        inject_lora(model, LoraConfig(rank=2))
        config = TrainerConfig(precision=precision, value=ValueConfig(share=1.0))
        found.append(caught(Trainer(model, config, 1, head_of(model)), rows))
    assert found[1][0] == pytest.approx(found[0][0], rel=0.05)
    assert relative_error(found[1][1], found[0][1]) < 0.1
    assert relative_error(found[1][2], found[0][2]) < 0.1


def test_values_without_a_head_and_without_a_return_are_refused():
    trainer = Trainer(small_model())
    with pytest.raises(ValueError, match="no value head"):
        trainer.step([Row((1, 2), (Entry(0, 0, "value", 1.0, 1.0),))])
    with pytest.raises(ValueError, match="a value entry of e7 has no return"):
        trainer.step([Row((1, 2), (Entry(0, 0, "value", 1.0, None, "e7"),))])
