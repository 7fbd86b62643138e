"""Honest rehearsal: a process that learns and trains sees the store and nothing else.

`only_the_store` installs an audit hook (PEP 578) that cannot be removed again in this process. It
refuses, with a PermissionError that names what was tried:

- importing or reading the demo or the gateway, however their files are spelled or linked;
- every SQLite database but the stores, whatever it is called: opened, attached, or read as a file;
- connecting a socket, sending to an address, listening, looking up a name;
- starting another program, making a hard link. A fork is allowed: it has the same hook.

What the hook has refused is counted in `refused`. It guards against Python code, an owner's check
for example. Native code is not seen by audit hooks: what opens a file through ctypes or inside
torch, and a connection whose own limit is set back, are beyond it.
"""

import _posixsubprocess
import functools
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

FORBIDDEN = ("demo", "gateway")  # rooms of this package
DATABASES = (".db", ".sqlite", ".sqlite3", "-wal", "-journal")
BEGINNINGS = (  # of a database, of its write-ahead log in both byte orders, of its journal
    b"SQLite format 3\0", b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83", b"\xd9\xd5\x05\xf9\x20\xa1",
)  # fmt: skip
NETWORK = frozenset({
    "socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind", "socket.getaddrinfo",
    "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo",
})  # fmt: skip
PROGRAMS = frozenset({
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.forkpty",
})  # fmt: skip
EXTENSIONS = frozenset({"sqlite3.enable_load_extension", "sqlite3.load_extension"})
refused: Counter[str] = Counter()
_guards: list["_Guard"] = []  # of this process, once there is one

Identity = tuple[int, int]  # device and inode: the same for every name of a file


def only_the_store(stores: Sequence[Path]) -> None:
    """From here on this process may open the SQLite files `stores` and no other; see above.

    Raises RuntimeError where a forbidden module is imported already.
    """
    for module in sys.modules:
        if _is_forbidden(module):
            raise RuntimeError(f"{module} is imported already: this process saw too much")
    guard = _Guard(stores)
    connect = functools.partial(sqlite3.connect, factory=_Unattached)
    for place, name, instead in (
        (sqlite3, "connect", connect),
        (sqlite3.dbapi2, "connect", connect),
        (_posixsubprocess, "fork_exec", _no_program),  # called past Popen it raises no event
        (subprocess, "_fork_exec", _no_program),
    ):
        setattr(place, name, instead)
    _guards.append(guard)
    sys.addaudithook(guard.hook)


def is_isolated() -> bool:
    """Whether this process sees the stores alone."""
    return bool(_guards)


class _Unattached(sqlite3.Connection):
    """A connection to one database and no other; the hook refuses every other kind."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)


class _Guard:
    def __init__(self, stores: Sequence[Path]) -> None:
        package = Path(__file__).resolve().parents[1]
        self.folders = tuple(str(package / room) for room in FORBIDDEN)
        files = [file for folder in self.folders for file in Path(folder).rglob("*")]
        self.hidden = frozenset(filter(None, (_identity(str(file)) for file in files)))
        paths = [os.path.realpath(store) for store in stores]
        self.stores = {path: _identity(path) for path in paths}
        self.beside = frozenset(p + part for p in paths for part in ("-wal", "-shm", "-journal"))
        self.looking = threading.local()  # in a file's first bytes, which is an event itself

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if not getattr(self.looking, "now", False):
                self.opened(arguments[0], in_some_folder=arguments[1] is None)
        elif event == "import":
            if _is_forbidden(str(arguments[0])):
                _refuse(f"import of {arguments[0]}")
        elif event == "sqlite3.connect":
            self.connected(arguments[0])
        elif event == "sqlite3.connect/handle":
            if type(arguments[0]) is not _Unattached:
                _refuse(f"database connection ({type(arguments[0]).__name__})")
        elif event in EXTENSIONS:
            _refuse(f"database extension ({event})")
        elif event in NETWORK:
            to = next((a for a in arguments if a and isinstance(a, str | bytes | tuple)), None)
            if event != "socket.sendmsg" or to is not None:  # without one it is connected already
                _refuse(f"connection to {to!r}")
        elif event in PROGRAMS:
            _refuse(f"program {arguments[0]!r}" if arguments else f"program ({event})")
        elif event == "os.rename":  # only what may be read
            self.opened(arguments[0], in_some_folder=True)
        elif event == "os.link":
            _refuse(f"file {arguments[0]!r} under another name")

    def connected(self, database: Any) -> None:
        """A connection: in memory, or by a plain path to a store."""
        name = _text(database) or ""
        if name != ":memory:" and (name.startswith("file:") or not self.is_store(name)):
            _refuse(f"database {name}")

    def is_store(self, name: str) -> bool:
        """Whether it is a store's path, and the very file that was there in the beginning."""
        path = os.path.realpath(name)
        return path in self.stores and self.stores[path] in (None, _identity(path))

    def opened(self, name: Any, in_some_folder: bool) -> None:
        """A file: none of the demo's or the gateway's, and no database but the stores."""
        text = _text(name)
        if text is None:  # a descriptor: what opened it was asked
            return
        for path in _places(text, in_some_folder):
            if path in self.folders or path.startswith(tuple(f + os.sep for f in self.folders)):
                _refuse(f"file {text}")
            identity = _identity(path)
            if identity in self.hidden:
                _refuse(f"file {text}")
            if path in self.beside or self.is_store(path):
                continue
            if path.endswith(DATABASES) or (identity and self.begins_as_database(path)):
                _refuse(f"database {text}")

    def begins_as_database(self, path: str) -> bool:
        self.looking.now = True
        try:
            with open(path, "rb") as file:
                return file.read(16).startswith(BEGINNINGS)
        except OSError:
            return False  # whoever asked cannot read it either
        finally:
            self.looking.now = False


def _places(name: str, in_some_folder: bool) -> Iterator[str]:
    """The real paths that a name may stand for. os.open may be told to begin in an open folder,
    which its event does not say: then it is looked for in every one that is open."""
    yield os.path.realpath(name)
    if in_some_folder and not os.path.isabs(name) and os.path.isdir("/proc/self/fd"):
        for descriptor in os.listdir("/proc/self/fd"):
            yield os.path.realpath(f"/proc/self/fd/{descriptor}/{name}")


def _text(name: Any) -> str | None:
    """A path as text; None for what is none."""
    if isinstance(name, bytearray | memoryview):
        name = bytes(name)
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else None


def _identity(path: str) -> Identity | None:
    """Of a plain file; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _is_forbidden(module: str) -> bool:
    package, _, rest = module.partition(".")
    return package == "understudy" and rest.partition(".")[0] in FORBIDDEN


def _no_program(*_: Any) -> NoReturn:
    _refuse("program (fork_exec)")


def _refuse(what: str) -> NoReturn:
    refused[what.split(" ", 1)[0]] += 1
    raise PermissionError(f"rehearsal reads the store and nothing else: {what} refused")
