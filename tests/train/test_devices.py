"""The trainer on another device than the CPU, and bases in half precision."""

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from another_device import AWAY, Away, move, two_devices
from exact_models import gradients, random_rows, relative_error, small_model
from test_value_head import rows_with_values

from understudy.models.lora import LoraConfig, inject_lora, lora_layers, lora_parameters
from understudy.train import attention, checkpoint, layers
from understudy.train.trainer import Trainer, TrainerConfig
from understudy.train.value_head import ValueConfig, ValueHead

torch.set_num_threads(1)
LORA = LoraConfig(rank=1, alpha=2)  # of matrices of 16 to 24 in and out: A and B apart


@pytest.fixture
def no_c_kernel(monkeypatch):
    """The other device's tensors have no memory that C could read."""
    monkeypatch.setattr(attention, "kernel_for", lambda value: "slices")
    monkeypatch.setattr(layers, "pointwise", lambda: None)


def with_head(away, **config):
    """A trainer of an adapter and a value head, on the one device or the other."""
    model = small_model(dtype=torch.float32)
    inject_lora(model, LORA)
    model = move(model) if away else model
    config = {"lr": 0.01, "value": ValueConfig(share=0.5), **config}
    return Trainer(model, TrainerConfig(**config), value_head=ValueHead.of(model))


def test_the_other_device_refuses_what_a_gpu_refuses():
    with two_devices():
        there = torch.ones(3, device=AWAY)
        assert there.device == AWAY
        assert (there * 2 + torch.tensor(1.0)).cpu().tolist() == [3.0] * 3
        with pytest.raises(RuntimeError, match="tensors of two devices"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="tensors of two devices"):
            there[torch.from_numpy(np.arange(2))].sum() + there.index_select(0, torch.arange(2))


@pytest.mark.usefixtures("no_c_kernel")
@pytest.mark.parametrize("layout", ["tree", "packed", "padded"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_whatever_the_trainer_makes_is_where_the_parameters_are(layout, checkpointing):
    """All streams, steps, scores and a fit of the value head: as on the CPU, number for number."""
    rows = [*random_rows(random.Random(0)), *rows_with_values(1)]
    config = {"layout": layout, "gradient_checkpointing": checkpointing}
    found = []
    for away in (False, True):
        with two_devices() if away else nullcontext():
            trainer = with_head(away, **config)
            assert all(isinstance(p, Away) == away for p in trainer.model.parameters())
            told = [trainer.fit_values(rows_with_values(2)), trainer.logprobs(rows)]
            metrics = [trainer.step(rows) for _ in range(2)]
            told += [[m.loss, m.grad_norm, m.entropy, m.value_explained] for m in metrics]
            found.append([*told, trainer.values(rows)])
            assert all(isinstance(p, Away) == away for p in trainer.parameters.values())
    assert found[0] == found[1]


@pytest.mark.usefixtures("no_c_kernel")
def test_a_checkpoint_goes_from_one_device_to_the_other(tmp_path):
    batches = [[*random_rows(random.Random(n)), *rows_with_values(n)] for n in range(3)]
    with two_devices():
        one = with_head(away=True)
        for rows in batches[:2]:
            one.step(rows)
        checkpoint.save(tmp_path / "step-2", one)
        for away in (False, True):
            other = with_head(away)
            checkpoint.load(tmp_path / "step-2", other)
            states = [s for state in other.optimiser.state.values() for s in state.values()]
            assert all(isinstance(s, Away) == away for s in states if s.dim())
            told = other.step(batches[2]).loss
            assert told == pytest.approx(one.step(batches[2]).loss) if not away else told


def half(model):
    """Weights in bf16; buffers (rotary frequencies) as they are, as when a folder is loaded."""
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


def adapted(dtype, seed=0):
    """A model of the same numbers in either type, with the same adapter, A and B not zero."""
    model = half(small_model(dtype=torch.float32, seed=seed))
    if dtype == torch.float32:
        model = model.float()
    inject_lora(model, LORA)
    generator = torch.Generator().manual_seed(seed)
    for parameter in lora_parameters(model):
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def gradient(model, rows, **config):
    caught = []
    trainer = Trainer(model, TrainerConfig(grad_clip=None, **config))
    trainer.optimiser.step = lambda: caught.append(gradients(model).clone())
    metrics = trainer.step(rows)
    return sum(metrics.loss.values()), caught[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", ["tree", "packed", "padded"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_adapter_on_a_bf16_base_is_float32_and_its_gradient_near(
    precision, layout, checkpointing
):
    """Near that on a base of the same numbers in float32, as near as bf16 by autocast is."""
    rows = random_rows(random.Random(3), streams=("ce",), count=12)
    loss, wanted = gradient(adapted(torch.float32), rows)
    config = {"precision": precision, "layout": layout, "gradient_checkpointing": checkpointing}
    model = adapted(torch.bfloat16)
    got_loss, got = gradient(model, rows, **config)
    assert {p.dtype for p in lora_parameters(model)} == {got.dtype} == {torch.float32}
    assert all(layer.weight.dtype == torch.bfloat16 for _, layer in lora_layers(model))
    assert got_loss == pytest.approx(loss, rel=0.02)
    assert relative_error(got, wanted) < 0.1


def test_an_adapter_on_a_bf16_base_learns_and_adamw_keeps_float32():
    rows = random_rows(random.Random(3), streams=("ce",))
    model = adapted(torch.bfloat16)
    before = {n: layer.weight.clone() for n, layer in lora_layers(model)}
    trainer = Trainer(model, TrainerConfig(lr=1e-2, precision="bf16"))
    losses = [trainer.step(rows).loss["ce"] for _ in range(8)]
    assert losses[-1] < losses[0] - 0.1
    assert {s.dtype for state in trainer.optimiser.state.values() for s in state.values()} == {
        torch.float32
    }
    assert all(torch.equal(layer.weight, before[n]) for n, layer in lora_layers(model))


def test_on_a_bf16_base_an_update_too_small_for_bf16_weights_is_not_lost():
    """High ranks too, where one matrix would be made of a float32 base, A and B."""
    model = half(small_model(dtype=torch.float32))
    inject_lora(model, LoraConfig(rank=16, alpha=16))
    layer = next(layer for _, layer in lora_layers(model))
    sign = torch.tensor([1.0, -1.0]).repeat(layer.in_features // 2)
    with torch.no_grad():
        layer.weight.fill_(1.0)  # beside which bf16 knows no 2**-10
        layer.lora_A.copy_((sign / layer.in_features).expand(16, -1))
        layer.lora_B.fill_(2.0**-10)
        out = layer(sign.bfloat16()[None])  # the base's part is zero
    assert torch.equal(out.float(), torch.full_like(out, 16 * 2.0**-10).float())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("layout", ["tree", "packed", "padded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_gradients_are_those_of_the_cpu(layout, dtype):
    rows = random_rows(random.Random(3), count=20)
    found = []
    for device in ("cpu", "cuda"):
        model = small_model(dtype=torch.float32, head_dim=32)
        model = half(model) if dtype == torch.bfloat16 else model
        inject_lora(model, LORA)
        found.append(gradient(model.to(device), rows, layout=layout))
    bound = 1e-4 if dtype == torch.float32 else 0.1
    assert found[1][0] == pytest.approx(found[0][0], rel=bound)
    assert relative_error(found[1][1].cpu(), found[0][1]) < bound
