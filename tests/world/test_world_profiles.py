"""Users drawn from mined profiles, and users that a model plays."""

import dataclasses
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import talk

from understudy.core.types import Completion, Episode, Message, ModelRef, Request, Scenario
from understudy.recipes.user_width import mine_users
from understudy.world.likeness.played import END, PlayedUser, unknown
from understudy.world.model import World
from understudy.world.users.profiles import (
    Population,
    Profile,
    mine_slips,
    misspell,
    slips_of,
    small,
    way_of,
)
from understudy.world.users.user import Known, MinedUser

COLOURS = ("crimson", "teal", "ochre", "violet")
ASKED = "Which colour would you like?"


def chairs(n: int) -> Episode:
    """Every third customer names the colour at once; every fifth other one leaves the question
    open; one in ten writes small letters."""
    ticket = {"colour": COLOURS[n % 4], "size": 10 + n % 7}
    first = f"I want a chair of height {ticket['size']}"
    open_, whole = n % 5 == 1, n % 3 == 0
    lines = [f"{first} in {ticket['colour']}." if whole else f"{first}."]
    if not whole:
        lines += [ASKED] if open_ else [ASKED, f"Make it {ticket['colour']}."]
    if whole or not open_:
        lines += ["It is ordered."]
    if n % 10 == 0:
        lines = [line.lower() if i % 2 == 0 else line for i, line in enumerate(lines)]
    return talk(f"e{n}", lines, {"ticket": ticket})


@pytest.fixture(scope="module")
def known() -> Known:
    return Known(mine_users([chairs(n) for n in range(240)]))


def goal(n: int = 2) -> dict[str, Any]:
    return {"ticket": {"colour": COLOURS[n % 4], "size": 10 + n % 7}}


def test_what_a_user_did_is_its_profile(known: Known) -> None:
    whole, open_, asked = (known.book.population.profiles[n] for n in (0, 1, 2))
    assert (whole.reveal, whole.turns, whole.parting) == (1.0, 1, False)
    assert open_.gave_up
    assert not open_.ways
    assert open_.reveal == 0.5
    assert asked.ways == {"answers": 1}
    assert asked.words == pytest.approx(3)
    assert [p.small for p in known.book.population.profiles[:11]] == [
        n % 10 == 0 for n in range(11)
    ]


def test_leaving_where_most_leave_is_no_giving_up() -> None:
    closing = "It is ordered. Anything else?"
    bye = [talk(f"e{n}", ["A chair, please.", closing], {}) for n in range(30)]
    assert not any(p.gave_up for p in mine_users(bye).population.profiles)


def test_rare_kinds_are_drawn_more_often_than_they_were_seen() -> None:
    people = Population([Profile(turns=1)] * 990 + [Profile(turns=1, small=True)] * 10)

    def share(tail: float) -> float:
        rng = random.Random(5)
        return sum(people.draw(rng, tail=tail).small for _ in range(4000)) / 4000

    assert share(1.0) < 0.02
    expected = 10**0.5 / (10**0.5 + 990**0.5)
    assert share(0.5) == pytest.approx(expected, abs=0.02)


def test_a_drawn_user_writes_as_its_first_message_does(known: Known) -> None:
    rng = random.Random(1)
    assert all(known.book.population.draw(rng, "i want a chair").small for _ in range(50))
    assert not any(known.book.population.draw(rng, "I want a chair").small for _ in range(50))


async def test_fields_are_told_a_little_at_a_time(known: Known) -> None:
    first: Counter[bool] = Counter()
    for seed in range(200):
        user = MinedUser(known, goal(), seed)
        said = await user.reply(())
        assert said is not None
        text = str(said["content"])
        assert "height 12" in text
        first["ochre" in text] += 1
        assert user.unsaid([said]) == (set() if "ochre" in text else {"/ticket/colour"})
    assert 0.2 < first[True] / 200 < 0.5  # a third of the real ones tell all at once


async def test_users_lose_patience_as_often_as_real_ones(known: Known) -> None:
    """A fifth of those who are asked leaves the question open."""
    opened = {"role": "user", "content": "I want a chair of height 12."}
    seen: list[Any] = [opened, {"role": "assistant", "content": ASKED}]
    replies = [await MinedUser(known, goal(), seed, first="I").reply(seen) for seed in range(300)]
    left = sum(r is None for r in replies) / 300
    assert 0.1 < left < 0.35
    assert {str(r["content"]).lower() for r in replies if r} == {"make it ochre."}


async def test_a_user_is_its_seed_and_shares_no_chance_with_the_world(world: World) -> None:
    scenario = world.scenarios(1, seed=8)[0]
    done: Message = {"role": "assistant", "content": "Done: your parts are ordered."}
    before = random.getstate()
    said = [await world.user(scenario, seed).reply((*scenario.messages, done)) for seed in range(9)]
    again = []
    for seed in range(9):
        world.session(seed).step("find_parts", '{"category": "seals"}')
        again.append(await world.user(scenario, seed).reply((*scenario.messages, done)))
    assert said == again
    assert len({str(s) for s in said}) == 2
    assert random.getstate() == before


async def test_an_opening_is_true_of_its_ticket(world: World, episodes: list[Episode]) -> None:
    from test_world_scenarios import read

    for n, e in enumerate(episodes[:60]):
        silent = Scenario(id=f"s{n}", messages=(), goal=e.metadata, metadata=e.metadata)
        said = await world.user(silent, n).reply(())
        if said is not None:
            assert read(str(said["content"])) == e.metadata["ticket"]


