"""What engines and chats raise, and how failures are recorded."""

import time
from dataclasses import replace

from understudy.core.protocols import ChatError
from understudy.core.types import Completion, Status

__all__ = ["ChatError", "EngineError", "UnknownModelError", "chat_error", "one_line"]


class EngineError(RuntimeError):
    """A request failed inside the engine; others are not affected."""


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
    wait = getattr(error, "retry_after_s", None)  # an engine's EngineBusyError
    return ChatError(failed, None if wait is None else 429, wait)


def one_line(error: BaseException | str) -> str:
    """An error's text on one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
