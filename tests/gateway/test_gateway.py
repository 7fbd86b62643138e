"""The official client through the gateway to a stand-in for a provider, over real HTTP."""

import asyncio
import json
import socket
from typing import Any

import aiohttp
import openai
import pytest
from gateway_clients import client_of

from understudy.core.types import ModelRef, Policy, Sampling

TOOL: Any = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


def user(text: str) -> Any:
    return {"role": "user", "content": text}


async def ask(client: openai.AsyncOpenAI, text: str, model: str = "m", **fields: Any) -> Any:
    return await client.chat.completions.create(model=model, messages=[user(text)], **fields)


async def ask_raw(client: openai.AsyncOpenAI, messages: list[Any], **fields: Any) -> Any:
    """(completion, episode id)"""
    raw = await client.chat.completions.with_raw_response.create(
        model="m", messages=messages, **fields
    )
    return raw.parse(), raw.headers["x-understudy-episode"]


async def test_a_completion_is_passed_on_byte_by_byte_and_captured(gateway: Any, stub: Any) -> None:
    running = await gateway()
    body = (
        b'{ "messages":[{"content":"echo \\u00e9","role":"user"}],  "model":"m", "future": {"x":1}}'
    )
    async with aiohttp.ClientSession() as session:
        headers = {"x-understudy-episode": "e", "x-understudy-metadata": '{"ticket": {"n": 1}}',
                   "x-understudy-workload": "w", "x-understudy-scenario": "s"}  # fmt: skip
        async with session.post(f"{running.url}/chat/completions", data=body, headers=headers) as r:
            through = await r.read()
            completion_id = r.headers["x-understudy-completion"]
        direct = await (await session.post(f"{stub.url}/chat/completions", data=body)).read()
    assert stub.raw == [body, body]
    assert through == direct
    episode = running.gateway.store.read_episode("e")
    (completion,) = episode.completions
    assert completion.id == completion_id
    assert completion.status == "ok"
    assert completion.message == {"role": "assistant", "content": "echo é"}
    assert completion.usage.prompt_tokens == 11
    assert completion.extra == {"request": {"future": {"x": 1}}}
    assert completion.started_at < completion.first_token_at <= completion.finished_at
    assert (episode.workload, episode.scenario_id, episode.metadata) == (
        "w", "s", {"ticket": {"n": 1}},
    )  # fmt: skip


async def test_streaming(gateway: Any, stub: Any) -> None:
    running = await gateway()
    async with aiohttp.ClientSession() as session:
        body = json.dumps({"model": "m", "messages": [user("echo a b")], "stream": True})
        r = await session.post(f"{running.url}/chat/completions", data=body)
        through = await r.read()
        direct = await (await session.post(f"{stub.url}/chat/completions", data=body)).read()
    assert through == direct
    async with client_of(running) as client:
        stream = await ask(client, "echo c d", stream=True)
        said = [c.choices[0].delta.content async for c in stream if c.choices]
    assert "".join(s or "" for s in said) == "echocd"
    episode = running.gateway.store.read_episode(r.headers["x-understudy-episode"])
    (completion,) = episode.completions
    assert completion.message["content"] == "echoab"
    assert completion.usage.estimated


@pytest.mark.parametrize("model", ["m", "tiny"])
@pytest.mark.parametrize("stream", [False, True])
async def test_tools(gateway: Any, model: str, stream: bool) -> None:
    running = await gateway()
    async with client_of(running) as client:
        if stream:
            async with client.chat.completions.stream(
                model=model, messages=[user("tool x")], tools=[TOOL]
            ) as events:
                answer = await events.get_final_completion()
        else:
            answer = await ask(client, "tool x", model, tools=[TOOL])
    (call,) = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"text": "tool x"}
    (episode,) = running.gateway.store.read_episodes()
    (captured,) = episode.completions
    assert captured.message["tool_calls"] == [
        {"id": "call_1", "type": "function",
         "function": {"name": "find", "arguments": '{"text": "tool x"}'}}
    ]  # fmt: skip
    assert captured.finish_reason == "tool_calls"
    assert captured.request.tools == (TOOL,)


