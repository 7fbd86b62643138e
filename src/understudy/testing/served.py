"""A test's session as an MCP server beside the test, in a thread of its own."""

import asyncio
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from understudy.world.model import World, WorldSession


class Served:
    """One session over streamable HTTP on loopback, for all clients alike, until `close`. Raises
    ModuleNotFoundError where the MCP libraries are missing."""

    def __init__(self, world: World, session: WorldSession) -> None:
        from understudy.world.serve import serve_http  # MCP is an extra

        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        ready: Future[str] = Future()

        async def serve() -> None:
            async with serve_http(world, "127.0.0.1", 0, begin=lambda seed: session) as url:
                ready.set_result(url)
                await self._stop.wait()

        self._threads = ThreadPoolExecutor(1, thread_name_prefix="understudy-world")
        self._running: Future[None] = self._threads.submit(self._loop.run_until_complete, serve())
        begun: list[Future[Any]] = [ready, self._running]
        wait(begun, return_when=FIRST_COMPLETED)
        if not ready.done():
            self._running.result()  # raises what went wrong
        self.url = ready.result()

    def close(self) -> None:
        """End the server, and whoever is connected to it."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._running.result()
        self._threads.shutdown()
        self._loop.close()
