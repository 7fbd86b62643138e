"""The production agent over real HTTP with the official client, and the proof's environment."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web

from understudy.core.types import ToolCall
from understudy.demo.agent import TOOLS, Served, ServiceClient, run_traffic
from understudy.demo.customers import scenarios
from understudy.demo.env import ServiceEnvironment
from understudy.demo.incumbent import NO_FLAWS, decide


def call(name: str, arguments: str) -> ToolCall:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.fixture(scope="module")
def service_url(start: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("service")
    return start("understudy.demo.service", "--db", str(folder / "s.db"))


@pytest.fixture(scope="module")
def incumbent_url(start: Callable[..., str]) -> str:
    return start("understudy.demo.incumbent")


class Relay:
    """A stand-in for the gateway: notes headers and thumbs, passes the rest on."""

    def __init__(self, upstream: str) -> None:
        self.upstream, self.headers, self.thumbs = upstream, [], []

    async def complete(self, request: web.Request) -> web.Response:
        self.headers.append({k.lower(): v for k, v in request.headers.items()})
        async with aiohttp.ClientSession() as http:
            url = f"{self.upstream}/v1/chat/completions"
            async with http.post(url, data=await request.read()) as answer:
                body = await answer.read()
                return web.Response(
                    body=body, status=answer.status, content_type="application/json"
                )

    async def feedback(self, request: web.Request) -> web.Response:
        self.thumbs.append(await request.json())
        return web.json_response({})

    async def around(self, act: Callable[[str], Awaitable[Any]]) -> Any:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.complete)
        app.router.add_post("/v1/feedback", self.feedback)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return await act(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
        finally:
            await runner.cleanup()


def test_traffic_through_the_official_client(service_url: str, incumbent_url: str) -> None:
    customers = scenarios("traffic", 30)
    relay, seen = Relay(incumbent_url), []

    async def act(url: str) -> list[Served]:
        return await run_traffic(
            url, service_url, customers, concurrency=8, on_progress=seen.append
        )

    served: list[Served] = asyncio.run(relay.around(act))
    assert [s.scenario.id for s in served] == [c.id for c in customers]
    assert len(seen) == 30
    assert 8 <= sum(s.verdict.success for s in served) <= 22
    assert {s.ended for s in served} == {"user_left"}
    assert len(relay.headers) == sum(s.completions for s in served)
    episodes = {s.episode_id: s for s in served}
    for headers in relay.headers:
        metadata = json.loads(headers["x-understudy-metadata"])
        assert metadata == episodes[headers["x-understudy-episode"]].scenario.metadata
        assert headers["x-understudy-workload"] == "booking"
        customer = episodes[headers["x-understudy-episode"]].scenario
        assert headers["x-understudy-scenario"] == customer.id
    thumbs = {t["episode_id"]: t["value"] for t in relay.thumbs}
    assert thumbs == {s.episode_id: s.thumb for s in served if s.thumb is not None}
    assert {(t["name"], t["source"]) for t in relay.thumbs} == {("thumb", "user")}


def test_an_endpoint_that_is_down_ends_episodes_not_the_traffic(service_url: str) -> None:
    served = asyncio.run(
        run_traffic(
            "http://127.0.0.1:9/v1",
            service_url,
            scenarios("traffic", 2),
            concurrency=2,
            feedback_url="",
        )
    )
    assert [s.ended for s in served] == ["error", "error"]
    assert all(s.error and not s.verdict.success for s in served)


def test_the_incumbent_streams(incumbent_url: str) -> None:
    client = openai.OpenAI(base_url=f"{incumbent_url}/v1", api_key="demo")
    text = "Velmora, two guests, 3 nights, the cheapest one, pay with visa, else maestro"
    for said in (text, "hello there"):
        ask: Any = {"model": "m", "messages": [{"role": "user", "content": said}]}
        whole = client.chat.completions.create(**ask)
        chunks = list(
            client.chat.completions.create(
                **ask, stream=True, stream_options={"include_usage": True}
            )
        )
        deltas = [c.choices[0].delta for c in chunks if c.choices]
        message = whole.choices[0].message
        assert "".join(d.content or "" for d in deltas) == (message.content or "")
        functions = [t.function for d in deltas for t in d.tool_calls or []]
        wanted = [t.function for t in message.tool_calls or []]
        assert [(f.name, f.arguments) for f in functions] == [(f.name, f.arguments) for f in wanted]
        reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
        assert reasons[-1] == whole.choices[0].finish_reason
        assert chunks[-1].usage == whole.usage
        assert whole.usage is not None
        assert whole.usage.completion_tokens > 0


def test_broken_calls_are_answered_with_what_is_wrong(service_url: str) -> None:
    async def act() -> None:
        async with ServiceClient(service_url) as service:
            session = await service.open_session(scenarios("proof", 1)[0])
            for broken in (
                call("", "{oops"),
                call("fly", "{}"),
                call("hold_stay", '{"stay_id": "S1"'),
                call("hold_stay", '{"stay_id": "S1"}'),
                call("search_stays", '{"city": "Velmora", "guests": 2, "sort": "size"}'),
            ):
                result = await service.call(session, broken)
                assert result.is_error
                assert json.loads(result.content)["error"]
            assert session not in (await service.calls())["by_session"]

    asyncio.run(act())


def test_the_environment_judges_from_the_database(service_url: str) -> None:
    async def act() -> None:
        async with ServiceClient(service_url) as service:
            environment = ServiceEnvironment(service)
            case = next(
                s
                for s in scenarios("proof", 50)
                if decide(s.messages, 0, NO_FLAWS)["content"] is None
            )
            for works in (True, False):
                session = await environment.start(case, seed=1)
                assert session.tools() == TOOLS
                messages = list(case.messages)
                while works and (calls := decide(messages, 0, NO_FLAWS).get("tool_calls")):
                    result = await session.call("agent", calls[0])
                    messages.append({"role": "assistant", "content": None, "tool_calls": calls})
                    messages.append(
                        {"role": "tool", "tool_call_id": calls[0]["id"], "content": result.content}
                    )
                (outcome,) = await session.outcome()
                assert (outcome.name, outcome.source, outcome.value) == (
                    "outcome",
                    "outcome",
                    works,
                )
                await session.aclose()

    asyncio.run(act())
