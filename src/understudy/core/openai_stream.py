"""Streams of chat completion chunks: server-sent events in and out, and what they add up to.

Events follow the WHATWG specification (https://html.spec.whatwg.org/#server-sent-events) as far
as OpenAI's endpoint uses it: `data:` lines, a blank line after each event, `[DONE]` at the end.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from understudy.core.openai_wire import (
    Answer,
    WireError,
    clean_message,
    finish_reason,
    logprobs_of,
    token_columns,
    usage_from,
)
from understudy.core.origin import ORIGIN
from understudy.core.types import Completion, FinishReason, Message

DONE = b"data: [DONE]\n\n"


def sse(data: Mapping[str, Any]) -> bytes:
    """One event with this JSON."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


class SSEParser:
    """Bytes as they come, cut anywhere, to whole events: (the event's bytes, its data)."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The events that these bytes complete. Their bytes in order are the stream's."""
        buffer = self._buffer + data
        start = 0
        while True:
            end = _event_end(buffer, start)
            if end is None:
                break
            raw = buffer[start:end]
            start = end
            yield raw, event_data(raw)
        self._buffer = buffer[start:]

    @property
    def rest(self) -> bytes:
        """What has come of an event that is not complete."""
        return self._buffer


def _event_end(buffer: bytes, start: int) -> int | None:
    ends = [
        at + len(mark)
        for mark in (b"\n\n", b"\r\n\r\n", b"\r\r")
        if (at := buffer.find(mark, start)) >= 0
    ]
    return min(ends) if ends else None


def event_data(raw: bytes) -> bytes:
    """The `data` of one event: its data lines joined by newlines; empty for a comment."""
    lines = []
    for line in raw.splitlines():
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
    return b"\n".join(lines)


class ChunkAssembler:
    """Adds up chunks to the answer that a request without streaming would have given.

    Only the first choice becomes the message; others are assembled beside it. Deltas of tool
    calls belong together by their `index`.
    """

    def __init__(self) -> None:
        self._messages: dict[int, dict[str, Any]] = {}
        self._calls: dict[int, dict[int, dict[str, Any]]] = {}
        self._usage: Any = None
        self._model: str | None = None
        self._prompt_ids: list[int] | None = None
        self._origin: str | None = None
        self._output_ids: list[int] = []
        self._logprobs: list[float] = []
        self.finish_reason: FinishReason | None = None
        self.done = False  # [DONE] has come

    def add(self, data: bytes) -> dict[str, Any] | None:
        """Add one event's data; returns the chunk, None for comments and [DONE].

        Raises WireError (502) for data that is no chunk, or that is the upstream's error.
        """
        if not data:
            return None
        if data.strip() == b"[DONE]":
            self.done = True
            return None
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise WireError(f"the upstream's stream is broken: {error}", status=502) from error
        if isinstance(chunk, dict) and chunk.get("error"):
            told = chunk["error"]
            said = told.get("message") if isinstance(told, dict) else told
            raise WireError(f"the upstream failed in mid-stream: {said}", status=502)
        try:
            self._add(chunk)
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            raise WireError("the upstream's stream holds a malformed chunk", status=502) from error
        return cast(dict[str, Any], chunk)

    def _add(self, chunk: dict[str, Any]) -> None:
        if isinstance(chunk.get("model"), str):
            self._model = chunk["model"]
        self._usage = chunk.get("usage") or self._usage
        self._prompt_ids = chunk.get("prompt_token_ids") or self._prompt_ids
        self._origin = chunk[ORIGIN] if isinstance(chunk.get(ORIGIN), str) else self._origin
        for choice in chunk.get("choices") or ():
            index = choice.get("index", 0)
            self._delta(index, choice.get("delta") or {})
            if index:
                continue
            self.finish_reason = finish_reason(choice.get("finish_reason")) or self.finish_reason
            self._output_ids += list(choice.get("token_ids") or ())
            self._logprobs += logprobs_of(choice)

    def _delta(self, index: int, delta: Mapping[str, Any]) -> None:
        message = self._messages.setdefault(index, {"role": "assistant", "content": None})
        for name, value in delta.items():
            if value is None or name == "role":
                continue
            if name == "content" and not isinstance(value, (str, list)):
                raise TypeError("content is neither text nor a list of parts")
            if name == "tool_calls":
                for call in value:
                    self._call(self._calls.setdefault(index, {}), call)
            elif isinstance(value, str) and isinstance(message.get(name), str):
                message[name] += value
            elif isinstance(value, list) and isinstance(message.get(name), list):
                message[name] = [*message[name], *value]
            else:
                message[name] = value

    def _call(self, calls: dict[int, dict[str, Any]], delta: Mapping[str, Any]) -> None:
        call = calls.setdefault(delta.get("index", len(calls)), {"id": "", "type": "function"})
        call["id"] = delta.get("id") or call["id"]
        call["type"] = delta.get("type") or call["type"]
        kind, text = ("custom", "input") if call["type"] == "custom" else ("function", "arguments")
        said, more = call.setdefault(kind, {"name": "", text: ""}), delta.get(kind) or {}
        said["name"] += more.get("name") or ""
        said[text] += more.get(text) or ""

    def _message(self, index: int) -> Message:
        calls = self._calls.get(index)
        message = dict(self._messages[index])
        if calls:
            message["tool_calls"] = [calls[i] for i in sorted(calls)]
        return clean_message(message)

    def answer(self) -> Answer:
        """What has come so far."""
        first = self._message(0) if 0 in self._messages else None
        if first is not None and first["content"] is None and "tool_calls" not in first:
            said_something = len(first) > 2 or self.finish_reason is not None
            first = {**first, "content": ""} if said_something else None
        output, logprobs = token_columns(self._output_ids, self._logprobs)
        usage = usage_from(self._usage)
        count, one = usage.completion_tokens, len(self._messages) == 1
        if output and one and count is not None and count != len(output):
            output = logprobs = None  # some were lost on the way: an old vLLM's tool calls
        return Answer(
            message=first,
            finish_reason=self.finish_reason,
            usage=usage,
            model=self._model,
            prompt_ids=tuple(self._prompt_ids) if self._prompt_ids and output else None,
            output_ids=output,
            logprobs=logprobs,
            others=tuple(self._message(i) for i in sorted(self._messages) if i),
            origin=self._origin,
        )


def response_chunks(completion: Completion) -> Iterator[dict[str, Any]]:
    """A finished completion as the chunks of a stream: role, content, each call, the end."""
    head = {
        "id": f"chatcmpl-{completion.id}",
        "object": "chat.completion.chunk",
        "created": int(completion.started_at),
        "model": str(completion.served or completion.request.model),
    }

    def chunk(delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    message: Mapping[str, Any] = completion.message or {}
    yield chunk({"role": "assistant"})
    if message.get("content"):
        yield chunk({"content": message["content"]})
    for i, call in enumerate(message.get("tool_calls") or ()):
        yield chunk({"tool_calls": [{"index": i, **call}]})
    yield chunk({}, completion.finish_reason or "stop")
