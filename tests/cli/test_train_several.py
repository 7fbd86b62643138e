"""Commands that train under `torchrun`: two processes make what one makes."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from processes import in_processes
from traffic import conversations, write_jsonl
from understudy.cli import main
from understudy.core.chat_files import import_file
from understudy.runs.directory import Run
from understudy.train.trainer import Trainer
from understudy.world.learn import learn

SFT = ["lora.rank=2", "epochs=1", "batch_episodes=4", "precision=fp32", "checkpoint_every=1"]
GRPO = ["lora.rank=2", "steps=2", "scenarios_per_step=2", "group_size=3", "pool=6", "max_turns=2",
        "max_tokens=12", "precision=fp32", "checkpoint_every=1"]  # fmt: skip
PPO = ["lora.rank=2", "play.steps=2", "play.scenarios_per_step=6", "play.pool=6", "play.epochs=1",
       "play.max_turns=2", "play.max_tokens=12", "play.guards=null", "batch_episodes=3",
       "value.share=1.0", "precision=fp32", "checkpoint_every=1"]  # fmt: skip
ADAPTER, MODEL = "adapter/adapter_model.safetensors", "model/model.safetensors"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, a world and a check."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("given")
    file = write_jsonl(folder / "c.jsonl", asyncio.run(conversations(folder, 16)))
    assert main(["import", str(file), "--store", str(folder / "s.db")]) == 0
    learn(list(import_file(file))).save(folder / "world")
    (folder / "check.py").write_text(
        "def check(messages, ticket):\n    return float(len(str(messages)) % 7)\n"
    )
    return folder


def command(name: str, run: Path, given: Path, *values: str) -> list[str]:
    source = {
        "sft": ["--store", str(given / "s.db")],
        "grpo": (played := ["--world", str(given / "world"), "--check", str(given / "check.py")]),
        "ppo": played,
    }[name]
    sets = [word for value in values for word in ("--set", value)]
    return ["train", name, str(run), *source, "--threads", "1", "--quiet", *sets]


def gap(one: Path, two: Path) -> float:
    """How far what two runs trained is apart: relative error of the norm."""
    a, b = (load_file(next(r / f for f in (ADAPTER, MODEL) if (r / f).exists()))
            for r in (one, two))  # fmt: skip
    assert a.keys() == b.keys()
    apart = sum(float((a[k] - b[k]).norm()) ** 2 for k in a)
    return (apart / sum(float(a[k].norm()) ** 2 for k in a)) ** 0.5


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sft", SFT),
        ("sft", [*SFT, "shard=true"]),
        ("sft", [*SFT, "shard=true", "tune=full", "lr=1e-4", "gradient_checkpointing=true"]),
        ("grpo", GRPO),
        ("ppo", PPO),  # the value head, which is fitted in the first process, is of all
    ],
)
def test_two_processes_train_what_one_trains(
    given: Path, tmp_path: Path, name: str, values: list[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alone = [v for v in values if v != "shard=true"]
    assert main(command(name, one, given, *alone)) == 0
    assert in_processes(2, lambda: main(command(name, two, given, *values))) == [0, 0]
    assert gap(one, two) < 1e-4
    lines = [Run.open(run, read_only=True).metrics().rows for run in (one, two)]
    assert [r["count"] for r in lines[0]] == [r["count"] for r in lines[1]]


def test_an_interrupted_run_ends_bit_for_bit_as_the_uninterrupted(
    given: Path, tmp_path: Path
) -> None:
    whole, cut = (command("sft", tmp_path / name, given, *SFT) for name in ("whole", "cut"))

    def interrupted() -> int:
        steps, step = 0, Trainer.step

        def stopping(self: Trainer, rows: Any, share: float = 1.0) -> Any:
            nonlocal steps
            steps += 1
            if steps == 3 and os.environ["RANK"] == "0":
                raise KeyboardInterrupt
            return step(self, rows, share)

        Trainer.step = stopping  # type: ignore[method-assign]
        return main(cut)

    assert in_processes(2, lambda: main(whole)) == [0, 0]
    assert in_processes(2, interrupted) == [130, 1]
    assert in_processes(2, lambda: main(cut)) == [0, 0]
    assert gap(tmp_path / "whole", tmp_path / "cut") == 0


def test_what_cannot_be_is_said(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(command("sft", run, given, "shard=true", "evaluate_every=2")) == 1
    assert "leave shard off" in capsys.readouterr().err
    assert not run.exists()
    assert main(command("sft", run, given, "shard=true")) == 1
    assert "shard=true needs several processes" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "report", str(run)]) == 1
    assert "`train report` runs in one process" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "two")
    assert main(["train", "report", str(run)]) == 1
    assert "RANK=two and WORLD_SIZE=2 make no sense" in capsys.readouterr().err


def test_one_process_knows_nothing_of_others(given: Path, tmp_path: Path) -> None:
    line = command("sft", tmp_path / "run", given, *SFT)
    program = (
        f"import sys\nfrom understudy.cli import main\nassert main({line!r}) == 0\n"
        "assert 'understudy.train.processes' not in sys.modules\n"
        "import torch.distributed as d\nassert not d.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
def test_torchrun_starts_it(given: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "--"]
    assert main(command("sft", one, given, *SFT)) == 0
    subprocess.run([*start, "understudy.cli", *command("sft", two, given, *SFT)], check=True)
    assert gap(one, two) < 1e-4


@pytest.mark.slow
def test_ray_starts_it_as_the_manual_says(given: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs understudy[ray]")
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(command("sft", one, given, *SFT)) == 0
    manual = Path(__file__).parents[2] / "docs" / "training.md"
    blocks = re.findall(r"```python\n(.*?)```", manual.read_text(), re.DOTALL)
    (program,) = (b for b in blocks if "TorchTrainer" in b)
    program, count = re.subn(
        r"argv = \[.*\]", lambda _: f"argv = {command('sft', two, given, *SFT)}", program
    )
    assert count == 1
    (tmp_path / "train.py").write_text(program)
    home = {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run([sys.executable, tmp_path / "train.py"], check=True, env=os.environ | home)
    assert gap(one, two) < 1e-4
