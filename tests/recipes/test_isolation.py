"""A rehearsing process sees the store and nothing else."""

import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
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
@pytest.mark.parametrize("how", ["import {0}", "__import__('importlib').import_module('{0}')"])
def test_demo_and_gateway_cannot_be_imported(store: Path, module: str, how: str) -> None:
    done = isolated(how.format(module), store)
    assert done.returncode == 1
    assert "PermissionError: rehearsal reads the store and nothing else" in done.stderr


def test_a_process_that_has_imported_the_demo_already_is_refused(store: Path) -> None:
    code = "import understudy.demo.words\n" + PRELUDE
    done = subprocess.run(
        [sys.executable, "-c", code, str(store)], capture_output=True, text=True, check=False
    )
    assert "RuntimeError: understudy.demo" in done.stderr


def test_another_database_cannot_be_opened(store: Path, tmp_path: Path) -> None:
    done = isolated("import sqlite3; sqlite3.connect(sys.argv[2])", store, str(tmp_path / "x.db"))
    assert "database" in done.stderr
    assert done.returncode == 1


def test_a_database_cannot_be_opened_by_uri(store: Path, tmp_path: Path) -> None:
    code = "import sqlite3; sqlite3.connect('file:' + sys.argv[2] + '?mode=ro', uri=True)"
    done = isolated(code, store, str(tmp_path / "service.db"))
    assert "PermissionError" in done.stderr


CONNECTIONS = {
    "connect": "socket.create_connection(there, 2)",
    "connect_ex": "socket.socket().connect_ex(there)",
    "datagram": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', there)",
    "message": "socket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, there)",
    "local": "socket.socket(socket.AF_UNIX).connect('x')",
    "look-up": "socket.gethostbyname('localhost')",
    "listen": "socket.socket().bind(('127.0.0.1', 0))",
    "http": "import urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{there[1]}')",
    "asyncio": "import asyncio; asyncio.run(asyncio.open_connection(*there))",
}


