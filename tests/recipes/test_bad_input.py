"""What training says of input that it cannot use: one line that says what to do, or a count."""

import json
from pathlib import Path

import pytest

from understudy.models.adapters import load_adapter
from understudy.recipes.learner import Lora, make_learner
from understudy.recipes.sft import SftConfig
from understudy.runs.config import ConfigError, load_config


def test_dropout_is_refused_and_adapters_trained_with_it_elsewhere_are_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^lora: dropout is not applied: .* leave lora.dropout"):
        load_config(SftConfig, None, ["lora.dropout=0.1"])
    older = {"lora": {"rank": 2, "alpha": 4.0, "dropout": 0.0}}  # as a run's file has it
    assert load_config(SftConfig, None, (), older).lora == Lora(rank=2, alpha=4)
    folder = make_learner("tiny", Lora(rank=2), seed=0).save(tmp_path / "adapter", {})
    file = folder / "adapter_config.json"
    told = json.loads(file.read_text())
    assert told["lora_dropout"] == 0.0  # PEFT's own key
    file.write_text(json.dumps(told | {"lora_dropout": 0.1}))
    assert load_adapter(folder).config.rank == 2
