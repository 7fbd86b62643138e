"""glibc's allocator in processes that compute with torch: it keeps what is freed for the next step.

By itself it maps each large tensor anew, which the kernel then fills page by page: a training step
has several times the page faults. What a process once had it keeps, so that it takes a little more.

glibc reads its variable when a process starts. So a process that is started as a child has it in
its environment, and a command starts itself again with it.
"""

import os
import sys
from collections.abc import Mapping

VARIABLE = "GLIBC_TUNABLES"
ADVICE = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8000000000"
GIVEN = "UNDERSTUDY_ALLOCATOR"  # marks a process that was started with it


def advised(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What to add to the environment of a process that computes: nothing where there is no glibc,
    or where the environment has its variable, empty or not, or was given it before."""
    if VARIABLE in environment or GIVEN in environment or not _has_glibc():
        return {}
    return {VARIABLE: ADVICE, GIVEN: "1"}


def start_again() -> None:
    """Replace this process by the same command with the advice. For the beginning of a command:
    returns where there is nothing to add, as in the process that was started again."""
    more = advised()
    if more:
        try:
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **more})
        except OSError:
            return  # it works without


def _has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, OSError, ValueError):
        return False
