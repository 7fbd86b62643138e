"""Clauses that users exchange: what may stand for what, and that no meaning changes."""

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from understudy.world.users.clauses import (
    Exchanger,
    cut,
    mine_exchanges,
    mine_implied,
    plain,
    saying,
)
from understudy.world.users.wording import Part, join, slots

NAMES = ("/size", "/colour", "/code")
literals = st.text(st.sampled_from("ab ,.!\nX"), min_size=1, max_size=8)
parts_of_texts = st.lists(
    literals | st.tuples(st.sampled_from(NAMES), st.just("plain")), min_size=1, max_size=8
).map(lambda parts: [p for i, p in enumerate(parts) if not i or not _both_texts(parts, i)])


def _both_texts(parts: list[Part], i: int) -> bool:
    return isinstance(parts[i], str) and isinstance(parts[i - 1], str)


@given(parts_of_texts)
def test_cutting_loses_nothing(parts: list[Part]) -> None:
    again = [p for piece in cut(parts) for p in piece]
    fields = {name: f"<{name}>" for name in NAMES}
    assert join(again, fields) == join(parts, fields)


@given(st.lists(parts_of_texts, min_size=1, max_size=12), st.integers(0, 9))
def test_what_is_said_stays_said_in_the_same_order(texts: list[list[Part]], seed: int) -> None:
    fields = {"/size": 1, "/colour": "red", "/code": "K17"}
    exchanger = Exchanger(mine_exchanges([(t, fields) for t in texts] * 3, [{}] * len(texts) * 3))
    for text in texts:
        assert slots(exchanger.say(text, fields, random.Random(seed))) == slots(text)


def _orders(
    verb: str, tool: str, n: int
) -> list[tuple[list[Part], dict[str, str], dict[str, bool]]]:
    text: list[Part] = ["Hello, ", f"{verb} ", ("/order", "plain"), "."]
    return [(text, {"/order": f"K{i}"}, {tool: True}) for i in range(n)]


def test_clauses_that_the_tools_tell_apart_are_not_exchanged() -> None:
    same = _orders("drop", "cancel", 30) + _orders("cancel", "cancel", 30)
    other = _orders("drop", "cancel", 30) + _orders("change", "change", 30)
    assert [len(e.clauses) for e in _mined(same)] == [2]
    assert _mined(other) == []


def test_an_id_that_nobody_says_is_nothing_that_a_clause_decides() -> None:
    told = _orders("drop", "cancel", 30) + _orders("cancel", "cancel", 30)
    facts = [f | {"ticket": f"T-{n}"} for n, (_, _, f) in enumerate(told)]
    exchanges = mine_exchanges([(t, fields) for t, fields, _ in told], facts)
    assert [len(e.clauses) for e in exchanges] == [2]


def _mined(told: list[tuple[list[Part], dict[str, str], dict[str, bool]]]):
    return mine_exchanges([(t, f) for t, f, _ in told], [d for _, _, d in told])


def test_a_clause_said_once_stays_where_it_was() -> None:
    exchanges = _mined(_orders("drop", "cancel", 20) + _orders("cancel", "cancel", 20))
    once: list[Part] = ["for my aunt's ", ("/order", "plain"), " do something"]
    assert Exchanger(exchanges).say(once, {"/order": "K1"}, random.Random(0)) == once


def test_an_exchanged_clause_begins_as_the_one_before_did() -> None:
    exchanger = Exchanger(_mined(_orders("Drop", "a", 20) + _orders("Cancel", "a", 20)))

    def said(begin: str) -> set[object]:
        text: list[Part] = [begin, ("/order", "plain")]
        rngs = map(random.Random, range(20))
        return {exchanger.say(text, {"/order": "K1"}, rng)[0] for rng in rngs}

    assert said("ok, drop ") == {"ok, drop ", "ok, cancel "}
    assert said("Drop ") == {"Drop ", "Cancel "}


def test_one_of_a_thing_is_not_said_as_many() -> None:
    many: list[Part] = ["for ", ("/n", "plain"), " people"]
    party: list[Part] = ["a party of ", ("/n", "plain")]
    single: list[Part] = ["for ", ("/n", "plain"), " person"]
    told = [(p, {"/n": n}) for p, n in ((many, 4), (party, 2), (single, 1)) for _ in range(9)]
    exchanger = Exchanger(mine_exchanges(told, [{}] * len(told)))
    said = {str(exchanger.say(many, {"/n": 3}, random.Random(s))) for s in range(30)}
    assert said == {str(many), str(party)}
    assert exchanger.say(single, {"/n": 1}, random.Random(0)) == single


def test_a_clause_is_known_by_its_words_and_fields() -> None:
    assert plain(["For ", ("/n", "word"), " "]) == plain(["for ", ("/n", "plain")])
    assert saying([("/n", "word"), " of ", ("/m", "plain")], {"/n": 1, "/m": 2}) == (
        ("/n", True),
        ("/m", False),
    )


def test_clauses_say_a_field_in_words_of_their_own_where_chance_does_not_explain_it() -> None:
    rng = random.Random(3)
    says = {"cheap": ["no luxury", "low price please"], "good": ["only the best", "treat us"]}
    texts: list[list[Part]] = []
    facts: list[dict[str, Any]] = []
    for n in range(400):
        wish = rng.choice(["cheap", "good"])
        hello = rng.choice(["Hi", "Good day"])
        texts.append([f"{hello}, {rng.choice(says[wish])}, for ", ("/people", "plain"), "."])
        facts.append({"/wish": wish, "/number": n, "/shop": "one"})
    texts.append(["Hi, a rare wording, for ", ("/people", "plain"), "."])
    facts.append({"/wish": "good", "/number": 400, "/shop": "one"})
    found = mine_implied(texts, facts)
    expected = {words: [("/wish", wish)] for wish, forms in says.items() for words in forms}
    assert found == expected


def test_a_number_that_is_said_elsewhere_by_its_word_is_said_by_a_clause_without_it() -> None:
    """`only me` says one, `for {people}` says whoever comes."""
    rng = random.Random(4)
    texts: list[list[Part]] = []
    facts: list[dict[str, Any]] = []
    for _ in range(400):
        people = rng.randint(1, 4)
        alone = people == 1 and rng.random() < 0.5
        who: list[Part] = ["only me"] if alone else ["for ", ("/people", "word")]
        nights = 1 if people == 1 else rng.randint(2, 5)
        texts.append(["Hi, ", *who, ", for ", ("/nights", "word"), " nights."])
        facts.append({"/people": people, "/nights": nights})
    found = mine_implied(texts, facts)
    assert ("/people", 1) in found["only me"]
    assert all("\0/people\0" not in words for words in found)
