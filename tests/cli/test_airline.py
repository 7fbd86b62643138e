"""Traffic of a real agent, from its file to a world and to a data set that TRL trains on.

The folder is the one that UNDERSTUDY_AIRLINE names, else ../shared/data/airline; without it there
is nothing to test.
"""

import json
import math
import os
from pathlib import Path

import pytest

from understudy.cli import main
from understudy.models.loading import TINY

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("UNDERSTUDY_AIRLINE") or ROOT.parent / "shared" / "data" / "airline")
HERE = (FOLDER / "conversations.jsonl.gz").exists()


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason=f"there are no conversations in {FOLDER}")
def test_from_a_file_of_real_traffic_to_a_world_and_to_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("UNDERSTUDY_STORE", str(tmp_path / "s.db"))
    world, out = str(tmp_path / "world"), str(tmp_path / "sft.jsonl")

    def run(*command: str) -> str:
        assert main(list(command)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    file, tools = str(FOLDER / "conversations.jsonl.gz"), FOLDER / "tools.json"
    said = run("import", file, "--outcome", "reward", "--tools", str(tools))
    assert said.startswith("200 episodes, ")
    assert ", 200 outcomes into" in said
    assert "; 0 broken lines" in said
    listed = json.loads(run("episodes", "--json"))
    assert "outcome=" in run("episodes", "show", listed[0]["id"])
    run("world", "learn", world)
    names = {tool["function"]["name"] for tool in json.loads(tools.read_text())}
    assert any(name in run("world", "report", world) for name in names)

    good = len(json.loads(run("episodes", "--json", "--limit", "200", "--feedback", "outcome=1")))
    run("export", out, "--feedback", "outcome=1")
    rows = [json.loads(line) for line in Path(out).read_text().splitlines()]
    assert 0 < len(rows) == good < 200
    assert all({t["function"]["name"] for t in json.loads(row["tools"])} == names for row in rows)
    data = datasets.load_dataset(
        "json", data_files=out, split="train", cache_dir=str(tmp_path / "cache")
    )
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=1,
        max_length=512, report_to="none", use_cpu=True, bf16=False, save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(TINY),
        args=arguments,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(TINY),
    )
    assert len(trainer.train_dataset) == good
    assert math.isfinite(trainer.train().training_loss)
