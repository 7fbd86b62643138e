"""The demo's incumbent: a scripted, flawed agent that stands in for a large model.

It decides its next message from the conversation alone, as a model does: it reads the customer's
words with patterns of its own and replays what happened so far. Its flaws are drawn once for an
episode, from the first message and a seed. `incumbent_server.py` serves it:
`python -m understudy.demo.incumbent --port 0 --seed N` prints one JSON line with its URL.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict

from understudy.core.types import Message, ToolCall, text_of
from understudy.demo.catalogue import CITIES, METHODS, draw
from understudy.demo.wording import NUMBERS

MAX_REPEATS = 3


class FlawRates(BaseModel):
    """How often an episode has each flaw, as probabilities."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gives_up: float = 0.22  # stops at the first error
    forgets_cap: float = 0.25
    forgets_sort: float = 0.28  # then takes the first stay of the list
    one_method: float = 0.30  # tries no other payment method
    repeats: float = 0.22  # repeats a hopeless hold, then stops
    skips_cancel: float = 0.35


NO_FLAWS = FlawRates(
    gives_up=0, forgets_cap=0, forgets_sort=0, one_method=0, repeats=0, skips_cancel=0
)


@dataclass(frozen=True, slots=True)
class Flaws:
    """The flaws of one episode."""

    gives_up: bool
    forgets_cap: bool
    forgets_sort: bool
    one_method: bool
    repeats: bool
    skips_cancel: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """What could be read from the customer's words; None where nothing was said of it."""

    city: str | None
    guests: int | None
    nights: int | None
    max_price: int | None
    sort: str | None
    methods: tuple[str, ...]
    cancel: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """A tool call with its result."""

    name: str
    arguments: Mapping[str, Any]
    result: Mapping[str, Any]

    @property
    def error(self) -> str | None:
        error = self.result.get("error")
        return error if isinstance(error, str) else None


def draw_flaws(first_message: str, seed: int, rates: FlawRates) -> Flaws:
    """An episode's flaws: a function of its first message and the seed."""
    drawn = {f: draw(seed, f, first_message) < rate for f, rate in rates.model_dump().items()}
    return Flaws(**drawn)


