"""MCP servers as processes of their own, and what they tell the test that started them."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

SERVER = [sys.executable, str(Path(__file__).with_name("mcp_server.py"))]


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """A server over HTTP, by its URL."""
    with subprocess.Popen(
        [*SERVER, "http", *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield str(json.loads(process.stdout.readline())["url"])
        finally:
            process.kill()


class Lifeline:
    """What a server's process says, and whether it still is."""

    def __init__(self) -> None:
        self.port = 0
        self._streams: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()
        self._reader: asyncio.StreamReader | None = None

    async def said(self) -> str:
        """The next word; none is the end of the process."""
        async with asyncio.timeout(30):
            if self._reader is None:
                self._reader = await self._streams.get()
            return (await self._reader.readline()).decode().strip()

    async def _connected(self, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        self._streams.put_nowait(reader)


@asynccontextmanager
async def listening() -> AsyncIterator[Lifeline]:
    """A lifeline that a server may connect to."""
    line = Lifeline()
    server = await asyncio.start_server(line._connected, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
