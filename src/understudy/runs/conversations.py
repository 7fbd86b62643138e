"""Conversations made ready to be shown side by side: calls with their results, differences marked.

Plain text in, plain text out: escaping is the template's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from understudy.core.types import Message, ToolCall, call_parts, canonical_json, text_of


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation to show. `outcome` is a word or two, `good` its colour (None: neither)."""

    name: str
    messages: tuple[Message, ...]
    outcome: str = ""
    good: bool | None = None


@dataclass(frozen=True, slots=True)
class CallView:
    """A tool call with its result. An argument is (name, value, whether the others differ)."""

    name: str
    arguments: tuple[tuple[str, str, bool], ...]
    result: str | None
    failed: bool


@dataclass(frozen=True, slots=True)
class TurnView:
    """One message; `differs` where another conversation has no equal one."""

    role: str
    text: str
    calls: tuple[CallView, ...]
    differs: bool


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """What all conversations begin with, and how each goes on."""

    shared: tuple[TurnView, ...]
    columns: tuple[tuple[Conversation, tuple[TurnView, ...]], ...]


def compare(conversations: Sequence[Conversation]) -> ComparisonView:
    """Conversations side by side: equal beginnings once, then each one's own turns."""
    turns = [_turns(c.messages) for c in conversations]
    keys = [[_key(t) for t in column] for column in turns]
    shared = 0
    if len(conversations) > 1:
        while all(len(k) > shared for k in keys) and len({k[shared] for k in keys}) == 1:
            shared += 1
    columns = []
    for i, (conversation, column) in enumerate(zip(conversations, turns, strict=True)):
        others = [set(k) for j, k in enumerate(keys) if j != i]
        elsewhere = [_arguments_of(t) for j, t in enumerate(turns) if j != i]
        views = [
            _view(turn, any(key not in k for k in others), elsewhere)
            for turn, key in zip(column[shared:], keys[i][shared:], strict=True)
        ]
        columns.append((conversation, tuple(views)))
    beginning = tuple(_view(turn, False, []) for turn in turns[0][:shared]) if turns else ()
    return ComparisonView(beginning, tuple(columns))


@dataclass(frozen=True, slots=True)
class _Turn:
    message: Message
    results: tuple[str | None, ...]  # of each tool call


def _turns(messages: Sequence[Message]) -> list[_Turn]:
    """Messages with each tool result moved to the call that it answers."""
    turns: list[_Turn] = []
    taken: set[int] = set()
    for i, message in enumerate(messages):
        if i in taken:
            continue
        results: list[str | None] = []
        for call in message.get("tool_calls") or []:
            at = _answer(messages, i, call["id"], taken)
            taken |= {at} if at is not None else set()
            results.append(None if at is None else text_of(messages[at].get("content")))
        turns.append(_Turn(message, tuple(results)))
    return turns


def _answer(messages: Sequence[Message], i: int, call_id: str, taken: set[int]) -> int | None:
    """Where the result of a call of message i stands, before the agent's next turn."""
    for j in range(i + 1, len(messages)):
        if messages[j]["role"] != "tool":
            return None
        if j not in taken and messages[j].get("tool_call_id") == call_id:
            return j
    return None


def _key(turn: _Turn) -> str:
    parts = (call_parts(c) for c in turn.message.get("tool_calls") or [])
    calls = [(name, _parsed(text)) for name, text in parts]
    said = text_of(turn.message.get("content"))
    return canonical_json([turn.message["role"], said, calls, turn.results])


def _arguments_of(turns: Sequence[_Turn]) -> set[tuple[str, str, str]]:
    """(tool, argument, value) of all calls in a conversation."""
    return {
        (call_parts(call)[0], name, value)
        for turn in turns
        for call in turn.message.get("tool_calls") or []
        for name, value in _arguments(call)
    }


def _view(turn: _Turn, differs: bool, elsewhere: Sequence[set[tuple[str, str, str]]]) -> TurnView:
    calls = []
    for call, result in zip(turn.message.get("tool_calls") or [], turn.results, strict=True):
        tool, _ = call_parts(call)
        arguments = tuple(
            (name, value, any((tool, name, value) not in other for other in elsewhere))
            for name, value in _arguments(call)
        )
        calls.append(CallView(tool, arguments, _pretty(result), _failed(result)))
    text = text_of(turn.message.get("content"))
    if turn.message["role"] == "tool":
        text = _pretty(text) or ""
    return TurnView(turn.message["role"], text, tuple(calls), differs)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text


def _arguments(call: ToolCall) -> list[tuple[str, str]]:
    value = _parsed(call_parts(call)[1])
    if not isinstance(value, dict):
        return [("", str(value))]
    return [(name, json.dumps(v, ensure_ascii=False)) for name, v in value.items()]


def _pretty(result: str | None) -> str | None:
    value = _parsed(result) if result else None
    if isinstance(value, dict | list):
        return json.dumps(value, indent=2, ensure_ascii=False)
    return result


def _failed(result: str | None) -> bool:
    """Whether a result says itself that it is an error."""
    value = _parsed(result) if result else None
    if isinstance(value, dict):
        return bool(value.get("error") or value.get("errors") or value.get("ok") is False)
    return (result or "").lower().lstrip().startswith("error")
