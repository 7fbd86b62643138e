"""Two gloo processes take the steps that one takes."""

import random

import pytest
import torch
from exact_models import random_rows, relative_error, small_model

from processes import in_processes
from understudy.models.lora import LoraConfig, inject_lora, lora_layers
from understudy.train.sharding import shard, whole
from understudy.train.trainer import Trainer, TrainerConfig

torch.set_num_threads(1)
BOUND = {torch.float64: 1e-10, torch.float32: 1e-5}


def model_of(tune, dtype, tied=True, seed=0):
    model = small_model(dtype=dtype, seed=seed, tied=tied)
    if tune == "lora":
        inject_lora(model, LoraConfig(rank=2, alpha=4))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, layer in lora_layers(model):  # at B = 0 the gradient of A would be zero
                b = torch.randn(layer.lora_B.shape, generator=generator) / 10
                layer.lora_B.copy_(b)
    return model


def joined(model, sharded):
    """The processes' side of a model, and the processes."""
    from understudy.train.processes import Processes

    processes = Processes()
    if sharded:
        adapter = {p for p in model.parameters() if p.requires_grad}
        shard(model, adapter if any(lora_layers(model)) else set())
    return processes


def three_steps(trainer, batches):
    """The gradient at each step, what is trained after them, and the metrics."""
    seen = []

    def look(*_):
        grads = [p.grad for p in trainer.parameters.values() if p.grad is not None]
        seen.append(torch.cat([whole(g).flatten() for g in grads]))

    trainer.optimiser.register_step_pre_hook(look)
    metrics = [trainer.step(rows) for rows in batches]
    after = torch.cat([t.flatten() for n, t in trainer.tensors() if n.startswith("parameter:")])
    return seen, after, metrics


def batches_of(seed, counts):
    rng = random.Random(seed)
    return [random_rows(rng, count=n) for n in counts]


CONFIG = TrainerConfig(lr=0.01, grad_clip=0.5, max_tokens_per_microbatch=40)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("tune", "sharded", "tied"),
    [("lora", False, True), ("full", False, True), ("lora", True, True), ("full", True, True),
     ("full", True, False)],
)  # fmt: skip
def test_two_processes_are_one(dtype, tune, sharded, tied):
    batches = batches_of(3, (9, 1, 4))  # of the second step's one row one process has none
    seen, after, metrics = three_steps(Trainer(model_of(tune, dtype, tied), CONFIG), batches)

    def work():
        model = model_of(tune, dtype, tied)
        processes = joined(model, sharded)
        parts = [len(processes.share(rows)) for rows in batches]
        trainer = Trainer(model, CONFIG, processes=processes)
        grads, end, said = three_steps(trainer, batches)
        return [g.tolist() for g in grads], end.tolist(), [m.as_dict() for m in said], parts

    (first, second) = in_processes(2, work)
    assert first[:2] == second[:2]  # bit for bit
    parts = list(zip(first[3], second[3], strict=True))
    assert parts[0][0] != parts[0][1]
    assert sorted(parts[1]) == [0, 1]
    for got, expected in zip(first[0], seen, strict=True):
        assert relative_error(torch.tensor(got, dtype=dtype), expected) < BOUND[dtype]
    assert relative_error(torch.tensor(first[1], dtype=dtype), after) < BOUND[dtype]
    for mine, other, alone in zip(first[2], second[2], metrics, strict=True):
        expected = alone.as_dict()
        for name in ("count", "step", "tokens_in_rows", "masked", "skipped"):
            assert mine[name] == other[name] == expected[name]
        for name in ("loss", "grad_norm", "entropy", "ratio_mean", "ratio_max", "kl"):
            assert mine[name] == other[name] == pytest.approx(expected[name], rel=1e-4)
