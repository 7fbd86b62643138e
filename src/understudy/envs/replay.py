"""An environment that answers from a recorded episode."""

import contextlib
import copy
import json
from collections.abc import Sequence
from typing import Any

from understudy.core.types import (
    Episode,
    Feedback,
    Message,
    Scenario,
    Tool,
    ToolCall,
    ToolResult,
    call_parts,
    canonical_json,
    is_function,
    text_of,
)

Recorded = tuple[str, ToolResult]


class Replay:
    """The same call gets the result that it got in the recording: of several equal calls the
    next not yet used, and the last one over again after that. Any other call is an error."""

    def __init__(self, episode: Episode) -> None:
        self.recorded = recorded_calls(episode)
        self.offered = episode.tools

    async def start(
        self, scenario: Scenario, seed: int, snapshot: Any | None = None
    ) -> "ReplaySession":
        return ReplaySession(self, dict(snapshot) if snapshot is not None else {})


class ReplaySession:
    """One pass over a recording."""

    def __init__(self, replay: Replay, used: dict[str, int]) -> None:
        self._replay, self._used = replay, used

    def tools(self, role: str = "agent") -> tuple[Tool, ...]:
        return self._replay.offered

    async def call(self, role: str, tool_call: ToolCall) -> ToolResult:
        key = _key(tool_call)
        answers = [result for k, result in self._replay.recorded if k == key]
        if not answers:
            name, _ = call_parts(tool_call)
            return ToolResult(f"Error: the recording has no such call of {name}", True, doubt=1.0)
        n = self._used.get(key, 0)
        self._used[key] = n + 1
        return answers[min(n, len(answers) - 1)]

    async def snapshot(self) -> dict[str, int]:
        return copy.copy(self._used)

    async def outcome(self) -> list[Feedback]:
        return []

    async def aclose(self) -> None:
        return None


def recorded_calls(episode: Episode) -> list[Recorded]:
    """Calls of an episode's main conversation with their results, in order."""
    found: list[Recorded] = []
    messages: Sequence[Message] = episode.messages
    for i, message in enumerate(messages):
        calls = message.get("tool_calls") or []
        answers: list[Message] = []
        for later in messages[i + 1 :]:
            if later["role"] != "tool":
                break
            answers.append(later)
        for n, call in enumerate(calls):
            named = [a for a in answers if a.get("tool_call_id") == call["id"]]
            answer = named[0] if len(named) == 1 else answers[n] if n < len(answers) else None
            if answer is None:
                continue
            text = text_of(answer.get("content"))
            result = episode.results.get(call["id"])
            if result is None or result.content != text:
                result = ToolResult(text, bool(answer.get("is_error")))
            found.append((_key(call), result))
    return found


def _key(call: ToolCall) -> str:
    name, arguments = call_parts(call)
    if is_function(call):
        with contextlib.suppress(ValueError):
            arguments = canonical_json(json.loads(arguments or "{}"))
    return f"{name}\n{arguments}"
