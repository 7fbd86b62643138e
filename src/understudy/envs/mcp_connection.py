"""One client session with an MCP server: opened, listed, closed, whatever happens in between."""

import asyncio
import os
import shlex
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self, TextIO, cast
from urllib.parse import urlsplit

import httpx2
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CONNECTION_CLOSED, INVALID_REQUEST, CallToolResult, RequestParamsMeta
from mcp.types import Tool as ServerTool

from understudy.core.serial import RESULT_META

CLOSE_S = 10.0  # a server that takes longer to end is left to the operating system
_CONNECT_S = 10.0
_ASKS = cast(RequestParamsMeta, {RESULT_META: True})  # only a served world knows what it means
_LOST = (CONNECTION_CLOSED, INVALID_REQUEST)  # codes that tools' own errors may bear as well


class ServerFailed(RuntimeError):
    """A server cannot be reached, died, forgot its session or broke the protocol: one line."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is: a command that starts one and talks to it on its stdin and stdout, or
    the URL of one that runs. `{seed}` in either stands for a session's seed."""

    command: tuple[str, ...] = ()
    url: str = ""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def named(
        cls, where: str | Sequence[str], env: Mapping[str, str], headers: Mapping[str, str]
    ) -> Self:
        """The server that a URL or a command line stands for. Raises ValueError for neither."""
        if isinstance(where, str) and where.startswith(("http://", "https://")):
            urlsplit(where)  # raises what is wrong with it
            return cls(url=where, env=env, headers=headers)
        words = shlex.split(where) if isinstance(where, str) else list(where)
        if not words:
            raise ValueError("an MCP server is a command line or a URL")
        return cls(tuple(words), env=env, headers=headers)

    def seeded(self, seed: int) -> Self:
        """The server of one session."""
        words = tuple(w.replace("{seed}", str(seed)) for w in self.command)
        return replace(self, command=words, url=self.url.replace("{seed}", str(seed)))

    def __str__(self) -> str:
        """For messages: a URL without what may be secret in it."""
        if self.command:
            return f"the MCP server `{shlex.join(self.command)}`"
        parts = urlsplit(self.url)
        return f"the MCP server {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Connection:
    """A client session in a task of its own: whoever uses it may be another task, and may be
    cancelled, without the server being left behind.

    Versions of the protocol that know sessions come first, so that two connections to one URL
    are two sessions there; a server that speaks none of them keeps its callers apart as it likes.
    """

    def __init__(self, server: Server, start_timeout_s: float) -> None:
        self.server, self.start_timeout_s = server, start_timeout_s
        self.tools: list[ServerTool] = []
        self._client: Client | None = None
        self._ready, self._stop = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed in aclose)

    async def open(self) -> None:
        """Connect and list the tools. Raises ServerFailed; then nothing stays open."""
        self._task = asyncio.create_task(self._live())
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait(
                {self._task, ready},
                timeout=self.start_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if ready.done():
                return
            late = f"no answer within {self.start_timeout_s:g} s"
            error = self._failure(None if self._task.done() else TimeoutError(late))
        except asyncio.CancelledError:
            self._task.cancel()
            await self.aclose()
            raise
        finally:
            ready.cancel()
        self._task.cancel()
        await self.aclose()
        raise error

    async def call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """A tool's result. Raises MCPError for a request that the server refuses, ServerFailed
        where there is no answer to come."""
        if self._client is None or self._task is None or self._task.done():
            raise self._failure()
        try:
            return await self._client.call_tool(name, arguments, meta=_ASKS)
        except MCPError as error:
            if error.code in _LOST and await self._gone():
                raise self._failure(error) from error
            raise
        except (ValueError, RuntimeError) as error:  # no result by the protocol or its own schema
            raise self._failure(error) from error

    async def aclose(self) -> None:
        """End the session, and the server where this connection started it."""
        self._stop.set()
        try:
            if self._task is not None:
                await _ended(self._task, CLOSE_S)
        finally:
            self._stderr.close()

    async def _live(self) -> None:
        async with AsyncExitStack() as stack:
            self._client = await self._connect(stack)
            self.tools = await _listed(self._client)
            self._ready.set()
            await self._stop.wait()

    async def _connect(self, stack: AsyncExitStack) -> Client:
        try:
            return await stack.enter_async_context(Client(self._transport(), mode="legacy"))
        except (MCPError, ExceptionGroup) as error:
            cause = _cause(error)
            if not isinstance(cause, MCPError) or cause.code == CONNECTION_CLOSED:
                raise
        return await stack.enter_async_context(Client(self._transport(), mode="auto"))

    @asynccontextmanager
    async def _transport(self) -> AsyncIterator[Any]:
        server = self.server
        if server.command:
            word, *rest = server.command
            started = StdioServerParameters(command=word, args=rest, env=dict(server.env))
            async with stdio_client(started, errlog=cast(TextIO, self._stderr)) as streams:
                yield streams
            return
        timeout = httpx2.Timeout(_CONNECT_S, read=None)  # callers give up, connections do not
        async with httpx2.AsyncClient(headers=dict(server.headers), timeout=timeout) as client:
            async with streamable_http_client(
                server.url, http_client=client, max_sse_event_size=None
            ) as streams:
                yield streams

    async def _gone(self) -> bool:
        """Whether the connection or the server's session is no more."""
        assert self._client is not None
        try:
            await self._client.list_tools(cache_mode="bypass")
        except MCPError as error:
            return error.code in _LOST
        except RuntimeError:  # the client has closed meanwhile
            return True
        return False

    def _failure(self, error: BaseException | None = None) -> ServerFailed:
        """What happened, with the last words of a server that ended or never began."""
        if error is None or _closed(error):
            ended = self._task is not None and self._task.done() and not self._task.cancelled()
            error = (self._task.exception() if ended and self._task else None) or error
        cause = _cause(error) if error is not None else None
        if cause is not None and not _closed(cause):
            why = " ".join(str(cause).split()) or type(cause).__name__
        elif self._stop.is_set():
            why = "the session is closed"
        else:
            why = "it closed the connection"
        lives = self._ready.is_set() and cause is not None and not _closed(cause)
        return ServerFailed(f"{self.server}: {why}" + ("" if lives else self._last_words()))

    def _last_words(self) -> str:
        """The last line that the server wrote on its stderr, in brackets."""
        if self._stderr.closed:
            return ""
        file = self._stderr.fileno()  # its place in the file is the server's: read without it
        text = os.pread(file, 4096, max(0, os.fstat(file).st_size - 4096)).decode(errors="replace")
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        return f" ({lines[-1]})" if lines else ""


async def _listed(client: Client) -> list[ServerTool]:
    """Every page of a server's tools."""
    tools: list[ServerTool] = []
    seen: set[str] = set()
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if not cursor:
            return tools
        if cursor in seen:
            raise RuntimeError(f"its list of tools leads back to page {cursor!r}")
        seen.add(cursor)


async def _ended(task: "asyncio.Task[None]", within_s: float) -> None:
    """Wait until a task is over; what takes too long is cancelled. Whoever waits may be cancelled:
    that passes on once the task is over."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task}, timeout=within_s)
            if not task.done():
                task.cancel()
        except asyncio.CancelledError as error:
            cancelled = error
    if not task.cancelled():
        task.exception()  # whoever called has been told
    if cancelled is not None:
        raise cancelled


def _closed(error: BaseException) -> bool:
    return isinstance(error, MCPError) and error.code == CONNECTION_CLOSED


def _cause(error: BaseException) -> BaseException:
    """Of errors raised side by side the one that says most."""
    leaves = [error]
    while any(isinstance(e, BaseExceptionGroup) for e in leaves):
        leaves = [
            inner
            for e in leaves
            for inner in (e.exceptions if isinstance(e, BaseExceptionGroup) else [e])
        ]
    return next((e for e in leaves if not _closed(e)), leaves[0])
