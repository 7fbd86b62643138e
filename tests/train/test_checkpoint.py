import json
import random

import numpy as np
import pytest
import torch
from exact_models import random_rows, small_model

from understudy.train import checkpoint
from understudy.train.trainer import Trainer, TrainerConfig

torch.set_num_threads(1)
CONFIG = TrainerConfig(lr=1e-2, schedule="cosine", total_steps=10, warmup_steps=2)


def some_steps(trainer, count):
    """Steps whose rows come from the process's generators, as a recipe's sampling would."""
    for _ in range(count):
        rng = random.Random(random.random() + float(np.random.rand()) + float(torch.rand(())))
        trainer.step(random_rows(rng, count=4, longest=12))


def fresh():
    return Trainer(small_model(dtype=torch.float32), CONFIG)


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    whole = fresh()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    some_steps(whole, 3)
    random.gauss(0, 1), np.random.randn()  # generators that hold half of a pair
    checkpoint.save(tmp_path / "step-3", whole, {"seen": [1, 2]})
    some_steps(whole, 3)
    drawn = random.gauss(0, 1), np.random.randn(), torch.rand(3)

    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    resumed = fresh()
    assert checkpoint.load(tmp_path / "step-3", resumed) == {"seen": [1, 2]}
    assert resumed.steps == 3
    some_steps(resumed, 3)
    assert (random.gauss(0, 1), np.random.randn()) == drawn[:2]
    assert torch.equal(torch.rand(3), drawn[2])
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, resumed.parameters[name]), name
        for key, value in whole.optimiser.state[parameter].items():
            assert torch.equal(value, resumed.optimiser.state[resumed.parameters[name]][key])


def test_saving_replaces_whole_and_a_failed_save_leaves_the_old_one(tmp_path, monkeypatch):
    trainer, path = fresh(), tmp_path / "last"
    checkpoint.save(path, trainer, {"n": 1})
    checkpoint.save(path, trainer, {"n": 2})
    with pytest.raises(TypeError):
        checkpoint.save(path, trainer, {"n": object()})
    assert checkpoint.load(path, fresh()) == {"n": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["last"]
    path.rename(tmp_path / ".last.old")  # died between the two renames
    assert checkpoint.load(path, fresh()) == {"n": 2}


@pytest.mark.parametrize("name", ["parameters.safetensors", "optimiser.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused(tmp_path, name):
    path = checkpoint.save(tmp_path / "c", fresh())
    whole = (path / name).read_bytes()
    for broken in (whole[:-3], b"", whole[:-9] + b"x" + whole[-8:]):
        (path / name).write_bytes(broken)
        with pytest.raises(checkpoint.CheckpointError):
            checkpoint.load(path, fresh())
    (path / name).unlink()
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        checkpoint.load(path, fresh())


def test_other_models_and_formats_are_refused(tmp_path):
    path = checkpoint.save(tmp_path / "c", fresh())
    other = Trainer(small_model(dtype=torch.float32, tied=False), CONFIG)
    with pytest.raises(checkpoint.CheckpointError, match="another model"):
        checkpoint.load(path, other)
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint"):
        checkpoint.load(tmp_path / "nowhere", other)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"format": 2}))
    with pytest.raises(checkpoint.CheckpointError, match="format"):
        checkpoint.load(path, other)
