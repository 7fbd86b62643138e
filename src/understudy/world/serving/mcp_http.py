"""MCP servers over streamable HTTP: where they listen, and who may ask."""

import asyncio
import hmac
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from hashlib import sha256
from typing import Any

import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from understudy.core.hosts import is_loopback

IDLE_S = 1800.0  # a client that asked nothing for so long is taken to have left
PATH = "/mcp"


@asynccontextmanager
async def streamable_http(
    server: Server[Any],
    host: str,
    port: int,
    *,
    allow_remote: bool = False,
    key: str | None = None,
    around: Callable[[ASGIApp], ASGIApp] | None = None,
) -> AsyncIterator[str]:
    """Serve while the block runs; gives the URL. Port 0 takes a free one. With a key, only requests
    that bear it (RFC 6750) are answered; `around` sees those alone.

    Raises ValueError for a host that others can reach, unless they may and need a key. OSError
    where the port is taken.
    """
    if not is_loopback(host):
        if not allow_remote:
            raise ValueError(f"host {host} is open to others: allow that with --allow-remote")
        if not key:
            raise ValueError(
                f"host {host} is open to others: name the variable of the key that they need with "
                "--key-env"
            )
    manager = StreamableHTTPSessionManager(
        server,
        json_response=True,
        security_settings=_security(host),
        session_idle_timeout=IDLE_S,
    )
    app: ASGIApp = _Asked(manager.handle_request)
    app = around(app) if around is not None else app
    app = Keyed(app, key) if key else app
    listening = _listening(host, port)
    web = Starlette(routes=[Route(PATH, app)])
    http = _Uvicorn(uvicorn.Config(web, lifespan="off", log_config=None, access_log=False))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(manager.run())
        serving = asyncio.create_task(http.serve(sockets=[listening]))
        try:
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{listening.getsockname()[1]}{PATH}"
        finally:
            await stack.aclose()  # ends the clients' streams, which the server would wait for
            http.should_exit = True
            await serving


class Keyed:
    """Answers requests that bear a key (RFC 6750), and refuses all others. Of the key it keeps the
    hash, and compares hashes in constant time."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._hash = app, sha256(key.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        said = Headers(scope=scope).get("authorization", "")
        scheme, _, key = said.partition(" ")
        given = sha256(key.strip().encode("latin-1")).digest()
        known = hmac.compare_digest(given, self._hash) and scheme.lower() == "bearer"
        challenge = {"www-authenticate": "Bearer"}
        refusal = PlainTextResponse("a bearer key is needed", 401, challenge)
        await (self._app if known else refusal)(scope, receive, send)


class _Asked:
    """An application as an object: Starlette takes a function for an endpoint of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that says it is TCP: asyncio else leaves it waiting for full packets."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening


def _security(host: str) -> TransportSecuritySettings | None:
    """On loopback only requests for it are answered, so that no web page can send any."""
    if not is_loopback(host):
        return None
    names = {"127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host}
    allowed = [*names, *(f"{name}:*" for name in names)]
    return TransportSecuritySettings(
        allowed_hosts=allowed, allowed_origins=[f"http://{name}" for name in allowed]
    )


class _Uvicorn(uvicorn.Server):
    """Leaves signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