def test_the_synchronous_client(gateway_process: Any) -> None:
    with openai.OpenAI(base_url=gateway_process.url, api_key="k") as client:
        reply = client.chat.completions.create(model="m", messages=[user("echo sync")])
        assert reply.choices[0].message.content == "echo sync"
        stream = client.chat.completions.create(model="m", messages=[user("a b")], stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == "ab"
        assert [m.id for m in client.models.list()] == ["e", "m"]


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_ids_of_an_engine_are_recorded_and_stripped(
    gateway: Any, engine: Any, asks: bool, stream: bool
) -> None:
    running = await gateway()
    wants: dict[str, Any] = {"logprobs": True, "extra_body": {"return_token_ids": True}}
    async with client_of(running) as client:
        answer = await ask(client, "echo x", "tiny", stream=stream, **(wants if asks else {}))
        parts = [c async for c in answer] if stream else [answer]
    assert engine.bodies[0]["return_token_ids"] is True
    assert any("prompt_token_ids" in (p.model_extra or {}) for p in parts) == asks
    choices = [c for p in parts for c in p.choices]
    assert any("token_ids" in (c.model_extra or {}) for c in choices) == asks
    assert any(c.logprobs is not None for c in choices) == asks
    assert any(p.usage is not None for p in parts) == (not stream)
    (episode,) = running.gateway.store.read_episodes()
    (c,) = episode.completions
    assert c.prompt_ids == (1, 2, 3)
    assert len(c.output_ids) == len(c.logprobs) > 0
    assert c.usage.completion_tokens == 3
    assert not c.usage.estimated


async def test_errors_have_openais_shape_and_one_line(gateway: Any) -> None:
    running = await gateway()
    async with client_of(running) as client:
        with pytest.raises(
            openai.NotFoundError, match="no model 'x'; the models are: gone, m, tiny"
        ):
            await ask(client, "hi", "x")
        with pytest.raises(openai.BadRequestError, match="'temperature' must be in"):
            await ask(client, "hi", temperature=7)
        with pytest.raises(openai.InternalServerError, match="'down' cannot be reached") as down:
            await ask(client, "hi", "gone")
        assert down.value.status_code == 502
        with pytest.raises(openai.InternalServerError, match="no answer within") as late:
            await ask(client, "hang")
        assert late.value.status_code == 504
        with pytest.raises(openai.RateLimitError, match="slow down") as refused:
            await ask(client, "refuse")
        assert refused.value.response.headers["retry-after"] == "7"
        with pytest.raises(openai.InternalServerError, match="holds no choices"):
            await ask(client, "nonsense")
        with pytest.raises(openai.NotFoundError, match="nothing at POST /v1/embeddings"):
            await client.embeddings.create(model="m", input="x")
    seen = running.gateway.store.find_completions(newest_first=False)
    assert [s.status for s in seen] == [
        "upstream_error",
        "timeout",
        "upstream_error",
        "upstream_error",
    ]
    assert all(s.error for s in seen)


@pytest.mark.parametrize(("word", "why"), [("cut", "broke off"), ("garbage", "is broken")])
async def test_a_broken_stream_ends_with_an_error_and_is_kept(
    gateway: Any, word: str, why: str
) -> None:
    running = await gateway()
    async with client_of(running) as client:
        stream = await ask(client, f"{word} a b c", stream=True)
        with pytest.raises(openai.APIError, match=why):
            [c async for c in stream]
    (episode,) = running.gateway.store.read_episodes()
    (completion,) = episode.completions
    assert completion.status == "upstream_error"
    assert why in completion.error
    assert completion.message["content"].startswith(word)


@pytest.mark.parametrize("capture", ["batched", "durable"])
async def test_a_client_that_leaves_in_mid_stream(gateway: Any, stub: Any, capture: str) -> None:
    running = await gateway(capture=capture, upstreams={"stub": {"base_url": stub.url}},
                            models={"m": "stub"})  # fmt: skip
    async with client_of(running) as client:
        stream = await ask(client, "slow text", stream=True)
        said = [(await anext(stream)).choices[0].delta.content for _ in range(2)]
        assert said == ["", "slow"]
        await stream.close()
    await asyncio.wait_for(stub.disconnected.wait(), 10)  # the upstream is let go
    (episode,) = running.gateway.store.read_episodes()
    (completion,) = episode.completions
    assert completion.status == "client_disconnected"
    assert completion.message["content"] == "slow"


@pytest.mark.parametrize("capture", ["batched", "durable"])
async def test_concurrent_requests_are_all_captured(gateway: Any, stub: Any, capture: str) -> None:
    total = 300  # two thousand in flight at once: test_process.py
    running = await gateway(
        capture=capture, upstreams={"stub": {"base_url": stub.url}}, models={"m": "stub"}
    )
    stub.keep = False

    async def one(session: aiohttp.ClientSession, n: int) -> str:
        body = {"model": "m", "messages": [user(f"echo {n}")], "stream": n % 2 == 0}
        async with session.post(f"{running.url}/chat/completions", json=body) as r:
            text = await r.text()
            assert str(n) in text
            return r.headers["x-understudy-completion"]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200)) as session:
        ids = await asyncio.gather(*(one(session, n) for n in range(total)))
    assert len(set(ids)) == total
    assert running.gateway.store.counts()["completions"] == {"ok": total}
    assert all(running.gateway.store.episode_of(i) for i in ids)
    assert running.gateway.store.counts()["dropped"] == {}


