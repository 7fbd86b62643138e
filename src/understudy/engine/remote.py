"""A chat over any OpenAI-compatible endpoint: a hosted model, vLLM, our own engine server."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import aiohttp

from understudy.core.ids import uuid7
from understudy.core.meter import PURPOSE_HEADER
from understudy.core.openai_wire import clean_message, message_problem
from understudy.core.origin import ORIGIN
from understudy.core.types import Completion, FinishReason, Message, Request, Usage
from understudy.engine.errors import ChatError, chat_error, one_line

TOP = "top_logprobs"  # in a completion's `extra`: the likeliest of each place, see LocalChat
_RETRIED = {408, 409, 429, 500, 502, 503, 504}
_REASONS = ("stop", "length", "tool_calls", "content_filter", "abort")


class RemoteChat:
    """A `Chat` over `base_url` (".../v1").

    token_ids asks for the exact ids and logprobs (`return_token_ids`, as vLLM and our engine
    server take it); leave it off for endpoints that refuse unknown fields. Connection errors,
    timeouts and the statuses that say "later" are tried again `retries` times, with the server's
    Retry-After or an exponential pause. `extra_body` are more fields of each body, or makes them
    of a request. Use as an async context manager, or call `aclose`.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        retries: int = 2,
        token_ids: bool = False,
        pause_s: float = 0.5,
        extra_body: Mapping[str, Any] | Callable[[Request], Mapping[str, Any]] | None = None,
    ) -> None:
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.timeout, self.retries, self.token_ids = timeout, retries, token_ids
        self.pause_s, self.extra_body = pause_s, extra_body or {}
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session: aiohttp.ClientSession | None = None

    async def complete(self, request: Request) -> Completion:
        """Answer a request. Raises ChatError, with the completion as recorded."""
        started = Completion(uuid7(), request, "started", started_at=time.time())
        body = self._body(request)
        for attempt in range(self.retries + 1):
            try:
                async with asyncio.timeout(self.timeout):
                    status, answer, after = await self._post(body, request.purpose)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = chat_error(started, error, self.timeout)
                after = None
            else:
                if status == 200:
                    try:
                        return _read(started, answer)
                    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
                        text = f"the endpoint's answer is not a chat completion: {one_line(error)}"
                        raise ChatError(_failed(started, text), status) from error
                problem = ChatError(_failed(started, _reason(status, answer)), status)
                if status not in _RETRIED:
                    raise problem
            if attempt == self.retries:
                raise problem
            pause = self.pause_s * 2**attempt if after is None else after
            await asyncio.sleep(min(pause, self.timeout))
        raise AssertionError("unreachable")

    async def _post(self, body: dict[str, Any], purpose: str) -> tuple[int, Any, float | None]:
        if self._session is None or self._session.closed:
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(headers=self._headers, connector=connector)
        headers = {PURPOSE_HEADER: purpose}
        async with self._session.post(self.url, json=body, headers=headers) as response:
            try:
                answer = await response.json(content_type=None)
            except ValueError:
                answer = await response.text()
            after = response.headers.get("Retry-After", "")
            return response.status, answer, float(after) if after.isdecimal() else None

    def _body(self, request: Request) -> dict[str, Any]:
        s = request.sampling
        body: dict[str, Any] = {
            "model": str(request.model),
            "messages": list(request.messages),
            "temperature": s.temperature,
            "max_tokens": s.max_tokens,
        }
        optional = {
            "top_p": s.top_p if s.top_p < 1 else None,
            "top_k": s.top_k or None,
            "seed": s.seed,
            "stop": list(s.stop) or None,
            "logit_bias": {str(token): bias for token, bias in s.logit_bias} or None,
            "tools": list(request.tools) or None,
            "tool_choice": request.tool_choice if request.tools else None,
            "parallel_tool_calls": request.parallel_tool_calls if request.tools else None,
            "response_format": request.response_format,
        }
        body |= {k: v for k, v in optional.items() if v is not None}
        if s.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": s.top_logprobs}
        if self.token_ids:
            body |= {"return_token_ids": True, "logprobs": True}
        extra = self.extra_body(request) if callable(self.extra_body) else self.extra_body
        return body | dict(extra)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> "RemoteChat":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _failed(started: Completion, text: str) -> Completion:
    return replace(started, status="upstream_error", error=text, finished_at=time.time())


def _reason(status: int, answer: Any) -> str:
    if isinstance(answer, dict):
        error = answer.get("error", answer)
        answer = error.get("message", error) if isinstance(error, dict) else error
    return f"the endpoint answered {status}: {one_line(str(answer))}"


def _read(started: Completion, answer: Any) -> Completion:
    choice = answer["choices"][0]
    said = choice["message"]
    given = {"content": said.get("content"), "tool_calls": said.get("tool_calls")}
    message: Message = clean_message(given)
    problem = message_problem(message)
    if problem is not None:
        raise ValueError(f"its message {problem}")
    used = answer.get("usage") or {}
    cached = (used.get("prompt_tokens_details") or {}).get("cached_tokens")
    usage = Usage(used.get("prompt_tokens"), cached, used.get("completion_tokens"))
    prompt, output = answer.get("prompt_token_ids"), choice.get("token_ids")
    entries = (choice.get("logprobs") or {}).get("content")
    logprobs = None if entries is None else tuple(float(e["logprob"]) for e in entries)
    tops = [
        [[t["token"], t["logprob"]] for t in e.get("top_logprobs") or ()] for e in entries or ()
    ]
    exact = prompt is not None and output is not None
    if exact and usage.completion_tokens not in (None, len(output)):
        exact = False  # ids were lost on the way
    if logprobs is not None and exact and len(logprobs) != len(output):
        logprobs = None
    reason: FinishReason = choice["finish_reason"]
    if reason not in _REASONS:
        reason = "stop"
    return replace(
        started,
        status="ok",
        message=message,
        finish_reason=reason,
        usage=usage,
        finished_at=time.time(),
        prompt_ids=tuple(prompt) if exact else None,
        output_ids=tuple(output) if exact else None,
        logprobs=logprobs if exact else None,
        extra=({ORIGIN: answer[ORIGIN]} if exact and ORIGIN in answer else {})
        | ({TOP: tops} if any(tops) else {}),
    )
