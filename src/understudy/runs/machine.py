"""The machine that a run runs on: what it is, how busy it is, how much memory processes take."""

import contextlib
import ctypes
import gc
import importlib.metadata
import os
import platform
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        memory = f", {self.memory_gb:.0f} GB memory" if self.memory_gb else ""
        cores = "core" if self.cores == 1 else "cores"
        return f"{self.cpu}, {self.cores} {cores}{memory}, load {self.load:.1f}"


def machine() -> Machine:
    """This machine now."""
    return Machine(
        cpu=_cpu_model(),
        cores=usable_cores(),
        memory_gb=_memory_gb(),
        load=round(_load(), 2),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
    )


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of the packages that are installed, without importing them."""
    found = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and its control group's quota."""
    cores = len(_own_cores())
    quota = _cgroup_cores()
    return max(1, min(cores, int(quota + 0.5))) if quota else cores


def give_back_memory() -> None:
    """Hands what was freed back to the system, where the C library can (glibc). A fork counts, and
    may copy, all that its parent holds."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def threads_for_load(cores: int | None = None, busy: float | None = None) -> int:
    """How many threads a computation should use on the machine as it is now.

    As many as there are cores, less those that other processes keep busy, at least one: threads
    that wait for each other on a core taken by somebody else cost more than they bring. On two
    cores, one busy process means one thread. `busy` is the number of cores taken by others,
    measured over a fifth of a second where it is not given.
    """
    running_on = len(_own_cores()) if cores is None else cores  # a quota may allow fewer
    cores = usable_cores() if cores is None else cores
    busy = busy_elsewhere() if busy is None else busy
    return max(1, min(cores, int(running_on - busy + 0.5)))


def busy_elsewhere(seconds: float = 0.2) -> float:
    """Cores of this process's own kept busy by other processes, measured for `seconds`.

    From /proc/stat where it is there; else the one-minute load average, which still remembers
    what this process did a minute ago.
    """
    watch = LoadWatch()
    if watch.ticks is not None:
        time.sleep(seconds)
    return watch.busy()


class LoadWatch:
    """Cores of this process's own kept busy by others since the watch was made."""

    def __init__(self) -> None:
        self.ticks = _cpu_ticks()
        self.own, self.started = time.process_time(), time.monotonic()

    def busy(self) -> float:
        """How many; the one-minute load average where the kernel does not tell."""
        after = _cpu_ticks()
        if self.ticks is None or after is None:
            return _load()
        used = (after - self.ticks) / os.sysconf("SC_CLK_TCK") - (time.process_time() - self.own)
        return max(0.0, used / max(1e-9, time.monotonic() - self.started))


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


def _load() -> float:
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def _own_cores() -> set[int]:
    """The numbers of the cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return set(affinity(0)) if affinity else set(range(os.cpu_count() or 1))


def _cpu_ticks() -> int | None:
    """Clock ticks spent working on this process's cores since the machine started."""
    try:
        return ticks_of((_PROC / "stat").read_text(), _own_cores())
    except OSError:
        return None


def ticks_of(stat: str, cores: set[int]) -> int:
    """Clock ticks spent working on these cores, from the text of /proc/stat."""
    total = 0
    for line in stat.splitlines():
        number, _, ticks = line.removeprefix("cpu").partition(" ")
        if line.startswith("cpu") and number.isdecimal() and int(number) in cores:
            user, nice, system, _idle, _wait, irq, softirq = map(int, ticks.split()[:7])
            total += user + nice + system + irq + softirq
    return total


def _cgroup_cores() -> float | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in (_PROC / "cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine() or "unknown processor"


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
        return _own_peak_mb() if pid == os.getpid() else 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _own_peak_mb() -> float:
    """This process's peak where there is neither psutil nor /proc."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
