"""Tools of MCP servers, over both transports: what is offered, called, answered and refused."""

import asyncio
import json
from typing import Any

import pytest
from mcp_processes import SERVER

from understudy.core.types import Scenario, ToolCall
from understudy.envs.mcp_connection import Server
from understudy.envs.mcp_env import McpTools, McpToolsSession

SCENARIO = Scenario("s", ())
NAMES = ["add", "kinds", "structured", "refuse", "protocol", "hang", "die", "whoami", "unkept"]


@pytest.fixture(params=["stdio", "http"])
def server(request: Any, url: str) -> Any:
    command = [*SERVER, "stdio", "--seed", "{seed}"]
    return command if request.param == "stdio" else url + "?seed={seed}"


def call(name: str, **arguments: Any) -> ToolCall:
    return raw(name, json.dumps(arguments))


def raw(name: str, arguments: str) -> ToolCall:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


async def started(server: Any, seed: int = 0, **options: Any) -> McpToolsSession:
    return await McpTools(server, **options).start(SCENARIO, seed)


async def added(session: McpToolsSession, number: int) -> int:
    result = await session.call("agent", call("add", number=number))
    assert not result.is_error, result.content
    return int(json.loads(result.content)["sum"])


async def test_all_pages_of_tools_are_offered_as_openai_has_them(server: Any) -> None:
    session = await started(server)
    tools = session.tools("agent")
    await session.aclose()
    assert [t["function"]["name"] for t in tools] == NAMES
    assert tools[0] == {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add a number.",
            "parameters": {
                "type": "object",
                "properties": {"number": {"type": "integer"}},
                "required": ["number"],
                "$comment": "kept",
            },
        },
    }


async def test_every_kind_of_content_is_told(server: Any) -> None:
    session = await started(server)
    kinds = await session.call("agent", call("kinds"))
    structured = await session.call("agent", call("structured"))
    refused = await session.call("agent", call("refuse"))
    await session.aclose()
    assert kinds.content.splitlines() == [
        "two",
        "texts",
        "[image image/png]",
        "[audio audio/wav]",
        "[resource file:///list.csv]",
        "[resource file:///note.txt]",
        "a note",
        "[resource file:///b.pdf]",
    ]
    assert structured.content == '{"größe": [1, 2]}\n[image image/png]'
    assert not kinds.is_error
    assert (refused.content, refused.is_error) == ("not today", True)
    assert all((r.latency_s or 0) > 0 and r.doubt == 0 for r in (kinds, structured, refused))


async def test_errors_of_the_protocol_are_answers_and_the_session_goes_on(server: Any) -> None:
    session = await started(server, seed=7)
    for code in (-32602, -32601, -32600, -32603, -32001, -32000, -1):
        result = await session.call("agent", call("protocol", code=code))
        assert (result.content, result.is_error) == (f"Error: error {code}", True)
    unknown = await session.call("agent", call("no_such_tool"))
    assert (unknown.content, unknown.is_error) == ("Error: Unknown tool: no_such_tool", True)
    assert await added(session, 1) == 8
    await session.aclose()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("{", "not valid JSON"),
        ("[1]", "must be a JSON object"),
        ('{"number": NaN}', "NaN is not JSON"),
        ('{"number": "\\ud800"}', "not valid Unicode"),
    ],
)
async def test_arguments_that_cannot_be_sent_are_answered_here(
    arguments: str, why: str, url: str
) -> None:
    session = await started(url)
    result = await session.call("agent", raw("add", arguments))
    assert result.is_error
    assert why in result.content
    assert await added(session, 1) == 1
    await session.aclose()


async def test_sessions_side_by_side_are_apart(server: Any) -> None:
    """Started and ended by tasks of their own, in any order, used by another."""
    environment = McpTools(server)
    starts = [asyncio.create_task(environment.start(SCENARIO, seed)) for seed in (10, 20, 30)]
    sessions = [await task for task in starts]
    for n in range(1, 4):
        assert await asyncio.gather(*(added(s, 1) for s in sessions)) == [10 + n, 20 + n, 30 + n]
    for session in (sessions[1], sessions[0]):
        await asyncio.create_task(session.aclose())
    assert await added(sessions[2], 1) == 34
    await sessions[2].aclose()


async def test_calls_side_by_side_are_all_answered(server: Any) -> None:
    session = await started(server)
    sums = await asyncio.gather(*(added(session, 1) for _ in range(20)))
    await session.aclose()
    assert sorted(sums) == list(range(1, 21))


async def test_a_command_gets_its_environment_and_a_url_its_headers(url: str) -> None:
    session = await started([*SERVER, "stdio"], env={"WHO": "me"}, headers={"Authorization": "x"})
    assert json.loads((await session.call("agent", call("whoami"))).content)["env"] == "me"
    await session.aclose()
    session = await started(url, env={"WHO": "me"}, headers={"Authorization": "Bearer 1"})
    told = json.loads((await session.call("agent", call("whoami"))).content)
    assert (told["env"], told["sent"]) == ("", "Bearer 1")
    await session.aclose()


async def test_a_command_may_be_one_line() -> None:
    python, script = SERVER
    session = await started(f"{python} '{script}' stdio --seed {{seed}}", seed=3)
    assert await added(session, 1) == 4
    await session.aclose()


async def test_a_server_without_sessions_is_used_as_it_is() -> None:
    session = await started([*SERVER, "stdio", "--modern"])
    assert await added(session, 2) == 2
    await session.aclose()


async def test_there_are_no_snapshots_and_no_outcomes(url: str) -> None:
    session = await started(url)
    with pytest.raises(NotImplementedError, match="cannot be copied"):
        await session.snapshot()
    assert await session.outcome() == []
    await session.aclose()
    with pytest.raises(ValueError, match="takes no snapshot"):
        await McpTools(url).start(SCENARIO, 0, {})


def test_what_may_be_secret_in_a_url_is_not_told() -> None:
    server = Server.named("https://me:word@host.example:1/mcp?key=1", {"A": "2"}, {"B": "3"})
    assert str(server) == "the MCP server https://host.example:1/mcp"
    assert "2" not in repr(Server.named("run", {"A": "2"}, {"B": "3"}))
    for nowhere, why in (("", "a command line or a URL"), ("http://[x/mcp", "Invalid IPv6")):
        with pytest.raises(ValueError, match=why):
            McpTools(nowhere)
