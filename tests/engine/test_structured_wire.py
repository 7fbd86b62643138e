"""Structured output, tool choice, biases and top logprobs over HTTP, with the official client."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jsonschema
import openai
import pytest
from engine_models import VOCAB, make_model, make_tokenizer

from understudy.core.chatml import ChatMLRenderer
from understudy.core.types import ModelRef, Request, Sampling
from understudy.engine.chat import RemoteChat
from understudy.engine.server import Server, server_url, start_server
from understudy.engine.torch_engine import TorchEngine

USER: Any = {"role": "user", "content": "hello"}
N = {"type": "integer", "minimum": 0, "maximum": 999}  # a random model may like one digit for ever
SCHEMA = {"type": "object", "required": ["way", "n"], "additionalProperties": False,
          "properties": {"way": {"enum": ["up", "down"]}, "n": N}}  # fmt: skip
TOOL: Any = {"type": "function", "function": {"name": "find", "parameters": SCHEMA}}
OTHER: Any = {"type": "function", "function": {"name": "now"}}
ASKED: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}


@pytest.fixture
async def url(renderer: ChatMLRenderer) -> AsyncIterator[str]:
    engine = TorchEngine(
        make_model(), "tiny", renderer.stop_ids, threads=1, decode_text=renderer.decode,
        tokenizer=make_tokenizer(),
    )  # fmt: skip
    runner = await start_server(Server(engine, renderer, renderer.decode, renderer.encode))
    yield server_url(runner)
    await runner.cleanup()
    await engine.aclose()


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


async def ask(client: openai.AsyncOpenAI, **fields: Any) -> Any:
    given = {"model": "tiny", "messages": [USER], "max_tokens": 400, **fields}
    return await client.chat.completions.create(**given)


async def test_response_format(client: openai.AsyncOpenAI) -> None:
    done = await asyncio.gather(*(ask(client, seed=i, response_format=ASKED) for i in range(6)))
    for answer in done:
        (choice,) = answer.choices
        assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
        jsonschema.validate(json.loads(choice.message.content), SCHEMA)
    several = await ask(client, response_format=ASKED, n=3, tools=[TOOL], tool_choice="none")
    for choice in several.choices:
        jsonschema.validate(json.loads(choice.message.content), SCHEMA)
    text, pieces = "", 0
    stream = await ask(client, response_format=ASKED, seed=1, stream=True)
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            pieces += bool(choice.delta.content)
    assert text == (await ask(client, response_format=ASKED, seed=1)).choices[0].message.content
    assert pieces > 1
    jsonschema.validate(json.loads(text), SCHEMA)


async def test_tool_choice_and_parallel_tool_calls(client: openai.AsyncOpenAI) -> None:
    both = [TOOL, OTHER]
    named: Any = {"type": "function", "function": {"name": "find"}}
    for fields in (
        {"tool_choice": "required"}, {"tool_choice": "required", "parallel_tool_calls": False},
        {"tool_choice": named},
    ):  # fmt: skip
        done = await asyncio.gather(*(ask(client, seed=i, tools=both, **fields) for i in range(8)))
        counts = []
        for answer in done:
            (choice,) = answer.choices
            assert choice.finish_reason == "tool_calls"
            counts.append(len(choice.message.tool_calls))
            for call in choice.message.tool_calls:
                arguments = json.loads(call.function.arguments)
                if call.function.name == "find":
                    jsonschema.validate(arguments, SCHEMA)
                else:
                    assert (call.function.name, arguments) == ("now", {})
                    assert fields["tool_choice"] != named
        assert (set(counts) == {1}) == (fields != {"tool_choice": "required"})
    async with client.chat.completions.stream(
        model="tiny", messages=[USER], tools=both, tool_choice=named, max_tokens=400
    ) as events:
        final = await events.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or ()
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)


async def test_logprobs_and_biases(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"seed": 3, "max_tokens": 12, "logprobs": True}
    answer = await ask(client, **asked, top_logprobs=3)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    for entry in entries:
        values = [t.logprob for t in entry.top_logprobs]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert values[0] >= entry.logprob
    stream = await ask(client, **asked, top_logprobs=3, stream=True)
    streamed = [c.logprobs async for chunk in stream for c in chunk.choices if c.logprobs]
    told = [[t.token for t in e.top_logprobs] for s in streamed for e in s.content]
    assert told == [[t.token for t in e.top_logprobs] for e in entries]
    plain = await ask(client, **asked)
    assert all(e.top_logprobs == [] for e in plain.choices[0].logprobs.content)

    raw: Any = await client.completions.create(
        model="tiny", prompt="hello", max_tokens=9, logprobs=2, seed=5
    )
    given = raw.choices[0].logprobs
    assert len(given.top_logprobs) == len(given.tokens) == 9
    for token, logprob, top in zip(
        given.tokens, given.token_logprobs, given.top_logprobs, strict=True
    ):
        assert 2 <= len(top) <= 3
        assert top[token] >= logprob
    forced = await client.completions.create(
        model="tiny", prompt="hello", max_tokens=5, logit_bias={"70": 100}
    )
    assert forced.choices[0].text == make_tokenizer().decode([70]) * 5


async def test_what_cannot_be_served_is_refused_in_one_line(url: str) -> None:
    good = {"model": "tiny", "messages": [USER], "tools": [TOOL]}
    impossible = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": []}}}
    strict = {"name": "x", "strict": True, "schema": {"type": "array", "uniqueItems": True}}
    bad: list[tuple[Any, str | None]] = [
        (good | {"tool_choice": "any"}, "tool_choice"),
        (good | {"tool_choice": 5}, "tool_choice"),
        (good | {"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        (good | {"tools": [], "tool_choice": "required"}, "tool_choice"),
        (good | {"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        (good | {"response_format": {"type": "yaml"}}, "response_format"),
        (good | {"response_format": 5}, "response_format"),
        (good | {"response_format": impossible}, None),
        (good | {"response_format": {"type": "json_schema", "json_schema": strict}}, None),
        (good | {"response_format": impossible, "stream": True}, None),
        (good | {"logit_bias": [1]}, "logit_bias"),
        (good | {"logit_bias": {"x": 1}}, "logit_bias"),
        (good | {"logit_bias": {"5": 101}}, "logit_bias"),
        (good | {"logit_bias": {str(VOCAB): 1}}, None),
        (good | {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (good | {"logprobs": True, "top_logprobs": "2"}, "top_logprobs"),
        (good | {"top_logprobs": 2}, "top_logprobs"),
    ]
    async with aiohttp.ClientSession() as http:
        for body, param in bad:
            async with http.post(f"{url}/v1/chat/completions", json=body) as r:
                error = (await r.json())["error"]
                assert (r.status, error["param"]) == (400, param), error
                assert "\n" not in error["message"]
        for wrong in (21, -1, True, "2"):
            body = {"model": "tiny", "prompt": "x", "logprobs": wrong}
            async with http.post(f"{url}/v1/completions", json=body) as r:
                assert r.status == 400


async def test_remote_chat_asks_for_the_same(url: str) -> None:
    named: Any = {"type": "function", "function": {"name": "find"}}
    sampling = Sampling(max_tokens=400, top_logprobs=2, logit_bias=((5, -100.0),))
    base: Any = Request((USER,), ModelRef("tiny"), (OTHER, TOOL), sampling, tool_choice=named)
    async with RemoteChat(f"{url}/v1", token_ids=True) as chat:
        called = await chat.complete(base)
        plain: Any = Request((USER,), base.model, sampling=sampling, response_format=ASKED)
        answered = await chat.complete(plain)
    assert called.message is not None
    assert [c["function"]["name"] for c in called.message["tool_calls"]] == ["find"]
    assert answered.message is not None
    jsonschema.validate(json.loads(str(answered.message["content"])), SCHEMA)
    for done in (called, answered):
        assert done.output_ids is not None
        assert len(done.extra["top_logprobs"]) == len(done.output_ids)
        (text, logprob), *_ = done.extra["top_logprobs"][-1]
        assert isinstance(text, str)
        assert logprob <= 0
