"""How many cores are free: a decoding thread on a busy core slows both down."""

import os
import time
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def free_cores(window_s: float = 0.1) -> int:
    """Usable cores less those that other processes keep busy (over `window_s`); at least 1.

    Where the kernel does not tell (no /proc/stat), the load average of the last minute decides.
    """
    cores = usable_cores()
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
    return max(1, min(cores, round(cores - others)))


def _others_busy_s() -> float | None:
    """CPU seconds spent so far on this machine by other processes."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(f) for f in fields)
    total = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return total - own.user - own.system
