"""What engines and chats raise, and how failures are recorded."""

import time
from dataclasses import replace

from understudy.core.protocols import ChatError
from understudy.core.types import Completion, Status

__all__ = [
    "ChatError",
    "EngineBusyError",
    "EngineError",
    "UnknownModelError",
    "chat_error",
    "one_line",
]


class EngineError(RuntimeError):
    """A request failed inside the engine; others are not affected."""


class EngineBusyError(EngineError):
    """As many requests wait as may; `retry_after_s` is a guess of when there is room."""

    def __init__(self, pending: int, retry_after_s: float) -> None:
        super().__init__(f"{pending} requests are pending; try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class UnknownModelError(ValueError):
    """The request names a model that the engine does not have."""


def chat_error(started: Completion, error: BaseException, timeout: float | None) -> ChatError:
    """The error for a failed call: timeout, invalid (the request's fault) or upstream_error."""
    status: Status = "upstream_error"
    text = one_line(error)
    if isinstance(error, TimeoutError):
        status, text = "timeout", f"no answer within {timeout:g} s" if timeout else "timed out"
    elif isinstance(error, (ValueError, NotImplementedError)):
        status = "invalid"
    failed = replace(started, status=status, error=text, finished_at=time.time())
    if isinstance(error, EngineBusyError):
        return ChatError(failed, 429, error.retry_after_s)
    return ChatError(failed)


def one_line(error: BaseException | str) -> str:
    """An error's text on one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
