"""UUIDv7 identifiers (RFC 9562, section 5.7): sortable by time, unique without coordination."""

import os
import threading
import time

_lock = threading.Lock()
_last_ms = 0
_counter = 0


def uuid7() -> str:
    """A new UUIDv7 as its 36-character string.

    Ids made by one process sort in the order in which they were made: the 12 bits after the
    millisecond timestamp are a counter (method 1 of section 6.2), started at random below half
    of its range and carried into the timestamp when it overflows.
    """
    global _last_ms, _counter
    with _lock:
        now_ms = time.time_ns() // 1_000_000
        if now_ms > _last_ms:
            _last_ms, _counter = now_ms, int.from_bytes(os.urandom(2)) & 0x7FF
        elif _counter < 0xFFF:
            _counter += 1
        else:
            _last_ms, _counter = _last_ms + 1, 0
        ms, counter = _last_ms, _counter
    value = ms << 80 | 0x7 << 76 | counter << 64 | 0b10 << 62
    value |= int.from_bytes(os.urandom(8)) & ((1 << 62) - 1)
    h = f"{value:032x}"
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def uuid7_time(identifier: str) -> float:
    """Unix seconds at which a UUIDv7 was made. Raises ValueError for any other version."""
    h = identifier.replace("-", "")
    if len(h) != 32 or h[12] != "7":
        raise ValueError(f"{identifier!r} is not a UUIDv7")
    return int(h[:12], 16) / 1000
