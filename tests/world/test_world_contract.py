"""One contract for every environment: Python functions, a recording, a learned world, the tools of
an MCP server, and a learned world that is one."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import warehouse
from served import ENV, WAREHOUSE

from understudy.core.types import Episode, Scenario, ToolCall
from understudy.envs import Replay
from understudy.envs.mcp_env import McpTools
from understudy.world.model import World
from understudy.world.traffic.transitions import transitions

Script = list[tuple[str, str]]
SCENARIO = Scenario(id="s", messages=())


@dataclass
class Case:
    """An environment, calls that it can answer, and whether its sessions can be copied."""

    environment: Any
    script: Script
    copies: bool = True

    @asynccontextmanager
    async def session(self, seed: int, snapshot: Any | None = None) -> AsyncIterator[Any]:
        session = await self.environment.start(SCENARIO, seed, snapshot)
        try:
            yield session
        finally:
            await session.aclose()


@pytest.fixture(params=["python", "replay", "world", "mcp", "mcp world"])
def case(request: Any, world: World, episodes: list[Episode]) -> Case:
    recorded = episodes[3]
    script = [(t.name, t.arguments) for t in transitions(recorded)][:3]
    cases: dict[str, Callable[[], Case]] = {
        "python": lambda: Case(warehouse.SERVICE, script),
        "replay": lambda: Case(Replay(recorded), script),
        "world": lambda: Case(world, script),
        "mcp": lambda: Case(McpTools(WAREHOUSE, env=ENV), script, copies=False),
        "mcp world": lambda: Case(
            McpTools(request.getfixturevalue("world_url") + "?seed={seed}"), script, copies=False
        ),
    }
    return cases[request.param]()


def call(name: str, arguments: str) -> ToolCall:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


async def play(session: Any, script: Script) -> list[str]:
    return [(await session.call("agent", call(*step))).content for step in script]


async def test_equal_seeds_give_equal_sessions(case: Case) -> None:
    async with case.session(11) as a, case.session(11) as b:
        assert await play(a, case.script) == await play(b, case.script)


async def test_sessions_do_not_touch_each_other(case: Case) -> None:
    async with case.session(4) as session:
        alone = await play(session, case.script)
    async with case.session(4) as a, case.session(4) as b:
        both = []
        for step in case.script:
            both.append((await a.call("agent", call(*step))).content)
            await b.call("agent", call(*step))
    assert both == alone


async def test_a_snapshot_goes_on_as_its_session_would_or_is_refused(case: Case) -> None:
    async with case.session(5) as session:
        await play(session, case.script[:1])
        if not case.copies:
            with pytest.raises(NotImplementedError, match="start a session anew"):
                await session.snapshot()
            with pytest.raises(ValueError, match="takes no snapshot"):
                await case.environment.start(SCENARIO, 5, {})
            return
        snapshot = await session.snapshot()
        rest = await play(session, case.script[1:])
    for _ in range(2):  # a snapshot can be used more than once
        async with case.session(5, snapshot) as again:
            assert await play(again, case.script[1:]) == rest


async def test_tools_are_offered_with_their_schemas(case: Case) -> None:
    async with case.session(1) as session:
        tools = session.tools("agent")
    names = {t["function"]["name"] for t in tools}
    assert names == {"find_parts", "part", "reserve", "settle", "lookup", "release"}
    (reserve,) = [t for t in tools if t["function"]["name"] == "reserve"]
    assert reserve["function"]["parameters"]["required"] == ["sku", "count"]
    assert {t["type"] for t in tools} == {"function"}


async def test_calls_that_nothing_fits_are_flagged_not_raised(case: Case) -> None:
    async with case.session(1) as session:
        result = await session.call("agent", call("no_such_tool", "{}"))
        assert result.is_error
        result = await session.call("agent", call("part", "not json"))
        assert result.is_error
        assert await play(session, case.script[:1])  # the session goes on
        assert isinstance(await session.outcome(), list)
        await session.aclose()  # and ends once more, harmlessly


async def test_groups_start_from_one_snapshot(world: World) -> None:
    """Members of a group share what is settled and differ in what is not."""
    session = await world.start(SCENARIO, 9)
    listing = json.dumps({"category": "pumps"})
    while "error" in json.loads(first := session.step("find_parts", listing).content):
        pass
    snapshot = await session.snapshot()
    members = [await world.start(SCENARIO, seed, snapshot) for seed in range(30)]
    lists = [json.loads(m.step("find_parts", listing).content) for m in members]
    assert all(x == json.loads(first) for x in lists if "parts" in x)
    sku = json.loads(first)["parts"][0]["sku"]
    answers = {m.step("reserve", json.dumps({"sku": sku, "count": 2})).content for m in members}
    assert len(answers) > 1
