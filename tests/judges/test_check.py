"""Checks: the owner's file judges; what it cannot judge is a reasoned failure."""

import dataclasses
import os
from pathlib import Path

import pytest
from stand_in import StandInJudge, by_length, episode

from understudy.core.protocols import Judge
from understudy.core.types import (
    Episode,
    Feedback,
    Group,
    JudgeFailed,
    Message,
    ModelRef,
    ToolResult,
)
from understudy.judges.check import Check, CheckError
from understudy.judges.judge import judge_groups, rewarded, with_feedback
from understudy.judges.ruler import Ruler

ASK: Message = {"role": "user", "content": "Please."}
CALL: Message = {
    "role": "assistant",
    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "do", "arguments": "{}"}}],
}


def written(tmp_path: Path, source: str) -> Path:
    path = tmp_path / "my_check.py"
    path.write_text(source)
    return path


async def test_a_file_judges_messages_and_metadata(tmp_path: Path) -> None:
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Limit:\n    top: int\n"
        "def check(messages: list[dict], ticket: dict) -> float:\n"
        "    said = messages[-1]['content']; messages.clear(); ticket['used'] = True\n"
        "    return float(int(said) <= Limit(ticket['top']).top)\n"
    )
    path = written(tmp_path, source)
    check = Check.from_file(path)
    low = episode("low", ASK, {"role": "assistant", "content": "3"}, metadata={"top": 5})
    high = episode("high", ASK, {"role": "assistant", "content": "9"}, metadata={"top": 5})
    verdicts = await check.judge(Group("s", (low, high)))
    assert [v.value for v in verdicts if isinstance(v, Feedback)] == [1.0, 0.0]
    assert {v.source for v in verdicts if isinstance(v, Feedback)} == {"check"}
    assert low.metadata == {"top": 5}
    assert len(low.messages) == 2
    assert sorted(os.listdir(tmp_path)) == ["my_check.py"]
    same = Check.from_file(path).version
    path.write_text(source + "\n# changed\n")
    assert check.version == same != Check.from_file(path).version


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 1 / 0", "ZeroDivisionError"),
        ("return messages[99]", "IndexError"),
        ("return float('nan')", "not a finite number"),
        ("return -float('inf')", "not a finite number"),
        ("return 10**400", "no number: int too large"),
        ("import numpy; return numpy.ones(2)", "no number: "),
        ("return None", "None, not a number"),
        ("return '1.0'", "'1.0', not a number"),
        ("return {}", "not a number"),
    ],
)
async def test_what_gives_no_number_is_a_failure(tmp_path: Path, body: str, words: str) -> None:
    check = Check.from_file(written(tmp_path, f"def check(messages, metadata):\n    {body}\n"))
    (verdict,) = await check.judge(Group("s", (episode("e", ASK, CALL),)))
    assert isinstance(verdict, JudgeFailed)
    assert verdict.episode_id == "e"
    assert words in verdict.reason


async def test_an_asynchronous_check_is_a_failure(tmp_path: Path) -> None:
    path = written(tmp_path, "async def check(messages, metadata):\n    return 1.0\n")
    (verdict,) = await Check.from_file(path).judge(Group("s", (episode("e", ASK, CALL),)))
    assert isinstance(verdict, JudgeFailed)
    assert "plain function" in verdict.reason


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def check(messages):\n    return 1\n", "must take"),
        ("score = 3\n", "holds no function check"),
        ("def check(:\n", "SyntaxError"),
        ("import no_such_module\n", "no_such_module"),
    ],
)
def test_a_file_that_holds_no_check_is_refused(tmp_path: Path, source: str, words: str) -> None:
    with pytest.raises(CheckError, match=words):
        Check.from_file(written(tmp_path, source))
    with pytest.raises(CheckError, match="cannot be read"):
        Check.from_file(tmp_path / "absent.py")


