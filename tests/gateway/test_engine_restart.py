"""A real engine behind a real gateway: killed in the middle of a stream, and started again."""

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from understudy.models.loading import load_base


async def engine_at(port: int, base: Path) -> Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "understudy.engine.server", "--port", str(port), "--threads", "1",
        "--base", str(base), "--name", "tiny", stdout=PIPE, stderr=DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    json.loads(await process.stdout.readline())
    return process


async def test_an_engine_that_is_killed_and_started_again(
    gateway: Any, unused_tcp_port: int, tmp_path: Path
) -> None:
    """The base is the shipped one without its habit of stopping, so that answers are long."""
    loaded = load_base("tiny")
    model: Any = loaded.model
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" not in name:
                p.normal_(0, 0.08)
    model.save_pretrained(tmp_path / "base")
    loaded.tokenizer.save_pretrained(tmp_path / "base")
    engine = await engine_at(unused_tcp_port, tmp_path / "base")
    upstream = {"base_url": f"http://127.0.0.1:{unused_tcp_port}/v1", "kind": "engine"}
    running = await gateway(
        upstreams={"own": {**upstream, "timeout_s": 30}}, models={"tiny": "own"}
    )
    client = openai.AsyncOpenAI(base_url=running.url, api_key="-", max_retries=0)
    ask: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "seed": 1}

    long = await client.chat.completions.create(**ask, max_tokens=600)
    assert long.choices[0].finish_reason == "length"
    before = await client.chat.completions.create(**ask, max_tokens=12)
    stream = await client.chat.completions.create(**ask, max_tokens=600, stream=True)
    for _ in range(3):
        await anext(stream)
    engine.kill()
    await engine.wait()
    with pytest.raises(openai.APIError):
        [chunk async for chunk in stream]
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(**ask, max_tokens=12)
    assert caught.value.status_code in (502, 503)
    assert "\n" not in str(caught.value.message)

    engine = await engine_at(unused_tcp_port, tmp_path / "base")
    again = await client.chat.completions.create(**ask, max_tokens=12)
    await client.close()
    engine.terminate()
    await engine.wait()
    assert again.choices[0].message.content == before.choices[0].message.content
    statuses = [c.status for e in running.gateway.store.read_episodes() for c in e.completions]
    assert sorted(statuses) == ["ok"] * 3 + ["upstream_error"] * 2
