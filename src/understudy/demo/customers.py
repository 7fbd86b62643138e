"""The demo's customers: what they wish for, how they answer, and the thumb that they leave.

Everything is fixed by a seed. Traffic and proof draw from disjoint halves of the wishes and of
the wordings, told apart by hashes. A wish is always possible: at least one stay under the cap can
truly be booked in the session that it comes with.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from understudy.core.types import Message, Scenario, text_of
from understudy.demo.catalogue import (
    METHODS,
    Rates,
    Stay,
    build_catalogue,
    draw,
    true_price,
    truly_available,
)
from understudy.demo.wording import THANKS, Missing, Wish, sentence, word_fact, word_first

Use = Literal["traffic", "proof"]
PROOF_SHARE = 0.3
MISSING_RATE = 0.2
CANCEL_RATE = 0.15
CAP_RATE = 0.85
THANKS_RATE = 0.1
THUMB_RATE = 0.4
WRONG_THUMB_RATE = 0.1
PATIENCE = 4  # replies after which a customer leaves

# words in a question -> the fact that it asks for
_ASKED = (
    ("nights", ("night", "how long")),
    ("methods", ("pay", "method", "card")),
    ("guests", ("guest", "people", "how many", "person")),
    ("budget", ("budget", "price", "cost", "max")),
    ("prefer", ("cheap", "rated", "rating", "prefer")),
    ("cancel", ("cancel", "booking")),
    ("stay", ("city", "where", "place", "town")),
)


def use_of_wish(wish: Wish) -> Use:
    """Whether a wish belongs to the traffic or to the proof."""
    key = (wish.city, wish.guests, wish.nights, wish.max_price, wish.prefer, wish.methods)
    return "proof" if draw("wish", key) < PROOF_SHARE else "traffic"


def use_of_wording(combination: tuple[int, ...]) -> Use:
    """Whether a combination of forms belongs to the traffic or to the proof."""
    return "proof" if draw("wording", combination) < PROOF_SHARE else "traffic"


def scenarios(
    use: Use, n: int, seed: int = 0, catalogue_seed: int = 0, rates: Rates | None = None
) -> list[Scenario]:
    """`n` customers as scenarios: first message without system prompt, ticket as metadata.

    `seed` of the scenario is its session's seed in the service; `goal` is hidden from the agent.
    """
    made = _scenarios(use, seed, catalogue_seed, rates or Rates())
    return [next(made) for _ in range(n)]


def _scenarios(use: Use, seed: int, catalogue_seed: int, rates: Rates) -> Iterator[Scenario]:
    catalogue = build_catalogue(catalogue_seed)
    rng = random.Random(f"{use}-{seed}")
    number = 0
    while True:
        session_seed = rng.randrange(2**31)
        wish, existing = _wish(rng, catalogue)
        if use_of_wish(wish) != use or not is_possible(wish, session_seed, catalogue, rates):
            continue
        missing: Missing = None
        if rng.random() < MISSING_RATE:
            missing = "nights" if rng.random() < 0.5 else "methods"
        wording = word_first(wish, missing, rng)
        while use_of_wording(wording.combination) != use:
            wording = word_first(wish, missing, rng)
        yield Scenario(
            id=f"{use}-{seed}-{number}",
            messages=({"role": "user", "content": wording.text},),
            goal={"wish": wish.ticket(), "existing": existing, "wording": wording.combination},
            seed=session_seed,
            split="train" if use == "traffic" else "heldout",
            metadata={"ticket": wish.ticket()},
            origin=f"{use}-{seed}",
        )
        number += 1


def _wish(
    rng: random.Random, catalogue: Mapping[str, Sequence[Stay]]
) -> tuple[Wish, dict[str, Any] | None]:
    city = rng.choice(list(catalogue))
    guests = rng.choices((1, 2, 3, 4, 5, 6), (15, 40, 15, 20, 5, 5))[0]
    fitting = sorted(s.price for s in catalogue[city] if s.guests >= guests)
    cap = None
    if rng.random() < CAP_RATE and len(fitting) > 3:
        price = fitting[rng.randrange(2, len(fitting) - 1)]
        cap = price + -price % 5
    stays = [s for some in catalogue.values() for s in some]
    booking: dict[str, Any] | None = None
    if rng.random() < CANCEL_RATE:
        booking = {
            "booking_id": f"B{rng.randint(10000, 99999)}",
            "stay_id": rng.choice(stays).id,
            "nights": rng.randint(1, 7),
        }
    wish = Wish(
        city=city,
        guests=guests,
        nights=rng.randint(1, 7),
        max_price=cap,
        prefer=rng.choice(("cheapest", "best_rated")),
        methods=tuple(rng.sample(METHODS, rng.choice((2, 2, 3)))),
        cancel=booking["booking_id"] if booking else None,
    )
    return wish, booking


def is_possible(
    wish: Wish, session_seed: int, catalogue: Mapping[str, Sequence[Stay]], rates: Rates
) -> bool:
    """Whether some stay that suits the wish can truly be booked in that session."""
    return any(
        s.guests >= wish.guests
        and truly_available(session_seed, s, rates)
        and (wish.max_price is None or true_price(session_seed, s, rates) <= wish.max_price)
        for s in catalogue[wish.city]
    )


class Customer:
    """core.protocols.User over a scenario of this module. Single use."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        goal = dict(scenario.goal["wish"])
        self.wish = Wish(**{**goal, "methods": tuple(goal["methods"])})
        self._rng = random.Random(f"answers-{scenario.id}-{scenario.seed}")
        self._replies = 0
        self._leaving = False

    @property
    def first(self) -> str:
        """The first message."""
        return text_of(self.scenario.messages[-1].get("content"))

    async def reply(self, seen: Sequence[Message]) -> Message | None:
        """Answers a question; thanks now and then; else leaves (None)."""
        said = text_of(seen[-1].get("content")) if seen else ""
        self._replies += 1
        if self._leaving or self._replies > PATIENCE:
            return None
        if said and "?" not in said:
            self._leaving = True
            if draw(self.scenario.seed, "thanks") < THANKS_RATE and "sorry" not in said.lower():
                return {"role": "user", "content": self._rng.choice(THANKS)}
            return None
        return {"role": "user", "content": self._answer(said.lower())}

    def _answer(self, question: str) -> str:
        for fact, words in _ASKED:
            if any(word in question for word in words):
                text = word_fact(fact, self.wish, self._rng)[0]
                if text:
                    return sentence(text) + self._rng.choice((".", "", "!"))
                return {"budget": "No limit.", "cancel": "Nothing to cancel."}[fact]
        return word_first(self.wish, None, self._rng).text

    def thumb(self, success: bool) -> bool | None:
        """The feedback that the customer leaves, if any; now and then it is mistaken."""
        if draw(self.scenario.seed, "thumb") >= THUMB_RATE:
            return None
        return success != (draw(self.scenario.seed, "mistaken") < WRONG_THUMB_RATE)
