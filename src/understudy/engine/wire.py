"""OpenAI's wire shapes, with vLLM's fields for exact ids: requests read, responses built."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from understudy.core.answer_form import FormError, form_of
from understudy.core.ids import uuid7
from understudy.core.openai_fields import MOST_TOP, bias_problem, biases_of
from understudy.core.openai_wire import message_problem, tools_problem
from understudy.core.origin import ORIGIN
from understudy.core.types import (
    Completion,
    ModelRef,
    Request,
    Sample,
    Sampling,
    Usage,
)
from understudy.engine.remote import TOP

Body = dict[str, Any]
Top = Sequence[Sequence[Any]]  # the likeliest (id, logprob) of one place
Decode = Callable[[Sequence[int]], str]
MOST_CHOICES = 128
_ROLES = ("system", "developer", "user", "assistant", "tool")


class BadRequest(ValueError):
    """A request that cannot be read; `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def error_body(
    message: str,
    code: str | None = None,
    param: str | None = None,
    kind: str = "invalid_request_error",
) -> Body:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


# -- requests ------------------------------------------------------------------------------


def parse_sampling(body: Body) -> Sampling:
    """Sampling parameters of a request. Raises BadRequest."""
    stop = body.get("stop")
    stops = (stop,) if isinstance(stop, str) else stop or ()
    if not isinstance(stops, tuple | list) or not all(isinstance(s, str) and s for s in stops):
        raise BadRequest("stop must be a string or a list of strings", "stop")
    longest = body.get("max_completion_tokens", body.get("max_tokens"))
    biases = body.get("logit_bias")
    problem = bias_problem(biases)
    if problem is not None:
        raise BadRequest(f"logit_bias {problem}", "logit_bias")
    return Sampling(
        temperature=_number(body, "temperature", 1.0, 0, 2),
        top_p=_number(body, "top_p", 1.0, 0, 1),
        top_k=max(0, _integer(body.get("top_k"), "top_k", 0)),
        max_tokens=_integer(longest, "max_tokens", 256, least=1),
        seed=_integer(body["seed"], "seed", 0) if body.get("seed") is not None else None,
        stop=tuple(stops),
        logit_bias=biases_of(biases),
    )


def choices_in(body: Body) -> int:
    """How many answers are asked for, 1 to MOST_CHOICES. Raises BadRequest."""
    count = _integer(body.get("n"), "n", 1)
    if not 1 <= count <= MOST_CHOICES:
        raise BadRequest(f"n must be a whole number from 1 to {MOST_CHOICES}", "n")
    return count


def seeded(sampling: Sampling, count: int) -> list[Sampling]:
    """The sampling of each of `count` choices: a seed goes up by one from choice to choice, so that
    they are not all the same (and as vLLM has it)."""
    if sampling.seed is None:
        return [sampling] * count
    return [replace(sampling, seed=sampling.seed + i) for i in range(count)]


def _top(body: Body, name: str) -> int:
    """How many of the likeliest tokens are asked for, 0 to 20."""
    count = _integer(body.get(name), name, 0)
    if not 0 <= count <= MOST_TOP:
        raise BadRequest(f"{name} must be from 0 to {MOST_TOP}", name)
    return count


def parse_chat(body: Body, model: ModelRef) -> Request:
    """A chat completion request. Raises BadRequest with the field's name."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list of at least one message", "messages")
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise BadRequest(f"{where} must have a role of {', '.join(_ROLES)}", where)
        if not isinstance(message.get("content"), str | list | None):
            raise BadRequest(f"{where}.content must be a string or a list of parts", where)
        problem = message_problem(message)
        if problem is not None:
            raise BadRequest(f"{where} {problem}", where)
        for call in message.get("tool_calls") or ():
            _check_call(call, where)
    tools = body.get("tools") or []
    if not isinstance(tools, list) or not all(_is_tool(t) for t in tools):
        raise BadRequest("tools must be a list of functions with a name", "tools")
    if tools_problem(tools) is not None:
        raise BadRequest(f"tools {tools_problem(tools)}", "tools")
    if not isinstance(body.get("stream_options"), dict | None):
        raise BadRequest("stream_options must be an object", "stream_options")
    choices_in(body)
    if not isinstance(body.get("parallel_tool_calls"), bool | None):
        raise BadRequest("parallel_tool_calls must be true or false", "parallel_tool_calls")
    top = _top(body, "top_logprobs")
    if top and not body.get("logprobs"):
        raise BadRequest("top_logprobs needs logprobs", "top_logprobs")
    user = body.get("metadata")
    request = Request(
        tuple(messages),
        model,
        tuple(tools),
        replace(parse_sampling(body), top_logprobs=top),
        tool_choice=body.get("tool_choice"),
        parallel_tool_calls=body.get("parallel_tool_calls"),
        response_format=body.get("response_format"),
        metadata=user if isinstance(user, dict) else {},
    )
    try:
        form_of(request)
    except FormError as error:
        raise BadRequest(str(error), error.param) from error
    return request


def parse_completions(
    body: Body, encode: Callable[[str], list[int]]
) -> list[tuple[list[int], Sampling]]:
    """The prompts (text or token ids, one or several) of a completions request, each `n` times in a
    row, with its sampling. Raises BadRequest."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        prompts = [encode(prompt)]
    elif isinstance(prompt, list) and prompt and all(_is_int(x) for x in prompt):
        prompts = [prompt]
    elif isinstance(prompt, list) and prompt and all(isinstance(x, str) for x in prompt):
        prompts = [encode(x) for x in prompt]
    elif isinstance(prompt, list) and prompt and all(_is_ids(x) for x in prompt):
        prompts = prompt
    else:
        raise BadRequest("prompt must be text or token ids, or a list of either", "prompt")
    sampling = replace(parse_sampling(body), top_logprobs=_top(body, "logprobs"))
    each = seeded(sampling, choices_in(body))
    return [(prompt, one) for prompt in prompts for one in each]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_int(x) for x in value)


def _is_tool(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _check_call(call: Any, where: str) -> None:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(call.get("id"), str):
        raise BadRequest(f"{where}.tool_calls must have an id and a function", where)
    if not all(isinstance(function.get(k), str) for k in ("name", "arguments")):
        raise BadRequest(f"{where}.tool_calls need a name and arguments as text", where)


def _number(body: Body, name: str, default: float, least: float, most: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise BadRequest(f"{name} must be a number from {least} to {most}", name)
    return float(value)


def _integer(value: Any, name: str, default: int, least: int | None = None) -> int:
    if value is None:
        return default
    if not _is_int(value) or (least is not None and value < least):
        raise BadRequest(f"{name} must be a whole number{f' >= {least}' if least else ''}", name)
    return int(value)


# -- responses -----------------------------------------------------------------------------


def usage_body(usage: Usage) -> Body:
    prompt, output = usage.prompt_tokens or 0, usage.completion_tokens or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens or 0},
    }


def _logprobs(done: Completion, decode: Decode) -> Body:
    def entry(token: int, logprob: float) -> Body:
        text = decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    ids, logprobs = done.output_ids or (), done.logprobs or ()
    tops: Sequence[Top] = done.extra.get(TOP) or [()] * len(ids)
    entries = [
        {**entry(i, p), "top_logprobs": [entry(*pair) for pair in top]}
        for i, p, top in zip(ids, logprobs, tops, strict=True)
    ]
    return {"content": entries, "refusal": None}


def chat_response(done: Sequence[Completion], body: Body, decode: Decode) -> Body:
    """A chat.completion object, one choice a completion."""
    choices = []
    for i, completion in enumerate(done):
        assert completion.message is not None
        choice: Body = {
            "index": i,
            "message": {"refusal": None, **completion.message},
            "finish_reason": completion.finish_reason,
            "logprobs": _logprobs(completion, decode) if body.get("logprobs") else None,
        }
        if body.get("return_token_ids"):
            choice["token_ids"] = list(completion.output_ids or ())
        choices.append(choice)
    first = done[0]
    total = Usage(
        first.usage.prompt_tokens,
        first.usage.cached_tokens,
        sum(c.usage.completion_tokens or 0 for c in done),
    )
    response: Body = {
        "id": f"chatcmpl-{first.id}",
        "object": "chat.completion",
        "created": int(first.started_at),
        "model": body["model"],
        "choices": choices,
        "usage": usage_body(total),
        "system_fingerprint": str(first.served or first.request.model),
    }
    if body.get("return_token_ids"):
        response["prompt_token_ids"] = list(first.prompt_ids or ())
        response |= {ORIGIN: first.extra[ORIGIN]} if ORIGIN in first.extra else {}
    return response


def chat_chunk(
    ident: str,
    created: int,
    model: str,
    delta: Body,
    *,
    finish_reason: str | None = None,
    token_ids: list[int] | None = None,
    prompt_token_ids: list[int] | None = None,
    origin: str | None = None,
    completion: Completion | None = None,
    decode: Decode | None = None,
    usage: Body | None = None,
) -> Body:
    """A chat.completion.chunk. With `usage` it has no choices, as OpenAI's last chunk."""
    chunk: Body = {
        "id": ident,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [],
    }
    if usage is not None:
        return chunk | {"usage": usage}
    choice: Body = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    if token_ids is not None:
        choice["token_ids"] = token_ids
    if completion is not None and decode is not None:
        choice["logprobs"] = _logprobs(completion, decode)
    chunk["choices"] = [choice]
    if prompt_token_ids is not None:
        chunk["prompt_token_ids"] = prompt_token_ids
    if origin is not None:
        chunk[ORIGIN] = origin
    return chunk


def completions_response(
    prompts: Sequence[Sequence[int]], samples: Sequence[Sample], body: Body, decode: Decode
) -> Body:
    """A text_completion object."""
    choices = []
    for i, (prompt, sample) in enumerate(zip(prompts, samples, strict=True)):
        choice: Body = {
            "index": i,
            "text": decode(sample.ids),
            "finish_reason": sample.finish_reason,
            "logprobs": None,
        }
        if body.get("logprobs") is not None:
            name = _as_id if body.get("return_tokens_as_token_ids") else decode
            tokens = [name([t]) for t in sample.ids]
            choice["logprobs"] = {
                "tokens": tokens,
                "token_logprobs": list(sample.logprobs),
                "top_logprobs": _tops(sample, name) or None,
                "text_offset": [len("".join(tokens[:t])) for t in range(len(tokens))],
            }
        if body.get("return_token_ids"):
            choice |= {"prompt_token_ids": list(prompt), "token_ids": list(sample.ids)}
        choices.append(choice)
    usage = Usage(
        sum(len(p) for p in prompts),
        sum(s.cached_tokens for s in samples),
        sum(len(s.ids) for s in samples),
    )
    return {
        "id": f"cmpl-{uuid7()}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body["model"],
        "choices": choices,
        "usage": usage_body(usage),
    }


def _as_id(ids: Sequence[int]) -> str:
    """A token by its id, as vLLM writes it."""
    return f"token_id:{ids[0]}"


def _tops(sample: Sample, decode: Decode) -> list[dict[str, float]]:
    """For each id the likeliest tokens by their name, what was sampled among them. Of tokens that
    read the same the likelier counts."""
    found = []
    for i, logprob, top in zip(sample.ids, sample.logprobs, sample.top, strict=bool(sample.top)):
        named: dict[str, float] = {}
        for token, value in (*top, (i, logprob)):
            named.setdefault(decode([token]), value)
        found.append(named)
    return found
