"""Scenarios and users made from captured wording."""

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import warehouse

from understudy.core.types import Episode, Message, split_of
from understudy.world.learn import learn
from understudy.world.model import World

NUMBER = dict(zip(warehouse.WORDS.values(), warehouse.WORDS, strict=True))


def read(text: str) -> dict[str, Any]:
    """The ticket that a text tells, read by the customers' own grammar."""
    low = text.lower()
    words = "|".join([*NUMBER, "nine", "seven", "eight", "one", r"\d+"])
    found = re.search(
        rf"need ({words})\b|: ({words}) pieces|quantity ({words})\b|get ({words})\b", low
    )
    assert found, text
    said = next(g for g in found.groups() if g)
    names = {**NUMBER, "seven": 7, "eight": 8, "nine": 9}
    budget = re.search(r"at most (\d+)|under \$(\d+)|budget (\d+)|up to (\d+)", low)
    assert budget, text
    places = sorted((low.index(m), m) for m in warehouse.METHODS if m in low)
    return {
        "category": next(c for c in warehouse.CATEGORIES if c in low),
        "count": names.get(said) or int(said),
        "budget": int(next(g for g in budget.groups() if g)),
        "prefer": next(
            k for k, ws in warehouse.WISHES.items() if any(w.lower() in low for w in ws)
        ),
        "methods": [m for _, m in places],
    }


def test_a_scenario_says_exactly_what_its_ticket_holds(world: World) -> None:
    scenarios = world.scenarios(300, seed=1)
    assert len(scenarios) == 300
    for s in scenarios:
        text = s.messages[-1]["content"]
        assert isinstance(text, str)
        assert read(text) == s.metadata["ticket"]
        assert s.goal == s.metadata


def test_scenarios_are_new_and_keep_their_split(world: World, episodes: list[Episode]) -> None:
    old = {str(e.messages[1]["content"]) for e in episodes}
    train = world.scenarios(200, seed=2)
    heldout = world.scenarios(60, seed=2, split="heldout")
    assert len({s.id for s in train}) == 200
    assert sum(str(s.messages[-1]["content"]) not in old for s in train) > 150
    for s in (*train, *heldout):
        assert s.split == split_of(s.origin)
    assert {s.split for s in heldout} == {"heldout"}
    assert world.scenarios(20, seed=5) == world.scenarios(20, seed=5)


def test_values_that_belong_together_are_drawn_together(world: World) -> None:
    pairs = {tuple(s.metadata["ticket"]["methods"]) for s in world.scenarios(300, seed=3)}
    assert all(a != b for a, b in pairs)
    assert len(pairs) == 6


async def test_the_user_thanks_or_leaves_as_often_as_real_ones(world: World) -> None:
    said: Counter[str | None] = Counter()
    final: Message = {"role": "assistant", "content": "Done: your parts are ordered."}
    for s in world.scenarios(200, seed=4):
        reply = await world.user(s, seed=1).reply((*s.messages, final))
        said[None if reply is None else str(reply["content"])] += 1
    assert set(said) == {None, "Thanks!"}
    assert 0.4 < said["Thanks!"] / 200 < 0.8  # two of three customers say it before they leave


async def test_the_user_answers_questions_with_its_own_goal() -> None:
    world = learn([_asked(n) for n in range(60)])
    for s in world.scenarios(30, seed=0):
        user = world.user(s, seed=2)
        asked: Message = {"role": "assistant", "content": "Which colour would you like, please?"}
        reply = await user.reply((*s.messages, asked))
        assert reply is not None
        assert s.metadata["ticket"]["colour"] in str(reply["content"])
        bye: Message = {"role": "assistant", "content": "It is ordered. Anything else?"}
        assert await user.reply((*s.messages, asked, reply, bye)) is None


def _asked(n: int) -> Episode:
    """An episode in which the agent had to ask for what the ticket holds."""
    from understudy.core.types import Completion, ModelRef, Request

    colour = ["crimson", "teal", "ochre", "violet"][n % 4]
    size = 10 + n % 7
    function = {"name": "order", "arguments": f'{{"colour": "{colour}", "size": {size}}}'}
    messages: list[Any] = [
        {"role": "user", "content": f"I want a chair of height {size}."},
        {"role": "assistant", "content": "Which colour would you like?"},
        {"role": "user", "content": f"Make it {colour}."},
        {"role": "assistant", "content": None,
         "tool_calls": [{"id": "x", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "x", "content": '{"ok": true}'},
    ]  # fmt: skip
    completion = Completion(
        id=f"c{n}",
        request=Request(messages=tuple(messages), model=ModelRef("m")),
        status="ok",
        message={"role": "assistant", "content": "It is ordered. Anything else?"},
    )
    return Episode(f"e{n}", (completion,), metadata={"ticket": {"colour": colour, "size": size}})


def test_values_are_mined_beside_metadata_that_nobody_says() -> None:
    """A client's run number switches nothing off: colours with a number are drawn anew, and an
    argument that the agent made up is not taken for the user's."""
    world = learn([_numbered(n) for n in range(60)])
    drawn = world.scenarios(40, seed=0)
    captured = {str(_numbered(n).messages[0]["content"]) for n in range(60)}
    assert sum(str(s.messages[-1]["content"]) not in captured for s in drawn) >= 10
    for s in drawn:
        assert set(s.metadata) == {"run"}
        assert set(s.goal) == {"run", "shade"}
        assert str(s.goal["shade"]) in str(s.messages[-1]["content"])


def _numbered(n: int) -> Episode:
    """An episode whose metadata is a run number; the shade is said, the order number is not."""
    e = _asked(n)
    shade, room = f"RAL-{7000 + n}", ["kitchen", "hall", "attic"][n % 3]
    function = {"name": "paint", "arguments": f'{{"shade": "{shade}", "order": "ORD-{n}99"}}'}
    messages: Any = [
        {"role": "user", "content": f"Paint the {room} in {shade}, please."},
        {"role": "assistant", "content": None,
         "tool_calls": [{"id": "x", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "x", "content": '{"ok": true}'},
    ]  # fmt: skip
    completion = replace(
        e.completions[0], request=replace(e.completions[0].request, messages=tuple(messages))
    )
    return Episode(f"e{n}", (completion,), metadata={"run": n % 4})
