"""OpenAI's Chat Completions on the wire: requests in, responses and stream chunks out and in.

Bodies are validated as far as this package reads them and otherwise left as they are, so that
what a newer client or upstream adds passes through. Token ids go by vLLM's names:
`return_token_ids` in the request, `prompt_token_ids` and the choice's `token_ids` in the answer.
Specification: https://platform.openai.com/docs/api-reference/chat
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from understudy.core import strict_json
from understudy.core.openai_fields import WireError as WireError
from understudy.core.openai_fields import sampling_fields as sampling_fields
from understudy.core.openai_fields import sampling_of, wrong
from understudy.core.origin import ORIGIN
from understudy.core.types import (
    Completion,
    FinishReason,
    Message,
    ModelRef,
    Request,
    Tool,
    Usage,
)

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_FINISH = ("stop", "length", "tool_calls", "content_filter", "abort")
# what core.Request holds; the other fields of a body are kept beside it
_MODELLED = {
    "messages", "model", "tools", "tool_choice", "temperature", "top_p", "top_k", "max_tokens",
    "max_completion_tokens", "seed", "stop", "stream", "stream_options", "metadata", "logit_bias",
    "top_logprobs", "parallel_tool_calls", "response_format",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A validated request body. `other` holds the fields that `request` does not."""

    request: Request
    body: dict[str, Any]
    stream: bool
    other: dict[str, Any]


def parse_json(data: bytes | str) -> Any:
    """JSON as the specification has it (no NaN). Raises WireError."""
    try:
        return strict_json.loads(data)
    except ValueError as error:
        raise WireError(f"the body is not valid JSON: {error}") from error


def parse_chat_request(data: bytes | str) -> ChatRequest:
    """Raises WireError (400) that says which field is wrong and why."""
    body = parse_json(data)
    if not isinstance(body, dict):
        raise WireError("the body must be a JSON object")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        wrong("model", "must be a model's name")
    metadata = body.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        wrong("metadata", "must be an object")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        wrong("stream", "must be true or false")
    if not isinstance(body.get("stream_options"), (dict, type(None))):
        wrong("stream_options", "must be an object")
    tool_choice = body.get("tool_choice")
    if tool_choice is not None and not isinstance(tool_choice, (str, dict)):
        wrong("tool_choice", "must be a string or an object")
    parallel = body.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        wrong("parallel_tool_calls", "must be true or false")
    response_format = body.get("response_format")
    if response_format is not None and not isinstance(response_format, dict):
        wrong("response_format", "must be an object")
    request = Request(
        messages=_messages(body.get("messages")),
        model=ModelRef(model),
        tools=_tools(body.get("tools")),
        sampling=sampling_of(body),
        tool_choice=tool_choice,
        parallel_tool_calls=parallel,
        response_format=response_format,
        metadata=metadata or {},
    )
    other = {k: v for k, v in body.items() if k not in _MODELLED}
    return ChatRequest(request, body, bool(stream), other)


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        wrong("messages", "must be a non-empty list of messages")
    for i, message in enumerate(value):
        problem = message_problem(message)
        if problem is not None:
            wrong(f"messages[{i}]", problem)
    return tuple(value)


def message_problem(message: Any) -> str | None:
    """Why this is no chat message, in a few words; None if it is one."""
    if not isinstance(message, dict):
        return "must be an object"
    role = message.get("role")
    if role not in ROLES:
        return f"has the role {role!r}; roles are {', '.join(ROLES[:-1])}"
    content = message.get("content")
    if content is not None and not isinstance(content, (str, list)):
        return "has content that is neither text nor a list of parts"
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            return "has a content part without a type"
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            return "has a text part without text"
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        return "is a tool message without a tool_call_id"
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        return "has tool_calls that are not a list"
    for call in calls or ():
        if not isinstance(call, dict) or not isinstance(call.get("id"), str):
            return "has a tool call without an id"
        function = call.get("function")
        if call.get("type", "function") == "function" and not (
            isinstance(function, dict)
            and isinstance(function.get("name"), str)
            and isinstance(function.get("arguments"), str)
        ):
            return "has a tool call without a function name and arguments as text"
    if role in ("system", "developer", "user") and content is None:
        return f"is a {role} message without content"
    return None


def _tools(value: Any) -> tuple[Tool, ...]:
    if value is None:
        return ()
    problem = tools_problem(value)
    if problem is not None:
        wrong("tools", problem)
    return tuple(value)


def tools_problem(value: Any) -> str | None:
    """Why this is no list of tools; None if it is one."""
    if not isinstance(value, list):
        return "must be a list"
    for i, tool in enumerate(value):
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            return f"has an entry {i} without a type"
        function = tool.get("function")
        if tool["type"] == "function" and not (
            isinstance(function, dict) and isinstance(function.get("name"), str)
        ):
            return f"has a function {i} without a name"
        schema = function.get("parameters") if isinstance(function, dict) else None
        if not isinstance(schema, (dict, type(None))):
            return f"has a function {i} whose parameters are not an object"
    return None


def request_body(request: Request, *, stream: bool = False) -> dict[str, Any]:
    """The body that asks an OpenAI-compatible endpoint for this request."""
    body: dict[str, Any] = {"model": str(request.model), "messages": list(request.messages)}
    body |= {"tools": list(request.tools)} if request.tools else {}
    body |= form_fields(request)
    body.update(sampling_fields(request.sampling))
    body |= {"stream": True} if stream else {}
    return body


