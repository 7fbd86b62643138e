"""What the gateway makes of a prompt that an adapter was not trained with: the real engine behind
it, and a stand-in for the incumbent."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from gateway_clients import client_of

from bound import SYSTEM, TOOL, asks, bound_adapter, learner
from understudy.core.meter import METERED
from understudy.core.types import ModelRef, Policy
from understudy.engine.server import Server, server_url, start_server
from understudy.engine.torch_engine import TorchEngine
from understudy.models.size import parameters_of

OTHER = SYSTEM + "\nBe brief."


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an engine with the adapter `rehearsed`, trained with SYSTEM and TOOL."""
    one = learner()
    renderer = one.base.renderer
    engine = TorchEngine(one.base.model, "tiny", renderer.stop_ids, threads=1)
    await engine.load(ModelRef("tiny", "rehearsed"), str(bound_adapter(tmp_path / "a", one)))
    size = parameters_of("tiny")
    runner = await start_server(
        Server(engine, renderer, renderer.decode, renderer.encode, None, size)
    )
    yield server_url(runner) + "/v1"
    await runner.cleanup()
    await engine.aclose()


@pytest.fixture
async def running(gateway: Any, stub: Any, real: str, request: pytest.FixtureRequest) -> Any:
    """A gateway before both; `prod` is the adapter, with the incumbent at a share of nothing."""
    upstreams = {
        "stub": {"base_url": stub.url},
        "engine": {"base_url": real, "kind": "engine"},
    }
    one = await gateway(upstreams=upstreams, models={"m": "stub"}, deployed="engine",
                        **getattr(request, "param", {}))  # fmt: skip
    one.gateway.store.deploy_now(
        "prod", [(Policy("rehearsed", ModelRef("rehearsed")), 1.0), (Policy("m", ModelRef("m")), 0)]
    )
    one.gateway.router.refresh()
    return one


async def ask(running: Any, text: str, workload: str = "support", **more: Any) -> Any:
    """The raw answer; a stream is read to its end."""
    headers = {"x-understudy-workload": workload, **more.pop("headers", {})}
    async with client_of(running) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="prod", messages=asks(text), tools=[TOOL], max_tokens=2, extra_headers=headers,
            **more,
        )  # fmt: skip
        if more.get("stream"):
            async for _ in raw.parse():
                pass
        return raw


def recorded(running: Any, raw: Any) -> Any:
    running.gateway.store.flush()
    return running.gateway.store.read_completion(raw.headers["x-understudy-completion"])


async def stats(running: Any) -> Any:
    async with aiohttp.ClientSession() as http:
        async with http.get(running.url.replace("/v1", "/stats")) as answer:
            return await answer.json()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_differs_is_told_recorded_counted_and_marked(
    running: Any, stub: Any, stream: bool
) -> None:
    size = parameters_of("tiny")
    known = await ask(running, SYSTEM, stream=stream, headers={"x-understudy-purpose": "judge"})
    assert "x-understudy-prompt" not in known.headers
    metered = recorded(running, known).extra[METERED]
    assert metered == {"model": "rehearsed@1", "parameters": size}
    assert recorded(running, known).request.purpose == "judge"
    store = running.gateway.store
    assert store.due() == []
    for text, workload in ((OTHER, "support"), (OTHER, "support"), ("Sing.", "songs")):
        raw = await ask(running, text, workload, stream=stream)
        assert raw.headers["x-understudy-prompt"] == "differs; system"
        done = recorded(running, raw)
        assert (done.status, done.extra[METERED]["prompt"]) == ("ok", "system")
    assert stub.bodies == []  # without a fallback the adapter answers
    assert (await stats(running))["prompt_differs"] == {"prod": 3}
    (judged, agent) = sorted(store.uses("prod"), key=lambda u: u.purpose != "judge")
    assert (judged.model, judged.requests, judged.differs) == ("rehearsed@1", 1, 0)
    assert (agent.requests, agent.differs, agent.parameters) == (3, 3, size)
    assert [(d.workload, d.alias, d.model, d.differs) for d in store.due()] == [
        ("support", "prod", "rehearsed@1", "system"),
        ("songs", "prod", "rehearsed@1", "system"),
    ]


@pytest.mark.parametrize("running", [{"fallback": {"prod": "m"}}], indirect=True)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_fallback_answers_what_the_adapter_was_not_trained_with(
    running: Any, stub: Any, stream: bool
) -> None:
    known = await ask(running, SYSTEM, stream=stream)
    assert recorded(running, known).extra["policy"] == "rehearsed"
    episode = {"x-understudy-episode": "e1"}
    raw = await ask(running, OTHER, stream=stream, headers=episode)
    assert raw.headers["x-understudy-prompt"] == "differs; system"
    assert raw.headers["x-understudy-fallback"] == "m"
    done = recorded(running, raw)
    assert (done.status, done.served, done.extra["policy"]) == ("ok", ModelRef("m"), "m")
    assert done.extra["fallback_from"] == "rehearsed"
    assert done.extra[METERED] == {"prompt": "system"}
    assert len(stub.bodies) == 1
    more = await ask(running, SYSTEM, stream=stream, headers=episode)  # the episode goes on there
    assert recorded(running, more).served == ModelRef("m")
    assert [d.workload for d in running.gateway.store.due()] == ["support"]
    counts = running.gateway.store.counts()["completions"]
    assert counts == {"ok": 3}
    told = await stats(running)
    assert told["completions"] == {"ok": 3}
    assert told["prompt_differs"] == told["fell_back"] == {"prod": 1}


@pytest.mark.parametrize(
    "running", [{"fallback": {"prod": "nobody"}}, {"fallback": {"other": "m"}}], indirect=True
)
async def test_without_such_a_policy_the_adapter_answers(running: Any, stub: Any) -> None:
    raw = await ask(running, OTHER)
    assert raw.headers["x-understudy-prompt"] == "differs; system"
    assert "x-understudy-fallback" not in raw.headers
    assert stub.bodies == []
    told = await stats(running)
    assert (told["prompt_differs"], told["fell_back"]) == ({"prod": 1}, {})


@pytest.mark.parametrize("running", [{"fallback": {"prod": "m"}, "capture": "off"}], indirect=True)
async def test_where_nothing_is_kept_nothing_is_marked(running: Any, stub: Any) -> None:
    raw = await ask(running, OTHER)
    assert raw.headers["x-understudy-fallback"] == "m"
    assert len(stub.bodies) == 1
    assert running.gateway.store.due() == []


@pytest.mark.parametrize("running", [{"require_key": True}], indirect=True)
async def test_what_is_counted_names_the_key(running: Any) -> None:
    store = running.gateway.store
    key = store.create_key("ann", ["infer"])
    running.gateway.router.refresh()
    async with client_of(running, api_key=key) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="prod", messages=asks(), tools=[TOOL], max_tokens=2
        )
    shown = recorded(running, raw).extra[METERED]["key"]
    assert store.key_names()[shown] == "ann"
    assert [(u.key, u.requests) for u in store.uses("prod")] == [(shown, 1)]
