"""Several choices for one request over HTTP, and which version a plain name is said to be."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from engine_models import make_model
from test_adapters import adapted

from understudy.core.chatml import ChatMLRenderer
from understudy.core.types import ModelRef, Sampling
from understudy.engine.server import Server, server_url, start_server
from understudy.engine.torch_engine import TorchEngine
from understudy.models.adapters import save_adapter
from understudy.models.lora import adapter_tensors

BASE = ModelRef("tiny")
LONG = 700  # tokens; nothing ends an answer before
CHAT: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
PLAIN: Any = {"model": "tiny", "prompt": "hello"}
ROUTES = [("chat/completions", CHAT), ("completions", PLAIN)]


@pytest.fixture
def engine() -> TorchEngine:
    return TorchEngine(make_model(), "tiny", (), threads=1, max_pending=4)


@pytest.fixture
async def url(engine: TorchEngine, renderer: ChatMLRenderer) -> AsyncIterator[str]:
    runner = await start_server(Server(engine, renderer, renderer.decode, renderer.encode))
    yield server_url(runner)
    await runner.cleanup()
    await engine.aclose()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def post(http: aiohttp.ClientSession, url: str, route: str, body: Any) -> tuple[int, Any]:
    async with http.post(f"{url}/v1/{route}", json=body) as r:
        assert r.content_type == "application/json", await r.text()
        return r.status, await r.json()


@pytest.mark.parametrize(("route", "body"), ROUTES)
async def test_where_one_choice_is_refused_none_is_sampled(
    engine: TorchEngine, url: str, http: aiohttp.ClientSession, route: str, body: Any
) -> None:
    begun, many = asyncio.Event(), Sampling(max_tokens=LONG)
    sampled = engine.sample([5], BASE, many, on_chunk=lambda _: begun.set())
    other = asyncio.create_task(sampled)
    await begun.wait()
    status, answer = await post(http, url, route, body | {"n": 4, "max_tokens": LONG})
    assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "requests are pending; try again in" in answer["error"]["message"]
    await other
    while engine.shards[0].load:
        await engine.sample([5], BASE, Sampling(max_tokens=1))
    assert engine.counters().sampled_tokens < 2 * LONG


async def test_more_choices_than_can_ever_be_pending_are_refused(
    url: str, http: aiohttp.ClientSession
) -> None:
    several = PLAIN | {"prompt": ["a"] * 5}
    for route, body, param in (
        ("chat/completions", CHAT | {"n": 5}, "n"),
        ("completions", PLAIN | {"n": 5}, "n"),
        ("completions", several, "prompt"),
    ):
        status, answer = await post(http, url, route, body | {"max_tokens": 2})
        assert (status, answer["error"]["param"]) == (400, param)
        said = "the request asks for 5 samples, and this engine takes at most 4 at once"
        assert answer["error"]["message"] == said


@pytest.mark.parametrize(("route", "body"), ROUTES)
@pytest.mark.parametrize("wrong", ["x", 2.5, -1, 0, True, 10**9, [1]])
async def test_the_number_of_choices_is_checked(
    url: str, http: aiohttp.ClientSession, route: str, body: Any, wrong: Any
) -> None:
    status, answer = await post(http, url, route, body | {"n": wrong})
    assert (status, answer["error"]["param"]) == (400, "n")
    assert "whole number" in answer["error"]["message"]


@pytest.mark.parametrize(("route", "body"), ROUTES)
async def test_choices_of_one_seed_differ_and_are_those_of_the_seeds_behind_it(
    url: str, http: aiohttp.ClientSession, route: str, body: Any
) -> None:
    async def said(**more: Any) -> list[str]:
        status, answer = await post(http, url, route, body | {"max_tokens": 12} | more)
        assert status == 200
        return [str(c.get("text") or c["message"]["content"]) for c in answer["choices"]]

    four = await said(n=4, seed=7)
    assert len(set(four)) == 4
    assert four == [text for i in range(4) for text in await said(seed=7 + i)]
    assert await said(n=4, seed=7) == four


async def test_each_prompt_of_a_list_begins_with_the_seed_itself(
    url: str, http: aiohttp.ClientSession
) -> None:
    asked = PLAIN | {"max_tokens": 12, "seed": 7, "n": 2}
    prompts = ["hello", "other"]
    _, both = await post(http, url, "completions", asked | {"prompt": prompts})
    alone = [await post(http, url, "completions", asked | {"prompt": p}) for p in prompts]
    texts = [c["text"] for _, answer in alone for c in answer["choices"]]
    assert [c["text"] for c in both["choices"]] == texts


async def test_a_plain_name_is_listed_as_the_version_that_it_gets(
    url: str, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    for seed in (2, 1):
        model, config = adapted("qwen3", seed)
        path = save_adapter(tmp_path / f"{seed}", adapter_tensors(model), config, "tiny")
        body = {"lora_name": f"a@{seed}", "lora_path": str(path)}
        async with http.post(f"{url}/v1/load_lora_adapter", json=body) as r:
            assert r.status == 200
    async with http.get(f"{url}/v1/models") as r:
        listed = {m["id"]: m for m in (await r.json())["data"]}
    assert set(listed) == {"tiny", "a", "a@1", "a@2"}
    async with http.post(f"{url}/v1/chat/completions", json=CHAT | {"model": "a"}) as r:
        served = (await r.json())["system_fingerprint"]
    assert served == f"a@{listed['a']['version']}" == "a@2"
    assert listed["a"]["root"] == listed["a@2"]["root"] == str(tmp_path / "2")
    assert listed["a@1"]["version"] == 1
