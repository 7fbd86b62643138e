"""Chats: messages in, a completion out. `LocalChat` renders, samples from an engine and parses;
`RemoteChat` speaks to any OpenAI-compatible endpoint."""

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.core.answer_form import AnswerForm, form_of
from understudy.core.ids import uuid7
from understudy.core.origin import ORIGIN, Origin
from understudy.core.protocols import Engine, Renderer
from understudy.core.types import (
    Completion,
    FinishReason,
    Message,
    Request,
    Sample,
    Usage,
    call_parts,
    text_of,
)
from understudy.engine.errors import ChatError, chat_error
from understudy.engine.remote import TOP, RemoteChat

__all__ = ["ChatError", "LocalChat", "RemoteChat"]


@dataclass(frozen=True, slots=True)
class _Fed:
    """What a finished turn fed and sampled, and how it ended."""

    ids: npt.NDArray[np.int32]
    finish_reason: FinishReason


class LocalChat:
    """A `Chat` over an engine of ours, with exact ids.

    A turn that continues a known conversation is fed exactly the ids of the turn before, with the
    new messages rendered behind them; never a re-tokenisation of sampled text. Conversations are
    known by a hash over episode, model, tools and messages (tool call ids included), the latest
    `max_ids` ids of them. A request with assistant messages that are not known is rendered from
    text and counted in `fallbacks`. `origin` is recorded with every completion that has ids.

    Where a request asks for a form (core.answer_form), the sample follows its grammar. The
    likeliest tokens of each place (`top_logprobs`) are in the completion's `extra`, as
    [id, logprob]; where a remote endpoint told them, as [text, logprob].
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        base: str,
        *,
        timeout: float | None = None,
        max_ids: int = 16_000_000,
        on_completion: Callable[[Completion], None] | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.engine, self.renderer, self.base = engine, renderer, base
        self.extra = {} if origin is None else {ORIGIN: str(origin)}
        self.timeout, self.max_ids, self.on_completion = timeout, max_ids, on_completion
        self.fallbacks = 0
        self.continued = 0
        self._known: OrderedDict[bytes, _Fed] = OrderedDict()
        self._held = 0

    async def complete(
        self,
        request: Request,
        on_ids: Callable[[Sequence[int]], None] | None = None,
        form: AnswerForm | None = None,
    ) -> Completion:
        """Answer a request, in this form or in that which it asks for. `on_ids` is called with
        newly sampled ids as they come.

        Raises ChatError (with the completion as recorded) when it cannot be answered.
        """
        started = Completion(uuid7(), request, "started", started_at=time.time())
        first: list[float] = []

        def seen(ids: Sequence[int]) -> None:
            if not first:
                first.append(time.time())
            if on_ids is not None:
                on_ids(ids)

        prompt: list[int] | None = None
        try:
            keys = self._keys(request)
            form = form or form_of(request)
            grammar = None if form is None else self.renderer.grammar(form)
            prompt = self._prompt(request, keys)
            async with asyncio.timeout(self.timeout):
                chunks = seen if on_ids else None
                sample = await self.engine.sample(
                    prompt, request.model, request.sampling, grammar, chunks
                )
        except (TimeoutError, ValueError, RuntimeError, NotImplementedError) as error:
            failed = replace(started, prompt_ids=None if prompt is None else tuple(prompt))
            problem = chat_error(failed, error, self.timeout)
            self._record(problem.completion)
            raise problem from error
        except asyncio.CancelledError:
            cut = replace(started, status="client_disconnected", finished_at=time.time())
            self._record(cut)
            raise
        message = self._message(request, form, sample)
        reason: FinishReason = sample.finish_reason
        if reason == "stop" and message.get("tool_calls"):
            reason = "tool_calls"
        self._remember(_child(keys[-1], message), prompt, sample)
        done = replace(
            started,
            status="ok",
            message=message,
            finish_reason=reason,
            served=sample.model if sample.model != request.model else None,
            usage=Usage(len(prompt), sample.cached_tokens, len(sample.ids)),
            first_token_at=first[0] if first else None,
            finished_at=time.time(),
            prompt_ids=tuple(prompt),
            output_ids=sample.ids,
            logprobs=sample.logprobs,
            extra=self.extra if not sample.top else {**self.extra, TOP: _listed(sample)},
        )
        self._record(done)
        return done

    def _record(self, completion: Completion) -> None:
        if self.on_completion is not None:
            self.on_completion(completion)

    def _prompt(self, request: Request, keys: list[bytes]) -> list[int]:
        if not request.messages:
            raise ValueError("the request has no messages")
        for n in range(len(request.messages), 0, -1):
            if request.messages[n - 1]["role"] != "assistant":
                continue
            fed = self._known.get(keys[n])
            if fed is not None:
                self._known.move_to_end(keys[n])
                self.continued += 1
                return self.renderer.next_prompt_ids(
                    fed.ids.tolist(), request.messages[n:], fed.finish_reason
                )
        if any(m["role"] == "assistant" for m in request.messages):
            self.fallbacks += 1
        return self.renderer.prompt_ids(request.messages, _tools(request))

    def _keys(self, request: Request) -> list[bytes]:
        """keys[n] stands for the first n messages."""
        model = request.model
        root = [request.episode_id, model.base, model.adapter, list(_tools(request))]
        keys = [hashlib.blake2b(json.dumps(root, sort_keys=True).encode(), digest_size=16).digest()]
        for message in request.messages:
            keys.append(_child(keys[-1], message))
        return keys

    def _remember(self, key: bytes, prompt: list[int], sample: Sample) -> None:
        ids = np.fromiter((*prompt, *sample.ids), dtype=np.int32)
        old = self._known.pop(key, None)
        self._held += len(ids) - (0 if old is None else len(old.ids))
        self._known[key] = _Fed(ids, sample.finish_reason)
        while self._held > self.max_ids and len(self._known) > 1:
            _, gone = self._known.popitem(last=False)
            self._held -= len(gone.ids)

    def _message(self, request: Request, form: AnswerForm | None, sample: Sample) -> Message:
        message = self.renderer.parse(sample.ids)
        if form is not None and form.schema is not None and not _calls(message, form):
            message = self.renderer.parse(sample.ids, calls=False)
        for call in message.get("tool_calls") or ():
            call["id"] = f"call_{uuid7().replace('-', '')}"
        content = message.get("content")
        if request.sampling.stop and isinstance(content, str):
            cuts = [content.find(s) for s in request.sampling.stop]
            found = [c for c in cuts if c >= 0]
            if found:
                message["content"] = content[: min(found)]
        return message


def _calls(message: Message, form: AnswerForm) -> bool:
    """Whether this is a call of tools and not JSON that looks like one or holds one."""
    offered = {t["function"]["name"] for t in form.tools}
    names = {call_parts(c)[0] for c in message.get("tool_calls") or ()}
    return bool(names) and not message.get("content") and names <= offered


def _listed(sample: Sample) -> list[list[list[float]]]:
    return [[list(pair) for pair in top] for top in sample.top]


def _tools(request: Request) -> tuple[Any, ...]:
    return () if request.tool_choice == "none" else request.tools


def _child(parent: bytes, message: Message) -> bytes:
    """The key of a history one message longer. What a client may leave out does not count."""
    calls = [(c["id"], *call_parts(c)) for c in message.get("tool_calls") or ()]
    said = (message["role"], text_of(message.get("content")), calls, message.get("tool_call_id"))
    return hashlib.blake2b(parent + json.dumps(said).encode(), digest_size=16).digest()
