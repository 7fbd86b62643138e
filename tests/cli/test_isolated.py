"""`--isolated`, as commands: what runs inside them sees the store and nothing else."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import understudy
from traffic import conversations, write_jsonl
from understudy.cli import main
from understudy.store import SQLiteStore
from understudy.world.learn import learn

DEMO = Path(understudy.__file__).parent / "demo"
SMALL_SFT = ["epochs=1", "batch_episodes=8", "lora.rank=2"]
SMALL_RFT = ["reader_epochs=1", "readings=1", "scenarios=4", "max_turns=2", "max_tokens=16"]
SMALL_GRPO = ["steps=1", "scenarios_per_step=1", "group_size=2", "pool=2", "lora.rank=2",
              "max_turns=1", "max_tokens=4", "precision=fp32", "guards=null"]  # fmt: skip
# a command in a process of its own, and what that process can see once it has run
AFTER = """
import sys
from understudy.cli import main
sys.path.insert(0, {folder!r})
code = main({arguments!r})
import looks
looks.check([], {{}})
raise SystemExit(code)
"""
# an owner's check that looks around, wherever it is run, and writes down what it saw
LOOKS = """
import json, socket, sqlite3, subprocess

def look_at_service(): socket.create_connection(("127.0.0.1", {port}), 5).close()
def look_at_customers(): open({demo!r} + "/customers.py").close()
def look_at_database(): sqlite3.connect({folder!r} + "/service.db").close()
def look_at_gateway(): import understudy.gateway.config
def start_a_program(): subprocess.run(["true"])

LOOKS = (look_at_service, look_at_customers, look_at_database, look_at_gateway, start_a_program)

def check(messages, ticket):
    seen = []
    for look in LOOKS:
        try:
            look()
        except PermissionError:
            continue
        seen.append(look.__name__)
    with open({folder!r} + "/seen.jsonl", "a") as file:
        file.write(json.dumps(seen) + "\\n")
    return True
"""


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store of a few episodes and a world learned from them."""
    folder = tmp_path_factory.mktemp("captured")
    rows = asyncio.run(conversations(folder, 12))
    file, store = write_jsonl(folder / "rows.jsonl", rows), folder / "store.db"
    assert main(["import", str(file), "--store", str(store)]) == 0
    with SQLiteStore.open(store) as db:
        learn(list(db.read_episodes())).save(folder / "world")
    return store, folder / "world"


@pytest.fixture
def service() -> Iterator[socket.socket]:
    """Something that listens, and would see a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def seen_by(folder: Path, service: socket.socket, *arguments: str) -> list[list[str]]:
    """What the check saw in a command and after it, one entry each time that it ran."""
    port = service.getsockname()[1]
    looks = LOOKS.format(port=port, demo=str(DEMO), folder=str(folder))
    (folder / "looks.py").write_text(looks)
    code = AFTER.format(folder=str(folder), arguments=list(arguments))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (folder / "seen.jsonl").read_text().splitlines()]


def connections(service: socket.socket) -> int:
    found = 0
    while True:
        try:
            service.accept()[0].close()
        except BlockingIOError:
            return found
        found += 1


def sets(values: list[str]) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def test_an_isolated_distillation_sees_nothing(
    captured: tuple[Path, Path], service: socket.socket, tmp_path: Path
) -> None:
    seen = seen_by(
        tmp_path, service, "train", "sft", str(tmp_path / "run"), "--store", str(captured[0]),
        "--check", str(tmp_path / "looks.py"), "--threads", "1", "--quiet", "--isolated",
        *sets(SMALL_SFT),
    )  # fmt: skip
    assert len(seen) > 2
    assert [s for s in seen if s] == []
    assert connections(service) == 0


def test_isolated_rejection_sampling_sees_nothing(
    captured: tuple[Path, Path], service: socket.socket, tmp_path: Path
) -> None:
    seen = seen_by(
        tmp_path, service, "train", "rft", str(tmp_path / "run"), "--world", str(captured[1]),
        "--store", str(captured[0]), "--check", str(tmp_path / "looks.py"), "--threads", "1",
        "--quiet", "--isolated", *sets(SMALL_RFT),
    )  # fmt: skip
    assert len(seen) > 4 + 1  # the captured episodes, those played, and after the command
    assert [s for s in seen if s] == []
    assert connections(service) == 0


def test_an_isolated_rehearsal_sees_nothing(
    captured: tuple[Path, Path], service: socket.socket, tmp_path: Path
) -> None:
    seen = seen_by(
        tmp_path, service, "train", "grpo", str(tmp_path / "run"), "--world", str(captured[1]),
        "--check", str(tmp_path / "looks.py"), "--threads", "1", "--quiet", "--isolated",
        *sets(SMALL_GRPO),
    )  # fmt: skip
    assert len(seen) == 2 + 1
    assert [s for s in seen if s] == []
    assert connections(service) == 0


@pytest.mark.parametrize("isolated", [True, False])
def test_isolated_learning_sees_nothing(
    captured: tuple[Path, Path], service: socket.socket, tmp_path: Path, isolated: bool
) -> None:
    seen = seen_by(
        tmp_path, service, "world", "learn", str(tmp_path / "world"), "--store", str(captured[0]),
        *(["--isolated"] if isolated else []),
    )  # fmt: skip
    everything = ["look_at_service", "look_at_customers", "look_at_database", "look_at_gateway",
                  "start_a_program"]  # fmt: skip
    assert seen == [[] if isolated else everything]
    assert connections(service) == (0 if isolated else 1)


def test_a_check_that_reads_what_is_forbidden_when_loaded_is_refused(
    captured: tuple[Path, Path], tmp_path: Path
) -> None:
    check = tmp_path / "check.py"
    check.write_text("from understudy.demo.customers import scenarios\ncheck = print")
    for arguments in (
        ["sft", str(tmp_path / "run"), "--store", str(captured[0])],
        ["rft", str(tmp_path / "run"), "--world", str(captured[1]), "--store", str(captured[0])],
        ["grpo", str(tmp_path / "run"), "--world", str(captured[1])],
    ):
        code = f"from understudy.cli import main; raise SystemExit(main({['train', *arguments]!r}"
        code += f" + ['--isolated', '--check', {str(check)!r}]))"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 1
        assert "import of understudy.demo" in done.stderr
        assert done.stderr.count("\n") == 1
