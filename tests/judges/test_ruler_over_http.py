"""RULER over HTTP: a judge that is down, late or refuses is JudgeFailed for its group alone."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from stand_in import by_length, episode, shown_to_judge

from understudy.core.types import Feedback, Group, JudgeFailed, Message, ModelRef, Request
from understudy.engine.remote import RemoteChat
from understudy.judges.judge import judge_groups
from understudy.judges.ruler import Ruler

JUDGE = ModelRef("stand-in-judge")


def group(scenario: str, *texts: str) -> Group:
    ask: Message = {"role": "user", "content": scenario}
    attempts = [
        episode(f"{scenario}-{n}", ask, {"role": "assistant", "content": text})
        for n, text in enumerate(texts)
    ]
    return Group(scenario, tuple(attempts))


class Endpoint:
    """A stand-in for a judge's endpoint: in trouble where the prompt names a trouble."""

    def __init__(self) -> None:
        self.calls = 0
        self.closing = asyncio.Event()

    async def answer(self, http: web.Request) -> web.Response:
        self.calls += 1
        body = await http.json()
        asked = str(body["messages"][1]["content"])
        for status in (401, 500):
            if f"answer {status}" in asked:
                error = {"message": f"no {status} today"}
                return web.json_response({"error": error}, status=status)
        if "be late" in asked:
            await self.closing.wait()
        if "be no chat" in asked:
            return web.json_response({"hello": "world"})
        shown = shown_to_judge(Request(tuple(body["messages"]), JUDGE))[1]
        function = {"name": "submit_scores", "arguments": json.dumps(by_length(shown))}
        call = {"id": "c", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
        return web.json_response({"choices": [choice]})


@asynccontextmanager
async def endpoint() -> AsyncIterator[tuple[Endpoint, str]]:
    served = Endpoint()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", served.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield served, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        served.closing.set()
        await runner.cleanup()


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("answer 401", "the endpoint answered 401: no 401 today"),
        ("answer 500", "the endpoint answered 500: no 500 today"),
        ("be late", "no answer within 1 s"),
        ("be no chat", "the endpoint's answer is not a chat completion"),
    ],
)
async def test_a_judge_in_trouble_fails_its_group_and_no_other(trouble: str, words: str) -> None:
    groups = [group("first", "a", "b"), group(trouble, "a", "b"), group("last", "a", "b")]
    timeout = 1.0 if trouble == "be late" else 30.0
    async with endpoint() as (served, url), RemoteChat(url, timeout=timeout, retries=0) as chat:
        judged = await judge_groups(Ruler(chat, JUDGE), groups, "ruler")
    assert [g.scenario_id for g in judged.groups] == ["first", "last"]
    assert all(len(g.rewards or ()) == 2 for g in judged.groups)
    assert [f.episode_id for f in judged.failed] == [f"{trouble}-0", f"{trouble}-1"]
    assert all(words in f.reason for f in judged.failed)
    assert served.calls == 4  # the one in trouble is asked twice


async def test_where_nobody_listens_every_episode_fails_with_the_reason() -> None:
    async with endpoint() as (_, url):
        pass
    async with RemoteChat(url, retries=0) as chat:
        verdicts = await Ruler(chat, JUDGE).judge(group("s", "a", "b"))
    assert [v.episode_id for v in verdicts] == ["s-0", "s-1"]
    assert all(isinstance(v, JudgeFailed) and "could not be asked" in v.reason for v in verdicts)


async def test_the_scores_of_an_endpoint_reach_the_episodes() -> None:
    async with endpoint() as (served, url), RemoteChat(url) as chat:
        verdicts: list[Any] = await Ruler(chat, JUDGE).judge(group("s", "a", "b"))
    assert all(isinstance(v, Feedback) and v.value == 0.1 for v in verdicts)
    assert served.calls == 1
