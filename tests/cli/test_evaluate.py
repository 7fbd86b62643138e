"""`understudy eval`: any agent in a learned world, users that a model plays, what --save writes."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import warehouse
from aiohttp import web

from understudy.cli import main
from understudy.core.chat_files import import_file
from understudy.world.learn import learn

CALL = {"name": "find_parts", "arguments": '{"category": "gears"}'}


def says(model: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """A stand-in's next message: its agent looks once, then says what it found; its user thanks."""
    if model == "user":
        return {"role": "assistant", "content": "thanks, that will do ###END###"}
    if any(m["role"] == "tool" for m in messages):
        return {"role": "assistant", "content": "There are some."}
    call = {"id": "c1", "type": "function", "function": CALL}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A stand-in's endpoint on loopback, in a thread of its own."""
    ready, place = threading.Event(), list[str]()
    loop = asyncio.new_event_loop()

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        if body["model"] == "silent":
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        choice = {"index": 0, "message": says(body["model"], body["messages"]),
                  "finish_reason": "stop"}  # fmt: skip
        return web.json_response({"choices": [choice]})

    async def serve() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        place.append(f"http://{host}:{port}/v1")
        return runner

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(serve())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    yield place[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("world")
    learn(warehouse.traffic(40)).save(folder / "w")
    (folder / "check.py").write_text(
        "def check(messages, ticket):\n"
        "    return any(m['role'] == 'tool' and 'sku' in m['content'] for m in messages)\n"
    )
    return ["--world", str(folder / "w"), "--check", str(folder / "check.py"), "--scenarios", "6",
            "--quiet"]  # fmt: skip


def test_a_remote_agent_is_played_and_its_conversations_are_kept(
    url: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "played.jsonl"
    assert main(["eval", url, "--model", "agent", *command, "--save", str(kept)]) == 0
    told = json.loads(capsys.readouterr().out)
    episodes = list(import_file(kept))
    assert told["n"] == len(episodes) > 1
    found = [any("sku" in str(m["content"]) for m in e.messages if m["role"] == "tool")
             for e in episodes]  # fmt: skip
    assert told["mean"] == pytest.approx(sum(found) / len(found))
    assert main(["world", "paths", str(kept), "--feedback", "check", "--least", "2"]) == 0
    told_paths = capsys.readouterr().out
    assert "find_parts" in told_paths
    assert "count without success" not in told_paths


def test_users_may_be_a_models(url: str, command: list[str], tmp_path: Path) -> None:
    kept = tmp_path / "played.jsonl"
    users = ["--users", url, "--users-model", "user"]
    assert main(["eval", url, "--model", "agent", *command, *users, "--save", str(kept)]) == 0
    said = [m["content"] for e in import_file(kept) for m in e.messages if m["role"] == "user"]
    assert "thanks, that will do" in said


def test_what_does_not_answer_counts_as_failed_and_is_told(
    url: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", url, "--model", "silent", *command]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["mean"] == 0
    assert "counted as failed" in err
    assert "no such model" in err
    assert main(["eval", url, *command]) == 1
    assert "name the model at that URL with --model" in capsys.readouterr().err
    assert main(["eval", url, "--model", "agent", "--users", url, *command]) == 1
    assert "name the model at that URL with --users-model" in capsys.readouterr().err
