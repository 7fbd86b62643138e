"""Chats over vLLM: LocalChat on VllmEngine as on the embedded engine; RemoteChat on its chat route,
with ids where they are whole and without where they are not."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract import BASE, CONTEXT, STOPS, gap
from test_contract import serving, torch_engine
from vllm_stand_in import RECORDED, VllmStandIn

from understudy.core.openai_stream import ChunkAssembler
from understudy.core.turns import TurnRenderer
from understudy.core.types import Completion, Message, ModelRef, Request, Sampling
from understudy.engine.chat import ChatError, LocalChat, RemoteChat
from understudy.engine.server import Server, server_url, start_server
from understudy.engine.vllm import VllmEngine

USER: Message = {"role": "user", "content": "hello"}
TOOL: Any = {"type": "function", "function": {"name": "find", "parameters": {}}}


@pytest.fixture
async def stand_in(renderer: TurnRenderer) -> VllmStandIn:
    return VllmStandIn(renderer.decode)


@pytest.fixture
async def url(stand_in: VllmStandIn) -> AsyncIterator[str]:
    async with serving(stand_in.app()) as url:
        yield url


async def conversation(chat: LocalChat, turns: int = 4) -> list[Completion]:
    """A user, a tool, an answer that is cut by a stop string; each turn streamed and seeded."""
    messages: tuple[Message, ...] = (USER,)
    done: list[Completion] = []
    for turn in range(turns):
        seen: list[int] = []
        options = Sampling(max_tokens=14, seed=turn, stop=("e",) if turn == 2 else ())
        request = Request(messages, BASE, (TOOL,), options, episode_id="1")
        done.append(await chat.complete(request, seen.extend))
        last = done[-1]
        assert last.message is not None
        assert tuple(seen) == last.output_ids
        assert last.usage.completion_tokens == len(seen)
        assert last.first_token_at is not None
        more: Message = {"role": "tool", "tool_call_id": "t", "content": "[]"}
        messages = (*messages, last.message, more if turn == 1 else USER)
    return done


async def test_a_conversation_is_the_same_over_vllms_routes(renderer: TurnRenderer) -> None:
    engine = torch_engine(renderer, renderer.stop_ids)
    inside = LocalChat(engine, renderer, "base")
    before = await conversation(inside)
    runner = await start_server(Server(engine, renderer, renderer.decode, renderer.encode))
    async with VllmEngine(server_url(runner), "base", renderer.stop_ids) as client:
        over = LocalChat(client, renderer, "base")
        after = await conversation(over)
    await runner.cleanup()
    await engine.aclose()
    for a, b in zip(before, after, strict=True):
        assert (a.prompt_ids, a.output_ids, a.finish_reason) == (
            b.prompt_ids, b.output_ids, b.finish_reason,
        )  # fmt: skip
        assert a.message is not None
        assert b.message is not None
        assert a.message["content"] == b.message["content"]
        assert gap(a.logprobs or (), b.logprobs or ()) < 1e-4
    assert (over.continued, over.fallbacks) == (inside.continued, 0) == (3, 0)


async def test_a_next_turn_is_fed_exactly_what_vllm_sampled(
    renderer: TurnRenderer, url: str, stand_in: VllmStandIn
) -> None:
    async with VllmEngine(url, "base", renderer.stop_ids) as client:
        done = await conversation(LocalChat(client, renderer, "base"))
    fed = [b["prompt"] for b in stand_in.asked[1:]]  # after the engine's own question
    for this, next_prompt in zip(done, fed[1:], strict=False):
        whole = [*(this.prompt_ids or ()), *(this.output_ids or ())]
        assert next_prompt[: len(whole)] == whole
    assert [list(c.prompt_ids or ()) for c in done] == fed


async def test_failures_are_recorded_as_over_the_embedded_engine(
    renderer: TurnRenderer, url: str, stand_in: VllmStandIn
) -> None:
    seen: list[Completion] = []
    async with VllmEngine(url, "base", STOPS, pause_s=0.0) as client:
        chat = LocalChat(client, renderer, "base", timeout=20, on_completion=seen.append)
        with pytest.raises(ChatError, match="context"):
            await chat.complete(Request(({"role": "user", "content": "x" * CONTEXT},), BASE))
        with pytest.raises(ChatError, match="no model"):
            await chat.complete(Request((USER,), ModelRef("base", "nobody")))
        stand_in.fault = "dead"
        with pytest.raises(ChatError, match="EngineCore"):
            await chat.complete(Request((USER,), BASE))
        stand_in.fault, chat.timeout = "hang", 0.1
        with pytest.raises(ChatError, match=r"within 0\.1 s"):
            await chat.complete(Request((USER,), BASE))
    assert [c.status for c in seen] == ["invalid", "invalid", "upstream_error", "timeout"]


async def test_remote_chat_reads_vllms_chat_route(url: str, stand_in: VllmStandIn) -> None:
    request = Request((USER,), BASE, (TOOL,), Sampling(max_tokens=60))
    async with RemoteChat(f"{url}/v1", token_ids=True) as exact, RemoteChat(f"{url}/v1") as plain:
        a, b = await exact.complete(request), await plain.complete(request)
        with pytest.raises(ChatError, match="nobody"):
            await plain.complete(replace(request, model=ModelRef("nobody")))
        stand_in.fault = "busy once"
        await plain.complete(request)
    assert a.message == b.message
    assert a.message is not None
    assert a.message["content"] == "so\n"
    assert [c["function"] for c in a.message["tool_calls"]] == [
        {"name": "find", "arguments": '{"id": 3}'}
    ]
    assert a.finish_reason == b.finish_reason == "tool_calls"
    assert a.output_ids is not None
    assert len(a.output_ids) == len(a.logprobs or ()) == a.usage.completion_tokens
    assert (b.prompt_ids, b.output_ids, b.logprobs) == (None, None, None)


def test_a_stream_that_lost_ids_has_none(tmp_path: Path) -> None:
    chunks = json.loads(RECORDED.read_text())["stream"]
    whole, lossy = ChunkAssembler(), ChunkAssembler()
    for chunk in chunks:
        whole.add(json.dumps(chunk).encode())
        # what parts of a call were swallowed by its parser was not sent before vLLM 0.32
        if not any(c["delta"] == {} and not c["finish_reason"] for c in chunk["choices"]):
            lossy.add(json.dumps(chunk).encode())
    a, b = whole.answer(), lossy.answer()
    assert a.output_ids is not None
    assert len(a.output_ids) == a.usage.completion_tokens
    assert (b.prompt_ids, b.output_ids, b.logprobs) == (None, None, None)
    assert b.message == a.message
