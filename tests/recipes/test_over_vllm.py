"""Rollouts and evaluation over a server on vLLM's routes, as over the embedded engine."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from understudy.cli import main
from understudy.engine.server import Server, server_url, start_server
from understudy.engine.torch_engine import TorchEngine
from understudy.judges.check import Check
from understudy.models.adapters import load_adapter
from understudy.models.loading import load_base
from understudy.recipes.grpo import GrpoConfig, grpo
from understudy.recipes.learner import Lora, make_engine
from understudy.runs.directory import Run
from understudy.world.model import World

SMALL: dict[str, Any] = {"lora": Lora(rank=4, alpha=8), "steps": 3, "scenarios_per_step": 2,
                         "group_size": 2, "max_turns": 3, "max_tokens": 24, "pool": 20,
                         "guards": None, "precision": "fp32"}  # fmt: skip
PARTIAL = Check(lambda messages, ticket: float(len(str(messages)) % 7), "any")


@pytest.fixture
async def served() -> AsyncIterator[tuple[str, TorchEngine]]:
    base = load_base()
    engine, _ = make_engine(base, 1)
    renderer = base.renderer
    runner = await start_server(Server(engine, renderer, renderer.decode, renderer.encode))
    yield server_url(runner), engine
    await runner.cleanup()
    await engine.aclose()


async def test_grpo_trains_on_what_a_server_sampled(
    served: tuple[str, TorchEngine], world: World, tmp_path: Path
) -> None:
    url, engine = served
    config = GrpoConfig(**SMALL, vllm=url)
    with Run.create(tmp_path / "run", config) as run:
        result = await grpo(run, world, PARTIAL, config, threads=1, quiet=True)
        rows = run.metrics().rows
    assert result.steps == len(rows) == 3
    trained = [r for r in rows if r["skipped"] is None]
    assert trained
    for row in trained:  # what sampled is what was trained, each step: all that counts is on-policy
        assert abs(row["ratio_mean"] - 1) < 1e-4
    assert engine.counters().sampled_tokens >= sum(r["sampled_tokens"] for r in rows)
    assert any(t.abs().max() > 0 for k, t in load_adapter(result.adapter).tensors.items()
               if ".lora_B." in k)  # fmt: skip
    async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/models") as r:
        assert [m["id"] for m in (await r.json())["data"]] == ["tiny"]
    assert not (tmp_path / "run" / "delivered").exists()


def test_what_a_vllm_does_not_play_is_refused() -> None:
    for wrong in ({"exact": True}, {"tune": "full", "lr": 1e-5}):
        with pytest.raises(ValueError, match="a vLLM plays adapters"):
            GrpoConfig(vllm="http://127.0.0.1:9", **wrong)


async def test_an_adapter_is_evaluated_over_a_server_as_over_the_embedded_engine(
    served: tuple[str, TorchEngine], world: World, tmp_path: Path, capsys: Any
) -> None:
    url, engine = served
    config = GrpoConfig(**SMALL | {"steps": 1})
    with Run.create(tmp_path / "run", config) as run:
        await grpo(run, world, PARTIAL, config, threads=1, quiet=True)
    world.save(tmp_path / "world")
    (tmp_path / "check.py").write_text(
        "def check(messages, ticket):\n    return len(str(messages)) % 2\n"
    )
    command = [
        "eval", str(tmp_path / "run"), "--world", str(tmp_path / "world"), "--quiet",
        "--check", str(tmp_path / "check.py"), "--scenarios", "4", "--threads", "1",
    ]  # fmt: skip
    found = []
    for more in (["--save", str(tmp_path / "a.jsonl")],
                 ["--save", str(tmp_path / "b.jsonl"), "--vllm", url]):  # fmt: skip
        before = engine.counters().sampled_tokens
        assert await asyncio.to_thread(main, [*command, *more]) == 0
        found.append(
            (json.loads(capsys.readouterr().out), engine.counters().sampled_tokens > before)
        )
    assert found[0][0] == found[1][0]
    assert [over_the_server for _, over_the_server in found] == [False, True]
    said = [
        [[m.get("content") for m in json.loads(line)["messages"]] for line in file.open()]
        for file in (tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    ]
    assert said[0] == said[1]
    assert [str(m.ref) for m in engine.models()] == ["tiny"]
