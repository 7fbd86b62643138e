"""What the demo starts ends with it; what had ended before an interruption is not done again."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from traffic import conversations, write_jsonl
from understudy.core.chat_files import ImportOptions, import_file
from understudy.demo import main, owner_check
from understudy.demo.agent import WORKLOAD
from understudy.demo.jobs import Job, jobs, signals_held
from understudy.runs.directory import Run
from understudy.runs.machine import PeakMemory
from understudy.store import SQLiteStore

LEARN = """
import signal, sys
from pathlib import Path
from understudy.demo.main import QUICK, Demo, _learn
from understudy.runs.machine import PeakMemory

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.default_int_handler)
with PeakMemory() as memory:
    try:
        _learn(Demo(Path(sys.argv[1]), 0, QUICK, memory, {"service": sys.argv[2]}))
    except KeyboardInterrupt:
        sys.exit(130)
"""
FOREVER = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture
def service(start: Any, tmp_path: Path) -> str:
    return str(start("understudy.demo.service", "--db", str(tmp_path / "stays.db")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_demo_alone_ends_all_that_learns(
    service: str, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "logs").mkdir()
    shutil.copyfile(str(owner_check.__file__), tmp_path / "owner_check.py")
    file = write_jsonl(tmp_path / "c.jsonl", asyncio.run(conversations(tmp_path, 20)))
    with SQLiteStore.open(tmp_path / "store.db") as db:
        db.write(list(import_file(file, ImportOptions(workload=WORKLOAD))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LEARN, str(tmp_path), service]
    with subprocess.Popen(command, env=environment) as process:
        started: list[psutil.Process] = []
        while len(started) < 3 and process.poll() is None:
            started = psutil.Process(process.pid).children()
        process.send_signal(number)
        assert process.wait(60) == 130
        alive = [job for job in started if job.is_running()]
        for job in alive:
            job.kill()
    assert (len(started), alive) == (3, [])


def test_jobs_end_with_their_block_where_it_fails() -> None:
    found: list[Job] = []

    def fail(memory: PeakMemory) -> None:
        with jobs(memory) as start:
            found.append(start("the other", FOREVER))
            start("the first", [sys.executable, "-c", "raise SystemExit(3)"]).output()

    with PeakMemory() as memory, pytest.raises(RuntimeError, match="the first failed: see above"):
        fail(memory)
    assert found[0].process.returncode == -signal.SIGTERM


def test_a_failure_is_told_with_the_last_words_of_the_log(tmp_path: Path) -> None:
    words = "import sys; print('one', file=sys.stderr); sys.exit('two')"
    with (
        PeakMemory() as memory,
        pytest.raises(RuntimeError, match=r"^learning failed: two$"),
        jobs(memory) as start,
    ):
        start("learning", [sys.executable, "-c", words], log=tmp_path / "log").output()


def test_a_signal_waits_for_the_end_of_the_block() -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    reached: list[str] = []

    def interrupted() -> None:
        with signals_held():
            signal.raise_signal(signal.SIGTERM)
            reached.append("the end")

    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert reached == ["the end"]


def test_a_rehearsal_that_ended_before_its_stage_was_saved_is_taken_as_it_is(
    service: str, tmp_path: Path
) -> None:
    (tmp_path / "rehearsed_calls.json").write_text("2")  # the service saw calls in that attempt
    with PeakMemory() as memory:
        demo = main.Demo(tmp_path, 0, main.QUICK, memory, {"service": service})
        with Run.create(demo.run("rehearsed"), {"steps": 2}) as run:
            run.log(0, reward=0.25, success=0.0)
            run.log(1, reward=0.5, success=0.25)
        taken = main._rehearse(demo)
    assert taken["line"].startswith("2 steps, done before; in the world then: reward 0.500, ")
    assert taken["service_calls"] == 2


def test_a_rehearsal_that_was_interrupted_is_not_taken_for_done(tmp_path: Path) -> None:
    assert main._done_before(tmp_path / "none") is None
    with Run.create(tmp_path / "run", {}) as run:
        run.log(0, reward=0.25, success=0.0)
        run.finish("interrupted")
    assert main._done_before(tmp_path / "run") is None
