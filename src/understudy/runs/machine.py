"""The machine that a run runs on: what it is, how busy it is, how much memory processes take."""

import contextlib
import ctypes
import gc
import importlib.metadata
import os
import platform
import sys
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from understudy.core.cores import load_average, usable_cores

PACKAGES = ("understudy", "torch", "transformers", "numpy", "aiohttp", "openai", "pydantic")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, in words and numbers. `cores` are those that this process may use."""

    cpu: str
    cores: int
    memory_gb: float | None
    load: float
    system: str
    python: str
    gpu: str | None = None  # NVIDIA's, the first

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        memory = f", {self.memory_gb:.0f} GB memory" if self.memory_gb else ""
        cores = "core" if self.cores == 1 else "cores"
        gpu = f", {self.gpu}" if self.gpu else ""
        return f"{self.cpu}, {self.cores} {cores}{memory}{gpu}, load {self.load:.1f}"


def machine() -> Machine:
    """This machine now."""
    return Machine(
        cpu=_cpu_model(),
        cores=usable_cores(),
        memory_gb=_memory_gb(),
        load=round(load_average(), 2),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        gpu=_gpu_model(),
    )


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of the packages that are installed, without importing them."""
    found = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def give_back_memory() -> None:
    """Hands what was freed back to the system, where the C library can (glibc). A fork counts, and
    may copy, all that its parent holds."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def rss_mb(pids: Iterable[int]) -> float:
    """Resident memory of processes and all their children, in MiB, summed.

    Pages that processes share are counted in each of them, so the sum is an upper bound.
    Processes that have ended count nothing.
    """
    try:
        import psutil
    except ImportError:
        return sum(_proc_rss_mb(pid) for pid in _proc_family(pids))
    total, seen = 0, set()
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            for member in (process, *process.children(recursive=True)):
                if member.pid not in seen:
                    seen.add(member.pid)
                    with contextlib.suppress(psutil.Error):
                        total += member.memory_info().rss
    return total / 2**20


class PeakMemory:
    """Watches processes (this one, and those added) and keeps the highest sum of their memory.

        with PeakMemory() as memory:
            memory.add(service.pid)
            ...
        memory.peak_mb

    A thread looks every `interval` seconds; peaks that are shorter may be missed.
    """

    def __init__(self, pids: Iterable[int] = (), interval: float = 0.25) -> None:
        self.peak_mb = 0.0
        self._pids = {os.getpid(), *pids}
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def add(self, pid: int) -> None:
        """Watches one process more, with its children."""
        self._pids = {*self._pids, pid}

    def look(self) -> float:
        """Memory now, in MiB; counts for the peak."""
        now = rss_mb(self._pids)
        self.peak_mb = max(self.peak_mb, now)
        return now

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval):
            self.look()

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self.look()


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in (_PROC / "cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine() or "unknown processor"


def _gpu_model() -> str | None:
    for file in sorted((_PROC / "driver" / "nvidia" / "gpus").glob("*/information")):
        with contextlib.suppress(OSError):
            for line in file.read_text().splitlines():
                if line.startswith("Model"):
                    return " ".join(line.partition(":")[2].split())
    return None


def _memory_gb() -> float | None:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
    return round(total / 2**30, 1)


def _proc_family(pids: Iterable[int]) -> set[int]:
    """The processes given and their descendants, from /proc."""
    children: dict[int, list[int]] = {}
    for folder in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    family: set[int] = set()
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid not in family:
            family.add(pid)
            waiting += children.get(pid, [])
    return family


def _proc_rss_mb(pid: int) -> float:
    try:
        pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
    except (OSError, IndexError):
        return own_peak_mb() if pid == os.getpid() else 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def own_peak_mb() -> float:
    """The most memory that this process ever held, in MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
