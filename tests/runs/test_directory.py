"""Run directories, metrics and configurations: what a crash, a rewind, a second writer do."""

import math
from pathlib import Path

import numpy as np
import pytest

from understudy.core import strict_json
from understudy.runs.config import Config, ConfigError, load_config
from understudy.runs.directory import Run, RunError
from understudy.runs.metrics import MetricsError, MetricsLog, read_metrics


class Inner(Config):
    rank: int = 4


class Outer(Config):
    steps: int = 40
    lora: Inner = Inner()


def test_a_torn_last_line_is_skipped_and_then_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.append(0, {"loss": 1.5, "ratio": math.inf})
    log.close()
    with path.open("ab") as file:
        file.write(b'{"step": 1, "lo')
    torn = read_metrics(path)
    assert torn.torn
    assert torn.series("ratio") == ([0.0], [math.inf])
    log = MetricsLog(path)
    log.append(1, {"loss": 1.0})
    log.close()
    assert log.cut_bytes == 15
    assert read_metrics(path).series("loss") == ([0.0, 1.0], [1.5, 1.0])
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    with pytest.raises(MetricsError, match="line 1"):
        read_metrics(path)


def test_numbers_that_json_cannot_hold_are_written_as_text_at_any_depth(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": {"rl": NaN}}\n')  # as older versions wrote it
    log = MetricsLog(path)
    log.append(1, {"loss": {"rl": math.nan}, "gaps": (1.0, -math.inf), "mean": np.float32("inf")})
    log.append(2, {"loss": {"rl": 0.5}})
    assert log.rewind(1) == 1
    log.close()
    for line in path.read_text().splitlines():
        strict_json.loads(line)
    old, new = read_metrics(path).rows
    assert math.isnan(old["loss"]["rl"])
    assert math.isnan(new["loss"]["rl"])
    assert (new["gaps"], new["mean"]) == ([1.0, -math.inf], math.inf)


def test_a_rewind_sets_later_rows_aside(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", Outer(), seed=3) as run:
        for step in range(5):
            run.log(step, loss=float(step))
        assert run.rewind(2) == 2
        run.log(3, loss=30.0)
        assert run.metrics().series("loss")[1] == [0.0, 1.0, 2.0, 30.0]
    gone = read_metrics(tmp_path / "run" / "metrics.rewound.jsonl")
    assert gone.series("loss")[1] == [3.0, 4.0]


def test_one_writer_at_a_time_and_the_state_is_told(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", Outer(steps=7), seed=3)
    with pytest.raises(RunError, match="is being written by process"):
        Run.open(tmp_path / "run")
    reader = Run.open(tmp_path / "run", read_only=True)
    assert (reader.state, reader.seed, reader.config["steps"]) == ("running", 3, 7)
    with pytest.raises(RunError, match="not open for writing"):
        reader.log(0)
    run.close()
    assert reader.state == "interrupted"
    with pytest.raises(RunError, match="holds a run already"):
        Run.create(tmp_path / "run", Outer())
    with pytest.raises(ZeroDivisionError), Run.open(tmp_path / "run"):
        1 / 0  # noqa: B018
    failed = Run.open(tmp_path / "run", read_only=True)
    assert failed.state == "failed"
    assert failed.reason == "ZeroDivisionError: division by zero"


def test_artefacts_stay_in_the_run(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", {}) as run:
        assert run.write_artefact("table.json", {"a": 1}).read_text() == '{\n  "a": 1\n}\n'
        with pytest.raises(RunError, match="leave the run's folder"):
            run.write_artefact("../run.json", "x")


def test_the_later_configuration_wins_and_a_mistake_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("steps = 10\n[lora]\nrank = 2\n")
    found = load_config(Outer, file, ["lora.rank=8"], {"steps": 11})
    assert (found.steps, found.lora.rank) == (11, 8)
    for overrides, said in (
        (["stesp=1"], "unknown key stesp .did you mean steps..; allowed: steps, lora"),
        (["lora.rnk=1"], "unknown key lora.rnk"),
        (["steps=many"], "steps must be a valid integer.*not 'many'"),
        (["steps"], "not of the form key=value"),
    ):
        with pytest.raises(ConfigError, match=said) as error:
            load_config(Outer, overrides=overrides)
        assert "\n" not in str(error.value)
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_config(Outer, tmp_path / "c.json")
