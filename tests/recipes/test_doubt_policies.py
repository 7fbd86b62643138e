"""What becomes of episodes in which the environment doubts its own answers."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from understudy.core.types import (
    Completion,
    Episode,
    Feedback,
    Group,
    Message,
    ModelRef,
    Policy,
    Request,
    Scenario,
    Tool,
    ToolCall,
    ToolResult,
)
from understudy.judges.check import Check
from understudy.recipes.doubt import Doubt, flagged
from understudy.recipes.grpo import training_rows
from understudy.recipes.rehearsal import Played, play_group
from understudy.runs.config import ConfigError, load_config

TOOL: Tool = {
    "type": "function",
    "function": {"name": "draw", "parameters": {"type": "object", "properties": {}}},
}


class Urn:
    """An environment of numbers: the n-th call of a life is answered with a number of its seed,
    doubted as `doubts` say. A session that goes on from a snapshot draws by its own seed."""

    def __init__(self, doubts: Sequence[float]) -> None:
        self.doubts = doubts
        self.opened: list[UrnSession] = []

    async def start(
        self, scenario: Scenario, seed: int, snapshot: Any | None = None
    ) -> "UrnSession":
        session = UrnSession(self.doubts, seed, list(snapshot or ()))
        self.opened.append(session)
        return session


class UrnSession:
    def __init__(self, doubts: Sequence[float], seed: int, drawn: list[int]) -> None:
        self.doubts, self.seed, self.drawn = doubts, seed, drawn
        self.calls, self.closed = 0, False

    def tools(self, role: str = "agent") -> tuple[Tool, ...]:
        return (TOOL,)

    async def call(self, role: str, tool_call: ToolCall) -> ToolResult:
        n = len(self.drawn)
        self.calls += 1
        self.drawn.append((self.seed * 31 + n * 7) % 1000)
        return ToolResult(json.dumps({"n": self.drawn[-1]}), doubt=self.doubts[n])

    async def snapshot(self) -> list[int]:
        return list(self.drawn)

    async def outcome(self) -> list[Feedback]:
        return []

    async def aclose(self) -> None:
        self.closed = True


class Drawer:
    """A chat that draws as often as the urn has doubts, then ends."""

    def __init__(self, draws: int) -> None:
        self.draws, self.asked = draws, 0

    async def complete(self, request: Request) -> Completion:
        self.asked += 1
        turn = sum(m["role"] == "assistant" for m in request.messages)
        message: Message = {"role": "assistant", "content": "done"}
        if turn < self.draws:
            function = {"name": "draw", "arguments": "{}"}
            call = {"id": f"d{turn}", "type": "function", "function": function}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}  # type: ignore[list-item]
        return Completion(f"c{self.asked}", request, "ok", message)


def drawn(messages: Sequence[Any]) -> list[int]:
    return [json.loads(m["content"])["n"] for m in messages if m["role"] == "tool"]


LAST = Check(lambda messages, ticket: float(drawn(messages)[-1]))


def play(
    doubts: Sequence[float], doubt: Doubt | None, size: int = 1, seed: int = 3
) -> tuple[Played, Urn, Drawer]:
    urn, chat = Urn(doubts), Drawer(len(doubts))
    scenario = Scenario("s", ({"role": "user", "content": "draw"},))
    played = asyncio.run(
        play_group(
            chat, Policy("p", ModelRef("m")), urn, lambda scenario, life: None, scenario, size,
            seed=seed, check=LAST, max_turns=9, workload="w", doubt=doubt,
        )
    )  # fmt: skip
    assert all(s.closed for s in urn.opened)
    return played, urn, chat


def told(played: Played) -> list[list[int]]:
    return [drawn(e.messages) for e in played.group.episodes]


@pytest.mark.parametrize("policy", ["flag", "truncate", "branch"])
def test_without_a_doubtful_step_every_policy_is_as_if_it_were_not_there(policy: Any) -> None:
    plain, _, _ = play([0.1, 0.49, 0.2], None, size=3)
    other, urn, _ = play([0.1, 0.49, 0.2], Doubt(policy=policy), size=3)
    assert told(other) == told(plain)
    assert other.group.rewards == plain.group.rewards
    assert not other.failed
    assert len(urn.opened) == 3
    assert [f.name for e in other.group.episodes for f in e.feedback] == ["check"] * 3


def test_by_default_a_doubtful_step_is_a_step_like_any_other() -> None:
    played, _, _ = play([0.9, 1.0], None)
    assert played.weights is None
    assert len(played.group.episodes) == 1
    assert not played.failed


def test_a_flagged_episode_says_so_and_weighs_less() -> None:
    played, _, _ = play([0.1, 0.75, 0.6], Doubt(policy="flag"), size=2)
    assert played.weights == (0.25, 0.25)
    assert played.group.rewards == play([0.1, 0.75, 0.6], None, size=2)[0].group.rewards
    for e in played.group.episodes:
        doubt, verdict = e.feedback
        assert (doubt.name, verdict.name) == ("doubt", "check")
        assert doubt.value == {"calls": {"d1": 0.75, "d2": 0.6}, "weight": 0.25}


def test_the_weight_multiplies_the_advantage_and_leaves_the_mean_alone() -> None:
    def episode(name: str) -> Episode:
        said: Message = {"role": "assistant", "content": "a"}
        request = Request(({"role": "user", "content": "go"},), ModelRef("m"))
        one = Completion("c", request, "ok", said, prompt_ids=(1, 2), output_ids=(3, 4),
                         logprobs=(-1.0, -1.0))  # fmt: skip
        return Episode(name, (one,))

    group = Group("s", (episode("a"), episode("b")), (1.0, 0.0))
    rows, counted = training_rows([Played(group, weights=(0.25, 1.0))])
    weights = [{e.weight for e in row.entries} for row in rows]
    assert weights == [{0.125}, {-0.5}]
    assert counted["down-weighted"] == 1


def test_a_truncated_episode_ends_at_the_doubtful_step_and_is_counted() -> None:
    doubt = Doubt(policy="truncate", threshold=0.6)
    played, urn, chat = play([0.1, 0.6, 0.1], doubt, size=3)
    assert played.group.episodes == ()
    assert played.group.rewards == ()
    assert dict(played.failed) == {"truncated at a doubt of 0.6 or more": 3}
    assert [s.calls for s in urn.opened] == [2, 2, 2]
    assert chat.asked == 6
    _, counted = training_rows([played])
    assert counted["unjudged: truncated at a doubt of 0.6 or more"] == 3


@pytest.mark.parametrize("seed", range(6))
def test_a_branch_plays_the_rest_twice_and_keeps_the_worse(seed: int) -> None:
    played, urn, chat = play([0.1, 0.1, 0.8, 0.9], Doubt(policy="branch"), seed=seed)
    first, second = urn.opened
    assert first.drawn[:2] == second.drawn[:2]
    assert first.drawn[2:] != second.drawn[2:]
    assert (first.calls, second.calls) == (4, 2)  # what came before is not asked again
    assert chat.asked == 5 + 2  # nor is the model
    worse = min(first.drawn, second.drawn, key=lambda d: d[-1])
    assert told(played) == [worse]
    assert played.group.rewards == (float(worse[-1]),)


def test_of_a_branch_without_a_verdict_nothing_is_kept() -> None:
    def check(messages: list[dict[str, Any]], ticket: Any) -> float:
        if drawn(messages)[-1] == first:
            raise ValueError("no")
        return 1.0

    first = play([0.1, 0.9], None)[1].opened[0].drawn[-1]
    urn, chat = Urn([0.1, 0.9]), Drawer(2)
    played = asyncio.run(
        play_group(
            chat, Policy("p", ModelRef("m")), urn, lambda scenario, life: None,
            Scenario("s", ({"role": "user", "content": "draw"},)), 1, seed=3, check=Check(check),
            max_turns=9, workload="w", doubt=Doubt(policy="branch"),
        )
    )  # fmt: skip
    assert played.group.episodes == ()
    assert played.failed.total() == 1


def test_what_is_flagged_is_what_reaches_the_threshold() -> None:
    results = {"a": ToolResult("1", doubt=0.5), "b": ToolResult("2", doubt=0.499)}
    weight, said = flagged(Episode("e", (), results=results), Doubt(policy="flag"))
    assert weight == 0.5
    assert said is not None
    assert said.value == {"calls": {"a": 0.5}, "weight": 0.5}


def test_a_policy_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="policy must be 'answer', 'flag'"):
        load_config(Doubt, overrides=["policy=shrug"])
