"""Two gloo processes take the steps that one takes."""

import json
import math
import random
from operator import itemgetter

import numpy as np
import pytest
import torch
from exact_models import random_rows, relative_error, small_model

from processes import in_processes
from understudy.core.rows import Entry, Row
from understudy.models.lora import LoraConfig, inject_lora, lora_layers
from understudy.train.checkpoint import load, save
from understudy.train.processes import Processes, ProcessesError, rows_from, words_of
from understudy.train.sharding import shard, whole
from understudy.train.trainer import Trainer, TrainerConfig
from understudy.train.value_head import ValueHead

torch.set_num_threads(1)
BOUND = {torch.float64: 1e-10, torch.float32: 1e-5}


def model_of(tune, dtype, tied=True):
    model = small_model(dtype=dtype, tied=tied)
    if tune == "lora":
        inject_lora(model, LoraConfig(rank=2, alpha=4))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _, layer in lora_layers(model):  # at B = 0 the gradient of A would be zero
                b = torch.randn(layer.lora_B.shape, generator=generator) / 10
                layer.lora_B.copy_(b)
    return model


def together(model, sharded):
    """The processes, where `sharded` with a part of the model each."""
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
        processes = together(model, sharded)
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


def test_what_is_trained_nowhere_is_left_alone():
    """A batch of values alone trains the head alone: the model's moments do not move."""
    ids = (1, 2, 3, 4)
    rows = [Row(ids, (Entry(i, 0, "value", 1.0, 0.5),)) for i in range(3)]

    def work():
        model = model_of("full", torch.float64)
        trainer = Trainer(
            model, CONFIG, value_head=ValueHead.of(model), processes=together(model, False)
        )
        trainer.step(rows)
        return sorted(name for name, _ in trainer.tensors() if name.startswith("step:"))

    assert in_processes(2, work) == [["step:value_head.bias", "step:value_head.weight"]] * 2


@pytest.mark.parametrize(("tune", "sharded"), [("lora", False), ("full", True)])
def test_from_a_checkpoint_on_it_is_bit_for_bit_the_same(tmp_path, tune, sharded):
    """And one process can go on from it."""
    batches = batches_of(5, (6, 5, 4))

    def work():
        said = []
        for again in (False, True):
            model = model_of(tune, torch.float32)
            trainer = Trainer(model, CONFIG, processes=together(model, sharded))
            if again:
                load(tmp_path / "0", trainer)
            else:
                trainer.step(batches[0])
                save(tmp_path / f"{trainer.processes.rank}", trainer, {"step": 1})
            for rows in batches[1:]:
                trainer.step(rows)
            said.append(sorted((name, t.tolist()) for name, t in trainer.tensors()))
        return said

    (whole_, resumed), other = in_processes(2, work)
    assert whole_ == resumed
    assert other == [whole_, resumed]
    alone = Trainer(model_of(tune, torch.float32), CONFIG)
    assert load(tmp_path / "0", alone) == {"step": 1}
    for rows in batches[1:]:
        alone.step(rows)
    for (name, expected), (same, got) in zip(
        whole_, sorted(alone.tensors(), key=itemgetter(0)), strict=True
    ):
        assert name == same
        assert torch.allclose(got, torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_words_are_what_was_said():
    rows = [*random_rows(random.Random(0)), Row((1, 2), (Entry(0, 2, "rl", math.inf, -1e-300),))]
    assert rows_from(json.loads(json.dumps(words_of(rows)))) == rows

    def work():
        processes = Processes()
        said = [processes.tell({"by": [processes.rank, 0.1, np.int64(3)]}, by) for by in (0, 1)]
        handed = processes.hand(torch.full((2, 2), float(processes.rank)), by=1)
        return said, handed.tolist(), processes.most(10 + processes.rank)

    both = [[{"by": [0, 0.1, 3]}, {"by": [1, 0.1, 3]}], [[1.0, 1.0], [1.0, 1.0]], 11]
    assert [list(one) for one in in_processes(2, work)] == [both, both]


def test_a_process_that_ended_is_said():
    def work():
        processes = Processes()
        processes.most(0)
        if processes.rank == 1:
            return ""
        with pytest.raises(ProcessesError, match="its own message says why") as error:
            processes.tell(None, by=1)
        return str(error.value)

    assert in_processes(2, work)[1] == ""