@pytest.mark.parametrize("how", CONNECTIONS)
def test_no_connection_can_be_made(store: Path, how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        code = f"import socket; there = ('127.0.0.1', {server.getsockname()[1]})\n"
        done = isolated(f"{code}{CONNECTIONS[how]}\nprint('went on')", store)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert "rehearsal reads the store and nothing else: connection to" in done.stderr
    assert done.stdout == ""


PROGRAMS = {
    "subprocess": "import subprocess; subprocess.run(['true'])",
    "shell": "import os; os.system('true')",
    "pipe": "import os; os.popen('true')",
    "posix_spawn": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "exec": "import os; os.execv('/bin/true', ['true'])",
    "multiprocessing": "from multiprocessing.util import spawnv_passfds as s\n"
    "s(b'/bin/true', ['true'], [])",
    "fork_exec": "import subprocess; subprocess._fork_exec()",
}


@pytest.mark.parametrize("how", PROGRAMS)
def test_no_program_can_be_started(store: Path, how: str) -> None:
    done = isolated(f"{PROGRAMS[how]}\nprint('went on')", store)
    assert "PermissionError: rehearsal reads the store" in done.stderr
    assert "program" in done.stderr
    assert done.stdout == ""


FORKS = {
    "program": "os.execv('/bin/touch', ['touch', there])",
    "program, by spawnv": "os.spawnv(os.P_WAIT, '/bin/touch', ['touch', there])",
    "program, on a terminal": "import pty; pty.spawn(['/bin/touch', there])",
    "demo": "import understudy.demo; open(there, 'w')",
    "database": "import sqlite3; sqlite3.connect(there)",
}


@pytest.mark.parametrize("what", FORKS)
def test_a_fork_may_do_no_more_than_its_parent(store: Path, tmp_path: Path, what: str) -> None:
    there = tmp_path / "reached.db"
    fork = f"if os.fork() == 0:\n {FORKS[what]}\n os._exit(0)\nos.wait()"
    done = isolated(f"import os; there = sys.argv[2]\n{fork}\nprint('ended')", store, str(there))
    assert "ended" in done.stdout
    assert not there.exists()


DEMO = Path(understudy.__file__).parent / "demo"
OPENINGS = {
    "absolute": "open(there / 'customers.py')",
    "bytes": "open(os.fsencode(there / 'customers.py'))",
    "path": "(there / 'customers.py').read_text()",
    "relative": "os.chdir(there); open('customers.py')",
    "relative, below": "os.chdir(there.parent); open('demo/customers.py')",
    "roundabout": "open(there.parent / 'world' / '..' / 'demo' / 'customers.py')",
    "symbolic link": "os.symlink(there, 'x'); open('x/customers.py')",
    "folder's descriptor": "os.open('demo/words.py', 0, dir_fd=os.open(there.parent, 0))",
    "buffer": "try: os.open(bytearray(os.fsencode(there / 'customers.py')), 0)\n"
    "except TypeError: raise PermissionError",
    "hard link made before": "open('linked.txt')",
    "hard link": "os.link(there / 'customers.py', 'x'); open('x')",
    "loader": "import pkgutil; pkgutil.get_data('understudy', 'demo/customers.py')",
    "source": "import linecache; assert not linecache.getlines(str(there / 'customers.py'))\n"
    "raise PermissionError",
}


@pytest.mark.parametrize("how", OPENINGS)
def test_files_of_the_demo_cannot_be_read(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linked.txt").hardlink_to(DEMO / "customers.py")
    code = f"import os; there = Path(sys.argv[2])\n{OPENINGS[how]}\nprint('read')"
    done = isolated(code, store, str(DEMO))
    assert done.stderr.splitlines()[-1].startswith("PermissionError"), done.stderr
    assert done.stdout == ""


def test_other_files_can_be_read_and_written(store: Path, tmp_path: Path) -> None:
    code = "p = Path(sys.argv[2]); p.write_text('x'); print(p.rename(str(p) + '2').read_text())"
    done = isolated(code, store, str(tmp_path / "notes.txt"))
    assert done.stdout.strip() == "x", done.stderr


DATABASES = {
    "connected": "sqlite3.connect(there)",
    "as bytes": "sqlite3.connect(os.fsencode(there))",
    "by a relative path": "os.chdir(os.path.dirname(there)); sqlite3.connect('service.db')",
    "by a class": "sqlite3.Connection(there)",
    "by a class, the store": "sqlite3.Connection(sys.argv[1]).execute(f'ATTACH {there!r} AS x')",
    "attached": "sqlite3.connect(sys.argv[1]).execute(f'ATTACH {there!r} AS x')",
    "attached in memory": "sqlite3.connect(':memory:').execute(f'ATTACH {there!r} AS x')",
    "read": "open(there, 'rb')",
    "read by descriptor": "os.open(there, 0)",
    "read as bytes": "open(os.fsencode(there), 'rb')",
    "read under another name": "open(os.path.dirname(there) + '/linked.txt', 'rb')",
    "connected under another name": "sqlite3.connect(os.path.dirname(there) + '/linked.txt')",
    "copied": "import shutil; shutil.copyfile(os.path.dirname(there) + '/linked.txt', 'x')",
    "put in the store's place": "os.replace(there, sys.argv[1]); sqlite3.connect(sys.argv[1])",
    "log": "open(there + '-wal', 'rb')",
}


@pytest.mark.parametrize("how", DATABASES)
def test_another_database_cannot_be_read(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (tmp_path / "service").mkdir()
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "service" / "service.db"
    with closing(sqlite3.connect(other)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE wishes (text)")
        (tmp_path / "service" / "linked.txt").hardlink_to(other)
        code = f"import os, sqlite3; there = sys.argv[2]\n{DATABASES[how]}\nprint('read')"
        done = isolated(code, store, str(other))
    why = done.stderr.splitlines()[-1]
    assert why.startswith("PermissionError") or "too many attached databases" in why, done.stderr
    assert done.stdout == ""


def test_a_write_ahead_log_is_known_by_its_content(store: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "service.db")) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE wishes (text)")
        (tmp_path / "log.txt").write_bytes((tmp_path / "service.db-wal").read_bytes())
    assert (
        "PermissionError" in isolated("open(sys.argv[2])", store, str(tmp_path / "log.txt")).stderr
    )


def test_the_store_can_be_read_as_a_file_with_its_log(store: Path) -> None:
    with closing(sqlite3.connect(store)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE x (y)")
        done = isolated("for p in ('', '-wal'): open(sys.argv[1] + p, 'rb')\nprint(1)", store)
    assert done.stdout.strip() == "1", done.stderr


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