async def test_who_has_said_its_last_says_nothing_more() -> None:
    last = [talk(f"e{n}", ["A chair.", "It is ordered.", "Great. That was all."], {})
            for n in range(20)]  # fmt: skip
    user = MinedUser(Known(mine_users(last)), {}, 0)
    seen: list[Any] = [{"role": "user", "content": "A chair."},
                       {"role": "assistant", "content": "It is ordered."}]  # fmt: skip
    said = await user.reply(seen)
    assert said == {"role": "user", "content": "Great. That was all."}
    assert user.left
    assert await user.reply([*seen, said, seen[1]]) is None


def test_a_saved_world_has_the_same_users(world: World, tmp_path: Path) -> None:
    world.save(tmp_path)
    again = World.load(tmp_path)
    assert again.book.population == world.book.population
    assert again.book.situations == world.book.situations


def test_misspellings_are_what_nobody_else_writes() -> None:
    said = ["please order it"] * 40 + ["plese order it", "please form it"]
    assert mine_slips(said, []) == [("please", "plese", 1)]
    assert mine_slips(said, ["plese is a town"]) == []


@given(st.text("abcdefgh", min_size=5, max_size=9))
def test_a_slip_keeps_the_ends_and_is_another_word(word: str) -> None:
    for slip in slips_of(word):
        assert slip != word
        assert (slip[0], slip[-1]) == (word[0], word[-1])
        assert abs(len(slip) - len(word)) <= 1


def test_words_are_misspelt_at_the_rate_of_the_profile() -> None:
    rng, slips = random.Random(2), [("please", "plese", 3), ("order", "oder", 1)]
    texts = [misspell("please order it", 0.25, slips, rng) for _ in range(2000)]
    words = Counter(w for t in texts for w in t.split())
    assert set(words) == {"please", "plese", "order", "oder", "it"}
    assert (words["plese"] + words["oder"]) / 4000 == pytest.approx(0.25, abs=0.03)
    assert misspell("please order it", 0.0, slips, rng) == "please order it"


def test_what_a_turn_did() -> None:
    assert way_of("Teal. Why?", {"/colour"}) == "asks"
    assert [way_of("x", set("ab"[:n])) for n in range(3)] == ["evades", "answers", "more"]
    assert small("… hi")
    assert not small("12 Chairs")
    assert not small("12")


class Scripted:
    """Stand-in for a model: writes these drafts in order, and keeps what it was asked."""

    def __init__(self, drafts: Sequence[str]) -> None:
        self.drafts, self.asked = list(drafts), list[Request]()

    async def complete(self, request: Request) -> Completion:
        self.asked.append(request)
        message: Message = {"role": "assistant", "content": self.drafts.pop(0)}
        return Completion("c", request, "ok", message=message)


def played(world: World, drafts: Sequence[str], **more: Any) -> tuple[PlayedUser, Scripted, Any]:
    scenario = world.scenarios(1, seed=3)[0]
    chat = Scripted(drafts)
    return PlayedUser(chat, ModelRef("script"), world, scenario, **more), chat, scenario


async def test_a_played_user_knows_its_goal_and_what_it_has_not_said(world: World) -> None:
    user, chat, scenario = played(world, ["It is as I wrote."])
    asked: Message = {"role": "assistant", "content": "What do you need?"}
    call: Any = {"role": "tool", "tool_call_id": "x", "content": "secret 4711"}
    said = await user.reply((*scenario.messages, call, asked))
    assert said == {"role": "user", "content": "It is as I wrote."}
    request = chat.asked[0]
    told = "\n".join(str(m["content"]) for m in request.messages)
    assert request.purpose == "user"
    assert "4711" not in told
    assert str(scenario.metadata["ticket"]["budget"]) in str(request.messages[0]["content"])
    assert [m["role"] for m in request.messages] == ["system", "assistant", "user"]


async def test_a_played_user_says_nothing_that_it_cannot_know(world: World) -> None:
    user, chat, scenario = played(world, ["Card 9917, please.", " ", "word " * 500, f"Bye! {END}"])
    asked: Message = {"role": "assistant", "content": "Which card?"}
    user.fallback = None
    assert await user.reply((*scenario.messages, asked)) is None
    assert user.refused == {"made up": 1, "empty": 1, "too long": 1}
    assert user.left
    assert "you do not know 9917" in str(chat.asked[1].messages[-1]["content"])
    again, _, _ = played(world, ["Card 9917, please.", f"Bye! {END}"])
    assert await again.reply((*scenario.messages, asked)) == {"role": "user", "content": "Bye!"}
    assert again.left
    assert await again.reply((*scenario.messages, asked)) is None


async def test_a_played_user_falls_back_and_ends(world: World) -> None:
    scenario = world.scenarios(1, seed=3)[0]
    done: Message = {"role": "assistant", "content": "Done: your parts are ordered."}
    mined = [await world.user(scenario, s).reply((*scenario.messages, done)) for s in range(20)]
    found = [
        await played(world, [" "] * 3, fallback=world.user(scenario, s))[0].reply(
            (*scenario.messages, done)
        )
        for s in range(20)
    ]
    assert found == mined
    silent, _, _ = played(world, [END])
    assert await silent.reply((*scenario.messages, done)) is None
    assert silent.left


def test_numbers_that_were_said_are_known() -> None:
    seen: list[Any] = [{"role": "assistant", "content": "Order R-12 costs 30."}]
    fields = {"/n": 3, "/day": "2024-05-20", "/who": "mia_7"}
    text = "1. Take R-12 for 30\n2. on May 20, 3 of them, mia_7"
    assert unknown(text, fields, seen) == []
    assert unknown("R-13 for 31", fields, seen) == ["R-13", "31"]
    assert dataclasses.asdict(Profile())["ways"] == {}
