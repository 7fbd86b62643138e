"""Requests and answers that are not what they should be: one clear line each, nothing lost."""

import json
from typing import Any

import aiohttp
import pytest

from oddities import variants

BODY: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "echo"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "find", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "42"},
        {"role": "user", "content": "echo again", "name": "ann"},
    ],
    "tools": [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}],
    "tool_choice": "auto",
    "temperature": 0.5,
    "top_p": 0.5,
    "max_tokens": 5,
    "seed": 3,
    "stop": ["x"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "metadata": {"workload": "w", "episode_id": "e", "scenario_id": "s", "caused_by": "c"},
    "n": 1,
    "parallel_tool_calls": False,
    "response_format": {"type": "json_object"},
    "logit_bias": {"7": -1},
    "top_logprobs": 1,
    "future": {"x": 1},
}


async def test_whatever_stands_in_a_request_is_served_or_refused_in_one_line(
    gateway: Any, stub: Any
) -> None:
    running = await gateway(capture="durable")
    stub.keep = False
    served = refused = 0
    async with aiohttp.ClientSession() as session:
        for body in variants(BODY):
            async with session.post(f"{running.url}/chat/completions", json=body) as r:
                text = await r.text()
                if r.status == 200:
                    served += 1
                    continue
                refused += 1
                assert r.status in (400, 404), (body, text)
                message = json.loads(text)["error"]["message"]
                assert message, body
                assert "\n" not in message, body
    assert served > 100
    assert refused > 300
    counts = running.gateway.store.counts()
    assert counts["completions"] == {"ok": served}
    assert counts["dropped"] == {}
    assert running.gateway.store.stats()["fault"] is None


@pytest.mark.parametrize(
    ("data", "headers", "why"),
    [
        (b"", {}, "not valid JSON"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\xff"}]}', {}, "utf-8"),
        (b'{"model": "m", "x": NaN}', {}, "NaN is not JSON"),
        (b'{"model": "m", "x": 1e400}', {}, "1e400 is too large"),
        (b'{"model": "m", "x": ' + b"9" * 5000 + b"}", {}, "too many digits"),
        (b'{"model": "m", "x": ' + b"[" * 5000 + b"}", {}, "nested too deeply"),
        (b"[]", {}, "must be a JSON object"),
        (b"abc", {"Content-Encoding": "gzip"}, "cannot be read"),
        (b"{}", {"x-understudy-metadata": "[1]"}, "must be a model's name"),
    ],
)
async def test_bodies_that_are_no_json(
    gateway: Any, data: bytes, headers: dict[str, str], why: str
) -> None:
    running = await gateway()
    async with aiohttp.ClientSession() as session:
        for route in ("chat/completions", "feedback"):
            async with session.post(f"{running.url}/{route}", data=data, headers=headers) as r:
                assert r.status == 400
                message = (await r.json())["error"]["message"]
            assert why in message or route == "feedback"
            assert "\n" not in message


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"value": 10**400}, "too large"),
        ({"value": 10**30}, "too large"),
        ({"value": float("nan")}, "NaN is not JSON"),
        ({"value": {"stars": float("inf")}}, "Infinity is not JSON"),
        ({"name": "\ud800"}, "'name' must be text"),
        ({"comment": "\udfff"}, "'comment' must be text"),
        ({"episode_id": ["e"]}, "'episode_id' must be text"),
    ],
)
async def test_feedback_that_cannot_be_kept_is_refused(
    gateway: Any, fields: dict[str, Any], why: str
) -> None:
    running = await gateway()
    body = {"episode_id": "e", "name": "thumb", "value": True, **fields}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{running.url}/feedback", json=body) as r:
            assert r.status == 400
            assert why in (await r.json())["error"]["message"]


def answer(**message: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", **message}}]}


CALL = {"function": {"name": "find", "arguments": {"a": 1}}}
TIDY = {
    "id": "", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'},
}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (answer(content="x") | {"usage": {"prompt_tokens": "eleven"}}, {"content": "x"}),
        (answer(content="x") | {"usage": [1], "model": 5}, {"content": "x"}),
        (answer(content="x") | {"usage": {"completion_tokens": 10**30}}, {"content": "x"}),
        ({"choices": [{"message": {"content": "x"}, "logprobs": [1]}]}, {"content": "x"}),
        ({"choices": [{"message": {"content": "x"}, "token_ids": ["a"],
                       "logprobs": {"content": [{"logprob": 1}]}}]}, {"content": "x"}),
        (answer(role="model", content="x"), {"content": "x"}),
        (answer(tool_calls=[CALL]), {"content": None, "tool_calls": [TIDY]}),
        (answer(content="x", tool_calls="find"), None),
        (answer(content="x", tool_calls=["find"]), None),
        (answer(content={"text": "x"}), None),
        ({"choices": [{}]}, None),
        ({"choices": "x"}, None),
        ([1], None),
    ],
)  # fmt: skip
async def test_what_an_upstream_answers_oddly_is_kept_or_refused_in_one_line(
    gateway: Any, body: Any, kept: dict[str, Any] | None
) -> None:
    running = await gateway(capture="durable")
    asked = {"model": "m", "messages": [{"role": "user", "content": f"answer {json.dumps(body)}"}]}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{running.url}/chat/completions", json=asked) as r:
            got = await r.json()
            assert r.status == (502 if kept is None else 200)
    (episode,) = running.gateway.store.read_episodes()
    (completion,) = episode.completions
    if kept is None:
        assert completion.status == "upstream_error"
        assert got["error"]["message"] == completion.error
        assert "\n" not in completion.error
    else:
        assert got == body  # the client gets what came
        assert completion.status == "ok"
        assert completion.message == {"role": "assistant", **kept}


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": [{"delta": {"content": {"a": 1}}}]},
        {"choices": [{"delta": {"tool_calls": "x"}}]},
        {"choices": [{"delta": {"tool_calls": ["x"]}}]},
        {"choices": ["x"]},
        {"error": {"message": "out of memory"}},
        [1],
    ],
)
async def test_a_stream_with_a_malformed_chunk_ends_with_a_line_and_is_kept(
    gateway: Any, chunk: Any
) -> None:
    running = await gateway(capture="durable")
    good = {"choices": [{"index": 0, "delta": {"content": "well"}}]}
    text = f"answer {json.dumps([good, chunk])}"
    asked = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": True}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{running.url}/chat/completions", json=asked) as r:
            events = (await r.text()).split("\n\n")
    (episode,) = running.gateway.store.read_episodes()
    (completion,) = episode.completions
    assert completion.status == "upstream_error"
    assert completion.message == {"role": "assistant", "content": "well"}
    said = json.loads(events[-3].removeprefix("data: "))["error"]["message"]
    assert said == completion.error
    assert events[-2] == "data: [DONE]"
