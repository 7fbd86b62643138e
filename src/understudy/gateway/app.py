"""The gateway's routes and its life: start, serve, drain, stop."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, get_args

import aiohttp
from aiohttp import web

from understudy.core.ids import uuid7
from understudy.core.openai_wire import WireError, parse_json
from understudy.core.serial import episode_to_json
from understudy.core.strict_json import is_unicode
from understudy.core.types import Feedback, FeedbackSource
from understudy.gateway.config import GatewayConfig
from understudy.gateway.proxy import Proxy
from understudy.gateway.routing import Router
from understudy.store import SQLiteStore, StoreError

MAX_BODY = 64 << 20
MAX_HEADER = 128 << 10  # the SDK's 64 KiB of metadata, with room
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """Everything behind the routes. One per process; `start` makes one that serves."""

    def __init__(self, config: GatewayConfig, session: aiohttp.ClientSession) -> None:
        self.config = config
        self.store = SQLiteStore.open(
            config.store, max_bytes=config.queue_mb << 20, spill_folder=config.spill_folder
        )
        self.router = Router(config, self.store)
        self.proxy = Proxy(config, self.store, self.router, session)
        self.started_at = time.time()
        self.requests = 0
        self.poll_fault: str | None = None  # why deployments and keys are not seen at the moment

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", self._guard(self.proxy.chat)),
            web.get("/v1/models", self._guard(self._models)),
            web.get("/v1/models/{name:.+}", self._guard(self._model)),
            web.post("/v1/feedback", self._guard(self._feedback)),
            web.get("/v1/episodes/{id}", self._guard(self._episode)),
            web.get("/health", self._guard(self._health)),
            web.get("/stats", self._guard(self._stats)),
            web.route("*", "/{path:.*}", self._guard(self._nothing)),
        ]

    def _guard(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            self.requests += 1
            try:
                return await handler(request)
            except WireError as error:
                return web.json_response(error.body(), status=error.status)
            except web.RequestPayloadError as error:
                why = getattr(error.__cause__, "message", None) or error
                unread = WireError(" ".join(f"the body cannot be read: {why}".split()))
                response = web.json_response(unread.body(), status=400)
                response.force_close()  # where the next request begins is not known
                return response
            except web.HTTPRequestEntityTooLarge:
                large = WireError(f"the body is larger than {MAX_BODY >> 20} MiB", status=413)
                return web.json_response(large.body(), status=413)
            except StoreError as failure:
                return web.json_response(WireError(str(failure), status=503).body(), status=503)

        return guarded

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        raise WireError(f"there is nothing at {request.method} {request.path}", status=404)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        self.router.check_key(request.headers.get("Authorization"), "infer")
        data = [self._described(name) for name in self.router.names]
        return web.json_response({"object": "list", "data": data})

    async def _model(self, request: web.Request) -> web.StreamResponse:
        self.router.check_key(request.headers.get("Authorization"), "infer")
        name = request.match_info["name"]
        if name not in self.router.names:
            raise self.router.unknown(name)
        return web.json_response(self._described(name))

    def _described(self, name: str) -> dict[str, Any]:
        created = int(self.started_at)
        return {"id": name, "object": "model", "created": created, "owned_by": "understudy"}

    async def _feedback(self, request: web.Request) -> web.StreamResponse:
        self.router.check_key(request.headers.get("Authorization"), "feedback")
        feedback = parse_feedback(await request.read())
        await self.store.append([feedback], durable=True)
        return web.json_response({"id": feedback.id, "object": "feedback"})

    async def _episode(self, request: web.Request) -> web.StreamResponse:
        self.router.check_key(request.headers.get("Authorization"), "read")
        episode = await self.store.episode(request.match_info["id"])
        if episode is None:
            raise WireError(f"there is no episode {request.match_info['id']!r}", status=404)
        return web.json_response(episode_to_json(episode))

    async def _health(self, request: web.Request) -> web.StreamResponse:
        fault = self.store.stats()["fault"] or self.poll_fault
        return web.json_response({"status": "ok" if fault is None else "degraded", "fault": fault})

    async def _stats(self, request: web.Request) -> web.StreamResponse:
        self.router.check_key(request.headers.get("Authorization"), "read")
        return web.json_response(
            {
                "uptime_s": round(time.time() - self.started_at, 3),
                "requests": self.requests,
                "capture": self.config.capture,
                "completions": dict(self.proxy.recorder.by_status),
                "prompt_differs": dict(self.proxy.recorder.differing),
                "fell_back": dict(self.proxy.recorder.fell_back),
                "store": await asyncio.to_thread(self.store.counts),
            }
        )

    async def poll(self) -> None:
        """See new deployments and keys, until cancelled. While the store cannot be read, those
        that are known stay in force."""
        while True:
            await asyncio.sleep(self.config.poll_s)
            try:
                await asyncio.to_thread(self.router.refresh)
                self.poll_fault = None
            except sqlite3.Error as error:
                self.poll_fault = f"deployments and keys cannot be read: {error}"


def parse_feedback(data: bytes) -> Feedback:
    """Raises WireError (400) that says which field is wrong."""
    body = parse_json(data)
    if not isinstance(body, dict):
        raise WireError("feedback must be a JSON object")
    text = {
        k: body.get(k)
        for k in ("id", "episode_id", "completion_id", "comment", "source_version", "name")
    }
    for name, value in text.items():
        if value is not None and not (isinstance(value, str) and value and is_unicode(value)):
            raise WireError(f"'{name}' must be text", param=name)
    if text["name"] is None:
        raise WireError("feedback needs a 'name', such as thumb", param="name")
    if text["episode_id"] is None and text["completion_id"] is None:
        raise WireError("feedback needs an 'episode_id' or a 'completion_id'", param="episode_id")
    if "value" not in body or isinstance(body["value"], list):
        raise WireError(
            "feedback needs a 'value': a boolean, a number, text, an object or null", param="value"
        )
    if isinstance(body["value"], int) and abs(body["value"]) > 2**53:
        raise WireError("'value' is too large a number", param="value")
    source = body.get("source", "user")
    if source not in get_args(FeedbackSource):
        raise WireError(f"'source' is one of {', '.join(get_args(FeedbackSource))}", param="source")
    return Feedback(
        id=text["id"] or uuid7(),
        episode_id=text["episode_id"] or "",
        name=text["name"],
        value=body["value"],
        source=source,
        source_version=text["source_version"] or "",
        completion_id=text["completion_id"],
        comment=text["comment"],
        created_at=time.time(),
    )


@dataclass(slots=True)
class Running:
    """A gateway that serves."""

    gateway: Gateway
    url: str
    _runner: web.AppRunner
    _session: aiohttp.ClientSession
    _poll: "asyncio.Task[None]"

    async def aclose(self) -> None:
        """Take nothing new, let what is in flight end (for `drain_s`), commit, stop."""
        self.gateway.proxy.draining = True
        self._poll.cancel()
        await self._runner.cleanup()
        await self._session.close()
        await asyncio.to_thread(self.gateway.store.close)


async def start(config: GatewayConfig) -> Running:
    """Serve on the configured address (port 0: any free one). Raises StoreError, OSError."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
        json_serialize=json.dumps,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
    try:
        gateway = Gateway(config, session)
    except BaseException:
        await session.close()
        raise
    app = web.Application(client_max_size=MAX_BODY)
    app.add_routes(gateway.routes())
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=config.drain_s,
        max_line_size=MAX_HEADER,
        max_field_size=MAX_HEADER,
    )
    try:
        await runner.setup()
        await web.TCPSite(runner, config.host, config.port, backlog=4096).start()
    except BaseException:
        await runner.cleanup()
        await session.close()
        gateway.store.close()
        raise
    host, port = runner.addresses[0][:2]
    url = f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
    return Running(gateway, url, runner, session, asyncio.create_task(gateway.poll()))


def ready_line(running: Running) -> dict[str, Any]:
    """What the process prints when it serves."""
    return {"ready": True, "url": running.url, "capture": running.gateway.config.capture}
