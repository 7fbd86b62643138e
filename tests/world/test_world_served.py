"""A learned world as an MCP server answers as its own sessions do, over both transports."""

import asyncio
import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.types import UNSUPPORTED_PROTOCOL_VERSION, CallToolResult, TextContent
from served import ENV, serve_command

from understudy.core.types import Episode, Scenario, Tool, ToolCall, ToolResult
from understudy.envs.mcp_env import McpTools
from understudy.world.model import World, WorldSession
from understudy.world.serving import mcp_server as serve
from understudy.world.traffic.transitions import transitions

SCENARIO = Scenario("s", ())
LISTING = {"category": "pumps"}


def call(name: str, arguments: str) -> ToolCall:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


async def played(environment: Any, seed: int, script: list[tuple[str, str]]) -> list[ToolResult]:
    """What a session answers, all but how long it took."""
    session = await environment.start(SCENARIO, seed)
    results = [await session.call("agent", call(*step)) for step in script]
    await session.aclose()
    return [replace(r, latency_s=None) for r in results]


@pytest.fixture
def script(heldout: list[Episode]) -> list[tuple[str, str]]:
    """Calls of many episodes after each other, and some that nothing fits."""
    calls = [(t.name, t.arguments) for e in heldout[:12] for t in transitions(e)]
    return [*calls, ("no_such_tool", "{}"), ("part", '{"sku": "größe \\u2028"}'), ("part", "{}")]


@pytest.fixture(params=["stdio", "http"])
def served(request: Any, world_folder: Path, world_url: str) -> McpTools:
    if request.param == "http":
        return McpTools(world_url + "?seed={seed}")
    return McpTools(serve_command(world_folder, "--seed", "{seed}"), env=ENV)


async def test_a_served_world_answers_exactly_as_its_own_session(
    served: McpTools, world: World, script: list[tuple[str, str]]
) -> None:
    for seed in (0, 3):
        own, over_mcp = await played(world, seed, script), await played(served, seed, script)
        assert over_mcp == own
    assert {r.is_error for r in own} == {True, False}
    assert len({r.doubt for r in own}) > 5
    assert any(r.provenance for r in own)


async def test_sessions_side_by_side_answer_each_as_if_alone(
    served: McpTools, world: World, script: list[tuple[str, str]]
) -> None:
    own = [await played(world, seed, script) for seed in range(4)]
    assert len({json.dumps([r.content for r in one]) for one in own}) == 4
    assert await asyncio.gather(*(played(served, seed, script) for seed in range(4))) == own


async def test_tools_are_those_of_the_world(served: McpTools, world: World) -> None:
    session = await served.start(SCENARIO, 0)
    assert session.tools("agent") == tuple(world.tools())
    await session.aclose()


async def test_clients_that_ask_for_no_seed_get_lives_of_their_own(
    world: World, script: list[tuple[str, str]]
) -> None:
    async with serve.serve_http(world, "127.0.0.1", 0, 40) as url:
        for seed in (40, 41):
            assert await played(McpTools(url), 0, script) == await played(world, seed, script)
        assert await played(McpTools(url + "?seed=3"), 0, script) == await played(world, 3, script)
        assert await played(McpTools(url), 0, script) == await played(world, 42, script)


async def test_a_seed_that_is_no_number_is_an_error(world_url: str) -> None:
    (result,) = await played(McpTools(world_url + "?seed=x"), 0, [("part", "{}")])
    assert result == ToolResult("Error: seed must be an integer, not 'x'", is_error=True)


async def test_the_official_client_finds_sessions_and_nothing_that_reality_would_not_show(
    world: World, world_url: str
) -> None:
    own = world.session(3)
    listing = json.dumps(LISTING)
    async with Client(world_url + "?seed=3") as client:  # asks for the newest version first
        assert client.protocol_version == "2025-11-25"
        for _ in range(5):
            result = await client.call_tool("find_parts", LISTING)
            assert isinstance(result, CallToolResult)
            expected = own.step("find_parts", listing)
            assert result.content == [TextContent(text=expected.content)]
            assert (result.meta, result.structured_content) == (None, None)
    async with Client(world_url, mode="2026-07-28") as client:
        with pytest.raises(MCPError, match="a world needs sessions") as refused:
            await client.call_tool("find_parts", LISTING)
    assert refused.value.code == UNSUPPORTED_PROTOCOL_VERSION


HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}


def request(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


class Watched:
    """A world that knows which of its sessions are still held by anybody."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.held: weakref.WeakSet[WorldSession] = weakref.WeakSet()

    def tools(self) -> list[Tool]:
        return self.world.tools()

    def session(self, seed: int) -> WorldSession:
        session = self.world.session(seed)
        self.held.add(session)
        return session


async def test_what_a_client_ends_is_forgotten_and_nobody_else_can_end_it(world: World) -> None:
    watched: Any = Watched(world)
    async with serve.serve_http(watched, "127.0.0.1", 0) as url, httpx2.AsyncClient() as web:
        web.headers["accept"] = "application/json, text/event-stream"
        ids = []
        for _ in range(2):
            begun = await web.post(url, json=request("initialize", **HELLO))
            headers = {"mcp-session-id": begun.headers["mcp-session-id"]}
            asked = request("tools/call", name="part", arguments={})
            assert (await web.post(url, json=asked, headers=headers)).json()["result"]["content"]
            ids.append(headers)
        assert len(watched.held) == 2
        a_page = {**ids[0], "origin": "http://evil.example"}
        assert (await web.delete(url, headers=a_page)).status_code == 403
        gc.collect()
        assert len(watched.held) == 2
        assert (await web.delete(url, headers=ids[0])).status_code == 200
        gc.collect()
        assert len(watched.held) == 1
        asked = request("tools/call", name="part", arguments={})
        assert (await web.post(url, json=asked, headers=ids[0])).status_code == 404


def test_what_a_client_left_is_forgotten_once_it_is_idle(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = serve.Sessions(world, 0)
    with sessions.asking("busy"):
        kept = sessions.of("busy", None)
    with sessions.asking("busy"):  # as a stream that stays open
        for client in ("left", "next", "last"):
            with sessions.asking(client):
                assert sessions.of(client, None) is sessions.of(client, None)
            assert len(sessions) == {"left": 2, "next": 3, "last": 4}[client]
        monkeypatch.setattr(serve, "IDLE_S", -61.0)
        sessions.of("new", None)
        assert len(sessions) == 2
        assert sessions.of("busy", None) is kept


async def test_only_this_machine_is_served_unless_others_may(world: World) -> None:
    with pytest.raises(ValueError, match=r"0\.0\.0\.0 is open to others: .* --allow-remote"):
        async with serve.serve_http(world, "0.0.0.0", 0):
            pass
    with pytest.raises(ValueError, match=r"0\.0\.0\.0 is open to others: .* --key-env"):
        async with serve.serve_http(world, "0.0.0.0", 0, allow_remote=True):
            pass
    async with serve.serve_http(world, "0.0.0.0", 0, allow_remote=True, key="k") as url:
        here = url.replace("0.0.0.0", "127.0.0.1")
        bearing = McpTools(here, headers={"Authorization": "Bearer k"})
        assert len(await played(bearing, 0, [("part", "{}")])) == 1
    async with serve.serve_http(world, "127.0.0.1", 0) as url, httpx2.AsyncClient() as web:
        for header, status in (({"host": "evil.example"}, 421), ({"origin": "http://evil"}, 403)):
            headers = {"content-type": "application/json", **header}
            assert (await web.post(url, json={}, headers=headers)).status_code == status


def test_tools_are_served_as_the_protocol_has_them(world: World) -> None:
    custom: Any = {"type": "custom", "custom": {"name": "free"}}
    bare: Tool = {"type": "function", "function": {"name": "bare"}}
    tool, *used = serve.served_tools(replace(world, declared=[custom, bare]))
    assert (tool.name, tool.description, tool.input_schema) == ("bare", None, {"type": "object"})
    assert {t.name for t in used} == set(world.models)  # the traffic used them, declared or not
