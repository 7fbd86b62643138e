"""The allocator's advice reaches processes that are started, once, and no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from understudy.core.allocator import ADVICE, GIVEN, VARIABLE, _has_glibc, advised
from understudy.demo.jobs import jobs
from understudy.runs.machine import PeakMemory

pytestmark = pytest.mark.skipif(not _has_glibc(), reason="the C library is not glibc")

AGAIN = f"""
import os
print("begun", flush=True)
from understudy.core.allocator import start_again
start_again()
print(os.getpid(), os.environ.get({VARIABLE!r}))
"""
# counts allocations that were mapped by themselves: hblks of mallinfo2
MAPPED = """
import ctypes
class Info(ctypes.Structure):
    _fields_ = [(n, ctypes.c_size_t) for n in "arena ordblks smblks hblks a b c d e f".split()]
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.mallinfo2.restype = Info
before = libc.mallinfo2().hblks
libc.malloc(1 << 26)
print(libc.mallinfo2().hblks - before)
"""


def environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in (VARIABLE, GIVEN)} | more


def said(code: str, env: dict[str, str]) -> list[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True).stdout.splitlines()


def test_a_command_starts_itself_again_once_as_the_same_process() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", AGAIN], env=environment(), stdout=subprocess.PIPE, text=True
    )
    output, _ = process.communicate()
    assert output.splitlines() == ["begun", "begun", f"{process.pid} {ADVICE}"]


@pytest.mark.parametrize("own", ["", "glibc.malloc.check=0"])
def test_what_the_user_has_set_stays(own: str) -> None:
    env = environment(**{VARIABLE: own})
    assert advised(env) == {}
    begun, end = said(AGAIN, env)
    assert begun == "begun"
    assert end.split(" ")[1] == own


def test_where_the_variable_gets_lost_it_is_not_tried_for_ever() -> None:
    begun, end = said(AGAIN, environment(**{GIVEN: "1"}))
    assert begun == "begun"
    assert end.endswith("None")


def test_with_it_large_allocations_are_not_mapped_one_by_one() -> None:
    assert said(MAPPED, environment()) == ["1"]
    assert said(MAPPED, environment() | advised(environment())) == ["0"]


def test_serving_an_engine_starts_with_it_and_other_commands_do_not(tmp_path: Path) -> None:
    """Each start of an interpreter adds a line to a file."""
    told = tmp_path / "told"
    (tmp_path / "sitecustomize.py").write_text(
        f"import os\nopen({str(told)!r}, 'a').write(os.environ.get({VARIABLE!r}, '-') + '\\n')\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    for arguments, expected in (
        (["engine", "serve", "--help"], ["-", ADVICE]),
        (["deployments", "--help"], ["-"]),
    ):
        told.write_text("")
        command = [sys.executable, "-m", "understudy.cli", *arguments]
        env = environment(PYTHONPATH=path)
        ended = subprocess.run(command, env=env, capture_output=True, text=True)
        assert ended.returncode == 0
        assert "Usage" in ended.stdout
        assert told.read_text().splitlines() == expected


def test_the_demos_jobs_are_started_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv(GIVEN, raising=False)
    command = [sys.executable, "-c", f"import os; print(os.environ.get({VARIABLE!r}))"]
    with jobs(PeakMemory()) as start:
        assert start("a look", command).output().strip() == ADVICE
