"""The route /v1/completions: prompts as text or ids; streams; grammars; logprobs of the prompt.

vLLM's fields (`return_token_ids`, `prompt_logprobs`, `structured_outputs`, `stop_token_ids`) mean
what they mean there, but for one: of a stream, the logprobs come with its last chunk.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from understudy.core.ids import uuid7
from understudy.core.protocols import Engine
from understudy.core.types import ModelRef, Sample, Sampling, Usage
from understudy.engine.choices import all_of, check_room
from understudy.engine.errors import EngineError
from understudy.engine.vllm_wire import grammar_of
from understudy.engine.wire import (
    BadRequest,
    Body,
    Decode,
    completions_response,
    error_body,
    parse_completions,
    usage_body,
)

MOST_TOP = 1000  # prompt_logprobs
Ended = Callable[[Usage | None, int], None]


class Completions:
    """Answers requests over an engine that stops at `stop_ids` and has at most `max_pending`
    requests at once (None: any number)."""

    def __init__(
        self,
        engine: Engine,
        stop_ids: Sequence[int],
        decode: Decode,
        encode: Callable[[str], list[int]],
        max_pending: int | None = None,
    ) -> None:
        self.engine, self.stop_ids, self.max_pending = engine, tuple(stop_ids), max_pending
        self._stops = {str(i) for i in stop_ids}
        self.decode, self.encode = decode, encode

    async def answer(
        self,
        http: web.Request,
        body: Body,
        model: ModelRef,
        ended: Ended,
        headers: Mapping[str, str],
    ) -> web.StreamResponse:
        """`ended` hears of each prompt's usage, None and what was sent where it was cut off. Raises
        BadRequest, or what the engine raises before anything was sent."""
        asked = parse_completions(body, self.encode)
        prompts = [prompt for prompt, _ in asked]
        grammar = _grammar(body)
        stops = body.get("stop_token_ids")
        if stops and (not isinstance(stops, list) or {*map(str, stops)} != self._stops):
            told = f"this server stops at the ids {list(self.stop_ids)} and at no others"
            raise BadRequest(told, "stop_token_ids")
        top_k = _top_k(body)
        if not body.get("stream"):
            check_room(len(asked), self.max_pending, "prompt" if body.get("n") is None else "n")

            async def sample(prompt: list[int], sampling: Sampling) -> Sample:
                usage: Usage | None = None
                try:
                    done = await self.engine.sample(prompt, model, sampling, grammar)
                    usage = Usage(len(prompt), done.cached_tokens, len(done.ids))
                    return done
                finally:
                    ended(usage, 0)

            samples = await all_of(sample(*one) for one in asked)
            answer = completions_response(prompts, samples, body, self.decode)
            if top_k is not None:
                for choice, prompt in zip(answer["choices"], prompts, strict=True):
                    choice["prompt_logprobs"] = await self._scored(prompt, model, top_k)
            return web.json_response(answer, headers=headers)
        if len(asked) != 1 or top_k is not None:
            raise BadRequest("streaming takes one prompt, n = 1 and no prompt_logprobs", "stream")
        chunks = _Chunks(http, body, self.decode, headers)
        return await self._stream(chunks, *asked[0], model, grammar, ended)

    async def _scored(self, prompt: list[int], model: ModelRef, top_k: int) -> list[Any]:
        """As vLLM has it: None, then {id: {logprob, rank, decoded_token}} of the fed token and of
        the likeliest; the rank is None where it is beyond those."""
        scores = await self.engine.score(prompt, model, top_k)
        positions: list[Any] = [None]
        tops = scores.top or ((),) * len(scores.logprobs)
        for i, logprob, top in zip(prompt[1:], scores.logprobs, tops, strict=True):
            ranked = {t: (value, rank) for rank, (t, value) in enumerate(top, start=1)}
            entries = {i: ranked.get(i, (logprob, None))} | ranked
            positions.append(
                {
                    str(t): {"logprob": value, "rank": rank, "decoded_token": self.decode([t])}
                    for t, (value, rank) in entries.items()
                }
            )
        return positions

    async def _stream(
        self,
        chunks: "_Chunks",
        prompt: list[int],
        sampling: Sampling,
        model: ModelRef,
        grammar: str | None,
        ended: Ended,
    ) -> web.StreamResponse:
        fresh: asyncio.Queue[list[int] | None] = asyncio.Queue()
        sampled = asyncio.create_task(
            self.engine.sample(
                prompt, model, sampling, grammar, lambda ids: fresh.put_nowait(list(ids))
            )
        )
        sampled.add_done_callback(lambda _: fresh.put_nowait(None))
        usage, sent = None, 0
        try:
            while (ids := await fresh.get()) is not None:
                sent += len(ids)
                await chunks.send(ids, prompt)
            done = await sampled
            usage = Usage(len(prompt), done.cached_tokens, len(done.ids))
            await chunks.end(done, prompt)
        except EngineError as error:
            if not chunks.opened:
                raise
            await chunks.write(error_body(str(error), None, None, "server_error"))
        finally:
            ended(usage, sent)
            sampled.cancel()
        await chunks.response.write_eof()
        return chunks.response


class _Chunks:
    """A stream as it is written; it opens with the first chunk."""

    def __init__(
        self, http: web.Request, body: Body, decode: Decode, headers: Mapping[str, str]
    ) -> None:
        self.http, self.body, self.decode = http, body, decode
        self.opened = False
        self.response = web.StreamResponse(headers={**headers, "Cache-Control": "no-cache"})
        self.response.content_type = "text/event-stream"
        self._frame = {
            "id": f"cmpl-{uuid7()}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body["model"],
        }
        self._held: list[int] = []  # ids of an unfinished character

    async def send(self, ids: list[int], prompt: list[int]) -> None:
        choice: Body = {"index": 0, "text": self._text(ids), "logprobs": None}
        choice |= {"finish_reason": None}
        if self.body.get("return_token_ids"):
            choice |= {"prompt_token_ids": None if self.opened else prompt, "token_ids": ids}
        await self.write({"choices": [choice]})

    async def end(self, sample: Sample, prompt: list[int]) -> None:
        """The logprobs, why it ended, the usage where it is asked for."""
        whole = completions_response([prompt], [sample], self.body, self.decode)["choices"][0]
        choice = {**whole, "text": self.decode(self._held) if self._held else ""}
        if self.body.get("return_token_ids"):
            choice |= {"prompt_token_ids": None, "token_ids": []}
        await self.write({"choices": [choice]})
        if (self.body.get("stream_options") or {}).get("include_usage"):
            usage = Usage(len(prompt), sample.cached_tokens, len(sample.ids))
            await self.write({"choices": [], "usage": usage_body(usage)})
        await self.response.write(b"data: [DONE]\n\n")

    async def write(self, more: Body) -> None:
        if not self.opened:
            self.opened = True
            await self.response.prepare(self.http)
        await self.response.write(b"data: " + json.dumps(self._frame | more).encode() + b"\n\n")

    def _text(self, ids: list[int]) -> str:
        self._held += ids
        text = self.decode(self._held)
        if text.endswith("\ufffd") and len(self._held) < 16:
            return ""
        self._held = []
        return text


def _grammar(body: Body) -> str | None:
    given = body.get("structured_outputs")
    if given is None:
        return None
    try:
        return grammar_of(given)
    except ValueError as error:
        raise BadRequest(str(error), "structured_outputs") from error


def _top_k(body: Body) -> int | None:
    value = body.get("prompt_logprobs")
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and 0 <= value <= MOST_TOP):
        told = f"prompt_logprobs must be a whole number from 0 to {MOST_TOP}"
        raise BadRequest(told, "prompt_logprobs")
    return value
