"""Taking turns with an event loop, so that the same requests always meet in the same batches.

The last bits of a logprob depend on what is decoded side by side. A shard that decodes while its
callers think takes their next requests whenever they happen to come. One that waits, after each
answer, until the loop has nothing left to do but wait for it, takes them in the same batches every
time, as long as nothing else (a network, a clock, another thread) decides when a caller goes on.
"""

import asyncio
import threading
from collections.abc import Callable

ROUNDS = 64  # of the loop; a chain of tasks that wait for each other takes one or two each


def settle(loop: asyncio.AbstractEventLoop, given_up: Callable[[], bool]) -> None:
    """Returns when `loop` has run what an answer set going; called from another thread.

    Returns early where `given_up` says that nobody waits any more.
    """
    quiet = threading.Event()

    def turn(left: int) -> None:
        if left:
            loop.call_soon(turn, left - 1)
        else:
            quiet.set()

    if not loop.is_closed():
        loop.call_soon_threadsafe(turn, ROUNDS)
        while not quiet.wait(0.1):
            if given_up() or loop.is_closed():
                return
