"""Effects that no number of the call says: a constant step, and what leaves the list of the thing
that it refers to; what a call answers beside that is no field of the thing."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import recorded
from workshop import episodes, machine

from understudy.testing.session import RecordedSession
from understudy.world.describing.describe import describe
from understudy.world.known import steps
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.results.rules import Rule
from understudy.world.serving.export import export


@pytest.fixture(scope="module")
def world() -> World:
    return learn(episodes(260))


def rules(world: World, tool: str) -> dict[tuple[Any, str], Rule]:
    return {(e.role, n): r for e in world.models[tool].effects for n, r in e.rules.items()}


def asked(session: RecordedSession, tool: str, **args: Any) -> Any:
    return json.loads(session.step(tool, json.dumps(args)).content)


def test_what_a_call_takes_and_gives_back_is_known(world: World) -> None:
    take, end = rules(world, "take"), rules(world, "end")
    assert take[("machine", ""), "free"] == Rule("-", ("const", 1))
    assert take[("machine", ""), "takings"].kind == "append"
    assert end[("taking", "machine"), "free"] == Rule("+", ("const", 1))
    assert end[("taking", "machine"), "takings"] == Rule("remove", ("arg", "/taking"))


@pytest.mark.parametrize("again", [False, True])
def test_a_session_shows_what_was_taken_and_given_back(
    world: World, tmp_path: Path, again: bool
) -> None:
    world.save(tmp_path)
    used = World.load(tmp_path) if again else world
    ended = 0
    for number in range(400, 430):
        own = machine(number)
        if not own["takings"] or len(own["takings"]) > 2 or own["free"] < 1:
            continue
        session, key = RecordedSession(used, number, {}), own["machine"]
        asked(session, "look", machine=key)
        locked = asked(session, "taking", taking=own["takings"][0])["locked"]
        made = asked(session, "take", machine=key, hours=4)["taking"]
        shown = asked(session, "look", machine=key)
        assert (shown["free"], shown["takings"]) == (own["free"] - 1, [*own["takings"], made])
        if not locked:
            ended += 1
            asked(session, "end", taking=own["takings"][0])
            shown = asked(session, "look", machine=key)
            assert (shown["free"], shown["takings"]) == (own["free"], [*own["takings"][1:], made])
    assert ended > 3


def test_what_a_call_answers_beside_the_thing_is_no_field_of_it(
    world: World, tmp_path: Path
) -> None:
    export(world, tmp_path / "out", ["jsonl"])
    columns: Counter[str] = Counter()
    for table in (tmp_path / "out").glob("*.jsonl"):
        for line in table.open():
            columns.update(json.loads(line).keys())
    assert columns["hours"] > 10
    assert not {"ended", "fee"} & columns.keys()


def test_steps_are_described(world: World) -> None:
    found = describe(world)
    told = {t: [f.text for f in found[t] if f.about == "free"] for t in ("take", "end")}
    assert told["take"][0].startswith("Takes 1 from `free`")
    assert told["end"][0].startswith("Adds 1 to `free`")


def test_what_no_tool_reads_keeps_what_its_own_calls_say() -> None:
    """No other tool shows a ticket: what its call says of it is all that is known."""

    def answer(tool: str, args: Any) -> Any:
        return {"ticket": args["ticket"], "seat": int(args["ticket"][1:]) * 7 % 31}

    world = learn(
        [recorded(f"e{n}", [("stamp", {"ticket": f"t{n % 30 + 100}"})] * 2, answer)
         for n in range(90)]
    )  # fmt: skip
    held = world.memory.versions[world.ids.args["stamp"]["ticket"]]["t105"]
    assert held[-1][1]["seat"] == 105 * 7 % 31


@given(
    st.lists(st.integers(0, 9), min_size=4, max_size=40),
    st.sampled_from([-3, -1, 1, 2]),
    st.integers(0, 2),
)
def test_a_step_is_one_where_scenarios_agree(origins: list[int], step: int, odd: int) -> None:
    moves = [(o, float(step)) for o in origins] + [(50 + k, 0.0) for k in range(odd)]
    most = max(Counter(origins).values())
    rest = len(origins) - most
    found = steps.constant(moves)
    if len(set(origins)) == 1:
        assert found is None
    elif rest > odd and len(origins) >= 0.8 * len(moves):
        assert found == ("+" if step > 0 else "-", ("const", abs(step)))


def test_differences_that_vary_are_no_step() -> None:
    assert steps.constant([(n, float(n % 4)) for n in range(40)]) is None
    assert steps.constant([(n, 0.0) for n in range(40)]) is None
