"""What a completion cost, at list prices. Prices are assumptions and carry their date."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from understudy.core.types import Completion, Usage


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
