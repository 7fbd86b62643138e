"""Forwards a call to its upstream and its answer to the client, and sees that it is recorded."""

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import aiohttp
from aiohttp import web

from understudy.core.binding import MUST_MATCH, PROMPT_HEADER, REFUSED
from understudy.core.ids import uuid7
from understudy.core.meter import PURPOSE_HEADER
from understudy.core.openai_stream import DONE, ChunkAssembler, SSEParser, sse
from understudy.core.openai_wire import (
    ChatRequest,
    WireError,
    parse_answer,
    parse_chat_request,
    parse_response,
)
from understudy.core.origin import ORIGIN
from understudy.core.types import Completion, Status
from understudy.gateway.calls import Call, Recorder
from understudy.gateway.config import GatewayConfig, Upstream
from understudy.gateway.identity import HEADER, Asked, Threads, _Chain, asked_of
from understudy.gateway.routing import Route, Router, apply_policy, upstream_headers
from understudy.store import SQLiteStore

_ID_FIELDS = ("prompt_token_ids", "token_ids", ORIGIN)
_DISCONNECTED = (ConnectionResetError, aiohttp.ClientConnectionResetError)


class Proxy:
    """POST /v1/chat/completions."""

    def __init__(
        self,
        config: GatewayConfig,
        store: SQLiteStore,
        router: Router,
        session: aiohttp.ClientSession,
    ) -> None:
        self._config, self._store, self._router, self._session = config, store, router, session
        self._threads = Threads()
        self.recorder = Recorder(store, config.capture, self._threads)
        self.draining = False
        self._timeouts = {
            name: aiohttp.ClientTimeout(
                total=None, sock_connect=u.connect_timeout_s, sock_read=u.timeout_s
            )
            for name, u in config.upstreams.items()
        }

    async def chat(self, request: web.Request) -> web.StreamResponse:
        authorization = request.headers.get("Authorization")
        key = self._router.check_key(authorization, "infer")
        raw = await request.read()
        chat = parse_chat_request(raw)
        asked = asked_of(request.headers, chat.request.metadata)
        episode_id, chain = await self._episode(chat, asked)
        route = self._router.resolve(str(chat.request.model), episode_id)
        call = self._call(chat, asked, raw, episode_id, chain, route)
        call.metered |= {"key": key} if key is not None else {}
        call.fallback = self._router.fallback(route)
        headers = self._asking(call, authorization)
        started = self.recorder.start(call)
        response = await self._forward(request, call, chat.stream, headers, started)
        if response is None:
            response = await self._fall_back(request, call, chat, asked, authorization)
        return response

    async def _fall_back(
        self,
        request: web.Request,
        before: Call,
        chat: ChatRequest,
        asked: Asked,
        authorization: str | None,
    ) -> web.StreamResponse:
        """The deployment's fallback answers a call whose prompt the adapter was not trained with,
        and the rest of its episode."""
        route, episode_id = before.fallback, before.completion.request.episode_id
        assert route is not None and episode_id is not None  # noqa: PT018
        self._router.keep(route, episode_id)
        self.recorder.fell_back[str(route.alias)] += 1
        call = self._call(chat, asked, before.raw, episode_id, before.chain, route)
        extra = {**call.completion.extra, "fallback_from": before.completion.extra["policy"]}
        call.completion = replace(call.completion, id=before.completion.id, extra=extra)
        call.metered = {k: v for k, v in before.metered.items() if k in ("key", "prompt")}
        try:
            headers = self._asking(call, authorization)
        except WireError as error:
            await self._finish(call, "upstream_error", error.message)
            raise
        response = await self._forward(request, call, chat.stream, headers, None)
        assert response is not None  # nothing is behind a fallback
        return response

    async def _forward(
        self,
        request: web.Request,
        call: Call,
        stream: bool,
        headers: dict[str, str],
        started: "asyncio.Future[None] | None",
    ) -> web.StreamResponse | None:
        """The upstream's answer; None where the prompt is another than its adapter was trained
        with and a fallback is to answer."""
        upstream = self._config.upstreams[call.route.upstream]
        try:
            data = json.dumps(call.body).encode() if call.changed else call.raw
            async with self._session.post(
                f"{upstream.base_url.rstrip('/')}/chat/completions",
                data=data,
                headers=headers,
                timeout=self._timeouts[call.route.upstream],
            ) as answer:
                parts = call.heard(answer.headers) if upstream.kind == "engine" else None
                if parts is not None:
                    self.recorder.differs(call, parts)
                refused = answer.status == REFUSED and parts is not None
                if not refused or call.fallback is None:
                    if answer.status != 200:
                        return await self._refused(call, answer)
                    if stream and "event-stream" in answer.headers.get("Content-Type", ""):
                        if started is not None:
                            await asyncio.shield(started)
                        return await self._stream(request, call, upstream, answer)
                    return await self._whole(call, upstream, answer)
            call.finished = True  # it is the fallback's call that is recorded
            return None
        except TimeoutError:
            line = f"upstream {call.route.upstream!r} gave no answer within its time limit"
            await self._finish(call, "timeout", line)
            raise WireError(line, status=504) from None
        except (aiohttp.ClientError, OSError) as error:
            line = f"upstream {call.route.upstream!r} cannot be reached: {_one_line(error)}"
            await self._finish(call, "upstream_error", line)
            raise WireError(line, status=502) from None
        except WireError as error:
            await self._finish(call, "upstream_error", error.message)
            raise
        finally:  # cancelled: the client went away, or the gateway stops
            self._gone(call)

    def _asking(self, call: Call, authorization: str | None) -> dict[str, str]:
        """The headers of the request to the upstream. Raises WireError (503)."""
        upstream = self._config.upstreams[call.route.upstream]
        headers = upstream_headers(upstream, authorization, self._config.require_key)
        if upstream.kind == "engine":
            headers[PURPOSE_HEADER] = call.completion.request.purpose
            headers |= {PROMPT_HEADER: MUST_MATCH} if call.fallback is not None else {}
        return headers

    async def _episode(self, chat: ChatRequest, asked: Asked) -> tuple[str, _Chain | None]:
        """The episode that a request belongs to, and its history where no episode is named."""
        if asked.episode_id is not None:
            return asked.episode_id, None
        chain, ends = self._threads.histories(asked.workload, chat.request.messages)
        episode_id = self._threads.find(ends)
        if episode_id is None and ends and self._config.capture != "off":
            episode_id = await asyncio.to_thread(
                self._store.episode_of_thread, ends[0].full
            )  # from before this gateway started
        return episode_id or uuid7(), chain

    def _call(
        self,
        chat: ChatRequest,
        asked: Asked,
        raw: bytes,
        episode_id: str,
        chain: _Chain | None,
        route: Route,
    ) -> Call:
        body = dict(chat.body)
        kind = self._config.upstreams[route.upstream].kind
        effective = chat.request
        if route.policy is not None:
            effective = apply_policy(route.policy, effective, body)
            body["model"] = route.model
        wants = _wants(body)
        if kind == "engine":
            body.update(logprobs=True, return_token_ids=True)
            body.pop("metadata", None)
            if chat.stream:
                body["stream_options"] = {
                    **(body.get("stream_options") or {}),
                    "include_usage": True,
                }
        extra: dict[str, Any] = {"request": chat.other} if chat.other else {}
        if route.policy is not None:
            extra["policy"] = route.policy.name
        completion = Completion(
            id=uuid7(),
            request=replace(
                effective,
                workload=asked.workload,
                episode_id=episode_id,
                scenario_id=asked.scenario_id,
                caused_by=asked.caused_by,
                metadata=asked.metadata,
                purpose=asked.purpose,
            ),
            status="started",
            served=None if route.policy is None else route.policy.model,
            alias=route.alias,
            started_at=time.time(),
            extra=extra,
        )
        changed = kind == "engine" or route.policy is not None
        return Call(completion, route, body, raw, changed, wants, chain)

    async def _whole(
        self, call: Call, upstream: Upstream, answer: aiohttp.ClientResponse
    ) -> web.Response:
        data = await answer.read()
        call.first_token_at = time.time()
        body = parse_answer(data)
        result = parse_response(body)
        if upstream.kind == "engine":
            _strip(body, call.wants)
            data = json.dumps(body).encode()
        await self._finish(call, "ok", None, result)
        return web.Response(body=data, headers=_headers(call, answer))

    async def _refused(self, call: Call, answer: aiohttp.ClientResponse) -> web.Response:
        data = await answer.read()
        said = data[:500].decode("utf-8", "replace")
        await self._finish(call, "upstream_error", f"upstream answered {answer.status}: {said}")
        return web.Response(status=answer.status, body=data, headers=_headers(call, answer))

    async def _stream(
        self,
        request: web.Request,
        call: Call,
        upstream: Upstream,
        answer: aiohttp.ClientResponse,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=_headers(call, answer))
        parser, assembler = SSEParser(), ChunkAssembler()
        call.partial = assembler
        rewrite = upstream.kind == "engine"
        ended = b""  # [DONE], held back until the commit
        failure: tuple[Status, str] | None = None
        try:
            await response.prepare(request)
            async for data in answer.content.iter_any():
                out = []
                for raw, event in parser.feed(data):
                    chunk = assembler.add(event)
                    if assembler.done:
                        ended = ended + raw
                    elif chunk is not None and rewrite:
                        if _strip(chunk, call.wants):
                            out.append(sse(chunk))
                    else:
                        out.append(raw)
                if call.first_token_at is None:
                    call.first_token_at = time.time()
                if out:
                    await response.write(b"".join(out))
            if not assembler.done and assembler.finish_reason is None:
                failure = "upstream_error", "the upstream's stream ended before its end"
        except _DISCONNECTED as error:
            if isinstance(error, aiohttp.ClientConnectionResetError) or _closing(request):
                self._gone(call)
                return response
            failure = "upstream_error", f"the upstream broke off: {_one_line(error)}"
        except TimeoutError:
            failure = "timeout", "the upstream fell silent in mid-stream"
        except (aiohttp.ClientError, OSError) as error:
            failure = "upstream_error", f"the upstream broke off: {_one_line(error)}"
        except WireError as error:
            failure = "upstream_error", error.message
        if failure is None:
            await self._finish(call, "ok", None, assembler.answer())
            await _write(response, ended + parser.rest)
        else:
            await self._finish(call, failure[0], failure[1], assembler.answer())
            await _write(response, sse(WireError(failure[1], status=502).body()) + DONE)
        return response

    async def _finish(
        self, call: Call, status: Status, error: str | None, answer: Any = None
    ) -> None:
        committed = self.recorder.finish(call, status, answer, error)
        if committed is not None:
            await asyncio.shield(committed)

    def _gone(self, call: Call) -> None:
        """Finalise a call that nobody waits for any more; what had come of it is kept."""
        if call.finished:
            return
        line = "the gateway was stopped" if self.draining else "the client closed the connection"
        answer = call.partial.answer() if call.partial is not None else None
        future = self.recorder.finish(call, "client_disconnected", answer, line)
        if future is not None:
            future.add_done_callback(lambda f: f.cancelled() or f.exception())


