"""Distillation learns from every agent of an episode, each with its own prompt and tools."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from understudy.core.types import Completion, Episode, ModelRef, Request
from understudy.recipes.learner import Learner, Lora, make_learner
from understudy.recipes.sft import SftConfig, episode_rows, sft
from understudy.runs.directory import Run

LORA = Lora(rank=4, alpha=8)


@pytest.fixture(scope="module")
def learner() -> Learner:
    torch.set_num_threads(1)
    return make_learner("tiny", LORA, seed=0)


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def say(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def call(name: str, number: int) -> dict[str, Any]:
    function = {"name": name, "arguments": "{}"}
    made = {"id": f"{name}{number}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [made]}


def agent(
    name: str, turns: Sequence[dict[str, Any]], systems: Sequence[str], given: str = "ok"
) -> list[Completion]:
    """An agent with a tool of its own name that says these things, each time asked again."""
    said = [say("user", f"{name}, go")]
    done = []
    for n, (reply, system) in enumerate(zip(turns, systems, strict=True)):
        messages: Any = (say("system", system), *said)
        request = Request(messages, ModelRef("m"), (tool(name),))  # type: ignore[arg-type]
        done.append(Completion(f"{name}{n}", request, "ok", reply))  # type: ignore[arg-type]
        calls = reply.get("tool_calls") or [{}]
        more = {"role": "tool", "tool_call_id": calls[0].get("id"), "content": given}
        said += [reply, more if reply.get("tool_calls") else say("user", "go on")]
    return done


def interleaved(name: str = "e") -> Episode:
    """A lead, whose prompt tells the time, and its helper, who ends first."""
    lead = agent(
        "lead",
        [call("lead", 0), say("assistant", "lead thinks"), say("assistant", "lead ends")],
        ["it is one", "it is two", "it is three"],
    )
    helper = agent("helper", [call("helper", 0), say("assistant", "helper ends")], ["help"] * 2)
    return Episode(name, (lead[0], helper[0], lead[1], helper[1], lead[2]))


def test_each_agent_is_a_row_with_its_own_prompt_and_tools(learner: Learner) -> None:
    rows, left_out = episode_rows([interleaved(), interleaved("f")], learner, 2048)
    texts = [learner.base.renderer.decode(row.ids) for row in rows]
    assert [t.partition("<tools>")[0] for t in texts] == [
        "<|im_start|>system\nhelp\n",
        "<|im_start|>system\nit is three\n",
    ] * 2
    for text, name, other in zip(
        texts, ["helper", "lead"] * 2, ["lead", "helper"] * 2, strict=True
    ):
        assert f'{{"name": "{name}", "parameters": {{}}}}\n</tools>' in text
        assert text.endswith(f"{name} ends<|im_end|>")
        assert other not in text
    assert not left_out


def test_rows_are_equal_in_weight_and_samples_have_ids_of_their_own(learner: Learner) -> None:
    rows, _ = episode_rows([interleaved(), interleaved("f")], learner, 2048)
    assert {e.weight for row in rows for e in row.entries} == {1.0}
    ids = [{e.sample_id for e in row.entries} for row in rows]
    assert ids == [{"e/0"}, {"e/1"}, {"f/0"}, {"f/1"}]


def test_what_cannot_be_learned_is_left_out_and_counted(learner: Learner) -> None:
    made = {"id": "c", "type": "custom", "custom": {"name": "patch", "input": "x"}}
    custom = {"role": "assistant", "content": None, "tool_calls": [made]}
    lead = agent("lead", [custom, say("assistant", "ends")], ["s"] * 2)
    helper = agent("helper", [say("assistant", "short")], ["s"])
    long = agent("long", [say("assistant", "word " * 300)], ["s"])
    unanswered = Episode("u", (Completion("u", lead[0].request, "timeout"),))
    episodes = [Episode("e", (*lead, *helper, *long)), unanswered]
    rows, left_out = episode_rows(episodes, learner, 200)
    assert [learner.base.renderer.decode(r.ids).endswith("short<|im_end|>") for r in rows] == [True]
    assert left_out == {
        "calls of custom tools, which the chat format cannot say": 1,
        "longer than max_tokens": 1,
        "without a whole reply": 1,
    }


def test_a_distillation_says_how_many_conversations_it_learned_from(tmp_path: Path) -> None:
    config = SftConfig(lora=LORA, epochs=1, batch_episodes=2, split="all")
    unanswered = Episode("u", ())
    with Run.create(tmp_path / "run", config) as run:
        result = sft(run, [interleaved(), interleaved("f"), unanswered], config, quiet=True)
    assert (result.kept, result.rows, result.steps) == (3, 4, 2)
    assert (result.left_out, result.rows_left_out) == ({}, {"without a whole reply": 1})
