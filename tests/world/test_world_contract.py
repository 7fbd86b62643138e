"""One contract for every environment: Python functions, a recording, a learned world."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import warehouse

from understudy.core.types import Episode, Scenario, ToolCall
from understudy.envs import Replay
from understudy.world.model import World
from understudy.world.transitions import transitions

Script = list[tuple[str, str]]


@pytest.fixture(params=["python", "replay", "world"])
def case(request: Any, world: World, episodes: list[Episode]) -> tuple[Any, Script]:
    recorded = episodes[3]
    script = [(t.name, t.arguments) for t in transitions(recorded)][:3]
    environments: dict[str, Callable[[], Any]] = {
        "python": lambda: warehouse.SERVICE,
        "replay": lambda: Replay(recorded),
        "world": lambda: world,
    }
    return environments[request.param](), script


def call(name: str, arguments: str) -> ToolCall:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


SCENARIO = Scenario(id="s", messages=())


async def play(session: Any, script: Script) -> list[str]:
    return [(await session.call("agent", call(*step))).content for step in script]


async def test_equal_seeds_give_equal_sessions(case: Any) -> None:
    environment, script = case
    a, b = await environment.start(SCENARIO, 11), await environment.start(SCENARIO, 11)
    assert await play(a, script) == await play(b, script)


async def test_sessions_do_not_touch_each_other(case: Any) -> None:
    environment, script = case
    alone = await play(await environment.start(SCENARIO, 4), script)
    a, b = await environment.start(SCENARIO, 4), await environment.start(SCENARIO, 4)
    both = []
    for step in script:
        both.append((await a.call("agent", call(*step))).content)
        await b.call("agent", call(*step))
    assert both == alone


async def test_a_snapshot_goes_on_as_its_session_would(case: Any) -> None:
    environment, script = case
    session = await environment.start(SCENARIO, 5)
    await play(session, script[:1])
    snapshot = await session.snapshot()
    rest = await play(session, script[1:])
    for _ in range(2):  # a snapshot can be used more than once
        again = await environment.start(SCENARIO, 5, snapshot)
        assert await play(again, script[1:]) == rest


async def test_tools_are_offered_with_their_schemas(case: Any) -> None:
    environment, _ = case
    tools = (await environment.start(SCENARIO, 1)).tools("agent")
    names = {t["function"]["name"] for t in tools}
    assert names == {"find_parts", "part", "reserve", "settle", "lookup", "release"}
    (reserve,) = [t for t in tools if t["function"]["name"] == "reserve"]
    assert reserve["function"]["parameters"]["required"] == ["sku", "count"]


async def test_calls_that_nothing_fits_are_flagged_not_raised(case: Any) -> None:
    environment, _ = case
    session = await environment.start(SCENARIO, 1)
    result = await session.call("agent", call("no_such_tool", "{}"))
    assert result.is_error
    result = await session.call("agent", call("part", "not json"))
    assert result.is_error
    assert isinstance(await session.outcome(), list)
    await session.aclose()


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
