"""Conversations in a world beside real ones, and the agent that is mined to play there."""

import asyncio
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import Call, recorded, talk

from understudy.cli import main
from understudy.core.protocols import ChatError
from understudy.core.types import (
    Completion,
    Episode,
    Message,
    ModelRef,
    Policy,
    Request,
    Sampling,
    Scenario,
)
from understudy.envs import rollout
from understudy.recipes.agents import agent_of
from understudy.recipes.likeness import (
    ALONE,
    EXACT,
    PLAYED,
    REPLAYED,
    TWICE,
    measure_likeness,
)
from understudy.recipes.user_width import mine_users, mined_speakers
from understudy.runs.report import render
from understudy.store import SQLiteStore
from understudy.world.learn import learn
from understudy.world.likeness.conversations import Figures, Likeness, Line, Seen, bounds, line, see
from understudy.world.likeness.page import page
from understudy.world.likeness.replayed import agreement, answers_of, key_of, replay
from understudy.world.likeness.stand_in import StandIn
from understudy.world.model import World
from understudy.world.traffic.transitions import Failures, transitions
from understudy.world.users.filling import Shown, filled, note, slots_of
from understudy.world.users.said import Said
from understudy.world.users.situations import Familiar, Reply, Situation
from understudy.world.users.user import _crossed

BOXES = {f"B-{n}": [f"K-{n}{i}" for i in range(3)] for n in range(10, 40)}


def shelf(tool: str, args: Any) -> Any:
    """A service that lists the keys of a box, and opens each with its key."""
    if tool == "box":
        return {"box": args["box"], "keys": BOXES[args["box"]]}
    return {"key": args["key"], "open": args["key"][-1] != "2"}


def asked(n: int) -> Episode:
    """A user names a box; its keys are tried one after the other."""
    name = f"B-{n}"
    calls: list[Call] = [("box", {"box": name}), *(("turn", {"key": k}) for k in BOXES[name])]
    e = recorded(f"e{n}", calls, shelf)
    request = e.completions[0].request
    first: Message = {"role": "user", "content": f"Open {name}, please"}
    last: Message = {"role": "assistant", "content": f"Box {name} is open."}
    messages = (first, *request.messages[1:])
    completion = replace(e.completions[0], request=replace(request, messages=messages))
    return replace(e, completions=(replace(completion, message=last),))


async def play(chat: Any, world: World, text: str, seed: int = 0) -> Episode:
    scenario = Scenario("s", ({"role": "user", "content": text},))
    policy = Policy("stand-in", ModelRef("stand-in"))
    session = await world.start(scenario, seed)
    return await rollout(chat, policy, session, scenario, None, max_turns=12, seed=seed)


def test_the_stand_in_does_what_was_recorded_with_this_conversations_values() -> None:
    episodes = [asked(n) for n in range(10, 30)]
    world = learn([asked(n) for n in range(10, 40)])
    chat = StandIn(episodes, world.failures)
    played = asyncio.run(play(chat, world, "Open B-35, please"))
    made = [(t.name, json.loads(t.arguments)) for t in transitions(played)]
    assert made == [("box", {"box": "B-35"}), *(("turn", {"key": k}) for k in BOXES["B-35"])]
    assert played.messages[-1].get("content") == "Box B-35 is open."
    assert played.ended == "done"
    assert not chat.stuck


def test_the_stand_in_is_the_same_by_its_seed(episodes: list[Episode]) -> None:
    chat = StandIn(episodes[:80], Failures())
    request = Request(episodes[90].messages[:2], ModelRef("m"), sampling=Sampling(seed=3))
    said = [asyncio.run(chat.complete(request)).message for _ in range(2)]
    assert said[0] == said[1]


def test_the_stand_in_ends_where_recordings_end_at_work() -> None:
    cut = [recorded(f"e{n}", [("box", {"box": f"B-{n}"})], shelf) for n in range(10, 30)]
    world = learn(cut)
    played = asyncio.run(play(StandIn(cut, world.failures), world, "please"))
    assert [t.name for t in transitions(played)] == ["box"]
    assert not played.messages[-1].get("content")