async def test_results_that_were_never_sent_on_are_seen() -> None:
    seen: list[list[dict[str, object]]] = []

    def look(messages: list[dict[str, object]], metadata: dict[str, object]) -> bool:
        seen.append(messages)
        return True

    ended = episode("e", ASK, CALL, results={"c": ToolResult("last words")})
    told = episode("f", ASK, CALL, {"role": "tool", "tool_call_id": "c", "content": "told"},
                   results={"c": ToolResult("told")})  # fmt: skip
    (verdict, _) = await Check(look).judge(Group("s", (ended, told)))
    assert isinstance(verdict, Feedback)
    assert verdict.value is True
    assert [[m["content"] for m in s if m["role"] == "tool"] for s in seen] == [
        ["last words"],
        ["told"],
    ]


async def test_a_call_of_a_custom_tool_is_shown_to_the_check_with_its_result() -> None:
    custom: Message = {
        "role": "assistant",
        "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "do", "input": "x"}}],  # type: ignore[typeddict-item]
    }
    ended = episode("e", ASK, custom, results={"c": ToolResult("done")})
    owners = Check(lambda messages, _: messages[-1]["content"] == "done")
    (verdict,) = await owners.judge(Group("s", (ended,)))
    assert isinstance(verdict, Feedback)
    assert verdict.value is True


def said(e: Episode, name: str, value: object, at: float) -> Episode:
    feedback = Feedback(f"{e.id}{at}", e.id, name, value, "user", created_at=at)  # type: ignore[arg-type]
    return dataclasses.replace(e, feedback=(*e.feedback, feedback))


def test_rewards_are_a_named_selection() -> None:
    a = said(said(episode("a", ASK, CALL), "thumb", True, 1.0), "thumb", False, 2.0)
    b = said(episode("b", ASK, CALL), "outcome", 0.7, 1.0)
    c = said(episode("c", ASK, CALL), "thumb", 0.25, 1.0)
    chosen, missing = rewarded(Group("s", (a, b, c)), "thumb")
    assert [e.id for e in chosen.episodes] == ["a", "c"]
    assert chosen.rewards == (0.0, 0.25)
    assert [m.episode_id for m in missing] == ["b"]


async def test_many_groups_keep_order_and_count_failures() -> None:
    def odd(messages: list[dict[str, object]], metadata: dict[str, object]) -> float:
        n = metadata["n"]
        assert isinstance(n, int)
        return [1.0, 1 / 0][n] if n == 1 else float(n)

    groups = [
        Group(f"s{i}", tuple(episode(f"e{i}{n}", ASK, CALL, metadata={"n": n}) for n in ns))
        for i, ns in enumerate([(0, 1, 2), (1,), (3,)])
    ]
    judge: Judge = Check(odd)
    judged = await judge_groups(judge, groups, "check", concurrency=2)
    kept = {g.scenario_id: g.rewards for g in judged.groups}
    assert list(kept.items()) == [("s0", (0.0, 2.0)), ("s2", (3.0,))]
    assert [f.episode_id for f in judged.failed] == ["e01", "e11"]
    assert all("ZeroDivisionError" in f.reason for f in judged.failed)
    assert all(e.feedback for g in judged.groups for e in g.episodes)


async def test_an_old_verdict_does_not_stand_in_for_a_failed_one() -> None:
    old = said(episode("e", ASK, CALL), "check", 1.0, 1.0)
    judged = await judge_groups(Check(lambda m, t: 1 / 0), [Group("s", (old,))], "check")
    assert judged.groups == ()
    assert len(judged.failed) == 1


async def test_ruler_is_a_judge_like_any_other() -> None:
    pair = Group("s", (episode("a", ASK, CALL), episode("b", ASK, CALL, ASK)))
    judge: Judge = Ruler(StandInJudge(by_length), ModelRef("stand-in-judge"))
    judged = await judge_groups(judge, [pair], "ruler")
    (group,) = judged.groups
    assert group.rewards is not None
    assert len(group.rewards) == 2
    assert with_feedback(pair, []) == pair