async def _write(response: web.StreamResponse, data: bytes) -> None:
    """The last bytes; a client that has left by now has missed nothing that is not recorded."""
    try:
        if data:
            await response.write(data)
        await response.write_eof()
    except _DISCONNECTED:
        return


def _closing(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _wants(body: dict[str, Any]) -> frozenset[str]:
    wants = {name for name in ("logprobs", "return_token_ids") if body.get(name)}
    if not body.get("stream") or (body.get("stream_options") or {}).get("include_usage"):
        wants.add("usage")
    return frozenset(wants)


def _strip(answer: dict[str, Any], wants: frozenset[str]) -> bool:
    """Remove what the client did not ask for; False when nothing is left to send."""
    if "usage" not in wants:
        answer.pop("usage", None)
        if not answer.get("choices"):
            return False
    for part in (answer, *answer.get("choices", ())):
        if "return_token_ids" not in wants:
            for name in _ID_FIELDS:
                part.pop(name, None)
        if "logprobs" not in wants and "logprobs" in part:
            part["logprobs"] = None
    return True


def _headers(call: Call, answer: aiohttp.ClientResponse) -> dict[str, str]:
    """The upstream's headers as far as they concern the client, and ours."""
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name.lower().startswith(("x-", "openai-")) or name.lower() == "retry-after"
    }
    parts = call.metered.get("prompt")
    if parts is not None and "fallback_from" in call.completion.extra:
        headers[PROMPT_HEADER] = f"differs; {parts}"
        headers[HEADER + "fallback"] = str(call.completion.extra["policy"])
    headers["Content-Type"] = answer.headers.get("Content-Type", "application/json")
    headers[HEADER + "completion"] = call.completion.id
    headers[HEADER + "episode"] = str(call.completion.request.episode_id)
    return headers


def _one_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