def decide(messages: Sequence[Message], seed: int = 0, rates: FlawRates | None = None) -> Message:
    """The next assistant message."""
    words = tuple(text_of(m.get("content")) for m in messages if m["role"] == "user")
    first = words[0] if words else ""
    heard, flaws = read_words(words), draw_flaws(first, seed, rates or FlawRates())
    steps = _steps(messages)
    booking = next((s.result["booking_id"] for s in steps if _confirmed(s)), None)
    if booking is not None:
        thanked = messages[-1]["role"] == "user"
        return _say("You are welcome." if thanked else f"Done. Your booking is {booking}.")
    question = _question(heard)
    if question:
        return _say(question)
    action = _next_action(steps, heard, flaws, looks_first=draw(seed, "looks", first) < 0.1)
    if isinstance(action, str):
        return _say(action)
    call: ToolCall = {
        "id": f"call_{len(steps)}_{int(1e6 * draw(first, len(steps), len(messages)))}",
        "type": "function",
        "function": {"name": action[0], "arguments": json.dumps(action[1])},
    }
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _say(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _confirmed(step: Step) -> bool:
    return step.name == "pay_hold" and step.result.get("status") == "confirmed"


def _question(heard: Heard) -> str | None:
    if heard.city is None:
        return "Which city?"
    if heard.guests is None:
        return "How many guests?"
    if heard.nights is None:
        return "How many nights?"
    if not heard.methods:
        return "Which payment methods?"
    return "Do you prefer the cheapest or the best rated?" if heard.sort is None else None


Action = tuple[str, dict[str, Any]] | str


def _next_action(steps: Sequence[Step], heard: Heard, flaws: Flaws, looks_first: bool) -> Action:
    """The next call, or the words with which the agent gives up."""
    last = steps[-1] if steps else None
    if last is not None and last.error:
        return _after_error(steps, last, heard, flaws)
    if last is None and heard.cancel and not flaws.skips_cancel:
        return "cancel_booking", {"booking_id": heard.cancel}
    if last is None or last.name in ("cancel_booking", "find_booking"):
        return _search(heard, flaws)
    if last.name == "search_stays":
        if not last.result.get("stays"):
            return "Sorry, I found nothing that fits."
        stay_id = last.result["stays"][0]["id"]
        if looks_first and not any(s.name == "stay_details" for s in steps):
            return "stay_details", {"stay_id": stay_id}
        return "hold_stay", {"stay_id": stay_id, "nights": heard.nights}
    if last.name == "stay_details":
        return "hold_stay", {"stay_id": last.arguments["stay_id"], "nights": heard.nights}
    return "pay_hold", {"hold_id": last.result["hold_id"], "method": _method(steps, heard)}


def _after_error(steps: Sequence[Step], last: Step, heard: Heard, flaws: Flaws) -> Action:
    again = last.name, dict(last.arguments)
    if flaws.gives_up:
        return "Sorry, that did not work. I could not book it."
    if last.error == "rate limited":
        return again
    if last.error in ("sold out", "no longer listed", "price changed"):
        if not flaws.repeats:
            return _search(heard, flaws)
        repeats = sum(s.name == last.name and s.arguments == last.arguments for s in steps)
        return again if repeats < MAX_REPEATS else "Sorry, the stay cannot be had."
    if last.error == "hold expired":
        held = next(s for s in reversed(steps) if "hold_id" in s.result)
        return held.name, dict(held.arguments)
    if last.error == "declined":
        method = _method(steps, heard)
        if method is None or flaws.one_method:
            return "Sorry, your payment was declined."
        return "pay_hold", {"hold_id": last.arguments["hold_id"], "method": method}
    if last.error == "method must be lower case":
        return "pay_hold", {**last.arguments, "method": str(last.arguments["method"]).lower()}
    return "Sorry, something went wrong."


def _search(heard: Heard, flaws: Flaws) -> Action:
    arguments: dict[str, Any] = {"city": heard.city, "guests": heard.guests}
    if heard.max_price is not None and not flaws.forgets_cap:
        arguments["max_price"] = heard.max_price
    if not flaws.forgets_sort:
        arguments["sort"] = heard.sort
    return "search_stays", arguments


def _method(steps: Sequence[Step], heard: Heard) -> str | None:
    """The first method that was not declined, as the customer wrote it until that failed."""
    pays = [s for s in steps if s.name == "pay_hold"]
    declined = {str(s.arguments["method"]).lower() for s in pays if s.error == "declined"}
    lower = any(s.error == "method must be lower case" for s in pays)
    left = [m for m in heard.methods if m.lower() not in declined]
    return (left[0].lower() if lower else left[0]) if left else None


_N = rf"(\d+|{'|'.join(NUMBERS[1:])})"
_CITY = re.compile(rf"\b({'|'.join(CITIES)})\b")
_NIGHTS = re.compile(rf"\b{_N} nights?\b", re.I)
_GUESTS = re.compile(rf"\b(?:{_N} (?:guests?|people|persons?|adults?|of us)|party of {_N})\b", re.I)
_ALONE = re.compile(r"\b(?:just me|only me|travel alone)\b", re.I)
_PRICE = re.compile(r"\b(\d{2,3})\b")
_METHOD = re.compile(rf"\b({'|'.join(METHODS)})\b", re.I)
_CHEAP = re.compile(r"\b(?:cheap|cheapest|lowest price|least expensive)\b", re.I)
_RATED = re.compile(r"\b(?:rated|ratings?)\b", re.I)
_BOOKING = re.compile(r"\bB\d{5}\b")


@lru_cache(maxsize=4096)
def read_words(words: tuple[str, ...]) -> Heard:
    """What the customer's messages say; of two statements the later one counts."""
    found = [_read(text) for text in words]

    def latest(name: str) -> Any:
        return next((v for h in reversed(found) if (v := getattr(h, name)) not in (None, ())), None)

    return Heard(
        city=latest("city"),
        guests=latest("guests"),
        nights=latest("nights"),
        max_price=latest("max_price"),
        sort=latest("sort"),
        methods=latest("methods") or (),
        cancel=latest("cancel"),
    )


def _read(text: str) -> Heard:
    city, price, booking = _CITY.search(text), _PRICE.search(text), _BOOKING.search(text)
    guests, nights = _GUESTS.search(text), _NIGHTS.search(text)
    alone = 1 if _ALONE.search(text) else None
    sort = "price" if _CHEAP.search(text) else "rating" if _RATED.search(text) else None
    return Heard(
        city=city.group(1) if city else None,
        guests=_to_int(guests.group(1) or guests.group(2)) if guests else alone,
        nights=_to_int(nights.group(1)) if nights else None,
        max_price=int(price.group(1)) if price else None,
        sort=sort,
        methods=tuple(dict.fromkeys(_METHOD.findall(text))),
        cancel=booking.group(0) if booking else None,
    )


def _to_int(word: str) -> int:
    return int(word) if word.isdigit() else NUMBERS.index(word.lower())


def _steps(messages: Sequence[Message]) -> list[Step]:
    calls: dict[str, ToolCall] = {}
    steps = []
    for message in messages:
        calls |= {call["id"]: call for call in message.get("tool_calls") or ()}
        if message["role"] == "tool":
            function = calls[message["tool_call_id"]]["function"]
            content = text_of(message.get("content"))
            steps.append(Step(function["name"], _parsed(function["arguments"]), _parsed(content)))
    return steps


@lru_cache(maxsize=16384)
def _parsed(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return {"error": "unreadable"}
    return value if isinstance(value, dict) else {"error": "unreadable"}


if __name__ == "__main__":
    from understudy.demo.incumbent_server import main

    main()
