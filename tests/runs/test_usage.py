"""A run knows how many tokens it used, through resuming and within runs that it begins."""

import json
from pathlib import Path

import pytest

from understudy.core.meter import Tokens
from understudy.runs.directory import Run, RunError
from understudy.runs.usage import trained_until, usage_of

CONFIG = {"base": "tiny"}


def test_lines_tell_what_was_used_since_the_line_before(tmp_path: Path) -> None:
    engine = {"prompt": 100, "cached": 50, "sampled": 7}
    with Run.create(tmp_path / "r", CONFIG) as run:
        run.watch(lambda: dict(engine))
        run.use(trained=10)
        run.use(trained=5)
        run.log(0, loss=1.0)
        engine.update(prompt=130, sampled=9)
        run.log(1)
        run.log(2)
        engine.update(sampled=10)
    rows = Run.open(tmp_path / "r", read_only=True).metrics().rows
    assert [r.get("used") for r in rows] == [
        {"trained": 15}, {"prompt": 30, "sampled": 2}, None,
    ]  # fmt: skip
    found = usage_of(tmp_path / "r")
    assert found.tokens == Tokens(prompt=30, sampled=3, trained=15)  # one came after the last line
    assert (found.base, found.again, found.runs) == ("tiny", Tokens(), 1)
    assert found.trained == "`used` of metrics.jsonl"


def test_steps_taken_again_are_in_it_and_named_apart(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", CONFIG)
    for step in range(3):
        run.use(trained=10)
        run.log(step)
    run.use(trained=4)
    run.finish("interrupted")
    with Run.open(tmp_path / "r") as run:
        assert run.rewind(0) == 2
        for step in (1, 2):
            run.use(trained=10)
            run.log(step)
        run.use(trained=3)
    found = usage_of(tmp_path / "r")
    assert found.tokens == Tokens(trained=10 * 5 + 4 + 3)
    assert found.again == Tokens(trained=20)
    assert (trained_until(tmp_path / "r"), trained_until(tmp_path / "r", 2)) == (30, 20)


def test_runs_within_a_run_are_part_of_it(tmp_path: Path) -> None:
    for path in (tmp_path / "r", tmp_path / "r" / "reader"):
        with Run.create(path, CONFIG) as run:
            run.use(trained=5)
            run.log(0)
    assert usage_of(tmp_path / "r").tokens == Tokens(trained=10)
    assert usage_of(tmp_path / "r").runs == 2


def test_of_an_older_run_the_last_updates_of_steps_are_known(tmp_path: Path) -> None:
    with Run.create(tmp_path / "r", CONFIG) as run:
        run.log(0, tokens_in_rows=40)
        run.log(1, tokens_in_rows=2, skipped="nothing")
    found = usage_of(tmp_path / "r")
    assert found.tokens == Tokens(trained=42)
    assert "at least" in found.trained
    with pytest.raises(RunError, match="holds no run"):
        usage_of(tmp_path)


def test_a_run_whose_record_tells_its_tokens_is_still_read(tmp_path: Path) -> None:
    with Run.create(tmp_path / "r", CONFIG) as run:
        run.use(sampled=3)
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert record["used"] == {"sampled": 3}
    with Run.open(tmp_path / "r") as run:
        run.use(sampled=2)
    assert usage_of(tmp_path / "r").tokens == Tokens(sampled=5)
