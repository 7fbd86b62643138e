"""LocalChat, the HTTP server and RemoteChat, with the official client on loopback."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web
from engine_models import VOCAB, make_model, make_tokenizer
from test_adapters import adapted

from understudy.core.chatml import ChatMLRenderer
from understudy.core.types import Message, ModelRef, Request, Sample, Sampling
from understudy.engine.chat import ChatError, LocalChat, RemoteChat
from understudy.engine.server import Server, server_url, start_server
from understudy.engine.text_stream import TextStream
from understudy.engine.torch_engine import TorchEngine
from understudy.models.adapters import save_adapter
from understudy.models.lora import adapter_tensors

BASE = ModelRef("tiny")
USER: Message = {"role": "user", "content": "hello"}
TOOL: Any = {"type": "function", "function": {"name": "find", "parameters": {}}}


class ScriptedEngine:
    """A stand-in for an engine: says given texts in turn, remembers what it was fed."""

    def __init__(self, renderer: ChatMLRenderer, texts: Sequence[str]) -> None:
        self.renderer, self.texts = renderer, list(texts)
        self.fed: list[list[int]] = []

    async def sample(
        self, prompt_ids: Any, model: Any, sampling: Any, grammar: Any = None, on_chunk: Any = None
    ) -> Sample:
        self.fed.append(list(prompt_ids))
        text = self.texts.pop(0)
        ids = (*self.renderer.encode(text),)
        if not text.endswith("..."):
            ids = (*ids, *self.renderer.stop_ids)
        reason: Any = "length" if text.endswith("...") else "stop"
        return Sample(ids, (-0.5,) * len(ids), reason, model)


async def test_a_next_turn_is_fed_exactly_what_was_sampled(renderer: ChatMLRenderer) -> None:
    odd = 'well\n<tool_call>\n{"arguments": {"a":1},   "name": "find"}\n</tool_call>'
    engine = ScriptedEngine(renderer, [odd, "it is cut ...", "done"])
    chat = LocalChat(engine, renderer, "tiny")  # type: ignore[arg-type]
    request = Request((USER,), BASE, (TOOL,))
    first = await chat.complete(request)
    assert first.message is not None
    assert first.finish_reason == "tool_calls"
    call = first.message["tool_calls"][0]
    assert (call["function"]["name"], call["function"]["arguments"]) == ("find", '{"a": 1}')
    tool: Message = {"role": "tool", "tool_call_id": call["id"], "content": "[]"}
    second = await chat.complete(replace(request, messages=(USER, first.message, tool)))
    assert second.prompt_ids is not None
    assert first.prompt_ids is not None
    assert first.output_ids is not None
    whole = first.prompt_ids + first.output_ids
    assert second.prompt_ids[: len(whole)] == whole
    assert second.message is not None
    more = (USER, first.message, tool, second.message, USER)
    third = await chat.complete(replace(request, messages=more))
    assert third.prompt_ids is not None
    text = renderer.decode(third.prompt_ids)
    assert "it is cut ...<|im_end|>\n<|im_start|>user" in text
    assert '{"arguments": {"a":1},   "name": "find"}' in text
    assert (chat.continued, chat.fallbacks) == (2, 0)

    custom: Any = {"id": "c", "type": "custom", "custom": {"name": "patch", "input": "free text"}}
    engine.texts = ["x"]
    shown = {"role": "assistant", "content": None, "tool_calls": [custom]}
    await chat.complete(replace(request, messages=(USER, shown, tool)))  # type: ignore[arg-type]
    assert '{"name": "patch", "arguments": "free text"}' in renderer.decode(engine.fed[-1])
    chat.fallbacks = 0

    changed = (USER, {**first.message, "content": "edited"}, tool)
    engine.texts = ["x"]
    await chat.complete(replace(request, messages=changed))
    assert chat.fallbacks == 1


async def test_histories_are_kept_apart_and_bounded(renderer: ChatMLRenderer) -> None:
    engine = ScriptedEngine(renderer, ["a b", "a b", "later", "later"])
    chat = LocalChat(engine, renderer, "tiny", max_ids=100)  # type: ignore[arg-type]
    one = await chat.complete(Request((USER,), BASE, episode_id="1"))
    assert one.message is not None
    follow = (USER, one.message, USER)
    await chat.complete(Request((USER,), BASE, (TOOL,), episode_id="1"))
    await chat.complete(Request(follow, BASE, episode_id="2"))
    assert (chat.continued, chat.fallbacks) == (0, 1)
    assert chat._held <= 100


async def test_failures_are_recorded_and_raised(renderer: ChatMLRenderer) -> None:
    seen: list[Any] = []
    engine = TorchEngine(make_model(), "tiny", renderer.stop_ids, threads=1, context=64)
    chat = LocalChat(engine, renderer, "tiny", timeout=0.05, on_completion=seen.append)
    with pytest.raises(ChatError, match="context") as caught:
        await chat.complete(Request(({"role": "user", "content": "x" * 100},), BASE))
    assert caught.value.completion.status == "invalid"
    with pytest.raises(ChatError, match="no model"):
        await chat.complete(Request((USER,), ModelRef("tiny", "nobody")))
    engine.close()
    with pytest.raises(ChatError, match="closed"):
        await chat.complete(Request((USER,), BASE))
    assert [c.status for c in seen] == ["invalid", "invalid", "upstream_error"]


@pytest.fixture
async def url(renderer: ChatMLRenderer) -> AsyncIterator[str]:
    engine = TorchEngine(
        make_model(), "tiny", renderer.stop_ids, threads=1, decode_text=renderer.decode
    )
    runner = await start_server(Server(engine, renderer, renderer.decode, renderer.encode))
    yield server_url(runner)
    await runner.cleanup()
    await engine.aclose()


async def test_official_client(url: str, tmp_path: Path) -> None:
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    messages: Any = [USER]
    ask: Any = {"model": "tiny", "messages": messages, "max_tokens": 12, "seed": 3}
    plain = await client.chat.completions.create(
        **ask, logprobs=True, extra_body={"return_token_ids": True}
    )
    again = await client.chat.completions.create(**ask)
    choice: Any = plain.choices[0]
    assert choice.message.content == again.choices[0].message.content
    assert len(choice.token_ids) == len(choice.logprobs.content) == plain.usage.completion_tokens
    assert len(plain.prompt_token_ids) == plain.usage.prompt_tokens  # type: ignore[attr-defined]
    assert again.usage.prompt_tokens_details.cached_tokens > 0  # type: ignore[union-attr]

    text, usage, reason = "", None, None
    stream = await client.chat.completions.create(
        **ask, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        for c in chunk.choices:
            text += c.delta.content or ""
            reason = c.finish_reason or reason
    assert text == choice.message.content
    assert usage is not None
    assert usage.completion_tokens == plain.usage.completion_tokens
    assert reason == choice.finish_reason

    prompt: Any = plain.prompt_token_ids  # type: ignore[attr-defined]
    raw: Any = await client.completions.create(
        model="tiny", prompt=prompt, max_tokens=12, seed=3, logprobs=0,
        extra_body={"return_token_ids": True},
    )  # fmt: skip
    assert raw.choices[0].token_ids == choice.token_ids
    assert len(raw.choices[0].logprobs.token_logprobs) == len(choice.token_ids)

    model, config = adapted("qwen3", 1)
    save_adapter(tmp_path / "a", adapter_tensors(model), config, "tiny")
    async with aiohttp.ClientSession() as http:
        load = {"lora_name": "a", "lora_path": str(tmp_path / "a")}
        for body, status in ((load, 200), (load, 400), (load | {"load_inplace": True}, 200)):
            async with http.post(f"{url}/v1/load_lora_adapter", json=body) as r:
                assert r.status == status
        names = [m.id async for m in client.models.list()]
        assert names == ["tiny", "a", "a@1", "a@2"]
        tuned = await client.chat.completions.create(**{**ask, "model": "a@2"})
        assert tuned.choices[0].message.content != choice.message.content
        async with http.post(f"{url}/v1/unload_lora_adapter", json={"lora_name": "a"}) as r:
            assert r.status == 200
        async with http.get(f"{url}/health") as r:
            assert r.status == 200
        async with http.get(f"{url}/metrics") as r:
            assert "understudy_engine_generation_tokens_total" in await r.text()
    with pytest.raises(openai.NotFoundError, match="no model 'a'"):
        await client.chat.completions.create(**{**ask, "model": "a"})
    await client.close()


async def test_malformed_requests_say_what_is_wrong(url: str) -> None:
    good = {"model": "tiny", "messages": [USER]}
    bad: list[tuple[Any, str]] = [
        (good | {"messages": []}, "messages"),
        (good | {"messages": [{"role": "robot", "content": ""}]}, "messages[0]"),
        (good | {"temperature": "hot"}, "temperature"),
        (good | {"max_tokens": 0}, "max_tokens"),
        (good | {"tools": [{}]}, "tools"),
        (good | {"tool_choice": "required"}, "tool_choice"),
        (good | {"stop": [""]}, "stop"),
        (good | {"stop": 5}, "stop"),
        (good | {"stream": True, "stream_options": "x"}, "stream_options"),
        (good | {"messages": [{"role": "user", "content": [5]}]}, "messages[0]"),
        (good | {"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        (good | {"messages": [USER | {"tool_calls": 5}]}, "messages[0]"),
        (good | {"tools": [TOOL | {"function": {"name": "f", "parameters": 5}}]}, "tools"),
        ({"messages": [USER]}, "model"),
    ]
    async with aiohttp.ClientSession() as http:
        for body, param in bad:
            async with http.post(f"{url}/v1/chat/completions", json=body) as r:
                error = (await r.json())["error"]
                assert (r.status, error["param"]) == (400, param)
        async with http.post(f"{url}/v1/chat/completions", data=b"{") as r:
            assert r.status == 400
            assert "not JSON" in (await r.json())["error"]["message"]
        async with http.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": []}) as r:
            assert r.status == 400
        body = {"model": "tiny", "prompt": [VOCAB + 5]}
        async with http.post(f"{url}/v1/completions", json=body) as r:
            assert r.status == 400


async def test_a_client_that_leaves_frees_its_sequence(renderer: ChatMLRenderer) -> None:
    engine = TorchEngine(make_model(), "tiny", (VOCAB - 1,), threads=1)
    server = Server(engine, renderer, renderer.decode, renderer.encode)
    runner = await start_server(server)
    async with aiohttp.ClientSession() as http:
        body = {"model": "tiny", "messages": [USER], "stream": True, "max_tokens": 900}
        r = await http.post(f"{server_url(runner)}/v1/chat/completions", json=body)
        await r.content.readany()
        r.close()
    while engine.shards[0].load:
        await engine.sample([5], BASE, Sampling(max_tokens=1))
    assert engine.counters().sampled_tokens < 900
    await runner.cleanup()
    await engine.aclose()


async def test_remote_chat_has_ids_from_our_server_and_no_others(url: str) -> None:
    request = Request((USER,), BASE, (TOOL,), Sampling(max_tokens=8, seed=1))
    async with RemoteChat(f"{url}/v1", token_ids=True) as exact, RemoteChat(f"{url}/v1") as plain:
        a, b = await exact.complete(request), await plain.complete(request)
        with pytest.raises(ChatError, match="no model") as caught:
            await plain.complete(replace(request, model=ModelRef("other")))
    assert a.output_ids is not None
    assert a.logprobs is not None
    assert len(a.output_ids) == len(a.logprobs) == a.usage.completion_tokens
    assert (b.prompt_ids, b.output_ids, b.logprobs) == (None, None, None)
    assert a.message is not None
    assert b.message is not None
    assert a.message["content"] == b.message["content"]
    assert (caught.value.http_status, caught.value.completion.status) == (404, "upstream_error")


@pytest.mark.parametrize(
    "answer",
    [
        [1],
        {"choices": ["x"]},
        {"choices": [{"message": "hi", "finish_reason": "stop"}]},
        {"choices": [{"message": {"content": {"a": 1}}, "finish_reason": "stop"}]},
        {"choices": [{"message": {"tool_calls": ["find"]}, "finish_reason": "stop"}]},
    ],
)
async def test_remote_chat_says_what_is_no_chat_completion(answer: Any) -> None:
    async def reply(http: web.Request) -> web.Response:
        return web.json_response(answer)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", reply)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with RemoteChat(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", retries=0) as chat:
        with pytest.raises(ChatError, match="is not a chat completion") as caught:
            await chat.complete(Request((USER,), BASE))
    assert caught.value.completion.status == "upstream_error"
    assert "\n" not in str(caught.value)
    await runner.cleanup()


async def test_remote_chat_tries_again_and_times_out(unused_tcp_port: int) -> None:
    answers = [503, 429, 200]
    answer = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}

    async def reply(http: web.Request) -> web.Response:
        status = answers.pop(0)
        return web.json_response(answer, status=status, headers={"Retry-After": "0"})

    async def hang(http: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    app = web.Application()
    app.router.add_post("/v1/chat/completions", reply)
    app.router.add_post("/slow/chat/completions", hang)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    root = f"http://127.0.0.1:{unused_tcp_port}"
    request = Request((USER,), BASE)
    async with RemoteChat(f"{root}/v1", pause_s=0) as chat:
        done = await chat.complete(request)
    assert done.message == {"role": "assistant", "content": "hi"}
    assert done.usage.prompt_tokens is None
    async with RemoteChat(f"{root}/slow", timeout=0.02, retries=0) as chat:
        with pytest.raises(ChatError) as caught:
            await chat.complete(request)
    assert caught.value.completion.status == "timeout"
    await runner.cleanup()
    async with RemoteChat(f"{root}/v1", retries=1, pause_s=0) as chat:
        with pytest.raises(ChatError) as caught:
            await chat.complete(request)
    assert caught.value.completion.status == "upstream_error"
    assert "\n" not in str(caught.value)


def test_streamed_text_is_the_final_text(renderer: ChatMLRenderer) -> None:
    texts = [
        ('so\n\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', ()),
        ("plain é ü text <tool, not a call", ()),
        ("until here STOP and no further", ("STOP",)),
    ]
    for text, stop in texts:
        ids = [*renderer.encode(text), *renderer.stop_ids]
        stream = TextStream(renderer, stop)
        pieces = [stream.add([i]) for i in ids]
        message = renderer.parse(ids)
        final = str(message["content"]).split("STOP")[0] if stop else str(message["content"])
        assert final.startswith("".join(pieces))
        assert "".join(pieces) + stream.rest({**message, "content": final}) == final
        assert len([p for p in pieces if p]) > 1 or len(final) < 4


async def test_the_server_process_prints_its_url(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    command = ["-m", "understudy.engine.server", "--base", str(tmp_path), "--name", "m"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--port", "0", "--threads", "1", "--renderer", "chatml",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    line = json.loads(await process.stdout.readline())
    async with RemoteChat(line["url"] + "/v1") as chat:
        done = await chat.complete(Request((USER,), ModelRef("m"), sampling=Sampling(max_tokens=4)))
    assert done.status == "ok"
    process.terminate()
    assert await process.wait() == 0


def test_chat_needs_no_torch() -> None:
    import subprocess

    code = "import sys, understudy.engine.chat; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