async def test_nothing_is_kept_with_capture_off(gateway: Any) -> None:
    running = await gateway(capture="off")
    async with client_of(running) as client:
        assert (await ask(client, "echo x")).choices[0].message.content == "echo x"
    assert running.gateway.store.counts()["completions"] == {}


async def test_conversations_become_episodes_without_being_told(gateway: Any) -> None:
    """Two interleaved agents that say the same words, one of which changes its prompt."""
    running = await gateway()
    async with client_of(running) as client:
        talks: list[list[Any]] = [[{"role": "system", "content": "s"}, user("hello")] for _ in "ab"]
        seen: list[list[str]] = [[], []]
        for turn in range(3):
            for i, talk in enumerate(talks):
                reply, episode = await ask_raw(client, talk)
                seen[i].append(episode)
                # echoed as the official client gives it, nulls and all
                talk += [reply.choices[0].message.model_dump(), user(f"turn {turn}")]
            if turn == 0:
                talks[0][0] = {"role": "system", "content": "it is five o'clock"}
                talks[0][-1] = user("as for me")
    assert [len(set(s)) for s in seen] == [1, 1]
    assert seen[0][0] != seen[1][0]
    assert [len(e.completions) for e in running.gateway.store.read_episodes()] == [3, 3]


async def test_a_conversation_goes_on_after_a_restart(gateway: Any) -> None:
    first = await gateway()
    async with client_of(first) as client:
        reply, episode = await ask_raw(client, [user("hello")])
    first.gateway.store.flush()
    second = await gateway()
    async with client_of(second) as client:
        said = [user("hello"), reply.choices[0].message.model_dump(), user("more")]
        assert (await ask_raw(client, said))[1] == episode


async def test_metadata_in_the_body_names_the_episode(gateway: Any) -> None:
    running = await gateway()
    async with client_of(running) as client:
        metadata = {"episode_id": "e", "workload": "w", "customer": "7"}
        await ask(client, "hi", metadata=metadata)
        with pytest.raises(openai.BadRequestError, match="metadata is not JSON"):
            await ask(client, "hi", extra_headers={"x-understudy-metadata": "{"})
    (episode,) = running.gateway.store.read_episodes()
    assert (episode.id, episode.workload, episode.metadata) == ("e", "w", {"customer": "7"})


async def test_an_alias_is_answered_by_its_policies(gateway: Any, stub: Any, engine: Any) -> None:
    running = await gateway()
    store = running.gateway.store
    old = Policy("old", ModelRef("m"))
    new = Policy("new", ModelRef("tiny", "rehearsed", 3), "be brief", Sampling(0.0, max_tokens=9))
    store.deploy_now("prod", [(old, 1.0)])
    running.gateway.router.refresh()
    async with client_of(running) as client:
        await ask(client, "hi", "prod", extra_headers={"x-understudy-episode": "e0"})
        store.deploy_now("prod", [(old, 0.5), (new, 0.5)], expected=1)
        while running.gateway.router.deployments["prod"].version < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # the gateway polls
        for _ in range(2):
            for n in range(20):
                messages: Any = [{"role": "system", "content": "be long"}, user("hi")]
                await client.chat.completions.create(
                    model="prod", messages=messages, temperature=1.5,
                    extra_headers={"x-understudy-episode": f"e{n}"},
                )  # fmt: skip
    assert engine.bodies
    for body in engine.bodies:
        assert body["model"] == "rehearsed@3"
        assert body["messages"] == [{"role": "system", "content": "be brief"}, user("hi")]
        assert (body["temperature"], body["max_tokens"]) == (0.0, 9)
    assert {b["temperature"] for b in stub.bodies[1:]} == {1.5}
    who = {}
    for episode in store.read_episodes():
        policies = {c.extra["policy"] for c in episode.completions}
        assert len(policies) == 1  # sticky
        who[episode.id] = policies.pop()
        c = episode.completions[-1]
        assert c.alias == "prod"
        assert c.served == (new if who[episode.id] == "new" else old).model
        if who[episode.id] == "new":
            assert c.request.messages[0] == {"role": "system", "content": "be brief"}
            assert c.request.sampling == new.sampling
    assert who["e0"] == "old"  # under way when the shares changed
    assert 2 <= sum(p == "new" for p in who.values()) <= 18


