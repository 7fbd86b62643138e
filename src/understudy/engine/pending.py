"""How many requests an engine has taken, and when one more may come."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from understudy.engine.errors import EngineBusyError

RECENT = 64  # requests whose durations say how long the next one takes


class Pending:
    """Requests from their arrival to their end: also those that wait for a grammar or for an
    adapter. With `most` of them, one more is refused."""

    def __init__(self, most: int | None) -> None:
        self.most, self.count = most, 0
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        """A request. Raises EngineBusyError."""
        with self._lock:
            if self.most is not None and self.count >= self.most:
                raise EngineBusyError(self.count, self.retry_after())
            self.count += 1
        started = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self.count -= 1
                self._seconds.append(time.monotonic() - started)

    def retry_after(self) -> float:
        """Seconds until about half of what is pending has ended: half of what requests have taken
        lately, from 1 to 60."""
        recent = sum(self._seconds) / len(self._seconds) if self._seconds else 2.0
        return min(60.0, max(1.0, recent / 2))
