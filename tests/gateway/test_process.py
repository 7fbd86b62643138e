"""The gateway as a process: killed, stopped, started wrongly."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(
    ("config", "code", "why"),
    [
        ("{", 2, "is not valid json"),
        ('{"store": "s.db", "upstreams": {}, "port": "x"}', 2, "port"),
        ('{"store": "text", "upstreams": {}}', 1, "not an Understudy store"),
    ],
)
def test_a_wrong_start_is_one_line(tmp_path: Path, config: str, code: int, why: str) -> None:
    (tmp_path / "text").write_text("no database " * 100)
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