def test_the_stand_in_repeats_no_call_more_than_recorded_agents_did(
    world: World, episodes: list[Episode]
) -> None:
    chat = StandIn(episodes[:200], world.failures)
    most = max(max(Counter(map(key_of, transitions(e))).values(), default=0)
               for e in episodes[:200])  # fmt: skip
    for seed, scenario in enumerate(world.scenarios(30, 5)):
        session = asyncio.run(world.start(scenario, seed))
        policy = Policy("stand-in", ModelRef("stand-in"))
        e = asyncio.run(rollout(chat, policy, session, scenario, None, max_turns=60, seed=seed))
        assert max(Counter(map(key_of, transitions(e))).values(), default=0) <= most


def test_nobody_to_mine_is_refused() -> None:
    with pytest.raises(ValueError, match="import others"):
        StandIn([talk("e", ["Hello"], {})][:0], Failures())


def shown(messages: list[Message]) -> Shown:
    found, names = Shown(), dict[str, str]()
    for m in messages:
        note(found, m, names)
    return found


def test_values_are_filled_from_where_they_came() -> None:
    then = list(asked(10).messages)
    args = {"key": "K-101"}
    slots = slots_of(shown(then[:5]), "turn", args)
    now = shown(list(asked(20).messages[:5]))
    assert filled(now, Said(), "turn", args, slots) == {"key": "K-201"}
    third = slots_of(shown(then[:3]), "turn", {"key": "K-102"})
    assert filled(now, Said(), "turn", {"key": "K-102"}, third) == {"key": "K-202"}
    with pytest.raises(LookupError):
        filled(Shown(), Said(), "turn", args, slots)


def test_what_a_user_said_is_found_by_its_surroundings() -> None:
    said = Said()
    for n in range(40):
        rng = random.Random(n)
        size, count = rng.randint(2, 30), rng.randint(2, 30)
        colour = rng.choice(["teal", "ochre", "violet"])
        text = f"In {colour}: {count} pieces of size {size}, or in red"
        said.learn([text], "order", {"size": size, "count": count, "colour": colour})
    text = ["In violet: 7 pieces of size 4, or in ochre"]
    assert said.find(text, ("order", "/size"), 1) == 4
    assert said.find(text, ("order", "/count"), 1) == 7
    assert said.find(text, ("order", "/colour"), "teal") == "violet"
    assert said.find(text, ("order", "/count"), 1, {7}) is None
    assert said.find(["Hello"], ("order", "/size"), 1) is None


def seen(n: int, tool: str = "look", bad: bool = False) -> Seen:
    rng = random.Random(n)
    calls = tuple((tool, bad or rng.random() < 0.2) for _ in range(rng.randint(1, 6)))
    said = [rng.sample("abcdefghij", 3) for _ in range(rng.randint(1, 4))]
    return Seen(f"s{n}", calls, tuple(map(len, said)), tuple(map(frozenset, said)))


def test_equal_samples_are_no_distance_apart() -> None:
    sample = [seen(n) for n in range(40)]
    figures = Figures(sample)
    found = figures.all(sample, sample, sum(len(s.words) for s in sample), 0)
    assert all(distance == pytest.approx(0) for _, _, distance in found.values())
    assert found["calls"][0] == pytest.approx(found["calls"][1])


def test_what_differs_is_outside_and_a_second_sample_is_within() -> None:
    real = [seen(n) for n in range(80)]
    figures = Figures(real)
    limits = bounds(real, figures)
    a, b = real[:40], real[40:]
    fit = figures.all(b, a, 50, 0)
    for other, kept in (([seen(n) for n in range(100, 140)], True),
                        ([seen(n, bad=True) for n in range(40)], False)):  # fmt: skip
        own = figures.all(b, other, 50, 0)
        assert line(PLAYED, "errors", [fit["errors"]], [own["errors"]],
                    limits["errors"]).within is kept  # fmt: skip
    mixed = figures.all(b, [seen(n, tool="other") for n in range(40)], 50, 0)
    assert mixed["tool mix"][2] == 1.0


