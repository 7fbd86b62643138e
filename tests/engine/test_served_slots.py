"""`understudy engine serve` with fewer slots than adapters, pinned ones, and half precision."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
from engine_models import make_model
from test_adapters import adapted
from test_engine_exactness import max_gap, teacher_logprobs
from test_serving import refused

from bound import asks, bound_adapter, learner
from understudy.core.chatml import ChatMLRenderer
from understudy.core.types import ModelRef, Sample
from understudy.engine.server import Server, server_url, start_server
from understudy.engine.torch_engine import TorchEngine
from understudy.models.adapters import save_adapter
from understudy.models.lora import adapter_tensors, lora_parameters


def stored(folder: Path, *names: str) -> dict[str, Any]:
    """Adapters of the shipped base, each of other random numbers; the models with them."""
    models = {}
    for seed, name in enumerate(names):
        one = learner()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in lora_parameters(one.base.model):
                p.add_(torch.randn(p.shape, generator=generator) * 0.1)
        bound_adapter(folder / name, one)
        models[name] = one.base.model
    return models


@asynccontextmanager
async def served(*arguments: str) -> AsyncIterator[str]:
    """The URL of `engine serve tiny` with these arguments."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "understudy.cli", "engine", "serve", "tiny", "--port", "0",
        "--threads", "1", "--device", "cpu", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())["url"]
    finally:
        process.terminate()
        assert await process.wait() == 0


async def ask(http: aiohttp.ClientSession, url: str, model: str) -> Any:
    body = {"model": model, "messages": asks(), "max_tokens": 6, "seed": 1, "logprobs": True,
            "return_token_ids": True}  # fmt: skip
    async with http.post(f"{url}/v1/chat/completions", json=body) as r:
        assert r.status == 200, await r.text()
        return await r.json()


async def figures(http: aiohttp.ClientSession, url: str) -> dict[str, float]:
    async with http.get(f"{url}/metrics") as r:
        lines = [line.split() for line in (await r.text()).splitlines() if "{" not in line]
    return {w[0].removeprefix("understudy_engine_"): float(w[1]) for w in lines if len(w) == 2}


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
async def test_two_adapters_in_one_slot_and_in_half_precision(tmp_path: Path) -> None:
    models = stored(tmp_path, "a", "b")
    another = {"a": models["b"], "b": models["a"]}
    few = ("--adapters", str(tmp_path), "--adapter-slots", "1", "--half-adapters")
    async with served(*few) as url, aiohttp.ClientSession() as http:
        assert (await figures(http, url))["adapters_in_memory"] == 1
        for name in ("a", "b", "a"):
            answer = await ask(http, url, name)
            choice = answer["choices"][0]
            logprobs = tuple(t["logprob"] for t in choice["logprobs"]["content"])
            sample = Sample(tuple(choice["token_ids"]), logprobs, "length", ModelRef("tiny"))
            exact = teacher_logprobs(models[name], answer["prompt_token_ids"], sample)
            other = teacher_logprobs(another[name], answer["prompt_token_ids"], sample)
            assert 1e-5 < max_gap(logprobs, exact) < 0.1  # rounded, and its own
            assert max_gap(logprobs, other) > 0.3
        found = await figures(http, url)
        assert found["adapters_in_memory"] == found["adapter_slots"] == 1
        assert found["adapter_working_set_exceeds_slots"] == 1
        assert found["adapter_evictions_total"] == found["adapter_loads_total"] - 1


async def test_a_pinned_adapter_keeps_its_slot(tmp_path: Path) -> None:
    stored(tmp_path, "a@1", "a@2", "b", "c")
    few = ("--adapters", str(tmp_path), "--adapter-slots", "3", "--pin", "a", "--pin", "a@1")
    async with served(*few) as url, aiohttp.ClientSession() as http:
        for name in ("b", "c", "b"):
            await ask(http, url, name)
        before = await figures(http, url)
        for name in ("a", "a@1", "a@2"):
            await ask(http, url, name)
        assert (await figures(http, url))["adapter_loads_total"] == before["adapter_loads_total"]
        await ask(http, url, "c")
        assert (await figures(http, url))["adapter_loads_total"] > before["adapter_loads_total"]


def test_what_cannot_be_pinned_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path, "a@1", "b")
    for pin in ("c", "a@2", "tiny", "b@None"):
        said = refused(capsys, "--adapters", str(tmp_path), "--pin", pin)
        assert said == f"--pin {pin}: there is no such adapter; there are: a, b"
    few = ("--adapters", str(tmp_path), "--adapter-slots", "1")
    assert "need more slots than 1" in refused(capsys, *few, "--pin", "a", "--pin", "b")
    assert "need more slots than 1" in refused(capsys, *few, "--pin", "a")
    assert "there are: none" in refused(capsys, "--pin", "a")


async def test_the_route_pins(renderer: ChatMLRenderer, tmp_path: Path) -> None:
    engine = TorchEngine(make_model(), "tiny", renderer.stop_ids, threads=1, slots=2)
    runner = await start_server(Server(engine, renderer, renderer.decode, renderer.encode))
    url = server_url(runner)
    async with aiohttp.ClientSession() as http:
        for name, pinned, status in (("a", "yes", 400), ("a", 1, 400), ("a", True, 200),
                                     ("b", False, 200), ("c", None, 200)):  # fmt: skip
            model, config = adapted("qwen3", ord(name))
            path = save_adapter(tmp_path / name, adapter_tensors(model), config, "tiny")
            body = {"lora_name": name, "lora_path": str(path), "pinned": pinned}
            async with http.post(f"{url}/v1/load_lora_adapter", json=body) as r:
                assert r.status == status
                if status == 400:
                    assert (await r.json())["error"]["param"] == "pinned"
        loads = engine.registry.loads
        for name in ("a", "c", "a"):
            await ask(http, url, name)
        assert engine.registry.loads == loads
        await ask(http, url, "b")
        assert engine.registry.loads == loads + 1
    await runner.cleanup()
    await engine.aclose()