def form_fields(request: Request) -> dict[str, Any]:
    """The body's fields for what the answer may be, where the request says it."""
    given = {
        "tool_choice": request.tool_choice,
        "parallel_tool_calls": request.parallel_tool_calls,
        "response_format": request.response_format,
    }
    return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint answered, whole or as far as it came."""

    message: Message | None
    finish_reason: FinishReason | None
    usage: Usage
    model: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    output_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    others: tuple[Message, ...] = ()  # further choices, where n > 1
    origin: str | None = None  # of the ids: see core.origin


def parse_answer(data: bytes | str) -> Any:
    """An upstream's JSON. Raises WireError (502)."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the upstream's answer is not valid JSON: {error}", status=502) from error


def parse_response(body: Any) -> Answer:
    """A whole (not streamed) response as JSON. Raises WireError (502) when it is none."""
    choices = body.get("choices") if isinstance(body, Mapping) else None
    if not isinstance(choices, list) or not choices:
        raise WireError("the upstream's answer holds no choices", status=502)
    if not all(isinstance(c, dict) and isinstance(c.get("message"), dict) for c in choices):
        raise WireError("the upstream's answer holds a choice without a message", status=502)
    messages = [clean_message(c["message"]) for c in choices]
    problem = next((p for p in map(message_problem, messages) if p is not None), None)
    if problem is not None:
        raise WireError(f"the upstream's answer holds a message that {problem}", status=502)
    first = choices[0]
    ids = body.get("prompt_token_ids") or first.get("prompt_token_ids")
    output, logprobs = token_columns(first.get("token_ids"), logprobs_of(first))
    model, origin = (v if isinstance(v, str) else None for v in map(body.get, ("model", ORIGIN)))
    return Answer(
        message=messages[0],
        finish_reason=finish_reason(first.get("finish_reason")),
        usage=usage_from(body.get("usage")),
        model=model,
        prompt_ids=tuple(ids) if output is not None and _are_ids(ids) else None,
        output_ids=output,
        logprobs=logprobs,
        others=tuple(messages[1:]),
        origin=origin,
    )


def clean_message(message: Mapping[str, Any]) -> Message:
    """An assistant message without fields that say nothing (null or an empty list)."""
    kept = {k: v for k, v in message.items() if v is not None and v != [] and k != "role"}
    calls = kept.get("tool_calls")
    if isinstance(calls, list):
        kept["tool_calls"] = [_tidy_call(c) for c in calls]
    return cast(Message, {"role": "assistant", "content": message.get("content"), **kept})


def _tidy_call(call: Any) -> Any:
    """A function call with what some upstreams leave out: an id, a type, arguments as text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type", "function") != "function":
        return call
    given = function.get("arguments") or ""
    arguments = given if isinstance(given, str) else json.dumps(given)
    tidy = {"type": "function", "function": {**function, "arguments": arguments}}
    return {**call, "id": call.get("id") or "", **tidy}


def finish_reason(value: Any) -> FinishReason | None:
    """An upstream's own reasons count as `stop`; `function_call` is the old `tool_calls`."""
    if value is None:
        return None
    if value == "function_call":
        return "tool_calls"
    return cast(FinishReason, value) if value in _FINISH else "stop"


def usage_from(value: Any) -> Usage:
    if not isinstance(value, Mapping):
        return Usage()
    details = value.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return Usage(
        _count(value.get("prompt_tokens")), _count(cached), _count(value.get("completion_tokens"))
    )


def _count(value: Any) -> int | None:
    countable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
    return value if countable else None


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and None not in map(_count, value)


def logprobs_of(choice: Mapping[str, Any]) -> list[float]:
    """The logprob of each token; none where the upstream's are not readable."""
    given = choice.get("logprobs")
    content = given.get("content") if isinstance(given, Mapping) else None
    try:
        return [float(entry["logprob"]) for entry in content or ()]
    except (TypeError, KeyError, ValueError, OverflowError):
        return []


def token_columns(
    ids: Sequence[int] | None, logprobs: Sequence[float]
) -> tuple[tuple[int, ...] | None, tuple[float, ...] | None]:
    """(output ids, logprobs): both, one of each per token, or neither."""
    if ids is None or not _are_ids(ids) or len(ids) != len(logprobs):
        return None, None
    return tuple(ids), tuple(logprobs)


def estimate_usage(request: Request, message: Message | None) -> Usage:
    """About four bytes a token, for upstreams that report nothing; marked as estimated."""
    asked = sum(len(json.dumps(m, ensure_ascii=False)) for m in request.messages)
    asked += sum(len(json.dumps(t, ensure_ascii=False)) for t in request.tools)
    answered = 0 if message is None else len(json.dumps(message, ensure_ascii=False))
    return Usage(asked // 4, None, answered // 4, estimated=True)


def usage_body(usage: Usage) -> dict[str, Any]:
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens or 0},
    }


def response_body(completion: Completion) -> dict[str, Any]:
    """A `chat.completion` object of a finished completion."""
    return {
        "id": f"chatcmpl-{completion.id}",
        "object": "chat.completion",
        "created": int(completion.started_at),
        "model": str(completion.served or completion.request.model),
        "choices": [
            {
                "index": 0,
                "message": completion.message,
                "finish_reason": completion.finish_reason or "stop",
                "logprobs": None,
            }
        ],
        "usage": usage_body(completion.usage),
    }
