"""Customers: fixed by seeds, traffic apart from proof, wording that holds the facts."""

import asyncio
from collections.abc import Callable

import pytest

from understudy.core.types import Message, Scenario, text_of
from understudy.demo.catalogue import Rates, build_catalogue, true_price, truly_available
from understudy.demo.customers import PATIENCE, Customer, Use, scenarios
from understudy.demo.incumbent import read_words

SORT = {"cheapest": "price", "best_rated": "rating"}
QUESTIONS = {
    "nights": "How many nights?",
    "methods": "Which payment methods?",
    "guests": "How many guests?",
    "city": "Which city?",
    "sort": "Do you prefer the cheapest or the best rated?",
}


@pytest.fixture(scope="module")
def some() -> Callable[[Use, int], list[Scenario]]:
    made: dict[Use, list[Scenario]] = {use: scenarios(use, 600) for use in ("traffic", "proof")}
    return lambda use, n: made[use][:n]


def first(scenario: Scenario) -> str:
    return text_of(scenario.messages[0].get("content"))


def reply(customer: Customer, said: str) -> Message | None:
    return asyncio.run(customer.reply([{"role": "assistant", "content": said}]))


def test_customers_are_fixed_by_their_seed(some) -> None:
    assert scenarios("traffic", 50) == some("traffic", 50)
    assert scenarios("traffic", 50, seed=1) != some("traffic", 50)
    one = some("traffic", 1)[0]
    asked = QUESTIONS["methods"]
    assert reply(Customer(one), asked) == reply(Customer(one), asked)


def test_proof_and_traffic_share_no_wish_and_no_wording(some) -> None:
    def wishes(use: Use) -> set[str]:
        return {str({**s.goal["wish"], "cancel": None}) for s in some(use, 600)}

    def wordings(use: Use) -> set[tuple[int, ...]]:
        return {s.goal["wording"] for s in some(use, 600)}

    assert not wishes("traffic") & wishes("proof")
    assert not wordings("traffic") & wordings("proof")
    assert not {first(s) for s in some("traffic", 600)} & {first(s) for s in some("proof", 600)}
    assert len(wordings("traffic")) > 500
    assert {s.split for s in some("traffic", 600)} == {"train"}
    assert {s.split for s in some("proof", 600)} == {"heldout"}


def test_the_first_message_holds_the_facts_but_for_one(some) -> None:
    missing = 0
    for scenario in some("traffic", 600) + some("proof", 600):
        wish, heard = scenario.goal["wish"], read_words((first(scenario),))
        assert heard.city == wish["city"]
        assert heard.guests == wish["guests"]
        assert heard.max_price == wish["max_price"]
        assert heard.sort == SORT[wish["prefer"]]
        assert heard.cancel == wish["cancel"]
        assert heard.nights in (wish["nights"], None)
        methods = [m.lower() for m in heard.methods]
        assert methods in (wish["methods"], [])
        assert heard.nights or methods
        missing += not (heard.nights and methods)
    assert missing / 1200 == pytest.approx(0.2, abs=0.04)


def test_customers_answer_what_they_are_asked(some) -> None:
    for scenario in some("proof", 100):
        wish = scenario.goal["wish"]
        answers = {}
        for fact, question in QUESTIONS.items():
            answer = reply(Customer(scenario), question)
            assert answer is not None
            answers[fact] = getattr(read_words((text_of(answer.get("content")),)), fact)
        assert answers["nights"] == wish["nights"]
        assert [m.lower() for m in answers["methods"]] == wish["methods"]
        assert answers["guests"] == wish["guests"]
        assert answers["city"] == wish["city"]
        assert answers["sort"] == SORT[wish["prefer"]]
        restated = reply(Customer(scenario), "What would you like?")
        assert restated is not None
        heard = read_words((text_of(restated.get("content")),))
        assert (heard.city, heard.nights) == (wish["city"], wish["nights"])


def test_customers_leave(some) -> None:
    thanks = 0
    for scenario in some("traffic", 300):
        customer = Customer(scenario)
        answer = reply(customer, "Done. Your booking is B12345.")
        thanks += answer is not None
        if answer is not None:
            assert reply(customer, "You are welcome.") is None
    assert thanks / 300 == pytest.approx(0.1, abs=0.06)
    stubborn = Customer(some("traffic", 1)[0])
    answers = [reply(stubborn, "What?") for _ in range(PATIENCE + 1)]
    assert None not in answers[:-1]
    assert answers[-1] is None


def test_thumbs_are_given_now_and_then_and_seldom_wrong(some) -> None:
    thumbs = [Customer(s).thumb(True) for s in some("traffic", 600) + some("proof", 600)]
    given = [t for t in thumbs if t is not None]
    assert len(given) / len(thumbs) == pytest.approx(0.4, abs=0.05)
    assert given.count(False) / len(given) == pytest.approx(0.1, abs=0.05)


def test_every_wish_can_be_met(some) -> None:
    catalogue, rates = build_catalogue(0), Rates()
    for scenario in some("proof", 600):
        wish = scenario.goal["wish"]
        assert any(
            s.guests >= wish["guests"]
            and truly_available(scenario.seed, s, rates)
            and true_price(scenario.seed, s, rates) <= (wish["max_price"] or 10**9)
            for s in catalogue[wish["city"]]
        )


def test_wishes_are_varied(some) -> None:
    wishes = [s.goal["wish"] for s in some("traffic", 600)]
    assert len({w["city"] for w in wishes}) == 24
    assert sum(w["cancel"] is not None for w in wishes) / 600 == pytest.approx(0.15, abs=0.05)
    assert 0.7 < sum(w["max_price"] is not None for w in wishes) / 600 < 0.9
    assert all(s.metadata == {"ticket": s.goal["wish"]} for s in some("traffic", 20))
