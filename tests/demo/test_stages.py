"""An interrupted demo goes on or starts clean, says which, and removes nothing that is not its."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from understudy.demo.figures import time_table
from understudy.demo.main import QUICK
from understudy.demo.stages import Stages
from understudy.store import SQLiteStore

SETTING = {"seed": 0, "quick": True}


@pytest.fixture
def said() -> list[str]:
    return []


def interrupted() -> None:
    raise KeyboardInterrupt


def test_a_finished_stage_is_not_run_again_and_the_one_that_was_hit_is(
    tmp_path: Path, said: list[str]
) -> None:
    folder, ran = tmp_path / "demo", []
    stages = Stages(folder, SETTING, False, said.append)
    assert stages.run("one", lambda: ran.append("one") or {"n": 1}) == {"n": 1}
    with pytest.raises(KeyboardInterrupt):
        stages.run("two", interrupted)
    again = Stages(folder, SETTING, False, said.append)
    assert said == [f"going on in {folder}: one done already; --fresh starts clean"]
    assert again.run("one", lambda: ran.append("one again")) == {"n": 1}
    assert again.run("two", lambda: 2) == 2
    assert ran == ["one"]
    assert (again.results, set(again.seconds)) == ({"one": {"n": 1}, "two": 2}, {"one", "two"})


def test_of_a_stage_that_goes_on_every_attempt_counts(tmp_path: Path, said: list[str]) -> None:
    folder = tmp_path / "demo"
    for again, goes_on in (("anew", False), ("on", True)):
        stages = Stages(folder, SETTING, False, said.append)
        with pytest.raises(KeyboardInterrupt):
            stages.run(again, interrupted, goes_on)
    state = json.loads((folder / "state.json").read_text())
    assert list(state["seconds"]) == ["on"]
    state["seconds"]["on"] = 60.0  # of the attempt that was interrupted
    (folder / "state.json").write_text(json.dumps(state))
    stages = Stages(folder, SETTING, False, said.append)
    assert (stages.run("anew", lambda: 1), stages.run("on", lambda: 2, goes_on=True)) == (1, 2)
    assert stages.seconds["anew"] < 60 <= stages.seconds["on"]


def test_time_and_memory_of_every_attempt_count(tmp_path: Path, said: list[str]) -> None:
    folder = tmp_path / "demo"
    first = Stages(folder, SETTING, False, said.append, lambda: 900.0)
    with pytest.raises(KeyboardInterrupt):
        first.run("one", interrupted)
    state = json.loads((folder / "state.json").read_text())
    assert state["peak_mb"] == 900
    state["elapsed"] = 60.0  # the attempt that was interrupted took that long
    (folder / "state.json").write_text(json.dumps(state))
    second = Stages(folder, SETTING, False, said.append, lambda: 500.0)
    second.run("one", lambda: 1)
    assert (second.peak_mb, int(second.elapsed)) == (900.0, 60)
    table = time_table(second.seconds, second.elapsed)
    assert table["one"] < 1
    assert table["total"] >= table["other"] >= 59
    assert Stages(folder, SETTING, True, said.append).elapsed < 59  # a clean start counts anew


@pytest.mark.parametrize(
    ("setting", "fresh", "finish", "why"),
    [
        (SETTING, True, False, "as asked"),
        ({"seed": 1, "quick": True}, False, False, "other settings"),
        (SETTING, False, True, "finished"),
    ],
)
def test_where_it_starts_clean_it_says_why(
    tmp_path: Path, said: list[str], setting: dict[str, int], fresh: bool, finish: bool, why: str
) -> None:
    folder = tmp_path / "demo"
    first = Stages(folder, SETTING, False, said.append)
    first.run("one", lambda: 1)
    (folder / "store.db").write_text("old")
    if finish:
        first.finish()
    again = Stages(folder, setting, fresh, said.append)
    assert said == [f"starting clean in {folder} (what was there: {why})"]
    assert not again.done("one")
    assert [f.name for f in folder.iterdir()] == ["state.json"]


@pytest.mark.parametrize("state", [None, "{", "[]", '{"setting": 1}', '{"version": 4}'])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, said: list[str], state: str | None, fresh: bool
) -> None:
    (tmp_path / "thesis.tex").write_text("dear reader")
    if state is not None:
        (tmp_path / "state.json").write_text(state)
    with pytest.raises(ValueError, match="holds something else than a demo; choose another --out"):
        Stages(tmp_path, SETTING, fresh, said.append)
    assert (tmp_path / "thesis.tex").read_text() == "dear reader"


RUN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started this may ignore it
from understudy.cli import main
sys.exit(main())
"""


@contextmanager
def demo(out: Path, *more: str) -> Iterator["subprocess.Popen[str]"]:
    """`understudy demo` in a process group of its own, as in a terminal."""
    command = [sys.executable, "-c", RUN, "demo", "--quick", "--out", str(out), *more]
    environment = {**os.environ, "COLUMNS": "500", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def until(process: "subprocess.Popen[str]", text: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line.strip()
    raise AssertionError(f"{text!r} was not said")


def ctrl_c(process: "subprocess.Popen[str]", out: Path) -> None:
    """Ctrl-C ends the demo with a line, and everything that it had started."""
    os.killpg(process.pid, signal.SIGINT)
    until(process, "interrupted; the same command goes on from the last whole stage")
    assert process.wait(60) == 130
    alive = [p for p in psutil.process_iter(["cmdline"]) if str(out) in str(p.info["cmdline"])]
    _, alive = psutil.wait_procs(alive, timeout=20)
    assert alive == []


def test_ctrl_c_in_the_middle_of_the_demo(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    with demo(out) as first:
        until(first, "A world learned from that traffic")
        ctrl_c(first, out)
    with SQLiteStore.open(out / "store.db") as store:
        counts = store.counts()
    assert (counts["episodes"], counts["dropped"]) == (QUICK.traffic, {})
    with demo(out) as second:
        line = until(second, "going on in")
        assert line == f"going on in {out}: traffic done already; --fresh starts clean"
        until(second, "A world learned from that traffic")  # the traffic is not captured again
        ctrl_c(second, out)
    with SQLiteStore.open(out / "store.db") as store:
        assert store.counts()["episodes"] == QUICK.traffic
    with demo(out, "--seed", "1") as third:
        line = until(third, "starting clean in")
        assert line == f"starting clean in {out} (what was there: other settings)"
        ctrl_c(third, out)
