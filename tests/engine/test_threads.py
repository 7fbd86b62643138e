"""Threads fit what other processes leave of the machine."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from engine_models import make_model

from understudy.cli.running import fit_threads
from understudy.core.cores import LoadWatch, own_cores, threads_for_load, ticks_of
from understudy.engine.torch_engine import TorchEngine

STAT = """\
cpu  1110 0 0 9999 0 0 0 0 0 0
cpu0 10 20 30 5000 99 1 2 4 0 0
cpu1 100 0 0 5000 99 0 0 0 0 0
cpu12 1000 0 0 5000 99 0 0 0 0 0
intr 12345 cpu0

ctxt 5
"""


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """Other processes compute on every core that this one may use."""
    spin = "print(1, flush=True)\nwhile True: pass"
    spinners = [
        subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) for _ in own_cores()
    ]
    for spinner in spinners:
        assert spinner.stdout is not None
        spinner.stdout.readline()
    yield
    for spinner in spinners:
        spinner.kill()
        spinner.communicate()


@pytest.mark.usefixtures("busy_machine")
def test_on_a_busy_machine_one_thread_is_used() -> None:
    before = torch.get_num_threads()
    try:
        assert threads_for_load() == 1
        assert fit_threads(0) == 1
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("busy_machine")
def test_a_watch_sees_what_others_computed_meanwhile() -> None:
    watch = LoadWatch()
    while time.monotonic() - watch.started < 0.5:  # this process computes too
        pass
    assert threads_for_load(busy=watch.busy()) == 1


@pytest.mark.usefixtures("busy_machine")
async def test_an_engine_on_a_busy_machine_decodes_in_one_thread() -> None:
    engine = TorchEngine(make_model("qwen3"), "base", (0,))
    try:
        assert len(engine.shards) == 1
    finally:
        await engine.aclose()


@pytest.mark.parametrize(
    ("cores", "busy", "threads"),
    [(2, 0.0, 2), (2, 0.4, 2), (2, 1.0, 1), (2, 2.0, 1), (8, 3.2, 5), (1, 0.0, 1), (2, 9.0, 1)],
)
def test_threads_are_the_cores_less_those_that_are_taken(
    cores: int, busy: float, threads: int
) -> None:
    assert threads_for_load(cores, busy) == threads


@pytest.mark.parametrize(
    ("cores", "ticks"), [({0}, 67), ({1}, 100), ({0, 1}, 167), ({12}, 1000), ({2}, 0)]
)
def test_only_this_processs_own_cores_count(cores: set[int], ticks: int) -> None:
    assert ticks_of(STAT, cores) == ticks
