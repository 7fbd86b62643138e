"""A programmatic check: the owner's own Python function says how well an episode went.

    # my_check.py
    def check(messages: list[dict], ticket: dict) -> float | bool:
        return any("confirmed" in (m.get("content") or "") for m in messages if m["role"] == "tool")

The check sees what the agent and its tools said, and the `ticket` in the metadata that the client
sent with the episode (all of the metadata, where it holds no ticket). It is the owner's code and
runs in this process: load only files that you trust.
"""

import copy
import hashlib
import inspect
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from understudy.core.ids import uuid7
from understudy.core.types import Episode, Feedback, Group, JudgeFailed, Message

CheckFunction = Callable[[list[dict[str, Any]], dict[str, Any]], float | bool]


class CheckError(ValueError):
    """A check that cannot be loaded; the message says why in one line."""


class Check:
    """Judges each episode of a group with a function. `version` names the code that judged."""

    def __init__(self, function: CheckFunction, name: str = "check", version: str = "") -> None:
        self.function, self.name, self.version = function, name, version

    @classmethod
    def from_file(cls, path: str | Path, function: str = "check", name: str = "check") -> "Check":
        """The check in a Python file; its version is the hash of the file's content.

        Raises CheckError where the file cannot be read or run, or holds no such function.
        """
        path = Path(path)
        try:
            source = path.read_bytes()
        except OSError as error:
            raise CheckError(f"{path}: cannot be read ({error.strerror or error})") from None
        version = hashlib.sha256(source).hexdigest()[:16]
        found = getattr(_module(path, source, version), function, None)
        if not callable(found):
            raise CheckError(f"{path}: holds no function {function}(messages, ticket)")
        try:
            inspect.signature(found).bind([], {})
        except TypeError:
            raise CheckError(
                f"{path}: {function} must take (messages, ticket), not {inspect.signature(found)}"
            ) from None
        return cls(found, name, version)

    async def judge(self, group: Group) -> list[Feedback | JudgeFailed]:
        """One entry per episode, in the group's order."""
        return [self.judge_episode(episode) for episode in group.episodes]

    def judge_episode(self, episode: Episode) -> Feedback | JudgeFailed:
        """The check's verdict on one episode; JudgeFailed where it raises or gives no number."""
        messages: list[dict[str, Any]] = [dict(m) for m in copy.deepcopy(conversation(episode))]
        metadata = copy.deepcopy(dict(episode.metadata))
        ticket = metadata.get("ticket", metadata)
        try:
            value = self.function(messages, ticket)
        except Exception as error:  # noqa: BLE001 - the owner's code may raise anything
            return JudgeFailed(episode.id, f"{self.name} raised {type(error).__name__}: {error}")
        problem = _problem(value)
        if problem is not None:
            return JudgeFailed(episode.id, f"{self.name} {problem}")
        return Feedback(
            id=uuid7(),
            episode_id=episode.id,
            name=self.name,
            value=value if isinstance(value, bool) else float(value),
            source="check",
            source_version=self.version,
            created_at=time.time(),
        )


def conversation(episode: Episode) -> list[Message]:
    """The episode's messages, tool results included that are known but were not sent on.

    A result whose call ended the episode is in `episode.results` alone; it is put behind its call.
    """
    messages = list(episode.messages)
    answered = {m["tool_call_id"] for m in messages if m["role"] == "tool" and "tool_call_id" in m}
    whole: list[Message] = []
    for message in messages:
        whole.append(message)
        for call in message.get("tool_calls") or []:
            result = episode.results.get(call["id"])
            if result is not None and call["id"] not in answered:
                whole.append(
                    {"role": "tool", "tool_call_id": call["id"], "content": result.content}
                )
    return whole


def _problem(value: object) -> str | None:
    if isinstance(value, bool):
        return None
    if inspect.iscoroutine(value):
        value.close()
        return "is asynchronous; a check is a plain function"
    if not hasattr(value, "__float__") or isinstance(value, str):
        return f"returned {value!r}, not a number or a truth value"
    try:
        finite = math.isfinite(float(value))
    except (OverflowError, TypeError, ValueError) as error:  # huge, or of several elements
        return f"returned what is no number: {error}"
    if not finite:
        return f"returned {value!r}, not a finite number"
    return None


def _module(path: Path, source: bytes, version: str) -> ModuleType:
    """The file as a module, run from the very bytes that the version names."""
    module = ModuleType(f"understudy_check_{version}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[module.__name__]
        reason = f"{type(error).__name__}: {error}"
        raise CheckError(f"{path}: cannot be run ({reason})") from error
    return module
