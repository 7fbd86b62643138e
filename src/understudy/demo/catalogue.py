"""What the demo's booking service sells, and what is hidden about it: pure functions of seeds.

The catalogue is the same for every session. What is sold out, gone or dearer than listed is drawn
for each session from its own seed, without regard to the order of calls.
"""

import hashlib
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict

CITIES = (
    "Velmora", "Quillon", "Brasko", "Ostermere", "Dravik", "Sunmarch", "Halvern", "Kestow",
    "Lirona", "Morvane", "Norbrick", "Ondara", "Pirelle", "Rustow", "Selvia", "Thornel",
    "Ulverne", "Vastrel", "Wendow", "Yarmel", "Zephra", "Caldrin", "Emberly", "Fennick",
)  # fmt: skip
METHODS = ("visa", "amex", "paypal", "maestro", "klarna")
StayState = Literal["free", "sold_out", "gone", "dearer"]


class Rates(BaseModel):
    """How often the service fails, as probabilities."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sold_out: float = 0.10  # per stay: the hold answers that it is sold out
    gone: float = 0.07  # per stay: listed, but no longer offered
    dearer: float = 0.08  # per stay: listed too cheaply; the first hold tells the new price
    rate_limited: float = 0.08  # per call, never twice in a row
    expired: float = 0.10  # per session: the first hold has run out when it is paid
    declined: float = 0.30  # per session: the method that is tried first is declined


NO_FAILURES = Rates(sold_out=0, gone=0, dearer=0, rate_limited=0, expired=0, declined=0)


@dataclass(frozen=True, slots=True)
class Stay:
    """One place to stay. `raised_price` is what it costs where the listing is stale."""

    id: str
    city: str
    guests: int  # how many it sleeps
    price: int  # listed, per night
    raised_price: int
    rating: float


def draw(*keys: object) -> float:
    """A number in [0, 1) that depends on the keys alone."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


@lru_cache(maxsize=4)
def build_catalogue(seed: int) -> dict[str, tuple[Stay, ...]]:
    """The stays of each city in the order in which they are listed unless a sort is asked for:
    as on many a site, what earns most (dear, not so well rated) tends to come first.

    Within a city no two ratings are equal, nor any two of the listed and raised prices.
    """
    rng = random.Random(f"catalogue-{seed}")
    numbers = rng.sample(range(100, 1000), 20 * len(CITIES))
    catalogue: dict[str, tuple[Stay, ...]] = {}
    for city in CITIES:
        count = rng.randint(12, 20)
        prices = sorted(rng.sample(range(40, 401), count))
        ratings = rng.sample([r / 10 for r in range(30, 51)], count)
        taken = set(prices)
        stays = []
        for price, rating in zip(prices, ratings, strict=True):
            raised = price + max(3, round(price * rng.uniform(0.05, 0.3)))
            while raised in taken:
                raised += 1
            taken.add(raised)
            guests = rng.choices((2, 3, 4, 6), (3, 2, 3, 3))[0]
            stays.append(Stay(f"S{numbers.pop()}", city, guests, price, raised, rating))
        stays.sort(key=lambda s: s.rating / 2 - s.price / 200 + rng.uniform(-0.5, 0.5))
        catalogue[city] = tuple(stays)
    return catalogue


def stay_state(session_seed: int, stay_id: str, rates: Rates) -> StayState:
    """What is true of a stay in one session, whatever the listing says."""
    u = draw(session_seed, "stay", stay_id)
    if u < rates.sold_out:
        return "sold_out"
    if u < rates.sold_out + rates.gone:
        return "gone"
    return "dearer" if u < rates.sold_out + rates.gone + rates.dearer else "free"


def true_price(session_seed: int, stay: Stay, rates: Rates) -> int:
    """What the stay really costs a night in that session."""
    dearer = stay_state(session_seed, stay.id, rates) == "dearer"
    return stay.raised_price if dearer else stay.price


def truly_available(session_seed: int, stay: Stay, rates: Rates) -> bool:
    """Whether the stay can be booked at all in that session."""
    return stay_state(session_seed, stay.id, rates) in ("free", "dearer")
