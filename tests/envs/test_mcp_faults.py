"""What happens when an MCP server dies, hangs or was never there: one line, and nothing left."""

import asyncio
import json
import sys
from contextlib import nullcontext
from typing import Any
from urllib.parse import urlsplit

import pytest
from mcp_processes import SERVER, Lifeline, serving

from understudy.core.types import Completion, Message, ModelRef, Policy, Request, Scenario, ToolCall
from understudy.envs import rollout
from understudy.envs.mcp_env import McpTools, ServerFailed

SCENARIO = Scenario("s", ({"role": "user", "content": "go"},))


def call(name: str, **arguments: Any) -> ToolCall:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": "c", "type": "function", "function": function}  # type: ignore[typeddict-item]


def stdio(lifeline: Lifeline, *options: str) -> list[str]:
    return [*SERVER, "stdio", "--lifeline", str(lifeline.port), *options]


def mute(lifeline: Lifeline) -> list[str]:
    """A command that never answers."""
    program = (
        "import socket, sys\n"
        f"line = socket.create_connection(('127.0.0.1', {lifeline.port}))\n"
        "line.sendall(b'here\\n')\n"
        "sys.stdin.read()\n"
    )
    return [sys.executable, "-c", program]


async def test_a_server_that_dies_in_a_call_is_one_line_with_its_last_words() -> None:
    session = await McpTools([*SERVER, "stdio"]).start(SCENARIO, 0)
    for name in ("die", "add"):
        with pytest.raises(ServerFailed, match=r"closed the connection \(out of paper\)$") as told:
            await session.call("agent", call(name, number=1))
        assert str(told.value).startswith(f"the MCP server `{sys.executable} ")
    await session.aclose()
    await session.aclose()


async def test_a_server_that_dies_over_http_is_one_line() -> None:
    with serving() as url:
        environment = McpTools(url)
        session, other = await environment.start(SCENARIO, 0), await environment.start(SCENARIO, 0)
        for one, name in ((session, "die"), (session, "add"), (other, "add")):
            with pytest.raises(ServerFailed, match=f"^the MCP server {url}: ") as told:
                await one.call("agent", call(name, number=1))
            assert "\n" not in str(told.value)
        await session.aclose()
        await other.aclose()
        with pytest.raises(ServerFailed, match="attempts failed"):
            await environment.start(SCENARIO, 0)


async def test_a_session_that_the_server_forgot_is_no_answer() -> None:
    """As after a restart: what the session had there is gone."""
    with serving() as url:
        session = await McpTools(url).start(SCENARIO, 0)
    with serving("--port", str(urlsplit(url).port)):
        with pytest.raises(ServerFailed, match="Session not found"):
            await session.call("agent", call("add", number=1))
        await session.aclose()


async def test_a_session_that_has_ended_answers_nothing(url: str) -> None:
    session = await McpTools(url).start(SCENARIO, 0)
    await session.aclose()
    with pytest.raises(ServerFailed, match="the session is closed"):
        await session.call("agent", call("add", number=1))


@pytest.mark.parametrize(
    ("server", "why"),
    [
        (["/no/such/command"], "No such file"),
        ([sys.executable, "-c", "raise SystemExit('no key given')"], r"\(no key given\)"),
        (["http://127.0.0.1:1/mcp"], "attempts failed"),
        (["{url}/elsewhere"], "Not Found"),
        ([*SERVER, "stdio", "--circle"], "leads back to page '2'"),
    ],
)
async def test_a_server_that_cannot_be_used_is_one_line(
    server: list[str], why: str, url: str
) -> None:
    where: Any = server[0].replace("{url}", url) if len(server) == 1 else server
    with pytest.raises(ServerFailed, match=why) as told:
        await McpTools(where).start(SCENARIO, 0)
    assert "\n" not in str(told.value)


async def test_a_result_that_breaks_its_own_schema_is_no_answer(url: str) -> None:
    session = await McpTools(url).start(SCENARIO, 0)
    with pytest.raises(ServerFailed, match="did not return structured content"):
        await session.call("agent", call("unkept"))
    await session.aclose()


