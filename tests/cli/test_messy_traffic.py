"""Traffic as it is: cut, without an end, contradicted, of two agents at once, under new prompts."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from stub_upstream import StubUpstream

from understudy import AsyncOpenAI
from understudy.cli import main
from understudy.core.ids import uuid7
from understudy.core.types import Completion, ModelRef, Request
from understudy.gateway import GatewayConfig, start
from understudy.judges.check import conversation
from understudy.recipes.sft import SftConfig, select
from understudy.store import SQLiteStore
from understudy.world.learn import learn
from understudy.world.traffic.transitions import transitions

TOOL: Any = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


def system(text: str) -> Any:
    return {"role": "system", "content": text}


def user(text: str) -> Any:
    return {"role": "user", "content": text}


async def ask(client: AsyncOpenAI, talk: list[Any], **more: Any) -> None:
    """One more turn of a conversation."""
    answer = await client.chat.completions.create(model="m", messages=talk, tools=[TOOL], **more)
    talk.append(answer.choices[0].message.model_dump(exclude_none=True))


async def fine(client: AsyncOpenAI) -> None:
    with client.episode(id="fine") as episode:
        talk = [system("s"), user("tool x")]
        await ask(client, talk)
        talk.append({"role": "tool", "tool_call_id": "call_1", "content": '{"found": 1}'})
        await ask(client, talk)
        await episode.feedback("thumb", True)


async def no_end(client: AsyncOpenAI) -> None:
    """The agent called a tool and was never heard of again."""
    with client.episode(id="no-end"):
        await ask(client, [system("s"), user("tool y")])


async def cut(client: AsyncOpenAI) -> None:
    """The second reply breaks off."""
    with client.episode(id="cut"):
        talk = [system("s"), user("well")]
        await ask(client, talk)
        talk.append(user("cut off here"))
        with pytest.raises(openai.APIError):
            async for _ in await client.chat.completions.create(
                model="m", messages=talk, stream=True
            ):
                pass


async def two_agents(client: AsyncOpenAI) -> None:
    """An agent and its helper take turns in one episode; the agent's prompt tells the time."""
    with client.episode(id="two-agents"):
        agent, helper = [system("it is one"), user("agent")], [system("help"), user("helper")]
        for turn in ("two", "three"):
            await ask(client, agent)
            await ask(client, helper)
            agent[0] = system(f"it is {turn}")
            agent.append(user(f"agent {turn}"))
            helper.append(user(f"helper {turn}"))
        await ask(client, agent)


async def contradicted(client: AsyncOpenAI) -> None:
    with client.episode(id="contradicted") as episode:
        await ask(client, [system("s"), user("so so")])
        await episode.feedback("thumb", True, "quick")
        await episode.feedback("thumb", False, "but wrong")


@pytest.fixture
async def store(tmp_path: Path) -> str:
    """A store of all of this, captured; and of a call during which the gateway was killed."""
    upstream = StubUpstream()
    path = str(tmp_path / "s.db")
    config = {"store": path, "upstreams": {"u": {"base_url": await upstream.start()}},
              "models": {"m": "u"}, "port": 0}  # fmt: skip
    running = await start(GatewayConfig.model_validate(config))
    async with AsyncOpenAI(base_url=running.url, max_retries=0) as client:
        for talk in (fine, no_end, cut, two_agents, contradicted):
            await talk(client)
    request = Request((user("hello?"),), ModelRef("m"), episode_id="killed")
    running.gateway.store.write([Completion(uuid7(), request, "started")])
    await running.aclose()
    await upstream.stop()
    return path


def test_every_episode_is_listed_with_what_is_wrong(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["episodes", "--store", store]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert set(lines) >= {"fine", "no-end", "cut", "two-agents", "contradicted", "killed"}
    assert " 2 (1!) " in lines["cut"]
    assert " 1 (1!) " in lines["killed"]
    assert "!" not in lines["fine"] + lines["no-end"] + lines["two-agents"]
    assert "thumb=True" in lines["fine"]
    assert "thumb=False" in lines["contradicted"]
    assert main(["episodes", "--store", store, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 6


@pytest.mark.parametrize(
    ("episode", "shown"),
    [
        ("fine", ["call  find(", "thumb=True"]),
        ("no-end", ["call  find("]),
        ("cut", ["user  well", "upstream_error  the upstream broke off", "asked: cut off here",
                 "cut off  cut"]),
        ("two-agents", ["system  it is three", "agent three"]),
        ("contradicted", ["thumb=True  quick", "thumb=False  but wrong",
                          "thumb contradicts itself: the latest, 0"]),
        ("killed", ["user  hello?", "started  no answer was recorded"]),
    ],
)  # fmt: skip
def test_every_episode_is_shown(
    store: str, capsys: pytest.CaptureFixture[str], episode: str, shown: list[str]
) -> None:
    assert main(["episodes", "show", episode, "--store", store]) == 0
    said = capsys.readouterr().out
    assert [line for line in shown if line not in said] == []


def rows(path: Path) -> list[list[str]]:
    """What is said in each row, calls left out."""
    return [
        [str(m.get("content")) for m in json.loads(line)["messages"]]
        for line in path.read_text().splitlines()
    ]


def test_what_each_agent_said_is_exported_once_and_nothing_that_was_cut(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sft.jsonl"
    assert main(["export", str(out), "--store", store]) == 0
    assert capsys.readouterr().out == f"6 conversations to {out}\n"
    helper = ["help", "helper", "helper", "helper two", "helper two"]
    agent = ["it is three", "agent", "agent", "agent two", "agent two", "agent three"]
    assert rows(out) == [
        ["s", "tool x", "None", '{"found": 1}', "tool x"],
        ["s", "tool y", "None"],
        ["s", "well", "well"],
        helper,
        [*agent, "agent three"],
        ["s", "so so", "so so"],
    ]


def test_the_latest_of_contradicting_thumbs_decides(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "good.jsonl"
    assert main(["export", str(out), "--store", store, "--feedback", "thumb=1"]) == 0
    assert [row[1] for row in rows(out)] == ["tool x"]
    bad = ["episodes", "--store", store, "--feedback", "thumb", "--at-most", "0", "--json"]
    capsys.readouterr()
    assert main(bad) == 0
    assert [e["id"] for e in json.loads(capsys.readouterr().out)] == ["contradicted"]


def test_distilling_leaves_out_what_nobody_praised_and_learns_no_reply_that_was_cut(
    store: str,
) -> None:
    with SQLiteStore.open(store) as db:
        found = {e.id: e for e in db.read_episodes()}
    kept, left_out = select(list(found.values()), SftConfig(keep="feedback"), None)
    assert [e.id for e in kept] == ["fine"]
    assert left_out == {"no feedback named thumb": 4, "below 1": 1}
    assert found["cut"].completions[-1].message == {"role": "assistant", "content": "cutoff"}
    assert conversation(found["cut"])[-1] == {"role": "assistant", "content": "well"}
    assert [m["role"] for m in conversation(found["killed"])] == ["user"]


def test_a_world_is_learned_from_the_calls_that_have_results(store: str) -> None:
    with SQLiteStore.open(store) as db:
        found = list(db.read_episodes())
    assert len([t for e in found for t in transitions(e)]) == 1
    world = learn(found)
    assert list(world.models) == ["find"]