async def test_feedback(gateway: Any) -> None:
    running = await gateway()
    async with client_of(running) as client, aiohttp.ClientSession() as session:
        raw = await client.chat.completions.with_raw_response.create(
            model="m", messages=[user("x")]
        )
        episode_id = raw.headers["x-understudy-episode"]

        async def say(**body: Any) -> tuple[int, Any]:
            async with session.post(f"{running.url}/feedback", json=body) as r:
                return r.status, await r.json()

        assert (await say(episode_id=episode_id, name="thumb", value=True, comment="nice"))[
            0
        ] == 200
        completion_id = raw.headers["x-understudy-completion"]
        assert (await say(completion_id=completion_id, name="stars", value=4))[0] == 200
        assert (await say(episode_id="not yet seen", name="thumb", value=False))[0] == 200
        for body in (
            {"episode_id": "e", "value": 1}, {"name": "n", "value": 1},
            {"episode_id": "e", "name": "n"}, {"episode_id": "e", "name": "n", "value": []},
            {"episode_id": 3, "name": "n", "value": 1},
            {"episode_id": "e", "name": "n", "value": 1, "source": "gossip"},
        ):  # fmt: skip
            status, answer = await say(**body)
            assert status == 400
            assert "\n" not in answer["error"]["message"]
        async with session.get(f"{running.url}/episodes/{episode_id}") as r:
            seen = await r.json()
        assert (await session.get(f"{running.url}/episodes/none")).status == 404
        stats = await (await session.get(running.url.replace("/v1", "/stats"))).json()
        health = await (await session.get(running.url.replace("/v1", "/health"))).json()
    assert [(f["name"], f["value"], f["source"]) for f in seen["feedback"]] == [
        ("thumb", True, "user"), ("stars", 4, "user"),
    ]  # fmt: skip
    assert stats["store"]["feedback"] == 3
    assert stats["completions"] == {"ok": 1}
    assert health == {"status": "ok", "fault": None}


async def test_keys(gateway: Any, stub: Any) -> None:
    running = await gateway(require_key=True)
    keys = {s: running.gateway.store.create_key(s, [s]) for s in ("infer", "feedback")}
    running.gateway.router.refresh()
    async with client_of(running, api_key=keys["infer"]) as client:
        await ask(client, "hi")
    assert "authorization" not in stub.headers[0]  # a gateway's key goes nowhere else
    async with client_of(running, api_key=keys["feedback"]) as client:
        with pytest.raises(openai.PermissionDeniedError, match="lacks the scope"):
            await ask(client, "hi")
    async with client_of(running, api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await ask(client, "hi")
    running.gateway.store.revoke_key("infer")
    running.gateway.router.refresh()
    async with client_of(running, api_key=keys["infer"]) as client:
        with pytest.raises(openai.AuthenticationError):
            await ask(client, "hi")


async def test_the_clients_own_key_reaches_an_openai_upstream_only(
    gateway: Any, stub: Any, engine: Any
) -> None:
    running = await gateway()
    async with client_of(running, api_key="sk-own") as client:
        await ask(client, "hi")
        await ask(client, "hi", "tiny")
    assert stub.headers[0]["authorization"] == "Bearer sk-own"
    assert "authorization" not in engine.headers[0]


async def test_small_packets_are_not_held_back(gateway: Any) -> None:
    running = await gateway()
    async with client_of(running) as client:
        await ask(client, "hi")
        server = running._runner.server
        for protocol in server.connections:
            sock = protocol.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert server.connections
