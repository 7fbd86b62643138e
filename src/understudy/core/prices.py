"""What tokens cost, at list prices: of a remote model by its name, of an adapter by the size of its
base. Prices are assumptions and carry their source and date."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from understudy.core.types import Completion, Usage, is_number


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens. `version` says where and when the figure was taken."""

    prompt: float
    completion: float
    cached: float | None = None  # None: cached tokens cost what prompt tokens cost
    version: str = ""


LIST_PRICES: Mapping[str, Price] = {
    "gpt-4o": Price(2.50, 10.00, 1.25, "list price 2025-06"),
    "gpt-4o-mini": Price(0.15, 0.60, 0.075, "list price 2025-06"),
    "gpt-4.1": Price(2.00, 8.00, 0.50, "list price 2025-06"),
    "gpt-4.1-mini": Price(0.40, 1.60, 0.10, "list price 2025-06"),
    "gpt-4.1-nano": Price(0.10, 0.40, 0.025, "list price 2025-06"),
}


@dataclass(frozen=True, slots=True)
class SizePrice:
    """US dollars per million tokens of adapters of a base with at most so many parameters."""

    parameters: float
    trained: float
    prompt: float
    sampled: float
    cached: float | None  # None: cached tokens cost what prompt tokens cost
    source: str
    date: str  # when the source was read, or of when its prices are

    @property
    def serving(self) -> Price:
        """Of what is served, without training."""
        return Price(self.prompt, self.sampled, self.cached, f"{self.source}, {self.date}")


_HOSTED = "docs.primeintellect.ai/hosted-training/models-and-pricing", "2026-09-20"
_FIRST = "a fine-tuning platform's public prices", "2024"
# by name, each from the smallest base to the largest; what is larger has no price there
SIZE_PRICES: Mapping[str, Sequence[SizePrice]] = {
    "hosted-2026": (
        SizePrice(1.5e9, 0.06, 0.02, 0.06, None, *_HOSTED),  # of Llama 3.2 1B, Qwen3.5 0.8B
        SizePrice(3.5e9, 0.15, 0.05, 0.15, None, *_HOSTED),  # of Llama 3.2 3B, Qwen3.5 2B
        SizePrice(6e9, 0.30, 0.10, 0.30, None, *_HOSTED),  # of Qwen3.5 4B
        SizePrice(12e9, 0.60, 0.20, 0.60, None, *_HOSTED),  # of Qwen3.5 9B
    ),
    "platform-2024": (
        SizePrice(8.5e9, 4.0, 1.2, 1.6, None, *_FIRST),  # of 7B
        SizePrice(14.5e9, 8.0, 2.4, 3.2, None, *_FIRST),  # of 13B
    ),
}
DEFAULT_SIZE_PRICES = "hosted-2026"


@dataclass(frozen=True, slots=True)
class GpuPrice:
    """US dollars for an hour of one GPU, rented on demand."""

    gpu: str
    hour: float
    source: str
    date: str


GPU_PRICE = GpuPrice("H100 SXM, 80 GB", 3.99, "runpod.io/pricing, Secure Cloud", "2026-11-09")


def size_price(parameters: float, prices: Sequence[SizePrice]) -> SizePrice | None:
    """The price of adapters of a base with so many parameters; None where the list ends before."""
    return next((p for p in prices if parameters <= p.parameters), None)


def size_prices_from(data: Any) -> tuple[SizePrice, ...]:
    """A price list from JSON: a list of objects with SizePrice's fields; `cached` may be left out.

    Raises ValueError where it is none.
    """
    found = []
    names = {f.name for f in fields(SizePrice)}
    for entry in data if isinstance(data, list) else [None]:
        given = {"cached": None, **entry} if isinstance(entry, dict) else {}
        if set(given) != names:
            raise ValueError(f"a price list is a list of objects with {', '.join(sorted(names))}")
        text = {k: given[k] for k in ("source", "date")}
        figures = {k: v for k, v in given.items() if k not in text and v is not None}
        if not all(isinstance(v, str) and v for v in text.values()):
            raise ValueError("a price needs its source and its date, as text")
        if not all(is_number(v) and v >= 0 for v in figures.values()):
            raise ValueError("prices and parameters are numbers, none of them negative")
        found.append(SizePrice(**given))
    return tuple(sorted(found, key=lambda p: p.parameters))


def cost_of(usage: Usage, price: Price) -> float | None:
    """US dollars for one completion; None when the usage was not reported."""
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    cached = usage.cached_tokens or 0
    cached_price = price.prompt if price.cached is None else price.cached
    fresh = max(usage.prompt_tokens - cached, 0)
    dollars = fresh * price.prompt + cached * cached_price
    return (dollars + usage.completion_tokens * price.completion) / 1e6


def price_of(model: str, prices: Mapping[str, Price] = LIST_PRICES) -> Price | None:
    """The price of a model by its wire name; a dated name falls back to the name before it."""
    found = prices.get(model)
    if found is not None:
        return found
    prefixes = [name for name in prices if model.startswith(f"{name}-20")]
    return prices[max(prefixes, key=len)] if prefixes else None


def total_cost(
    completions: Iterable[Completion], prices: Mapping[str, Price] = LIST_PRICES
) -> tuple[float, int]:
    """(US dollars, completions whose price or usage is unknown and that are not in the sum)."""
    dollars, unknown = 0.0, 0
    for completion in completions:
        price = price_of(str(completion.served or completion.request.model), prices)
        cost = None if price is None else cost_of(completion.usage, price)
        if cost is None:
            unknown += 1
        else:
            dollars += cost
    return dollars, unknown


def prices_from_litellm(data: Mapping[str, Mapping[str, Any]], version: str) -> dict[str, Price]:
    """Prices from LiteLLM's JSON price map (dollars per token). Entries without are left out."""
    prices = {}
    for name, entry in data.items():
        prompt, completion = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
        if prompt is None or completion is None:
            continue
        cached = entry.get("cache_read_input_token_cost")
        prices[name] = Price(
            float(prompt) * 1e6,
            float(completion) * 1e6,
            None if cached is None else float(cached) * 1e6,
            version,
        )
    return prices
