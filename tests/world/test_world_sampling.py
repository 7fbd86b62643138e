"""Rejection sampling in a world knows the policies for doubt and the guards that GRPO has."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import warehouse

from understudy.core.types import Completion, Episode, Group, ModelRef, Policy, Request
from understudy.judges.check import Check
from understudy.recipes.attempts import AttemptConfig, Attempts, passed
from understudy.recipes.doubt import Doubt
from understudy.recipes.guarding import GuardConfig, Guarding
from understudy.recipes.rehearsal import Played
from understudy.world.learn import learn
from understudy.world.model import World

PLAYED = 30


@pytest.fixture(scope="module")
def world() -> World:
    return learn(warehouse.traffic(60))


class Agents:
    """One scripted agent for each episode."""

    def __init__(self) -> None:
        self.agents = dict[str, warehouse.ScriptedAgent]()

    async def complete(self, request: Request) -> Completion:
        one = warehouse.ScriptedAgent(len(self.agents))
        return await self.agents.setdefault(request.episode_id or "", one).complete(request)


def whole(messages: list[dict[str, Any]], ticket: dict[str, Any]) -> bool:
    """Whether no result is or holds a null, as where it was masked."""
    told = [str(m["content"]) for m in messages if m["role"] == "tool"]
    return all(text != "null" and ": null" not in text for text in told)


def in_budget(messages: list[dict[str, Any]], ticket: dict[str, Any]) -> bool:
    """A check that canaries' tickets cannot pass: their category is no word of the traffic."""
    return whole(messages, ticket) and ticket["category"] in warehouse.CATEGORIES


def sampled(
    world: World, check: Callable[..., bool] = whole, **more: Any
) -> tuple[list[dict[str, Any]], Counter[str], Guarding | None]:
    given: dict[str, Any] = {
        "scenarios": PLAYED, "in_flight": 10, "max_turns": 14, "slips": 0.0, "guards": None
    }  # fmt: skip
    config = AttemptConfig(**(given | {"attempts": 1} | more))
    judge, policy = Check(check), Policy("script", ModelRef("script"))
    guards = Guarding(config.guards, world, judge, config.seed) if config.guards else None
    play = Attempts(Agents(), policy, world, judge, config, guards)
    return asyncio.run(play.rows(quiet=True)), play.left_out, guards


def test_without_guards_every_success_is_kept(world: World) -> None:
    rows, left_out, _ = sampled(world)
    assert (len(rows), left_out) == (PLAYED, Counter())


def test_by_default_what_passes_on_made_up_values_is_not_kept_and_the_play_goes_on(
    world: World,
) -> None:
    rows, left_out, guards = sampled(world, guards=AttemptConfig().guards)
    assert set(left_out) == {"withheld: rests on what was made up"}
    assert len(rows) + left_out.total() == PLAYED
    assert guards is not None
    assert guards.alarms
    assert guards.stopped is None


def test_truncated_episodes_are_not_kept_and_counted(world: World) -> None:
    rows, left_out, _ = sampled(world, doubt=Doubt(policy="truncate", threshold=0.3))
    n = left_out["unjudged: truncated at a doubt of 0.3 or more"]
    assert 0 < n < PLAYED
    assert len(rows) + left_out.total() == PLAYED
    assert left_out.total() == n


def test_flagged_episodes_are_kept_by_their_weight(world: World) -> None:
    rows, left_out, _ = sampled(world, doubt=Doubt(policy="flag", threshold=0.1))
    assert list(left_out) == ["flagged as doubtful, by a draw of its weight"]
    assert len(rows) + left_out.total() == PLAYED
    assert 0 < len(rows) < PLAYED
    again, _, _ = sampled(world, doubt=Doubt(policy="flag", threshold=0.1))
    assert [len(r["messages"]) for r in again] == [len(r["messages"]) for r in rows]


@pytest.mark.parametrize("guards", [None, GuardConfig(doubtful=0, stop_after=0)])
def test_what_fails_is_tried_again_until_it_passes(
    world: World, guards: GuardConfig | None
) -> None:
    tried: Counter[str] = Counter()

    def at_second(messages: list[dict[str, Any]], ticket: dict[str, Any]) -> bool:
        tried[str(messages[:2])] += 1
        return tried[str(messages[:2])] > 1 and ticket["category"] in warehouse.CATEGORIES

    rows, left_out, _ = sampled(world, at_second, attempts=3, guards=guards)
    assert len(rows) == PLAYED
    assert left_out["below 1"] == PLAYED
    assert len({r["scenario"] for r in rows}) == PLAYED


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_share_of_flagged_episodes_that_are_kept_is_their_weight(weight: float) -> None:
    item = Played(Group("s", (Episode("e", ()),), (1.0,)), weights=(weight,))
    kept = [len(passed(item, 1.0, f"{n}")[0]) for n in range(2000)]
    assert abs(sum(kept) / 2000 - weight) < 0.04


def test_of_a_branch_the_worse_is_kept(world: World) -> None:
    seen: list[tuple[str, bool]] = []

    def short(messages: list[dict[str, Any]], ticket: dict[str, Any]) -> bool:
        seen.append((str(messages[:2]), len(messages) < 16))
        return len(messages) < 16

    rows, left_out, _ = sampled(world, short, doubt=Doubt(policy="branch", threshold=0.1))
    verdicts: dict[str, list[bool]] = {}
    for start, verdict in seen:
        verdicts.setdefault(start, []).append(verdict)
    assert len(verdicts) == PLAYED < len(seen)
    assert any(len(set(own)) == 2 for own in verdicts.values())
    assert len(rows) == sum(map(all, verdicts.values()))
    assert left_out == {"below 1": PLAYED - len(rows)}


def test_a_withheld_success_is_not_kept_and_counted(world: World) -> None:
    guards = GuardConfig(doubtful=0.3, stop_after=0)
    rows, left_out, watching = sampled(world, in_budget, guards=guards)
    assert watching is not None
    n = left_out["withheld: rests on what was made up"]
    assert 0 < n < PLAYED
    assert len(rows) + left_out.total() == PLAYED
    assert watching.figures["canaries_won"] == 0
    assert not any("nobody can do" in alarm for alarm in watching.alarms)


def test_alarms_end_the_play_and_what_came_before_is_kept(world: World) -> None:
    guards = GuardConfig(doubtful=0.3, withheld=0.01, alpha=0.2, stop_after=1)
    rows, left_out, watching = sampled(world, in_budget, guards=guards)
    assert watching is not None
    assert watching.stopped is not None
    assert "of the reward is withheld" in watching.stopped
    assert rows
    assert len(rows) + left_out.total() < PLAYED
    every, _, _ = sampled(world, in_budget, guards=GuardConfig(doubtful=0.3, stop_after=0))
    assert [
        r["messages"] for r in rows if r["messages"] not in [e["messages"] for e in every]
    ] == []


def test_a_success_in_a_canary_is_an_alarm_and_never_kept(world: World) -> None:
    rows, left_out, watching = sampled(
        world, guards=GuardConfig(doubtful=0, canaries=0.9, stop_after=1)
    )
    assert watching is not None
    assert watching.stopped is not None
    assert "nobody can do" in watching.stopped
    assert len(rows) + left_out.total() == 10  # one lot
    assert not any("strange" in str(r.get("scenario")) for r in rows)