async def test_a_server_that_never_answers_is_ended(lifeline: Lifeline) -> None:
    environment = McpTools(mute(lifeline), start_timeout_s=2)
    with pytest.raises(ServerFailed, match=r"no answer within 2 s$"):
        await environment.start(SCENARIO, 0)
    assert await lifeline.said() == "here"
    assert await lifeline.said() == ""


async def test_a_call_that_takes_too_long_is_an_error_and_the_server_is_told(
    lifeline: Lifeline,
) -> None:
    session = await McpTools(stdio(lifeline), timeout_s=1).start(SCENARIO, 0)
    result = await session.call("agent", call("hang"))
    assert result.is_error
    assert result.content == "Error: hang did not answer within 1 s"
    assert (result.latency_s or 0) >= 1
    assert [await lifeline.said(), await lifeline.said()] == ["called", "cancelled"]
    assert (await session.call("agent", call("add", number=1))).content == '{"sum": 1}'
    await session.aclose()
    assert await lifeline.said() == ""


async def test_a_server_that_does_not_heed_gives_up_calls_only_one_by_one() -> None:
    """Its replies to what was given up are awaited no longer, and end nothing."""
    with serving("--json") as url:
        session = await McpTools(url, timeout_s=2).start(SCENARIO, 0)
        for n in range(1, 4):
            assert (await session.call("agent", call("hang", stubborn=True))).is_error
            sum_ = await session.call("agent", call("add", number=1))
            assert sum_.content == json.dumps({"sum": n})
        await session.aclose()


@pytest.mark.parametrize("over", ["stdio", "http"])
async def test_cancelling_a_call_passes_through(over: str, lifeline: Lifeline) -> None:
    port = str(lifeline.port)
    with serving("--lifeline", port) if over == "http" else nullcontext("") as url:
        session = await McpTools(url or stdio(lifeline)).start(SCENARIO, 0)
        asked = asyncio.create_task(session.call("agent", call("hang")))
        assert await lifeline.said() == "called"
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert await lifeline.said() == "cancelled"
        assert (await session.call("agent", call("add", number=1))).content == '{"sum": 1}'
        await session.aclose()


async def test_a_session_that_ends_leaves_no_process(lifeline: Lifeline) -> None:
    session = await McpTools(stdio(lifeline)).start(SCENARIO, 0)
    await session.aclose()
    assert await lifeline.said() == ""


async def test_a_start_that_is_cancelled_leaves_no_process(lifeline: Lifeline) -> None:
    environment = McpTools(mute(lifeline))
    starting = asyncio.create_task(environment.start(SCENARIO, 0))
    assert await lifeline.said() == "here"
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await lifeline.said() == ""


async def test_an_end_that_is_cancelled_ends_the_process_first(lifeline: Lifeline) -> None:
    """The server ignores the end of its input: it is ended a little later."""
    session = await McpTools(stdio(lifeline, "--linger")).start(SCENARIO, 0)
    ending = asyncio.create_task(session.aclose())
    assert await lifeline.said() == "lingers"
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    connection: Any = session._connection
    assert connection._task.done()
    assert await lifeline.said() == ""


class Lines:
    """Stand-in for a model: says prepared messages."""

    def __init__(self, *calls: ToolCall) -> None:
        self.lines: list[Message] = [
            {"role": "assistant", "content": None, "tool_calls": [c]} for c in calls
        ]

    async def complete(self, request: Request) -> Completion:
        end: Message = {"role": "assistant", "content": "done"}
        message = self.lines.pop(0) if self.lines else end
        return Completion(id="c", request=request, status="ok", message=message)


async def test_a_rollout_tells_the_model_of_errors_and_raises_a_lost_server() -> None:
    environment = McpTools([*SERVER, "stdio"])
    policy = Policy("p", ModelRef("m"))
    session = await environment.start(SCENARIO, 0)
    chat = Lines(call("refuse"), call("add", number="one"), call("add", number=2))
    episode = await rollout(chat, policy, session, SCENARIO, None, max_turns=9, seed=0)
    results = list(episode.results.values())
    assert [r.is_error for r in results] == [True, True, False]
    assert results[-1].content == '{"sum": 2}'
    with pytest.raises(ServerFailed, match="out of paper"):
        await rollout(Lines(call("die")), policy, session, SCENARIO, None, max_turns=9, seed=0)
    await session.aclose()
