"""C sources, compiled on this machine when they are first needed.

The libraries are kept by the hash of source, flags and processor, in a folder of this user's alone.
Sources may include the headers that lie beside this file.
Whoever uses one has a slower way in Python for machines without a working compiler.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

FLAGS = ("-O3", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
HEADERS = Path(__file__).parent


def library(
    source: Path, defined: Mapping[str, int], flags: Sequence[str] = ()
) -> ctypes.CDLL | None:
    """What the source compiles to for this processor with these macros, or None where there is no
    working C compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    arch = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    macros = [f"-D{name}={value}" for name, value in defined.items()]
    command = [compiler, *FLAGS, *flags, arch, *macros]
    headers = [header.read_text() for header in sorted(HEADERS.glob("*.h"))]
    identity = "\0".join([*command, source.read_text(), *headers, platform.node(), _cpu()])
    name = f"{source.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.so"
    for folder in _cache_folders():
        target = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not _ours_alone(folder):
                continue
            if not target.exists():
                _compile([*command, f"-I{HEADERS}", str(source)], target)
            return ctypes.CDLL(str(target))
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def _compile(command: list[str], target: Path) -> None:
    """Raises OSError or SubprocessError, and leaves nothing behind then."""
    handle, temporary = tempfile.mkstemp(suffix=".so", dir=target.parent)
    os.close(handle)
    try:
        command = [*command, "-o", temporary, "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _ours_alone(folder: Path) -> bool:
    """Whether what lies in a folder is this user's: it is a folder of theirs (no link, which could
    be turned elsewhere) and nobody else may write in it. What others left there is never loaded."""
    found = folder.lstat()
    if not hasattr(os, "getuid"):
        return True
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return ours and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _cache_folders() -> list[Path]:
    base = os.environ.get("XDG_CACHE_HOME")
    home = Path(base) if base else Path.home() / ".cache"
    user = os.getuid() if hasattr(os, "getuid") else os.getpid()
    return [home / "understudy" / "kernels", Path(tempfile.gettempdir()) / f"understudy-{user}"]


def _cpu() -> str:
    """Names the processor, so that a cache shared between machines keeps them apart."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    named = {x for x in text.splitlines() if x.startswith(("model name", "flags", "Features"))}
    return "\n".join(sorted(named))