def test_tools_of_few_calls_are_counted_together() -> None:
    real = [seen(n) for n in range(80)] + [seen(99, tool="rare")]
    found = Figures(real).errors(real, real)
    assert set(found) == {"errors", "errors: look", "errors: (other tools)"}


@given(st.integers(0, 200), st.integers(0, 200))
def test_distances_are_symmetric_and_bounded(m: int, n: int) -> None:
    a, b = [seen(m), seen(m + 1)], [seen(n + 500), seen(n + 501)]
    figures = Figures(a + b)
    there, back = figures.all(a, b, 9, 0), figures.all(b, a, 9, 0)
    for name, (_, _, distance) in there.items():
        assert 0 <= distance <= 1 + 1e-9
        if name != "vocabulary covered":
            assert distance == pytest.approx(back[name][2]), name


def test_a_conversation_is_seen_as_calls_and_turns() -> None:
    e = asked(12)
    found = see(e, Failures(), {"/box": "B-12"})
    assert [tool for tool, _ in found.calls] == ["box", "turn", "turn", "turn"]
    assert found.lengths == (3,)
    assert found.words[0] == {"open", "\0", "please"} | ({","} & found.words[0])


def test_calls_are_replayed_with_true_and_with_own_results() -> None:
    world = learn([asked(n) for n in range(10, 40)])
    found = replay(world, asked(15), 0)
    assert all(found.exact)
    assert found.true_history == found.own_results
    assert [tool for tool, _ in found.own_results.calls] == ["box", "turn", "turn", "turn"]
    other = replay(learn([asked(n) for n in range(10, 30)]), asked(35), 0)
    assert not all(other.exact)


def test_halves_agree_where_they_gave_the_same_answer() -> None:
    episodes = [asked(10), replace(asked(10), id="again"), asked(11)]
    answers = answers_of(episodes)
    found = agreement(answers, {"e10", "e11"})
    assert set(found.values()) == {1.0}
    assert {key for key, _ in found} == {key_of(t) for t in transitions(episodes[0])}
    assert not agreement(answers, {"e11"})


@pytest.fixture(scope="module")
def report(episodes: list[Episode]) -> Likeness:
    return asyncio.run(measure_likeness(episodes[:160], splits=2, quiet=True))


def lines_of(report: Likeness, group: str) -> dict[str, Line]:
    return {one.name: one for one in report.lines if one.group == group}


def test_a_world_of_much_traffic_is_like_it(report: Likeness) -> None:
    assert (report.episodes, report.scenarios, report.splits) == (160, 160, 2)
    replayed, played = lines_of(report, REPLAYED), lines_of(report, PLAYED)
    for name in ("errors", "errors: reserve", "errors: settle"):
        assert replayed[name].within, name
    assert replayed[EXACT].within is None
    assert 0 < (replayed[EXACT].simulated or 0) < 1
    assert replayed[TWICE].real is not None
    for name in ("tool mix", "turns", "vocabulary covered", "words of a first turn"):
        assert played[name].distance <= 2 * (played[name].bound or 0), name
    assert all(one.within is None for one in lines_of(report, ALONE).values())
    assert report.rollouts["world"]["1"] > report.rollouts["floor"]["1"]


def test_the_page_and_the_table_show_every_figure(report: Likeness) -> None:
    html, text = render(page(report, "of a test")), report.table()
    for one in report.lines:
        assert one.name in text
        assert one.name.replace("&", "&amp;") in html
    assert "script" not in html.replace("stand-in", "")
    assert json.loads(json.dumps(report.to_json()))["splits"] == 2


class Idle:
    """An agent that calls nothing, or does not answer."""

    def __init__(self, answers: bool) -> None:
        self.answers = answers

    async def complete(self, request: Request) -> Completion:
        done = Completion("c", request, "ok", {"role": "assistant", "content": "Done."})
        if self.answers:
            return done
        raise ChatError(replace(done, status="upstream_error", message=None, error="no such model"))


