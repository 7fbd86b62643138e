"""Per token against per GPU hour: from how many adapters, and how much traffic, sharing pays.

Three ways to serve adapters of one base, in US dollars a day. A *dedicated* deployment has GPUs of
its own for each adapter, with the adapter merged into the weights. A *shared* one serves all
adapters from one base, somewhat more slowly. *Per token* somebody else shares, at a list's price.
GPUs are paid for all day and bought for the busiest hour: on the average of a day they do the share
`load` of what they can. Plain arithmetic; its inputs are prices and measured speeds.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from understudy.core.meter import Tokens
from understudy.core.prices import GPU_PRICE, GpuPrice, SizePrice
from understudy.runs.plots import LineChart, Series

DAY = 86_400  # seconds
# how much slower vLLM decodes with LoRA than with merged weights: 1.33 to 1.39, TRL issue 7017
SLOWER = 1.36
_MOST = 10_000  # adapters that are looked at


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one adapter is asked for: tokens a day, prompts included; which share of them are
    prompts', and which share of those is cached."""

    tokens: float
    prompt: float = 0.9
    cached: float = 0.0


@dataclass(frozen=True, slots=True)
class Speeds:
    """Tokens a second of one GPU, prompts included, at full load: with one model's weights, and
    with many adapters on one base."""

    dedicated: float
    shared: float
    load: float = 0.5

    def a_day(self, per_second: float) -> float:
        """The tokens that a GPU of this speed gives on the average of a day."""
        return per_second * DAY * self.load


@dataclass(frozen=True, slots=True)
class Costs:
    """US dollars a day of so many adapters."""

    adapters: int
    dedicated: float
    shared: float
    per_token: float

    @property
    def cheapest(self) -> str:
        """The way that costs least; of equals the simplest."""
        ways = {"per token": self.per_token, "shared": self.shared, "dedicated": self.dedicated}
        return min(ways, key=lambda way: ways[way])


@dataclass(frozen=True, slots=True)
class Sharing:
    """The report. None: there is no such number.

    shared_from: adapters from which on a shared deployment costs less than dedicated ones.
    shared_below: tokens a day of one adapter below which that can be so: what a shared GPU gives.
    dedicated_above: tokens a day of one adapter from which a GPU of its own costs less than per
    token; shared_above: of all adapters together, from which a shared GPU does.
    """

    rows: tuple[Costs, ...]
    shared_from: int | None
    shared_below: float
    dedicated_above: float | None
    shared_above: float | None
    even: float  # tokens a second at which a GPU costs what per token does
    million: float  # US dollars per million tokens of this traffic, at the list's price
    traffic: Traffic
    speeds: Speeds
    price: SizePrice
    gpu: GpuPrice

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        plain = asdict(self)
        rows = [asdict(r) | {"cheapest": r.cheapest} for r in self.rows]
        return plain | {"rows": rows}


def sharing(
    adapters: int,
    traffic: Traffic,
    speeds: Speeds,
    price: SizePrice,
    gpu: GpuPrice = GPU_PRICE,
) -> Sharing:
    """The report for up to so many adapters. Raises ValueError for numbers that cannot be."""
    _check(adapters, traffic, speeds, gpu)
    day = 24 * gpu.hour
    each = million_of(traffic, price) / 1e6
    own, together = speeds.a_day(speeds.dedicated), speeds.a_day(speeds.shared)

    def costs(n: int) -> Costs:
        return Costs(
            n,
            n * day * math.ceil(traffic.tokens / own),
            day * math.ceil(n * traffic.tokens / together),
            n * traffic.tokens * each,
        )

    return Sharing(
        rows=tuple(costs(n) for n in _numbers(adapters)),
        shared_from=_from([c.shared < c.dedicated for c in map(costs, range(1, _MOST + 1))]),
        shared_below=together,
        dedicated_above=_enough(day, each, own),
        shared_above=_enough(day, each, together),
        even=gpu.hour / 3600 / each / speeds.load if each > 0 else math.inf,
        million=each * 1e6,
        traffic=traffic,
        speeds=speeds,
        price=price,
        gpu=gpu,
    )


def million_of(traffic: Traffic, price: SizePrice) -> float:
    """US dollars per million tokens of this traffic, at a list's price."""
    prompt = 1e6 * traffic.prompt
    parts = Tokens(round(prompt), round(prompt * traffic.cached), round(1e6 - prompt))
    return sum(parts.dollars(price).values())


def chart(found: Sharing) -> LineChart:
    """US dollars a day over the number of adapters."""
    x = tuple(float(r.adapters) for r in found.rows)
    ways = {
        "dedicated": tuple(r.dedicated for r in found.rows),
        "shared": tuple(r.shared for r in found.rows),
        "per token": tuple(r.per_token for r in found.rows),
    }
    return LineChart(
        title="What adapters cost to serve",
        series=tuple(Series(name, x, y) for name, y in ways.items()),
        x_label=f"adapters, {found.traffic.tokens:,.0f} tokens a day each",
        y_label="US dollars a day",
        bottom=0.0,
    )


def sentences(found: Sharing) -> list[str]:
    """What the numbers say."""
    said = []
    if found.shared_from is None:
        said.append("A shared deployment never costs less than dedicated ones at this traffic.")
    else:
        said.append(
            f"From {found.shared_from} adapters on a shared deployment costs less than dedicated "
            f"ones; that holds for adapters of less than {found.shared_below:,.0f} tokens a day."
        )
    for way, least in (
        ("a GPU of its own", found.dedicated_above),
        ("a shared GPU", found.shared_above),
    ):
        whose = "one adapter" if way == "a GPU of its own" else "all adapters together"
        if least is None:
            said.append(
                f"Per token costs less than {way} at any traffic: that would have to give "
                f"{found.even:,.0f} tokens a second."
            )
        else:
            said.append(f"From {least:,.0f} tokens a day of {whose}, {way} costs less than that.")
    return said


def _check(adapters: int, traffic: Traffic, speeds: Speeds, gpu: GpuPrice) -> None:
    """Raises ValueError for numbers that cannot be."""
    above = (adapters, traffic.tokens, speeds.dedicated, speeds.shared, gpu.hour)
    if not all(math.isfinite(v) and v > 0 for v in above) or adapters > _MOST:
        raise ValueError(
            f"adapters (at most {_MOST:,}), tokens, tokens a second and the GPU's price must be "
            "above 0"
        )
    if not (0 <= traffic.prompt <= 1 and 0 <= traffic.cached <= 1 and 0 < speeds.load <= 1):
        raise ValueError("shares must be from 0 to 1, and the load above 0")


def _numbers(most: int) -> list[int]:
    """Numbers of adapters up to the most: all of few, some of many."""
    step = max(1, most // 100)
    return sorted({*range(1, most + 1, step), *(2**k for k in range(most.bit_length())), most})


def _from(pays: Sequence[bool]) -> int | None:
    """The number from which on it always does, counted from 1."""
    last = max((n for n, it in enumerate(pays) if not it), default=-1)
    return None if last + 1 == len(pays) else last + 2


def _enough(day: float, each: float, capacity: float) -> float | None:
    """The tokens a day from which a GPU costs less than so many dollars a token; None where not
    even a busy one does."""
    return day / each if each > 0 and day / each <= capacity else None
