"""Which cores this process may use, and how many of them others leave free.

A thread on a core that somebody else keeps busy slows down all that wait for it.
"""

import os
import time
from pathlib import Path


def own_cores() -> set[int]:
    """The numbers of the cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return set(affinity(0)) if affinity else set(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and its control group's quota."""
    cores = len(own_cores())
    quota = _quota()
    return max(1, min(cores, int(quota + 0.5))) if quota else cores


def threads_for_load(cores: int | None = None, busy: float | None = None) -> int:
    """How many threads a computation should use on the machine as it is now.

    As many as there are cores, less those that other processes keep busy, at least one: threads
    that wait for each other on a core taken by somebody else cost more than they bring. On two
    cores, one busy process means one thread. `busy` is the number of cores taken by others,
    measured over a fifth of a second where it is not given.
    """
    running_on = len(own_cores()) if cores is None else cores  # a quota may allow fewer
    cores = usable_cores() if cores is None else cores
    if busy is None:
        busy = busy_elsewhere() if running_on > 1 else 0.0
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
        self.ticks = _ticks()
        self.own, self.started = time.process_time(), time.monotonic()

    def busy(self) -> float:
        """How many; the one-minute load average where the kernel does not tell."""
        after = _ticks()
        if self.ticks is None or after is None:
            return load_average()
        used = (after - self.ticks) / os.sysconf("SC_CLK_TCK") - (time.process_time() - self.own)
        return max(0.0, used / max(1e-9, time.monotonic() - self.started))


def load_average() -> float:
    """Of the last minute; 0 where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return 0.0


def _ticks() -> int | None:
    """Clock ticks spent on this process's cores since the machine started."""
    try:
        return ticks_of(Path("/proc/stat").read_text(), own_cores())
    except OSError:
        return None


def ticks_of(stat: str, cores: set[int]) -> int:
    """Clock ticks in which these cores were not idle, from the text of /proc/stat: working, or
    taken away by the hypervisor."""
    total = 0
    for line in stat.splitlines():
        number, _, ticks = line.removeprefix("cpu").partition(" ")
        if line.startswith("cpu") and number.isdecimal() and int(number) in cores:
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, ticks.split()[:8])
            total += user + nice + system + irq + softirq + steal
    return total


def _quota() -> float | None:
    """Cores that the control group allows; None where it sets no bound."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)
