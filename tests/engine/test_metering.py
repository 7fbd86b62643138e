"""The server's meter, its keys, and requests that an adapter was not trained for."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from bound import SYSTEM, TOOL, asks, bound_adapter, learner
from understudy.core.keys import key_hash, key_id, new_key
from understudy.core.meter import NOBODY, REST, Meter, Tokens, metrics_lines
from understudy.core.prices import SIZE_PRICES, size_price
from understudy.core.types import ModelRef, Request, Usage
from understudy.engine.chat import RemoteChat
from understudy.engine.server import Server, server_url, start_server
from understudy.engine.torch_engine import TorchEngine
from understudy.models.size import parameters_of

KEY = new_key()
SIZE = parameters_of("tiny")


@pytest.fixture(params=["stops"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TorchEngine]:
    one = learner()
    base = one.base
    stops = base.renderer.stop_ids if request.param == "stops" else ()
    made = TorchEngine(base.model, "tiny", stops, threads=1,
                       decode_text=base.renderer.decode)  # fmt: skip
    await made.load(ModelRef("tiny", "a", 3), str(bound_adapter(tmp_path / "a", one)))
    made.renderer = base.renderer  # type: ignore[attr-defined]
    yield made
    await made.aclose()


@pytest.fixture
async def url(engine: Any) -> AsyncIterator[str]:
    renderer = engine.renderer
    server = Server(engine, renderer, renderer.decode, renderer.encode, None, SIZE,
                    frozenset([key_hash(KEY)]))  # fmt: skip
    runner = await start_server(server)
    yield server_url(runner)
    await runner.cleanup()


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as one:
        yield one


async def read(url: str, path: str, key: str | None = KEY) -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(url + path) as answer:
        return await (answer.json() if path == "/meter" else answer.text())


async def test_tokens_are_counted_by_version_key_and_purpose(
    url: str, client: openai.AsyncOpenAI
) -> None:
    ask: Any = {"model": "a", "messages": asks(), "tools": [TOOL], "max_tokens": 5}
    first = await client.chat.completions.create(**ask, n=2)
    again = await client.chat.completions.create(**ask)
    stream = await client.chat.completions.create(
        **ask, stream=True, stream_options={"include_usage": True}
    )
    (streamed,) = [c.usage async for c in stream if c.usage is not None]
    async with RemoteChat(f"{url}/v1", KEY) as chat:
        judged = await chat.complete(
            Request(tuple(asks()), ModelRef("a"), (TOOL,), purpose="judge")
        )
    raw: Any = await client.completions.create(model="tiny", prompt=[5, 6, 7], max_tokens=2)
    told = await read(url, "/meter")
    found = {(u["model"], u["purpose"]): u for u in told["uses"]}
    assert set(found) == {("a@3", "agent"), ("a@3", "judge"), ("tiny", "agent")}
    assert {u["key"] for u in told["uses"]} == {key_id(key_hash(KEY))}
    agent, judge, bare = (found[k] for k in (("a@3", "agent"), ("a@3", "judge"), ("tiny", "agent")))
    usages: Any = (first.usage, again.usage, streamed)
    # of n = 2 the prompt is fed twice, which OpenAI's usage tells once
    assert agent["prompt"] == sum(u.prompt_tokens for u in usages) + first.usage.prompt_tokens  # type: ignore[union-attr]
    assert agent["sampled"] == sum(u.completion_tokens for u in usages)
    assert agent["cached"] >= again.usage.prompt_tokens_details.cached_tokens > 0  # type: ignore[union-attr]
    assert (agent["requests"], agent["unfinished"], agent["differs"]) == (4, 0, 0)
    assert judge["sampled"] == judged.usage.completion_tokens
    assert (bare["prompt"], bare["sampled"]) == (3, raw.usage.completion_tokens)
    assert told["parameters"] == SIZE
    price = size_price(SIZE, SIZE_PRICES[told["prices"]])
    assert price is not None
    tokens = Tokens(agent["prompt"], agent["cached"], agent["sampled"])
    assert agent["dollars"] == pytest.approx(sum(tokens.dollars(price).values()))
    text = await read(url, "/metrics")
    labels = f'model="a@3",key="{key_id(key_hash(KEY))}",purpose="judge"'
    line = f'understudy_engine_tokens_total{{{labels},kind="sampled"}} {judge["sampled"]}'
    assert line in text.splitlines()


@pytest.mark.parametrize("engine", ["goes on"], indirect=True)
async def test_what_is_cut_off_is_counted_as_far_as_it_came(
    url: str, client: openai.AsyncOpenAI
) -> None:
    stream = await client.chat.completions.create(
        model="tiny", messages=asks(), max_tokens=2000, stream=True, temperature=1.0, seed=1
    )
    await anext(aiter(stream))  # the first tokens are there
    await stream.close()
    async with asyncio.timeout(20):
        while not (uses := (await read(url, "/meter"))["uses"]):
            pass
    assert (uses[0]["requests"], uses[0]["unfinished"], uses[0]["unreported"]) == (1, 1, 1)
    assert 0 < uses[0]["sampled"] < 2000
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="tiny", messages=asks("word " * 5000))
    (now,) = (await read(url, "/meter"))["uses"]
    assert (now["requests"], now["unfinished"]) == (2, 2)


async def test_without_a_key_there_is_no_answer(url: str) -> None:
    for key in ("", "wrong"):
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key=key or "x", max_retries=0
        ) as client:
            with pytest.raises(openai.AuthenticationError, match="needs a valid key"):
                await client.models.list()
    assert "needs a valid key" in await read(url, "/metrics", None)
    assert await read(url, "/health", None) == ""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
        with pytest.raises(openai.BadRequestError, match="x-understudy-purpose is one of"):
            await client.chat.completions.create(
                model="a", messages=asks(), extra_headers={"x-understudy-purpose": "fun"}
            )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_was_not_trained_with_is_answered_and_named(
    url: str, client: openai.AsyncOpenAI, stream: bool
) -> None:
    create = client.chat.completions.with_raw_response.create

    async def header(model: str, text: str, tools: Any, **more: Any) -> str | None:
        raw = await create(
            model=model, messages=asks(text), tools=tools, max_tokens=2, stream=stream, **more
        )
        assert raw.headers["x-understudy-model"] == model.replace("a", "a@3")
        assert raw.headers["x-understudy-parameters"] == str(SIZE)
        if stream:
            async for _ in raw.parse():
                pass
        return raw.headers.get("x-understudy-prompt")

    assert await header("a", SYSTEM, [TOOL]) is None
    assert await header("tiny", "Anything at all", [TOOL]) is None
    assert await header("a", SYSTEM + "\nBe brief.", [TOOL]) == "differs; system"
    assert await header("a", SYSTEM, []) == "differs; tools"
    assert await header("a", SYSTEM, [TOOL], tool_choice="none") == "differs; tools"
    assert await header("a", "Be brief.", []) == "differs; system, tools"
    must = {"x-understudy-prompt": "must-match"}
    assert await header("a", SYSTEM, [TOOL], extra_headers=must) is None
    before = (await read(url, "/meter"))["uses"]
    with pytest.raises(openai.APIStatusError, match="another prompt") as refused:
        await header("a", "Be brief.", [TOOL], extra_headers=must)
    assert refused.value.status_code == 412
    assert refused.value.response.headers["x-understudy-prompt"] == "differs; system"
    now = {u["model"]: u for u in (await read(url, "/meter"))["uses"]}
    assert now["a@3"]["differs"] == 5
    assert now["a@3"]["requests"] == {u["model"]: u for u in before}["a@3"]["requests"]
    text = await read(url, "/metrics")
    assert "understudy_engine_differs_total{" in text


async def test_the_list_shows_versions_and_what_they_are_bound_to(
    client: openai.AsyncOpenAI, engine: TorchEngine, tmp_path: Path
) -> None:
    one = learner()
    await engine.load(ModelRef("tiny", "a"), str(bound_adapter(tmp_path / "b", one, "Other.")))
    models: Any = {m.id: m async for m in client.models.list()}
    assert set(models) == {"tiny", "a", "a@3", "a@4"}
    assert [models[i].version for i in ("tiny", "a@3", "a@4")] == [None, 3, 4]
    bindings = [models[i].binding for i in ("tiny", "a@3", "a@4")]
    assert bindings[0] is None
    assert len(set(bindings)) == 3


def test_so_many_models_are_counted_apart_and_further_ones_together() -> None:
    meter = Meter(5)
    for n in range(4100):
        meter.answered(f"m@{n}", NOBODY, "agent", Usage(1, 0, 1))
    uses = {u.model: u for u in meter.uses()}
    assert len(uses) == 4097
    assert uses[REST].requests == 4
    assert sum(u.tokens.sampled for u in uses.values()) == 4100
    odd = Meter()
    odd.answered('a"\\\n', NOBODY, "agent", Usage(1, None, 1))
    assert 'model="a\\"\\\\\\n"' in metrics_lines(odd.uses(), "")[0]
