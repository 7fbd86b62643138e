"""Successful conversations, imported, shown and exported by command, train in TRL as they are."""

import json
import math
import re
from pathlib import Path

import pytest

from traffic import conversations, write_jsonl
from understudy.cli import main
from understudy.models.loading import TINY


async def test_successful_conversations_train_in_trl(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = await conversations(tmp_path, 30)
    good = [r for r in rows if r["reward"]]
    store, out = str(tmp_path / "s.db"), tmp_path / "sft.jsonl"
    file = str(write_jsonl(tmp_path / "c.jsonl.gz", rows))
    assert main(["import", file, "--store", store]) == 0
    assert main(["export", str(out), "--store", store, "--feedback", "outcome=1"]) == 0
    assert f"{len(good)} conversations to" in capsys.readouterr().out
    assert 5 < len(good) < 25

    data = datasets.load_dataset(
        "json", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache")
    )
    model = AutoModelForCausalLM.from_pretrained(TINY)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=2,
        max_length=512, report_to="none", use_cpu=True, bf16=False, save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=model, args=arguments, train_dataset=data, processing_class=tokenizer
    )
    read = [tokenizer.decode(row["input_ids"]) for row in trainer.train_dataset]
    assert len(read) == len(good)
    for text, row in zip(read, good, strict=True):
        assert '<tools>\n{"name": "search_stays"' in text
        call = next(m for m in row["messages"] if m.get("tool_calls"))["tool_calls"][0]
        arguments_ = json.loads(call["function"]["arguments"])
        assert f'"arguments": {json.dumps(arguments_)}' in text
    assert math.isfinite(trainer.train().training_loss)


async def test_ids_as_they_are_listed_can_be_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    store = str(tmp_path / "s.db")
    file = str(write_jsonl(tmp_path / "c.jsonl.gz", await conversations(tmp_path, 3)))
    assert main(["import", file, "--store", store]) == 0
    capsys.readouterr()
    assert main(["episodes", "--store", store]) == 0
    words = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).split()
    listed = [word for word in words if len(word) == len("01a211fa-e6e3-7000-8000-000000000000")]
    assert len(set(listed)) == 3
    for episode in listed:
        assert main(["episodes", "show", episode, "--store", store]) == 0
        assert "search_stays(" in capsys.readouterr().out
