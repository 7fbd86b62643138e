"""Guards: what a hole in a world wins is withheld and noticed; a healthy world is left alone."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import warehouse
from bench.planted import never_fails, planted, turns_negative
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.cli import main
from understudy.core.types import (
    Completion,
    Episode,
    Group,
    Message,
    ModelRef,
    Policy,
    Provenance,
    Request,
    Scenario,
    ToolResult,
    parted,
    text_of,
)
from understudy.judges.check import Check
from understudy.recipes.guarding import GuardConfig, Guarding
from understudy.recipes.rehearsal import Played, play_group
from understudy.world.data.masking import masked, with_results
from understudy.world.data.values import leaves
from understudy.world.guarding.canaries import Canary, crippled, essential, strange
from understudy.world.guarding.guards import Guard
from understudy.world.learn import learn
from understudy.world.model import World


def within_the_budget(messages: list[dict[str, Any]], ticket: dict[str, Any]) -> bool:
    """Whether a part whose listed price is within the budget was paid."""
    prices: dict[str, Any] = {}
    held: dict[str, str] = {}
    for m in messages:
        result = json.loads(m["content"]) if m["role"] == "tool" and m["content"][0] == "{" else {}
        prices |= {p["sku"]: p["price"] for p in result.get("parts") or []}
        if result.get("status") == "held":
            held[result["reservation"]] = result["sku"]
        if result.get("status") == "paid":
            return bool(prices.get(held[result["reservation"]], 10**9) <= ticket["budget"])
    return False


CHECK = Check(within_the_budget)


class Agents:
    """One scripted agent for each episode, which gives up where a tool is not offered."""

    def __init__(self, seed: int) -> None:
        self.seed, self.agents = seed, dict[str, warehouse.ScriptedAgent]()

    async def complete(self, request: Request) -> Completion:
        seed = self.seed * 1000 + len(self.agents)
        agent = self.agents.setdefault(
            request.episode_id or "", warehouse.ScriptedAgent(seed)
        )  # fmt: skip
        last = request.messages[-1]
        if last["role"] == "tool" and str(last["content"]).startswith("Error"):
            sorry: Message = {"role": "assistant", "content": "Sorry, that was not possible."}
            return Completion("c", request, "ok", sorry)
        return await agent.complete(request)


def play(
    world: World, scenarios: Sequence[Scenario], seed: int, check: Check = CHECK
) -> list[Played]:
    """Groups of two episodes of the scripted agent in a world."""

    async def all_of_them() -> list[Played]:
        return [
            await play_group(
                Agents(seed * 1000 + n), Policy("script", ModelRef("script")), world,
                lambda scenario, life: None, scenario, 2, seed=seed * 1000 + n, check=check,
                max_turns=14, workload="parts",
            )
            for n, scenario in enumerate(scenarios)
        ]  # fmt: skip

    return asyncio.run(all_of_them())


@pytest.fixture(scope="module")
def second(episodes: list[Episode]) -> Guard:
    """A guard of one half of the traffic."""
    one, other = parted(episodes, salt="half:")
    return Guard.learn(learn(other), one)


@pytest.fixture(scope="module")
def pair(
    second: Guard, episodes: list[Episode], tmp_path_factory: pytest.TempPathFactory
) -> tuple[World, Path]:
    """A world of the other half, and the folder of the guard."""
    folder = tmp_path_factory.mktemp("second")
    second.save(folder)
    return learn(parted(episodes, salt="half:")[0]), folder


def guarding(pair: tuple[World, Path], **more: Any) -> Guarding:
    return Guarding(GuardConfig(second=str(pair[1]), **more), pair[0], CHECK, 0)


def steps_of(
    world: World, guards: Guarding, seed: int, steps: int, groups: int = 16
) -> Counter[str]:
    """Plays steps until an alarm; what was withheld."""
    withheld: Counter[str] = Counter()
    for step in range(steps):
        scenarios = [
            warehouse.customer(50_000 + seed * 997 + step * groups + n) for n in range(groups)
        ]
        kept = guards.watch(step, play(world, scenarios, seed * 100 + step))
        withheld += sum((item.withheld for item in kept), Counter())
        if guards.stopped:
            break
    return withheld


def test_a_healthy_world_raises_no_alarm_and_keeps_its_rewards(pair: tuple[World, Path]) -> None:
    """A fifth of the share of which the alarm warns, at most."""
    won, lost = 0, 0
    for seed in range(5):
        guards = guarding(pair)
        lost += steps_of(pair[0], guards, seed, steps=6).total()
        assert guards.alarms == []
        won += 6 * 16 * 2
    assert lost <= guards.config.withheld / 5 * won


def test_a_failure_that_never_comes_any_more_is_an_alarm(pair: tuple[World, Path]) -> None:
    hole, name = never_fails(pair[0])
    guards = guarding(pair)
    steps_of(planted(pair[0], hole), guards, 1, steps=25)
    assert guards.stopped is not None
    assert f"{name}: too rarely" in guards.stopped


def test_how_often_outcomes_come_is_no_sign_in_scenarios_that_were_chosen(
    pair: tuple[World, Path],
) -> None:
    """What is an alarm elsewhere is none where scenarios are tried again since they failed."""
    hole, name = never_fails(pair[0])
    scenarios = [warehouse.customer(70_000 + n) for n in range(16)]
    played = play(planted(pair[0], hole), scenarios, 7)
    alarms = {}
    for again in (False, True):
        guards = guarding(pair, stop_after=0)
        for step in range(40):
            guards.watch(step, played, again=again)
        alarms[again] = guards.alarms
    assert any(f"{name}: too rarely" in alarm for alarm in alarms[False])
    assert alarms[True] == []


def test_what_a_negative_number_wins_is_withheld(pair: tuple[World, Path]) -> None:
    hole, number = turns_negative(pair[0])
    assert number == "price"
    guards = guarding(pair, stop_after=0)
    withheld = steps_of(planted(pair[0], hole), guards, 1, steps=4)
    assert any("price" in reason for reason in withheld)
    assert withheld.total() > 4


def test_a_withheld_reward_leaves_the_group_and_is_counted(pair: tuple[World, Path]) -> None:
    hole, _ = turns_negative(pair[0])
    guards = guarding(pair, stop_after=0)
    scenarios = [warehouse.customer(60_000 + n) for n in range(60)]
    played = play(planted(pair[0], hole), scenarios, 3)
    kept = guards.watch(0, played)
    for before, after in zip(played, kept, strict=True):
        ids = {e.id for e in after.group.episodes}
        assert len(before.group.episodes) == len(ids) + after.withheld.total()
        assert len(after.group.rewards or ()) == len(ids)
        lost = [r for e, r in zip(before.group.episodes, before.group.rewards or (), strict=True)
                if e.id not in ids]  # fmt: skip
        assert all(r > 0 for r in lost)  # a failure stays: nothing was earned
    assert sum(k.withheld.total() for k in kept) > 0


def test_the_state_of_guards_is_json_and_goes_on_where_it_was(pair: tuple[World, Path]) -> None:
    hole, _ = never_fails(pair[0])
    world, guards = planted(pair[0], hole), guarding(pair, stop_after=0)
    steps_of(world, guards, 1, steps=2)
    other = guarding(pair, stop_after=0)
    other.restore(json.loads(json.dumps(guards.state())))
    scenarios = [warehouse.customer(70_000 + n) for n in range(8)]
    played = play(world, scenarios, 5)
    guards.watch(2, played)
    other.watch(2, played)
    assert guards.state() == other.state()
    assert guards.figures == other.figures


def test_a_saved_guard_sees_what_it_saw(
    second: Guard, pair: tuple[World, Path], heldout: list[Episode]
) -> None:
    loaded = Guard.load(pair[1])
    assert loaded.usual == second.usual
    for e in heldout[:30]:
        a, b = second.look(e), loaded.look(e)
        assert (a.signs, a.instead, a.steps, a.novel) == (b.signs, b.instead, b.steps, b.novel)


def test_real_episodes_show_few_signs(second: Guard, heldout: list[Episode]) -> None:
    signs = [second.look(e).signs for e in heldout]
    assert sum(map(bool, signs)) <= 0.1 * len(signs)


def called(name: str, args: dict[str, Any], content: str, tools: Sequence[Any] = ()) -> Episode:
    call = {"id": "k", "type": "function",
            "function": {"name": name, "arguments": json.dumps(args)}}  # fmt: skip
    asked: Message = {"role": "user", "content": "go"}
    request = Request((asked,), ModelRef("m"), tools=tuple(tools))
    said: Any = {"role": "assistant", "tool_calls": [call]}
    tail: Any = ({"role": "tool", "tool_call_id": "k", "content": content},)
    results = {"k": ToolResult(content)}
    return Episode("e", (Completion("c", request, "ok", said),), results=results, tail=tail)


def test_a_record_is_put_right_where_the_second_world_knows_it_otherwise(second: Guard) -> None:
    known = second.world.memory.versions.values()
    ours = next(p for p in warehouse.CATALOGUE if any(p["sku"] in things for things in known))
    right = {k: ours[k] for k in ("sku", "category", "price", "grade")}
    assert second.look(called("part", {"sku": ours["sku"]}, json.dumps(right))).signs == ()
    wrong = json.dumps(right | {"price": 60 if ours["price"] != 60 else 61})  # of no odd size
    look = second.look(called("part", {"sku": ours["sku"]}, wrong))
    assert look.signs == ("part: price known otherwise",)
    assert json.loads(look.instead["k"]) == right


def test_what_the_rollout_answers_itself_is_no_word_of_the_world(second: Guard) -> None:
    refused = called("part", {}, "Error: part needs sku", warehouse_tools())
    look = second.look(refused)
    assert (look.signs, look.steps) == ((), 0)


def warehouse_tools() -> tuple[Any, ...]:
    session = asyncio.run(warehouse.SERVICE.start(warehouse.customer(0), 0))
    return session.tools()


def test_a_folder_without_a_guard_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="world learn --second"):
        Guard.load(tmp_path)


# -- masking


json_values = st.recursive(
    st.integers() | st.text(max_size=5) | st.booleans(),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(st.text(max_size=4), inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


def episode_of(content: str, marks: Sequence[Provenance], doubt: float = 0.0) -> Episode:
    result = ToolResult(content, provenance=tuple(marks), doubt=doubt)
    return replace(called("f", {}, content), results={"k": result})


@settings(max_examples=60)
@given(json_values)
def test_nothing_that_was_observed_is_masked(value: Any) -> None:
    marks = [Provenance("", "observed"), *(Provenance(p, "inferred") for p, _ in leaves(value))]
    assert masked(episode_of(json.dumps(value), marks, 0.4), 0.5) == {}


@settings(max_examples=60)
@given(json_values, st.randoms(use_true_random=False))
def test_an_invented_leaf_alone_is_masked(value: Any, rng: random.Random) -> None:
    found = dict(leaves(value))
    if not isinstance(value, (dict, list)) or len(list(leaves(value))) != len(found):
        return
    path = rng.choice(list(found))
    marks = [Provenance("", "remembered"), Provenance(path, "invented")]
    contents = masked(episode_of(json.dumps(value), marks), 0.5)
    assert dict(leaves(json.loads(contents["k"]))) == found | {path: None}


def test_a_doubtful_result_is_masked_whole_and_everywhere() -> None:
    episode = episode_of('{"a": 1, "b": [2]}', [Provenance("", "observed")], doubt=0.7)
    assert masked(episode, 0.8) == masked(episode, 0) == {}
    contents = masked(episode, 0.7)
    assert json.loads(contents["k"]) == {"a": None, "b": [None]}
    bare = with_results(episode, contents)
    assert bare.results["k"].content == contents["k"]
    assert bare.messages[-1]["content"] == contents["k"]
    assert episode.messages[-1]["content"] == '{"a": 1, "b": [2]}'


def test_records_that_were_seen_stand_in_a_doubtful_list() -> None:
    marks = [Provenance("", "remembered"), Provenance("/all", "remembered"),
             Provenance("/all/0/b", "inferred"), Provenance("/count", "inferred")]  # fmt: skip
    episode = episode_of('{"all": [{"a": 1, "b": 2}], "count": 1}', marks, doubt=0.7)
    contents = masked(episode, 0.5)
    assert json.loads(contents["k"]) == {"all": [{"a": 1, "b": None}], "count": None}


def test_a_success_that_rests_on_an_invented_value_earns_nothing(pair: tuple[World, Path]) -> None:
    def check(messages: list[dict[str, Any]], ticket: Any) -> bool:
        return any(m["role"] == "tool" and json.loads(m["content"])["a"] == 1 for m in messages)

    guards = Guarding(GuardConfig(), pair[0], Check(check), 0)
    made = episode_of('{"a": 1, "b": 2}', [Provenance("/a", "invented")])
    beside = episode_of('{"a": 1, "b": 2}', [Provenance("/b", "invented")])
    group = Group("s", (made, beside), (1.0, 1.0))
    (kept,) = guards.watch(0, [Played(group)])
    assert kept.group.episodes == (beside,)
    assert kept.withheld.total() == 1
    assert guards.figures["withheld"] == 0.5


# -- canaries


def test_a_strange_task_names_what_nothing_knows(pair: tuple[World, Path]) -> None:
    world, rng = pair[0], random.Random(0)
    found = [c for s in world.scenarios(30) if (c := strange(world, s, rng)) is not None]
    assert len(found) > 20
    for canary in found:
        ticket = canary.scenario.metadata["ticket"]
        assert ticket["category"] not in warehouse.CATEGORIES
        assert ticket["category"] in text_of(canary.scenario.messages[-1].get("content"))
        assert canary.scenario.goal["ticket"]["category"] == ticket["category"]


def test_nobody_succeeds_in_canaries_of_a_healthy_world(pair: tuple[World, Path]) -> None:
    world, rng = pair[0], random.Random(1)
    real = world.scenarios(40)
    odd = [c for s in real if (c := strange(world, s, rng)) is not None]
    odd += [crippled(world, s, "settle") for s in real[:10]]
    played = play(world, [c.scenario for c in odd], 4)
    assert [item.rate for item in played] == [0.0] * len(odd)
    guards = guarding(pair)
    guards.watch(0, [], list(zip(odd, played, strict=True)))
    assert guards.alarms == []
    assert guards.figures["canaries"] == len(odd)


def test_a_success_in_a_canary_stops_the_run(pair: tuple[World, Path]) -> None:
    guards = guarding(pair)
    scenario = pair[0].scenarios(1)[0]
    winner = Played(Group(scenario.id, (episode_of("{}", ()),), (1.0,)))
    guards.watch(3, [], [(Canary(scenario, "why"), winner)])
    assert guards.stopped == "step 3: success in a task that nobody can do (why)"


def test_a_tool_is_essential_where_every_success_called_it() -> None:
    winners = [frozenset({"a", "b"}), frozenset({"a"})]
    assert essential(winners, 2) == ["a"]
    assert essential(winners, 3) == []


def test_canaries_come_at_their_rate_and_alike_for_a_seed(pair: tuple[World, Path]) -> None:
    scenarios = pair[0].scenarios(100)
    guards = guarding(pair, canaries=0.2)
    drawn = [c for step in range(5) for c in guards.canaries(step, scenarios)]
    assert 60 <= len(drawn) <= 140
    assert guards.canaries(2, scenarios) == guards.canaries(2, scenarios)
    assert guarding(pair, canaries=0.0).canaries(0, scenarios) == []


def test_learn_writes_a_second_world_by_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"messages": list(e.messages), "scenario": e.scenario_id} for e in warehouse.traffic(40)
    ]
    file, store = tmp_path / "rows.jsonl", str(tmp_path / "s.db")
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(["import", str(file), "--store", store]) == 0
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["world", "learn", str(first), "--store", store, "--second", str(second)]) == 0
    assert f"a second one in {second}" in capsys.readouterr().out
    guard = Guard.load(second)
    seen = set(World.load(first).episode_ids)
    assert guard.episodes == len(seen)
    assert not seen & set(guard.world.episode_ids)
    assert len(seen) + len(guard.world.episode_ids) == 40
