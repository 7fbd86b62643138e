import asyncio
import subprocess
import sys
from typing import Any

import openai
import pytest

import understudy
from understudy import AsyncOpenAI, OpenAI
from understudy.sdk import MAX_METADATA


def ask(client: Any, text: str) -> Any:
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])


async def test_calls_within_belong_to_the_episode(running: Any) -> None:
    async with AsyncOpenAI(base_url=running.url) as client:
        with client.episode(workload="w", scenario="s", metadata={"ticket": {"é": 1}}) as episode:
            await ask(client, "one")
            await ask(client.with_options(timeout=9), "two")
            await episode.feedback("thumb", True, "nice")
        await ask(client, "outside")
    found = running.gateway.store.read_episode(episode.id)
    assert [c.message["content"] for c in found.completions] == ["one", "two"]
    assert (found.workload, found.scenario_id) == ("w", "s")
    assert found.metadata == {"ticket": {"é": 1}}
    assert [(f.name, f.value, f.comment) for f in found.feedback] == [("thumb", True, "nice")]
    assert len(list(running.gateway.store.read_episodes())) == 2


async def test_large_metadata_arrives_and_too_large_is_refused_before_any_call(
    running: Any,
) -> None:
    largest = {"ticket": "x" * (MAX_METADATA - len('{"ticket": ""}'))}
    async with AsyncOpenAI(base_url=running.url) as client:
        with client.episode(metadata=largest) as episode:
            await ask(client, "one")
        with pytest.raises(ValueError, match="65537 bytes as JSON, more than 65536"):
            with client.episode(metadata={"ticket": largest["ticket"] + "x"}):
                pass
    assert running.gateway.store.read_episode(episode.id).metadata == largest


async def test_interleaved_episodes_stay_apart(running: Any) -> None:
    async def one(client: AsyncOpenAI, n: int) -> str:
        with client.episode() as episode:
            for turn in range(3):
                await ask(client, f"{n}.{turn}")
            return episode.id

    async with AsyncOpenAI(base_url=running.url) as client:
        ids = await asyncio.gather(*(one(client, n) for n in range(5)))
    for n, episode_id in enumerate(ids):
        episode = running.gateway.store.read_episode(episode_id)
        assert [c.message["content"] for c in episode.completions] == [f"{n}.{t}" for t in range(3)]


async def test_the_synchronous_client(running: Any) -> None:
    def talk() -> str:
        with OpenAI(base_url=running.url) as client:
            with client.episode(id="mine") as outer:
                ask(client, "one")
                with client.episode(caused_by="call"):
                    ask(client, "inner")
                ask(client, "two")
            outer.feedback("stars", 4)
            return outer.id

    assert await asyncio.to_thread(talk) == "mine"
    episode = running.gateway.store.read_episode("mine")
    assert [c.message["content"] for c in episode.completions] == ["one", "two"]
    assert [f.value for f in episode.feedback] == [4]
    (inner,) = (e for e in running.gateway.store.read_episodes() if e.id != "mine")
    assert inner.completions[0].request.caused_by == "call"


async def test_feedback_that_is_refused_says_why(running: Any) -> None:
    async with AsyncOpenAI(base_url=running.url) as client:
        with client.episode() as episode:
            with pytest.raises(openai.BadRequestError, match="'source' is one of"):
                await episode.feedback("thumb", True, source="gossip")
            for odd in (float("nan"), {"stars": float("inf")}):
                with pytest.raises(ValueError, match="say a finite number"):
                    await episode.feedback("stars", odd)
    assert running.gateway.store.counts()["feedback"] == 0


def test_addresses_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "UNDERSTUDY_API_KEY", "UNDERSTUDY_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert str(OpenAI().base_url) == "http://127.0.0.1:8400/v1/"
    monkeypatch.setenv("OPENAI_API_KEY", "sk")
    assert OpenAI().api_key == "sk"
    monkeypatch.setenv("UNDERSTUDY_API_KEY", "us")
    monkeypatch.setenv("UNDERSTUDY_BASE_URL", "http://127.0.0.1:1/v1")
    client = AsyncOpenAI()
    assert (client.api_key, str(client.base_url)) == ("us", "http://127.0.0.1:1/v1/")
    assert isinstance(client, openai.AsyncOpenAI)


def test_the_package_loads_the_client_only_when_asked() -> None:
    loaded = "print('openai' in sys.modules)"
    code = f"import sys, understudy; {loaded}; understudy.OpenAI; {loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError):
        understudy.Nothing  # noqa: B018
