"""A world served over HTTP, to the official client: who may ask, and when the answer comes."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult
from served import serving

from understudy.world.model import World
from understudy.world.serving import mcp_server as serve

KEY, LISTING = "a key of some length", {"category": "pumps"}


def bearing(url: str, authorization: str | None) -> Client:
    headers = {} if authorization is None else {"Authorization": authorization}
    return Client(streamable_http_client(url, http_client=httpx2.AsyncClient(headers=headers)))


async def asked(client: Client) -> bool:
    """Whether the world answers."""
    async with client:
        result = await client.call_tool("find_parts", LISTING)
    return isinstance(result, CallToolResult) and not result.is_error


async def test_a_command_serves_those_that_bear_the_key(
    world_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_KEY", KEY)
    with serving(world_folder, "--key-env", "WORLD_KEY") as (url, _):
        assert await asked(bearing(url, f"Bearer {KEY}"))
        assert await asked(bearing(url, f"bearer {KEY}"))
        for wrong in (None, "", KEY, "Bearer", f"Bearer {KEY}x", f"Basic {KEY}", "Bearer é"):
            headers: Any = [] if wrong is None else [("authorization", wrong.encode())]
            async with httpx2.AsyncClient() as web:
                for method in ("POST", "GET", "DELETE"):
                    refused = await web.request(method, url, headers=headers)
                    assert refused.status_code == 401
                    assert refused.headers["www-authenticate"] == "Bearer"
        with pytest.raises(BaseExceptionGroup):
            await asked(bearing(url, "Bearer wrong"))


@pytest.fixture
def slow(world: World) -> World:
    """The world of a service that took 20 to 60 ms."""
    return with_latencies(world, [0.02, 0.04, 0.06])


def with_latencies(world: World, seconds: list[float]) -> World:
    models = {
        name: replace(model, latencies={"": seconds} if seconds else {})
        for name, model in world.models.items()
    }
    return replace(world, models=models)


async def test_answers_come_when_the_real_ones_would(slow: World) -> None:
    own, factor = slow.session(3), 2.0
    async with (
        serve.serve_http(slow, "127.0.0.1", 0, latency=factor) as url,
        Client(url + "?seed=3") as client,
    ):
        for _ in range(4):
            due = own.step("find_parts", '{"category": "pumps"}').latency_s
            assert due is not None
            begun = time.perf_counter()
            await client.call_tool("find_parts", LISTING)
            assert time.perf_counter() - begun >= 0.99 * factor * due


async def test_a_wait_ends_with_its_client_and_its_server(slow: World) -> None:
    begun = time.perf_counter()
    async with serve.serve_http(slow, "127.0.0.1", 0, latency=1e6) as url:
        async with Client(url) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.call_tool("find_parts", LISTING), 0.3)
            assert (await client.list_tools()).tools  # others are answered meanwhile
        async with Client(url) as client:
            left = asyncio.create_task(client.call_tool("find_parts", LISTING))
            await asyncio.sleep(0.1)
            left.cancel()
    assert time.perf_counter() - begun < 8


def test_where_no_latency_is_known_none_is_waited_out(world: World) -> None:
    quick = with_latencies(world, [])
    sessions = serve.Sessions(quick, 0)
    with pytest.raises(ValueError, match="--latency none"):
        serve.make_server(quick, sessions, 1.0)
    serve.make_server(quick, sessions)
