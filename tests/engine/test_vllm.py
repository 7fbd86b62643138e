"""VllmEngine against the stand-in: what is asked, and what goes wrong."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from contract import BASE, STOPS, prompt
from test_contract import folders, serving
from vllm_stand_in import VllmStandIn

from understudy.core.turns import TurnRenderer
from understudy.core.types import ModelRef, Sampling
from understudy.engine.errors import EngineError, UnknownModelError
from understudy.engine.vllm import VllmEngine

__all__ = ["folders"]  # a fixture


@pytest.fixture
async def stand_in(renderer: TurnRenderer) -> VllmStandIn:
    return VllmStandIn(renderer.decode)


@pytest.fixture
async def url(stand_in: VllmStandIn) -> AsyncIterator[str]:
    async with serving(stand_in.app()) as url:
        yield url


@pytest.fixture
async def engine(url: str) -> AsyncIterator[VllmEngine]:
    async with VllmEngine(f"{url}/v1", "base", STOPS, pause_s=0.0, timeout=20) as engine:
        yield engine


def one_line(caught: pytest.ExceptionInfo[Exception]) -> str:
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text


FAULTS = [
    ("no ids", False, "no token_ids"),
    ("other prompt", False, "other prompt ids"),
    ("aborted", False, "broke off .*abort"),
    ("nan", False, "NaN"),
    ("no json", False, "500: Internal Server Error"),
    ("dead", False, "500: EngineCore encountered an issue"),
    ("busy", False, "503: busy"),
    ("cut", False, "disconnected"),
    ("nan", True, "NaN"),
    ("lost", True, "counts 12 sampled tokens and gave 11"),
    ("error", True, "EngineCore encountered an issue"),
    ("cut late", True, "not complete|payload"),
]


@pytest.mark.parametrize(("fault", "streamed", "said"), FAULTS)
async def test_a_fault_fails_one_request_in_one_line(
    engine: VllmEngine, stand_in: VllmStandIn, url: str, fault: str, streamed: bool, said: str
) -> None:
    options = Sampling(0.0, max_tokens=12)
    endless = VllmEngine(url, "base", (), pause_s=0.0)
    before = await endless.sample(prompt(9), BASE, options)
    stand_in.fault = fault
    with pytest.raises(EngineError, match=said) as caught:
        await endless.sample(prompt(9), BASE, options, on_chunk=print if streamed else None)
    assert f"127.0.0.1:{url.rpartition(':')[2]}" in one_line(caught) or "NaN" in str(caught.value)
    stand_in.fault = None
    assert await endless.sample(prompt(9), BASE, options) == before
    await endless.aclose()


async def test_what_says_later_is_asked_again_and_what_was_heard_is_not(
    engine: VllmEngine, stand_in: VllmStandIn
) -> None:
    await engine.sample(prompt(5), BASE, Sampling(max_tokens=2))
    asked = len(stand_in.asked)
    stand_in.fault = "busy once"
    await engine.sample(prompt(5), BASE, Sampling(max_tokens=2))
    assert len(stand_in.asked) == asked + 2
    stand_in.fault, heard = "cut late", []
    with pytest.raises(EngineError):
        await engine.sample(prompt(5, 2), BASE, Sampling(max_tokens=50), on_chunk=heard.extend)
    assert heard
    assert len(stand_in.asked) == asked + 3


async def test_a_silent_server_is_given_up(url: str, stand_in: VllmStandIn) -> None:
    async with VllmEngine(url, "base", STOPS, timeout=0.3) as hasty:
        await hasty.sample(prompt(5), BASE, Sampling(max_tokens=1))
        stand_in.fault = "hang"
        with pytest.raises(EngineError, match=r"within 0\.3 s") as caught:
            await hasty.sample(prompt(5), BASE, Sampling(max_tokens=1))
    one_line(caught)


async def test_what_is_no_vllm_is_refused_at_the_first_request(
    renderer: TurnRenderer, stand_in: VllmStandIn, url: str
) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>", status=404)

    other, raw = web.Application(), VllmStandIn(renderer.decode, processed=False)
    other.router.add_get("/v1/models", page)
    stand_in.fault = "key"
    async with serving(other) as wrong, serving(raw.app()) as logits:
        told = {
            "http://127.0.0.1:9": "127.0.0.1:9",
            wrong: "is no vLLM server",
            logits: "start it with --logprobs-mode processed_logprobs",
            url: "refuses the key",
        }
        for at, said in told.items():
            async with VllmEngine(at, "base", STOPS, pause_s=0.0) as engine:
                with pytest.raises(EngineError, match=said) as caught:
                    await engine.sample(prompt(5), BASE, Sampling(max_tokens=1))
            one_line(caught)
    async with VllmEngine(url, "base", STOPS, api_key="secret") as known:
        await known.sample(prompt(5), BASE, Sampling(max_tokens=1))
    async with VllmEngine(url, "elsewhere", STOPS, api_key="secret") as misnamed:
        with pytest.raises(UnknownModelError, match=r"'elsewhere'.*there are: base"):
            await misnamed.sample(prompt(5), ModelRef("elsewhere"), Sampling(max_tokens=1))


async def test_a_grammar_goes_in_vllms_form(engine: VllmEngine, stand_in: VllmStandIn) -> None:
    schema = {"type": "boolean"}
    forms: list[tuple[str, Any]] = [
        ("start: 'a'", {"grammar": "start: 'a'"}),
        (json.dumps({"grammars": [{"lark_grammar": "start: 'a'"}]}), {"grammar": "start: 'a'"}),
        (json.dumps({"grammars": [{"json_schema": schema}]}), {"json": schema}),
    ]
    for grammar, theirs in forms:
        await engine.sample(prompt(5), BASE, Sampling(max_tokens=2), grammar)
        assert stand_in.asked[-1]["structured_outputs"] == theirs
        assert not stand_in.asked[-1]["ignore_eos"]
    await engine.sample(prompt(5), BASE, Sampling(max_tokens=2))
    assert stand_in.asked[-1]["ignore_eos"]
    for wrong in ("{", '{"grammars": []}', '{"grammars": [{"regex": "a"}]}'):
        with pytest.raises(ValueError, match="llguidance"):
            await engine.sample(prompt(5), BASE, Sampling(max_tokens=2), wrong)


async def test_adapters_that_others_loaded_are_there(
    engine: VllmEngine, stand_in: VllmStandIn, url: str, folders: list[Path]
) -> None:
    stand_in.adapters["plain"] = ("/x", b"plain")
    async with VllmEngine(url, "base", STOPS) as other:
        await other.load(ModelRef("base", "theirs", 7), str(folders[0]))
        plain = await engine.sample(prompt(5), ModelRef("base", "plain"), Sampling(max_tokens=1))
        theirs = await engine.sample(prompt(5), ModelRef("base", "theirs"), Sampling(max_tokens=1))
        listed = [str(m) for m in await engine.models()]
    assert (plain.model.version, theirs.model.version) == (None, 7)
    assert listed == ["base", "plain", "theirs@7"]


async def test_a_version_that_is_loaded_again_is_another(
    engine: VllmEngine, folders: list[Path]
) -> None:
    ref, scores = ModelRef("base", "again", 3), []
    for folder in (folders[0], folders[1], folders[0]):
        await engine.load(ref, str(folder))
        scores.append((await engine.score(prompt(20), ref)).logprobs)
    assert scores[0] == scores[2] != scores[1]


async def test_a_server_without_runtime_adapters_says_how_to_start_it(
    engine: VllmEngine, stand_in: VllmStandIn, folders: list[Path]
) -> None:
    stand_in.fault = "no lora"
    with pytest.raises(EngineError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING") as caught:
        await engine.load(ModelRef("base", "a"), str(folders[0]))
    one_line(caught)


async def test_a_long_prompts_stream_is_read(engine: VllmEngine, stand_in: VllmStandIn) -> None:
    """Its first event alone is longer than what a line reader takes."""
    stand_in.context = 30_000
    seen: list[int] = []
    options = Sampling(max_tokens=4)
    sample = await engine.sample(prompt(20_000), BASE, options, on_chunk=seen.extend)
    assert tuple(seen) == sample.ids


def test_it_needs_no_torch() -> None:
    names = "understudy.engine.vllm, understudy.engine.vllm_process"
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -- the server of this package, on vLLM's fields ------------------------------------------


async def test_our_server_speaks_vllms_completions(renderer: TurnRenderer) -> None:
    from test_contract import embedded

    async with embedded(renderer, served=True) as (client, *_):
        await client.sample(prompt(5), BASE, Sampling(max_tokens=1))
        url = f"{client.url}/v1/completions"
        ask: Any = {"model": "base", "prompt": prompt(9), "max_tokens": 6, "seed": 1}
        ask |= {"logprobs": 0, "return_token_ids": True}
        async with aiohttp.ClientSession() as http:

            async def post(body: Any) -> tuple[int, Any]:
                async with http.post(url, json=body) as r:
                    text = await r.text()
                    return r.status, text if r.content_type == "text/event-stream" else json.loads(
                        text
                    )

            _, whole = await post(ask | {"return_tokens_as_token_ids": True})
            (choice,) = whole["choices"]
            assert choice["logprobs"]["tokens"] == [f"token_id:{i}" for i in choice["token_ids"]]
            _, text = await post(ask | {"stream": True, "stream_options": {"include_usage": True}})
            events = [json.loads(e[6:]) for e in text.split("\n\n") if e.startswith("data: {")]
            choices = [c for e in events for c in e["choices"]]
            assert "".join(c["text"] for c in choices) == choice["text"]
            assert [i for c in choices for i in c["token_ids"]] == choice["token_ids"]
            assert choices[0]["prompt_token_ids"] == ask["prompt"]
            assert choices[-1]["finish_reason"] == choice["finish_reason"]
            told = choices[-1]["logprobs"]["token_logprobs"]
            assert len(told) == events[-1]["usage"]["completion_tokens"] == len(choice["token_ids"])
            bad = [
                {"stop_token_ids": [1]}, {"prompt_logprobs": -1}, {"structured_outputs": {"x": 1}},
                {"stream": True, "n": 2}, {"stream": True, "prompt_logprobs": 1},
            ]  # fmt: skip
            for more in bad:
                status, answer = await post(ask | more)
                assert (status, answer["error"]["param"] in more) == (400, True)


async def test_a_stream_between_two_reads_while_its_engine_closes(renderer: TurnRenderer) -> None:
    from test_contract import embedded

    async with embedded(renderer, served=True) as (_, endless, _):

        def close(_: Sequence[int]) -> None:
            closing = endless.aclose()
            with suppress(StopIteration):
                closing.send(None)  # until it first waits: the connections are closed
            closing.close()

        with pytest.raises(EngineError, match="the engine was closed"):
            await endless.sample(prompt(9), BASE, Sampling(max_tokens=900), on_chunk=close)
        await endless.aclose()


async def test_our_server_ends_what_a_client_left(renderer: TurnRenderer) -> None:
    from test_contract import embedded

    async with embedded(renderer, served=True) as (_, endless, inside):
        begun = asyncio.Event()
        task = asyncio.create_task(
            endless.sample(
                prompt(9), BASE, Sampling(max_tokens=900), on_chunk=lambda _: begun.set()
            )
        )
        await begun.wait()
        await endless.aclose()
        with pytest.raises(EngineError, match="the engine was closed"):
            await task
        with pytest.raises(EngineError, match="the engine was closed"):
            await endless.sample(prompt(9), BASE, Sampling())
        while inside.shards[0].load:
            await inside.sample([5], BASE, Sampling(max_tokens=1))
        assert inside.counters().sampled_tokens < 900
