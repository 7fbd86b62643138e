"""A learned world as an MCP server: each client session is a life of its own."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

from mcp import MCPError, stdio_server
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_loop
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.types import (
    INVALID_PARAMS,
    UNSUPPORTED_PROTOCOL_VERSION,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
)
from mcp.types import Tool as ServedTool
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from understudy.core.serial import RESULT_META, tool_result_to_json
from understudy.core.types import ToolResult, is_function
from understudy.world.model import World, WorldSession
from understudy.world.serving.mcp_http import IDLE_S, streamable_http

Context = ServerRequestContext[Any, Any]


async def serve_stdio(
    world: World,
    seed: int = 0,
    latency: float = 0.0,
    begin: Callable[[int], WorldSession] | None = None,
) -> None:
    """Serve one client on this process's stdin and stdout, until it closes them. `begin` makes the
    session of a seed; by default the world does."""
    server = make_server(world, Sessions(world, seed, begin), latency)
    async with stdio_server() as (read, write):
        await serve_loop(server, read, write, lifespan_state={})


@asynccontextmanager
async def serve_http(
    world: World,
    host: str,
    port: int,
    seed: int = 0,
    *,
    allow_remote: bool = False,
    key: str | None = None,
    latency: float = 0.0,
    begin: Callable[[int], WorldSession] | None = None,
) -> AsyncIterator[str]:
    """Serve over streamable HTTP while the block runs; gives the URL. Port 0 takes a free one.

    A client's first session has the seed given, the next the next one; a URL that ends in
    `?seed=N` asks for that seed. With a key, clients bear it. An answer comes after `latency` times
    the learned latency of its call. `begin` makes the session of a seed; by default the world does.
    Raises ValueError for a host that others can reach, unless they may and need a key. OSError
    where the port is taken.
    """
    sessions = Sessions(world, seed, begin)
    async with streamable_http(
        make_server(world, sessions, latency),
        host,
        port,
        allow_remote=allow_remote,
        key=key,
        around=lambda app: _Watched(app, sessions),
    ) as url:
        yield url


class Sessions:
    """A world's sessions by their clients': each begins with its client's first call, and is
    forgotten when the client ends its own or has asked nothing for so long that the server did."""

    def __init__(
        self, world: World, seed: int, begin: Callable[[int], WorldSession] | None = None
    ) -> None:
        self._begin, self._seed, self._begun = begin or world.session, seed, 0
        self._open: dict[str, WorldSession] = {}
        self._asked: dict[str, float] = {}
        self._asking: Counter[str] = Counter()

    def of(self, client: str, seed: int | None) -> WorldSession:
        """The session of a client, begun where it has none."""
        session = self._open.get(client)
        if session is None:
            self._forget_idle()
            if seed is None:
                seed = self._seed + self._begun
                self._begun += 1
            session = self._open[client] = self._begin(seed)
        return session

    @contextmanager
    def asking(self, client: str) -> Iterator[None]:
        """A request of a client is being answered: it is not idle."""
        self._asking[client] += 1
        try:
            yield
        finally:
            self._asking[client] -= 1
            if not self._asking[client]:
                del self._asking[client]
            if client in self._open:
                self._asked[client] = time.monotonic()

    def end(self, client: str) -> None:
        """Forget a client's session."""
        self._open.pop(client, None)
        self._asked.pop(client, None)

    def __len__(self) -> int:
        return len(self._open)

    def _forget_idle(self) -> None:
        before = time.monotonic() - IDLE_S - 60  # by then the server knows the client no more
        for client in [c for c, at in self._asked.items() if at < before]:
            if client not in self._asking:
                self.end(client)


def make_server(world: World, sessions: Sessions, latency: float = 0.0) -> Server[Any]:
    """An MCP server of a world's tools, whatever it is served over. Raises ValueError where
    latencies are to be waited out and the world knows none."""
    if latency and not any(model.latencies for model in world.models.values()):
        raise ValueError("the traffic shows no latencies: serve this world with --latency none")

    async def list_tools(ctx: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=served_tools(world))

    async def call_tool(ctx: Context, params: CallToolRequestParams) -> CallToolResult:
        session = sessions.of(*_client(ctx))
        arguments = json.dumps(params.arguments or {})
        function: Any = {"name": params.name, "arguments": arguments}
        result = await session.call("agent", {"id": "", "type": "function", "function": function})
        await asyncio.sleep(latency * (result.latency_s or 0.0))  # ends where the client cancels
        asked = (ctx.meta or {}).get(RESULT_META)
        return served_result(result, with_meta=bool(asked))

    server: Server[Any] = Server(
        "understudy",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        get_tool_input_schema=lambda name: None,
    )
    server.middleware.append(_with_sessions_alone)
    return server


def served_tools(world: World) -> list[ServedTool]:
    """The world's functions as MCP has them; tools of other kinds cannot be called there."""
    specs = [t["function"] for t in world.tools() if is_function(t)]
    return [
        ServedTool(
            name=spec["name"],
            description=spec.get("description"),
            input_schema={"type": "object", **(spec.get("parameters") or {})},
        )
        for spec in specs
    ]


def served_result(result: ToolResult, with_meta: bool) -> CallToolResult:
    """A result of the world, as the real server would word it; what the world knows of it only for
    those who ask, as nothing of the real one looks like that."""
    known = {RESULT_META: tool_result_to_json(replace(result, content="", latency_s=None))}
    return CallToolResult(
        content=[TextContent(text=result.content)],
        is_error=result.is_error,
        _meta=known if with_meta else None,
    )


async def _with_sessions_alone(ctx: Context, call_next: CallNext) -> HandlerResult:
    """Versions of the protocol without sessions are refused: a world without memory is none.
    Clients that speak both kinds then take the other."""
    if ctx.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:
        supported = {
            "supported": list(HANDSHAKE_PROTOCOL_VERSIONS),
            "requested": ctx.protocol_version,
        }
        raise MCPError(UNSUPPORTED_PROTOCOL_VERSION, "a world needs sessions", supported)
    return await call_next(ctx)


def _client(ctx: Context) -> tuple[str, int | None]:
    """Whose session a request belongs to, and the seed that it asks for. One process serves one
    client over stdio."""
    if ctx.request is None:
        return "", None
    seed = ctx.request.query_params.get("seed")
    try:
        return ctx.request.headers[MCP_SESSION_ID_HEADER], None if seed is None else int(seed)
    except ValueError:
        raise MCPError(INVALID_PARAMS, f"seed must be an integer, not {seed[:40]!r}") from None


class _Watched:
    """Tells the sessions of requests that clients make and of sessions that they end."""

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self._app, self._sessions = app, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = Headers(scope=scope).get(MCP_SESSION_ID_HEADER)
        if client is None:
            return await self._app(scope, receive, send)

        async def sent(message: Message) -> None:
            ended = scope["method"] == "DELETE" and message.get("status") == 200
            if ended:
                self._sessions.end(client)
            await send(message)

        with self._sessions.asking(client):
            return await self._app(scope, receive, sent)
