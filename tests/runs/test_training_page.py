"""A run's page and plots show what was logged, whatever recipe logged it."""

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from understudy.runs.directory import Run
from understudy.runs.metrics import numbers
from understudy.runs.report import render
from understudy.runs.trackers import TRACKERS, TrackerError, check, tracker
from understudy.runs.training_page import charts, page
from understudy.runs.training_plots import write_plots


def a_run(folder: Path) -> Run:
    run = Run.create(folder / "rehearsed", {"lr": 1e-3, "lora": {"rank": 4}, "start": None})
    for step in range(6):
        values = {
            "reward": 0.1 * step, "success": step / 10,
            "loss": {"rl": math.nan if step == 2 else 0.5}, "kl": 0.01 * step,
            "margin": {"mean": step}, "skipped": "nothing to train" if step == 3 else None,
            "counted": {"flat groups": step, "rows <b>": 2}, "ended": {"max_turns": 1},
            "sampled_tokens": 100, "rollout_seconds": 2.0, "step_seconds": 4.0,
            "grad_norm": math.inf if step == 2 else 1.0,
        }  # fmt: skip
        if step in (2, 5):
            values["evaluation"] = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 90}
        run.log(step, **values)
    folder = run.checkpoints / "step-000003"
    folder.mkdir()
    (folder / "state.json").write_text("{}")
    best = {"step": 3, "score": 0.5, "by": "success on held-out scenarios"}
    (run.checkpoints / "best.json").write_text(json.dumps(best))
    run.write_artefact("sft.json", {"left_out": {"below 1": 7}})
    return run


def test_the_page_shows_what_was_logged_and_what_was_left_out(tmp_path: Path) -> None:
    text = render(page(a_run(tmp_path)))
    for said in (
        "6 steps logged; the run is running", "flat groups", "rows &lt;b&gt;", "below 1",
        "step skipped: nothing to train", "episodes that ended: max_turns", "margin: mean",
        "the best, by success on held-out scenarios: 0.5", "lora.rank", "n = 90, 40% to 60%",
    ):  # fmt: skip
        assert said in text, said
    assert "<script" not in text
    drawn = {chart.title: chart for chart in charts(Run.open(tmp_path / "rehearsed", True))}
    assert "Staleness" not in drawn  # was not logged
    assert drawn["Success"].series[1].low == (0.4, 0.4)
    assert drawn["Tokens per second"].series[0].y == (25.0,) * 6


def test_plots_are_files(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    files = write_plots(run, tmp_path / "plots")
    assert len({f.name for f in files}) == len(charts(run)) + 1
    assert all(f.read_bytes().startswith((b"<svg", b"\x89PNG")) for f in files)
    empty = Run.create(tmp_path / "empty", {})
    with pytest.raises(ValueError, match="nothing to draw"):
        write_plots(empty, tmp_path / "plots")
    assert "0 steps logged" in render(page(empty))


def test_numbers_of_nested_values_are_named_by_their_place() -> None:
    values = {"a": 1, "b": {"c": 2.5, "d": {"e": 3}}, "f": None, "g": "x", "h": True, "i": [1]}
    assert numbers(values) == {"a": 1.0, "b/c": 2.5, "b/d/e": 3.0}


def test_a_tracker_that_is_not_there_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TrackerError, match="unknown tracker 'clay'"):
        check(["clay"])
    with pytest.raises(TrackerError, match="unknown tracker"):
        tracker("clay", tmp_path, {})
    assert set(TRACKERS) == {"tensorboard", "wandb", "mlflow"}


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a stand-in in the place of a program, installed or not; see stand_ins/."""
    folder = Path(__file__).parent / "stand_ins"
    names = [file.stem for file in folder.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_other_trackers_are_told_what_was_logged(
    name: str, tmp_path: Path, stand_ins: Callable[[str], ModuleType]
) -> None:
    told = stand_ins(name).told
    run = Run.create(tmp_path / "run", {"steps": 2})
    run.track([name])
    for step in range(2):
        run.log(step, reward=step / 2, loss={"rl": 0.25}, skipped=None, counted={"rows": 3})
    run.finish()
    begun = {
        "wandb": [{"project": "understudy", "name": "run", "dir": str(run.path),
                   "config": {"steps": 2}}],
        "mlflow": [{"run_name": "run"}, ("config.json", {"steps": 2})],
    }  # fmt: skip
    steps = [(n, {"reward": n / 2, "loss/rl": 0.25, "counted/rows": 3.0}) for n in range(2)]
    assert told == [*begun[name], *steps, "finished"]


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    run = Run.create(tmp_path / "run", {})
    run.track(["tensorboard"])
    for step in range(3):
        run.log(step, reward=step / 2, loss={"rl": 0.25})
    run.finish()
    found = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("reward")] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert [e.value for e in found.Scalars("loss/rl")] == [0.25] * 3
