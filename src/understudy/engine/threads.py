"""How many cores are free: a decoding thread on a busy core slows both down."""

import os
import time
from pathlib import Path


def own_cores() -> set[int]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def free_cores(window_s: float = 0.1) -> int:
    """Own cores less those that other processes keep busy (over `window_s`); at least 1, and not
    more than the control group's quota.

    Where the kernel does not tell (no /proc/stat), the load average of the last minute decides.
    """
    cores = len(own_cores())
    if cores == 1:
        return 1
    before = _others_busy_s()
    if before is None:
        others = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    else:
        started = time.monotonic()
        time.sleep(window_s)
        after = _others_busy_s()
        assert after is not None
        others = (after - before) / (time.monotonic() - started)
    return max(1, min(cores, round(cores - others), _quota() or cores))


def _others_busy_s() -> float | None:
    """CPU seconds that other processes have spent so far on this process's cores."""
    try:
        stat = Path("/proc/stat").read_text()
    except OSError:
        return None
    own = os.times()
    return busy_s(stat, own_cores()) - own.user - own.system


def busy_s(stat: str, cores: set[int]) -> float:
    """CPU seconds spent on these cores, from the text of /proc/stat."""
    ticks = 0
    for line in stat.splitlines():
        number, _, fields = line.removeprefix("cpu").partition(" ")
        if line.startswith("cpu") and number.isdecimal() and int(number) in cores:
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields.split()[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def _quota() -> int | None:
    """Whole cores that the control group allows; None where it sets no bound."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, round(int(quota) / int(period)))
