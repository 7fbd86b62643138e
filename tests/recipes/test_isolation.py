"""A rehearsing process sees the store and nothing else."""

import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import understudy

PRELUDE = """
import sys
from pathlib import Path
from understudy.recipes.isolation import only_the_store, refused
only_the_store([Path(sys.argv[1])])
"""


def isolated(code: str, store: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code, str(store), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store.db"
    sqlite3.connect(path).close()
    return path


def test_the_store_can_be_read(store: Path) -> None:
    done = isolated("import sqlite3; sqlite3.connect(sys.argv[1]); print('read')", store)
    assert done.stdout.strip() == "read", done.stderr


@pytest.mark.parametrize("module", ["understudy.demo.customers", "understudy.gateway.app"])
def test_demo_and_gateway_cannot_be_imported(store: Path, module: str) -> None:
    done = isolated(f"import {module}", store)
    assert done.returncode == 1
    assert "PermissionError: rehearsal reads the store and nothing else" in done.stderr


def test_another_database_cannot_be_opened(store: Path, tmp_path: Path) -> None:
    done = isolated("import sqlite3; sqlite3.connect(sys.argv[2])", store, str(tmp_path / "x.db"))
    assert "database" in done.stderr
    assert done.returncode == 1


def test_a_database_cannot_be_opened_by_uri(store: Path, tmp_path: Path) -> None:
    code = "import sqlite3; sqlite3.connect('file:' + sys.argv[2] + '?mode=ro', uri=True)"
    done = isolated(code, store, str(tmp_path / "service.db"))
    assert "PermissionError" in done.stderr


def test_no_connection_can_be_made(store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        done = isolated(code, store)
    assert "connection to ('127.0.0.1'" in done.stderr
    assert done.returncode == 1


def test_no_program_can_be_started(store: Path) -> None:
    done = isolated("import subprocess; subprocess.run(['true'])", store)
    assert "PermissionError" in done.stderr


def test_files_of_the_demo_cannot_be_read(store: Path) -> None:
    path = Path(understudy.__file__).parent / "demo" / "customers.py"
    done = isolated("open(sys.argv[2])", store, str(path))
    assert "PermissionError" in done.stderr
    assert path.exists()


def test_another_database_cannot_be_read_as_a_plain_file(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "service.db"
    other.write_bytes(b"rows")
    assert "PermissionError" in isolated("open(sys.argv[2], 'rb')", store, str(other)).stderr
    code = "Path(sys.argv[2]).read_bytes()"
    assert "PermissionError" in isolated(code, store, str(other)).stderr
    assert isolated("open(sys.argv[1], 'rb'); print(1)", store).stdout.strip() == "1"


def test_what_was_refused_is_counted(store: Path, tmp_path: Path) -> None:
    code = """
import sqlite3
for _ in range(3):
    try:
        sqlite3.connect(sys.argv[2])
    except PermissionError:
        pass
print(refused['database'])
"""
    assert isolated(code, store, str(tmp_path / "x.db")).stdout.strip() == "3"
