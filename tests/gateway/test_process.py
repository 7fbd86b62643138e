"""The gateway as a process: killed, stopped, started wrongly."""

import asyncio
import json
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import openai
import pytest

from understudy.store import SQLiteStore


def user(text: str) -> Any:
    return {"role": "user", "content": text}


async def test_killed_in_mid_stream_nothing_acknowledged_is_lost(gateway_process: Any) -> None:
    acknowledged = []
    async with openai.AsyncOpenAI(base_url=gateway_process.url, api_key="k", max_retries=0) as c:
        create = c.chat.completions.with_raw_response.create
        answers = await asyncio.gather(
            *(create(model="m", messages=[user(f"echo {n}")]) for n in range(30))
        )
        acknowledged += [a.headers["x-understudy-completion"] for a in answers]
        raw = await create(model="m", messages=[user("a b")], stream=True)
        async for _ in raw.parse():
            pass
        acknowledged.append(raw.headers["x-understudy-completion"])
        raw = await create(model="m", messages=[user("slow text")], stream=True)
        stream = raw.parse()
        await anext(aiter(stream))
        gateway_process.process.send_signal(signal.SIGKILL)
        gateway_process.process.wait()
        with pytest.raises((openai.APIError, httpx2.HTTPError, OSError)):
            async for _ in stream:
                pass
    with SQLiteStore.open(gateway_process.store) as store:
        missing = [i for i in acknowledged if store.read_completion(i).status != "ok"]  # type: ignore[union-attr]
        assert missing == []
        (unfinished,) = store.find_completions(status="started")
        assert unfinished.id == raw.headers["x-understudy-completion"]
        (shown,) = [s for s in store.find() if s.unfinished]
        assert shown.id == unfinished.episode_id
        kept = store.read_completion(unfinished.id)
        assert kept is not None
        assert (kept.message, kept.request.messages) == (None, (user("slow text"),))


@pytest.mark.parametrize("gateway_process", ["batched"], indirect=True)
async def test_sigterm_commits_and_leaves_with_success(gateway_process: Any) -> None:
    async with openai.AsyncOpenAI(base_url=gateway_process.url, api_key="k") as client:
        create = client.chat.completions.create
        await asyncio.gather(*(create(model="m", messages=[user(str(n))]) for n in range(50)))
        gateway_process.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(gateway_process.process.wait, 20) == 0
    with SQLiteStore.open(gateway_process.store) as store:
        assert store.counts()["completions"] == {"ok": 50}


@pytest.fixture
def usual_file_limit() -> Iterator[int]:
    """Processes start with a soft limit of 1024 open files, as on most systems; the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 5000:
        pytest.skip(f"this system allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("gateway_process", ["batched", "durable"], indirect=True)
async def test_two_thousand_requests_in_flight_at_once_are_all_in_the_store(
    usual_file_limit: int, gateway_process: Any
) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (usual_file_limit, usual_file_limit))
    url, total = f"{gateway_process.url}/chat/completions", 2000

    async def one(session: aiohttp.ClientSession, n: int) -> str:
        # the upstream answers none before it has all of them
        body = {"model": "m", "messages": [user(f"together {total} {n}")], "stream": n % 2 == 0}
        async with session.post(url, json=body) as r:
            assert r.status == 200, await r.text()
            assert str(n) in await r.text()
            return r.headers["x-understudy-completion"]

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        ids = await asyncio.gather(*(one(session, n) for n in range(total)))
    gateway_process.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(gateway_process.process.wait, 20) == 0
    with SQLiteStore.open(gateway_process.store) as store:
        assert store.counts()["completions"] == {"ok": total}
        assert store.counts()["dropped"] == {}
        found = [store.read_completion(i) for i in ids]
    said = {c.message["content"] for c in found if c is not None and c.message is not None}
    assert len(said) == total


@pytest.mark.parametrize(
    ("config", "code", "why"),
    [
        ("{", 2, "is not valid json"),
        ('{"store": "s.db", "upstreams": {}, "port": "x"}', 2, "port"),
        ('{"store": "text", "upstreams": {}}', 1, "not an Understudy store"),
        ('{"store": "newer", "upstreams": {}}', 1, "written by a newer Understudy"),
    ],
)
def test_a_wrong_start_is_one_line(tmp_path: Path, config: str, code: int, why: str) -> None:
    (tmp_path / "text").write_text("no database " * 100)
    SQLiteStore.open(tmp_path / "newer").close()
    with closing(sqlite3.connect(tmp_path / "newer")) as raw:
        raw.execute("PRAGMA user_version = 1000")
    (tmp_path / "c.json").write_text(config)
    port = [] if why == "port" else ["--port", "0"]  # a given port would hide a bad one
    done = subprocess.run(
        [sys.executable, "-m", "understudy.gateway", "--config", "c.json", *port],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == code
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_torch() -> None:
    code = (
        "import sys, understudy, understudy.gateway.__main__, understudy.sdk, json;"
        "print(json.dumps([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
