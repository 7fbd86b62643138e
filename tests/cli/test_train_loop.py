"""Runs by command: evaluated as they go, gone on from, tracked, reported."""

import asyncio
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from traffic import conversations, write_jsonl
from understudy.cli import main
from understudy.runs.directory import Run
from understudy.runs.trackers import TRACKERS
from understudy.world.learn import learn

CHECK = "def check(messages, ticket):\n    return float(len(str(messages)) % 7)\n"
SFT = ["lora.rank=2", "epochs=1", "batch_episodes=8", "evaluate_every=2", "evaluate_scenarios=2"]
GRPO = ["lora.rank=2", "steps=2", "scenarios_per_step=2", "group_size=2", "pool=6", "max_turns=2",
        "max_tokens=12", "precision=fp32", "checkpoint_every=1", "max_staleness=1"]  # fmt: skip


def sets(values: list[str]) -> list[str]:
    return [word for value in values for word in ("--set", value)]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, a world and a check."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("given")
    rows = asyncio.run(conversations(folder, 40))
    file = write_jsonl(folder / "c.jsonl", rows)
    assert main(["import", str(file), "--store", str(folder / "s.db")]) == 0
    from understudy.core.chat_files import import_file

    learn(list(import_file(file))).save(folder / "world")
    (folder / "check.py").write_text(CHECK)
    return folder


def test_a_run_is_evaluated_gone_on_from_and_reported(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, check = ["--world", str(given / "world")], ["--check", str(given / "check.py")]
    first, then, run = (str(tmp_path / name) for name in ("first", "then", "sft"))
    store = ["--store", str(given / "s.db"), "--threads", "1", "--quiet"]
    assert main(["train", "sft", run, *store, *world, *check, *sets(SFT)]) == 0
    evaluated = [r["evaluation"]["n"] for r in Run.open(run, True).metrics().rows
                 if "evaluation" in r]  # fmt: skip
    assert evaluated
    assert set(evaluated) == {2}
    assert "best.json" in {p.name for p in Path(run, "checkpoints").iterdir()}

    more = ["--threads", "1", "--quiet", *world, *check]
    assert main(["train", "grpo", first, *more, "--start", run, *sets(GRPO)]) == 0
    again = ["train", "grpo", then, *more, "--from", f"{first}@1", "--set", "steps=3"]
    assert main(again) == 0
    forked = Run.open(then, read_only=True)
    assert forked.config == Run.open(first, read_only=True).config | {"steps": 3}
    assert [r["step"] for r in forked.metrics().rows] == [1, 2]
    assert main(again) == 1
    assert "is done" in capsys.readouterr().err
    missing = ["train", "grpo", str(tmp_path / "no"), *more, "--from", f"{first}@9"]
    assert main(missing) == 1
    assert f"{first} has no checkpoint 9; there are: 1, 2" in capsys.readouterr().err

    plots = tmp_path / "plots"
    assert main(["train", "report", then, "--plots", str(plots)]) == 0
    page = Path(then, "report.html").read_text()
    for said in ("Reward", "Staleness", "from step 1 of", "max_staleness", "Left out, and why"):
        assert said in page
    assert (plots / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (plots / "reward.svg").read_text().startswith("<svg")


def test_what_cannot_be_is_said_before_anything_is_made(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = next((name for name in TRACKERS if find_spec(name) is None), None)
    run, store = str(tmp_path / "run"), ["--store", str(given / "s.db"), "--threads", "1"]
    for wrong, said in (
        (["--track", "clay"], "unknown tracker 'clay'; there are: tensorboard, wandb, mlflow"),
        *(
            [
                (
                    ["--track", absent],
                    f"{absent} is not installed: pip install 'understudy[{absent}]'",
                )
            ]
            if absent
            else []
        ),
        (["--from", str(tmp_path)], "holds no run: name one as RUN, RUN@STEP or RUN@best"),
        (["--set", "evaluate_every=5"], "name the --world and the --check"),
    ):
        assert main(["train", "sft", run, *store, *wrong]) == 1
        assert said in capsys.readouterr().err
        assert not Path(run).exists()
    assert main(["train", "report", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["sft", "grpo", "report"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", command, "--help"]) == 0
    assert f"Example: understudy train {command}" in " ".join(capsys.readouterr().out.split())


def test_an_exact_run_says_that_it_is_synchronous(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--world", str(given / "world"), "--check", str(given / "check.py")]
    wrong = sets(["exact=true", "max_staleness=1"])
    assert main(["train", "grpo", str(tmp_path / "r"), *arguments, *wrong]) == 1
    assert "exact runs are synchronous" in capsys.readouterr().err
    assert main(["train", "grpo", str(tmp_path / "r"), *arguments,
                 *sets(["reward_bound=[1, 1]"])]) == 1  # fmt: skip
    assert "reward_bound: must be [low, high]" in capsys.readouterr().err
