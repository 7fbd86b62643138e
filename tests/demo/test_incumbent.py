"""The incumbent against the truth, and the owner's check against both."""

import importlib.util
import inspect
import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers import new_system, play

from understudy.core.types import Message
from understudy.demo import owner_check
from understudy.demo.customers import scenarios
from understudy.demo.incumbent import NO_FLAWS, FlawRates, decide, draw_flaws
from understudy.demo.outcome import Verdict

CASES = scenarios("traffic", 300, seed=11)
Played = list[tuple[list[Message], Verdict]]


@pytest.fixture(scope="module")
def flawed(tmp_path_factory: pytest.TempPathFactory) -> Played:
    system = new_system(tmp_path_factory.mktemp("flawed"))
    return [play(system, s, decide) for s in CASES]


@pytest.fixture(scope="module")
def ideal(tmp_path_factory: pytest.TempPathFactory) -> Played:
    system = new_system(tmp_path_factory.mktemp("ideal"))
    return [play(system, s, lambda m: decide(m, 0, NO_FLAWS)) for s in CASES]


def errors(played: Played) -> Counter[str]:
    results = [json.loads(str(m["content"])) for ms, _ in played for m in ms if m["role"] == "tool"]
    return Counter(r["error"] for r in results if "error" in r)


def test_the_incumbent_succeeds_about_half_of_the_time_and_fails_in_several_ways(
    flawed: Played,
) -> None:
    reasons = Counter(v.reason for _, v in flawed)
    assert 0.42 <= reasons["ok"] / len(flawed) <= 0.58  # 45-55% in the long run, n = 300
    failed = len(flawed) - reasons.pop("ok")
    assert len(reasons) >= 4
    assert max(reasons.values()) < 0.65 * failed


def test_each_flaw_costs_successes(tmp_path: Path) -> None:
    system = new_system(tmp_path)
    for flaw in FlawRates.model_fields:
        rates = NO_FLAWS.model_copy(update={flaw: 1.0})
        cases = [s for s in CASES if s.goal["existing"]] if flaw == "skips_cancel" else CASES
        won = [play(system, s, lambda m, r=rates: decide(m, 0, r))[1].success for s in cases[:40]]
        assert sum(won) < 0.95 * len(won), flaw


def test_an_agent_without_flaws_gets_over_every_failure(ideal: Played) -> None:
    assert sum(v.success for _, v in ideal) / len(ideal) >= 0.97
    met = errors(ideal)
    for kind in ("sold out", "no longer listed", "price changed", "hold expired", "declined",
                 "rate limited", "method must be lower case"):  # fmt: skip
        assert met[kind] > 0, kind


def test_the_incumbent_is_fixed_by_its_seed_and_the_first_message() -> None:
    rates = FlawRates()
    assert draw_flaws("hello", 3, rates) == draw_flaws("hello", 3, rates)
    drawn = {draw_flaws(f"hello {i}", 3, rates) for i in range(200)}
    assert len(drawn) > 10
    messages = [{"role": "user", "content": "hello"}]
    assert decide(messages) == decide(messages)
    assert "?" in str(decide(messages)["content"])


def test_the_owners_check_agrees_with_the_truth(flawed: Played, ideal: Played) -> None:
    pairs = [
        (owner_check.check(messages, s.metadata["ticket"]), verdict.success)
        for played in (flawed, ideal[:60])
        for s, (messages, verdict) in zip(CASES, played, strict=False)
    ]
    assert all(0.0 <= reward <= 1.0 for reward, _ in pairs)
    assert sum((reward == 1.0) == won for reward, won in pairs) / len(pairs) >= 0.97
    assert not any(reward == 1.0 and not won for reward, won in pairs)


def test_the_owners_check_hears_no_words(flawed: Played) -> None:
    for s, (messages, _) in list(zip(CASES, flawed, strict=True))[:50]:
        boast: Message = {"role": "assistant", "content": "Booked and confirmed: B12345."}
        lie: Message = {
            "role": "assistant",
            "content": '{"booking_id": "B1", "status": "confirmed"}',
        }
        ticket = s.metadata["ticket"]
        assert owner_check.check([*messages, boast, lie], ticket) == (
            owner_check.check(messages, ticket)
        )
        assert owner_check.check([messages[0], messages[1], boast, lie], ticket) == 0.0


def test_the_owners_check_survives_broken_calls_and_repeated_ids(ideal: Played) -> None:
    case, (messages, _) = next(
        (s, p) for s, p in zip(CASES, ideal, strict=True) if p[1].success and len(p[0]) > 8
    )
    same_ids = json.loads(json.dumps(messages))
    for message in same_ids:
        for call in message.get("tool_calls") or ():
            call["id"] = "call_0"
        if message["role"] == "tool":
            message["tool_call_id"] = "call_0"
    broken = {"id": "x", "type": "function", "function": {"name": "hold_stay", "arguments": "{"}}
    junk = [
        {"role": "assistant", "content": None, "tool_calls": [broken]},
        {"role": "tool", "tool_call_id": "x", "content": "[]"},
        {"role": "tool", "tool_call_id": "nobody", "content": "oops"},
    ]
    ticket = case.metadata["ticket"]
    assert owner_check.check([*same_ids[:2], *junk, *same_ids[2:]], ticket) == 1.0
    twice = [*same_ids, *[m for m in same_ids if m["role"] != "system"]]
    assert owner_check.check(twice, ticket) < 1.0


def test_the_owners_check_is_short_and_stands_alone(tmp_path: Path) -> None:
    source = inspect.getsource(owner_check)
    assert len(source.splitlines()) <= 40
    copied = tmp_path / "check.py"
    copied.write_text(source)
    spec = importlib.util.spec_from_file_location("copied_check", copied)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.check([], CASES[0].metadata["ticket"]) == 0.0
    imported = re.findall(r"^ *(?:import|from) (\w+)", source, re.MULTILINE)
    assert set(imported) <= sys.stdlib_module_names