def test_an_agent_plays_in_the_stand_ins_place() -> None:
    async def measured(answers: bool) -> Likeness:
        agent = agent_of("idle", Idle(answers), ModelRef("m"), 1.0)
        return await measure_likeness([asked(n) for n in range(10, 40)], 0.5, 1, agent, quiet=True)

    idle = asyncio.run(measured(True))
    played = lines_of(idle, PLAYED)
    assert idle.agent == "idle"
    assert (played["calls"].simulated, played["tool mix"].distance) == (0.0, 1.0)
    assert not played["tool mix"].within
    broken = asyncio.run(measured(False))
    assert not lines_of(broken, PLAYED)
    assert broken.left_out["played: no such model"] == 15


def test_too_few_scenarios_make_no_halves() -> None:
    with pytest.raises(ValueError, match="four at least"):
        asyncio.run(measure_likeness([asked(n) for n in range(10, 13)], quiet=True))


def test_the_command_compares_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with SQLiteStore.open(tmp_path / "s.db") as store:
        for e in map(asked, range(10, 40)):
            c = e.completions[0]
            own = replace(c, request=replace(c.request, episode_id=e.id))
            store.write([replace(e, completions=(own,))])
    command = ["world", "compare", str(tmp_path / "s.db"), "--splits", "1"]
    assert main([*command, "--html", str(tmp_path / "out" / "c.html")]) == 0
    assert "tool mix" in capsys.readouterr().out
    assert (tmp_path / "out" / "c.html").read_text().startswith("<!")
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"calls", "errors", "turns"} <= {one["name"] for one in found["lines"]}
    assert main([*command, "--agent", "http://127.0.0.1:9/v1"]) == 1
    assert "--model" in capsys.readouterr().err
    assert main([*command, "--agent", str(tmp_path)]) == 1
    assert "no adapter" in capsys.readouterr().err


def test_undeclared_tools_take_the_types_that_their_calls_gave() -> None:
    def answer(tool: str, args: Any) -> Any:
        return {"count": len(args["names"])}

    episodes = [recorded(f"e{n}", [("add", {"names": ["a"] * n, "to": "list"})], answer)
                for n in range(1, 12)]  # fmt: skip
    schema = learn(episodes).tools()[0]["function"]["parameters"]["properties"]
    assert schema["names"] == {"type": "array", "items": {}}
    assert schema["to"] == {"type": "string"}


def situation(said: str, *replies: str) -> Situation:
    return Situation(said.split(), [Reply([text], 1) for text in replies])


def test_users_are_widened_where_agents_say_new_things_alone() -> None:
    same = [situation(f"ask {w}", *(f"the {w} one {k}" for k in range(9))) for w in "xyzv"]
    assert Familiar(same).wide < 0.05
    words = [f"w{n}" for n in range(60)]
    new = [situation(" ".join(random.Random(n).sample(words, 6)),
                     random.Random(n + 99).choice(["yes go on", "no never do", "what is it"]))
           for n in range(80)]  # fmt: skip
    assert Familiar(new).wide > 0.2
    assert Familiar([]).wide == 0.0


def test_nobody_thanks_twice_where_nobody_did() -> None:
    thanks = ["A chair.", "It is done.", "Thank you!", "It is done."]
    book = mine_users([talk(f"e{n}", thanks[: 4 - 2 * (n % 2)], {}) for n in range(60)])
    make = mined_speakers(book)
    seen: list[Message] = [{"role": "user", "content": "A chair."},
                           {"role": "assistant", "content": "It is done."}]  # fmt: skip
    first, second = [], []
    for n in range(60):
        user = make(talk("e", thanks, {}), n)
        reply = asyncio.run(user.reply(seen))
        first.append(reply is not None)
        if reply is not None:
            second.append(asyncio.run(user.reply([*seen, reply, seen[1]])))
    assert 0.3 < sum(first) / 60 < 0.7
    assert not any(second)


def test_a_single_sentence_may_go_on_as_another_message_does() -> None:
    made = {_crossed("Yes.", "I see. Please go on.", random.Random(n)) for n in range(20)}
    assert made == {"Yes.", "Yes. Please go on."}
    assert _crossed("Yes. Do.", "No.", random.Random(0)) == "Yes. Do."
