"""How the demo's customers put things: a grammar of clauses, styles and orders.

A first message is a style, an order of clauses and one form for each; together they are its
*combination*, a tuple of numbers by which wordings are told apart.
"""

import random
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

Prefer = Literal["cheapest", "best_rated"]
Missing = Literal["nights", "methods"] | None

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven")

STAY = (
    "I need a stay in {city}", "a place in {city}", "looking for somewhere to stay in {city}",
    "book me something in {city}", "we are going to {city}", "stay in {city}",
    "I am travelling to {city}", "find a room in {city}", "{city}", "my trip goes to {city}",
    "I want to book a stay in {city}", "something nice in {city}", "we need a roof in {city}",
)  # fmt: skip
GUESTS = (
    "for {n} people", "{n} guests", "there are {n} of us", "for {n} adults", "a party of {n}",
    "{n} persons", "{n} people in all", "we come with {n} people",
)  # fmt: skip
ALONE = ("just me", "for {n} person", "{n} guest", "only me", "I travel alone")
NIGHTS = (
    "{n} nights", "for {n} nights", "staying {n} nights", "we stay {n} nights",
    "{n} nights in total", "it is for {n} nights", "{n} nights please", "a visit of {n} nights",
)  # fmt: skip
BUDGET = (
    "max {p} a night", "at most {p} per night", "not more than {p} a night",
    "my budget is {p} per night", "up to {p} a night", "{p} a night is my limit",
    "{p} per night at the very most", "it may cost {p} per night, no more", "cap {p} a night",
)  # fmt: skip
NO_BUDGET = ("money is no object", "no limit on the price", "I have no fixed budget")
PREFER: dict[Prefer, tuple[str, ...]] = {
    "cheapest": (
        "the cheapest one", "cheapest please", "as cheap as possible", "the lowest price",
        "I want the least expensive one", "take the cheapest", "cheap is what counts",
    ),
    "best_rated": (
        "the best rated one", "best rated please", "the highest rating", "the top rated one",
        "I want the one with the best rating", "take the best rated", "good ratings are what count",
    ),
}  # fmt: skip
PAY = (
    "pay with {m}", "payment: {m}", "I pay by {m}", "charge {m}", "use {m}",
    "{m} for the payment", "please use {m} to pay", "paying with {m}",
)  # fmt: skip
OTHERWISE = (", else ", ", then ", ", or if that fails ", ", otherwise ", ", backup ")
CANCEL = (
    "first cancel {b}", "cancel my old booking {b} first", "before that cancel {b}",
    "{b} must be cancelled first", "please cancel booking {b} before you book",
)  # fmt: skip
HELLO = ("Hi!", "Hello,", "Good morning,", "Hey,", "Good evening,", "Dear team,")
BYE = ("Thanks!", "Thank you.", "Cheers.", "Looking forward to it.", "Please be quick.")
THANKS = ("Thanks!", "Thank you, bye.", "Great, thanks.", "Perfect, thank you!")
TYPOS = {
    "please": "plese", "looking": "lookng", "booking": "bokking", "travelling": "traveling",
    "somewhere": "somwhere", "something": "somthing", "possible": "posible", "want": "wnat",
}  # fmt: skip
ORDERS = (
    ("cancel", "stay", "guests", "nights", "budget", "prefer", "methods"),
    ("stay", "guests", "nights", "prefer", "budget", "methods", "cancel"),
    ("stay", "nights", "guests", "budget", "prefer", "methods", "cancel"),
    ("cancel", "stay", "nights", "guests", "prefer", "budget", "methods"),
    ("guests", "nights", "stay", "budget", "prefer", "methods", "cancel"),
    ("nights", "stay", "guests", "prefer", "methods", "budget", "cancel"),
    ("prefer", "stay", "guests", "nights", "budget", "methods", "cancel"),
    ("cancel", "methods", "stay", "guests", "nights", "budget", "prefer"),
    ("guests", "stay", "prefer", "budget", "nights", "methods", "cancel"),
    ("cancel", "budget", "prefer", "stay", "nights", "guests", "methods"),
)  # fmt: skip
STYLES = ("terse", "plain", "chatty")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a customer wants. `max_price` is per night; `methods` in the order to try them."""

    city: str
    guests: int
    nights: int
    max_price: int | None
    prefer: Prefer
    methods: tuple[str, ...]
    cancel: str | None = None  # an existing booking that must be cancelled

    def ticket(self) -> dict[str, Any]:
        """The wish as structured fields: what the shop's own system knows of the request."""
        return {**asdict(self), "methods": list(self.methods)}


@dataclass(frozen=True, slots=True)
class Wording:
    """A first message, with the combination of forms that it was made of."""

    text: str
    combination: tuple[int, ...]


def word_first(wish: Wish, missing: Missing, rng: random.Random) -> Wording:
    """The customer's first message, without the fact that is `missing`."""
    style, order = rng.randrange(len(STYLES)), rng.randrange(len(ORDERS))
    said, chosen = [], []
    for fact in ORDERS[order]:
        text, form = word_fact(fact, wish, rng)
        if text and fact != missing:
            said.append(text)
            chosen.append(form)
    text = _join(said, STYLES[style], rng)
    if rng.random() < 0.04:
        text = _misspell(text)
    return Wording(text, (style, order, *chosen))


def word_fact(fact: str, wish: Wish, rng: random.Random) -> tuple[str, int]:
    """One fact in words, and the number of its form; empty where there is nothing to say."""
    if fact == "stay":
        return _form(STAY, rng, city=wish.city)
    if fact == "guests":
        return _form(ALONE if wish.guests == 1 else GUESTS, rng, n=_number(wish.guests, rng))
    if fact == "nights":
        text, form = _form(NIGHTS, rng, n=_number(wish.nights, rng))
        return (text.replace("nights", "night") if wish.nights == 1 else text), form
    if fact == "budget":
        if wish.max_price is not None:
            return _form(BUDGET, rng, p=wish.max_price)
        return _form(NO_BUDGET, rng) if rng.random() < 0.5 else ("", -1)
    if fact == "prefer":
        return _form(PREFER[wish.prefer], rng)
    if fact == "methods":
        methods = [m.capitalize() for m in wish.methods] if rng.random() < 0.1 else wish.methods
        otherwise = rng.randrange(len(OTHERWISE))
        text, form = _form(PAY, rng, m=OTHERWISE[otherwise].join(methods))
        return text, form * len(OTHERWISE) + otherwise
    return _form(CANCEL, rng, b=wish.cancel) if wish.cancel else ("", -1)


def _form(forms: tuple[str, ...], rng: random.Random, **facts: Any) -> tuple[str, int]:
    form = rng.randrange(len(forms))
    return forms[form].format(**facts), form


def _number(n: int, rng: random.Random) -> str:
    return NUMBERS[n] if rng.random() < 0.4 else str(n)


def _join(said: list[str], style: str, rng: random.Random) -> str:
    if style == "terse":
        return ", ".join(said)
    half = (len(said) + 1) // 2
    if style == "plain":
        return ". ".join(sentence(", ".join(part)) for part in (said[:half], said[half:])) + "."
    parts = (said[:half], said[half:-1], said[-1:])
    sentences = [sentence(", ".join(part)) + "." for part in parts if part]
    return " ".join([rng.choice(HELLO), *sentences, rng.choice(BYE)])


def sentence(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def _misspell(text: str) -> str:
    """One word of no consequence misspelt, where there is one."""
    for right, wrong in TYPOS.items():
        if re.search(rf"\b{right}\b", text):
            return re.sub(rf"\b{right}\b", wrong, text, count=1)
    return text
