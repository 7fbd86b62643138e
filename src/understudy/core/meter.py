"""The meter: how many tokens went through a model, for whom and what for, and what they cost.

Tokens are counted as OpenAI's usage counts them: cached tokens are among the prompt's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

from understudy.core.prices import LIST_PRICES, Price, SizePrice, cost_of, price_of, size_price
from understudy.core.types import Purpose, Usage

PURPOSE_HEADER = "x-understudy-purpose"  # of a request: what it is made for
MODEL_HEADER = "x-understudy-model"  # of an answer: the model with its version
PARAMETERS_HEADER = "x-understudy-parameters"  # of an answer: how many the base has
METERED = "metered"  # the key in a completion's `extra`: model, key, parameters, prompt (differs)
PURPOSES: tuple[str, ...] = get_args(Purpose)
NOBODY = "-"  # the key of a request without one, and of training
TRAIN = "train"  # the purpose of trained tokens; no request is made for it
_MOST = 4096  # models, keys and purposes that are counted apart
REST = "(others)"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Numbers of tokens. `prompt` are all of the prompts', `cached` those of them that had not to
    be computed, `trained` those in rows that were trained on, once a pass."""

    prompt: int = 0
    cached: int = 0
    sampled: int = 0
    trained: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.sampled + other.sampled,
            self.trained + other.trained,
        )

    @classmethod
    def of(cls, usage: Usage) -> "Tokens":
        """Of one call; what was not reported counts as none."""
        return cls(usage.prompt_tokens or 0, usage.cached_tokens or 0, usage.completion_tokens or 0)

    def dollars(self, price: SizePrice) -> dict[str, float]:
        """US dollars of each kind; `prompt` are those of prompt tokens that were not cached."""
        cached = price.prompt if price.cached is None else price.cached
        return {
            "prompt": max(self.prompt - self.cached, 0) * price.prompt / 1e6,
            "cached": self.cached * cached / 1e6,
            "sampled": self.sampled * price.sampled / 1e6,
            "trained": self.trained * price.trained / 1e6,
        }


@dataclass(frozen=True, slots=True)
class Use:
    """What one model was used for by one key. `model` is its name with the version, `key` the
    beginning of a key's hash; `unfinished` are requests that were not answered, `unreported` those
    whose tokens nobody counted; `differs` are requests with another prompt than the adapter was
    trained with. `parameters` are the base's, where they are known."""

    model: str
    key: str = NOBODY
    purpose: str = "agent"
    alias: str | None = None
    requests: int = 0
    unfinished: int = 0
    unreported: int = 0
    estimated: int = 0  # requests whose tokens were estimated from their text
    differs: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    parameters: int | None = None

    def dollars(
        self, sizes: Sequence[SizePrice], prices: Mapping[str, Price] = LIST_PRICES
    ) -> float | None:
        """What it cost; None where there is no price. A model whose base's size is known costs what
        its size does, another what its name does."""
        t = self.tokens
        if self.parameters is not None:
            price = size_price(self.parameters, sizes)
            return None if price is None else sum(t.dollars(price).values())
        if t.trained:
            return None  # names have no price for training
        named = price_of(self.model, prices)
        return None if named is None else cost_of(Usage(t.prompt, t.cached, t.sampled), named)

    def as_dict(self) -> dict[str, Any]:
        """As JSON, tokens beside the rest."""
        plain = asdict(self)
        return {k: v for k, v in plain.items() if k != "tokens"} | plain["tokens"]


class Meter:
    """Counts uses as they happen, since it was made. Not for several threads.

    The first 4096 models, keys and purposes are counted apart, further ones together.
    """

    def __init__(self, parameters: int | None = None) -> None:
        self.parameters = parameters
        self._uses: dict[tuple[str, str, str], Use] = {}

    def answered(self, model: str, key: str, purpose: str, usage: Usage) -> None:
        """A request was answered."""
        unreported = usage.prompt_tokens is None or usage.completion_tokens is None
        self._change(
            model,
            key,
            purpose,
            lambda u: replace(
                u,
                requests=u.requests + 1,
                unreported=u.unreported + unreported,
                tokens=u.tokens + Tokens.of(usage),
            ),
        )

    def cut(self, model: str, key: str, purpose: str, sampled: int) -> None:
        """A request ended without an answer after so many tokens were sent."""
        self._change(
            model,
            key,
            purpose,
            lambda u: replace(
                u,
                requests=u.requests + 1,
                unfinished=u.unfinished + 1,
                unreported=u.unreported + 1,
                tokens=u.tokens + Tokens(sampled=sampled),
            ),
        )

    def differed(self, model: str, key: str, purpose: str) -> None:
        """A request came with another prompt than the adapter was trained with."""
        self._change(model, key, purpose, lambda u: replace(u, differs=u.differs + 1))

    def uses(self) -> list[Use]:
        """All that was counted, by model, key and purpose."""
        return [self._uses[k] for k in sorted(self._uses)]

    def _change(self, model: str, key: str, purpose: str, change: Callable[[Use], Use]) -> None:
        which = (model, key, purpose)
        if which not in self._uses and len(self._uses) >= _MOST:
            which = (REST, NOBODY, purpose)
        found = self._uses.get(which) or Use(*which, parameters=self.parameters)
        self._uses[which] = change(found)


def purpose_of(headers: Mapping[str, str]) -> str:
    """What a request is made for. Raises ValueError for a purpose that there is not."""
    said = headers.get(PURPOSE_HEADER) or "agent"
    if said not in PURPOSES:
        raise ValueError(f"{PURPOSE_HEADER} is one of {', '.join(PURPOSES)}, not {said!r}")
    return said


def metrics_lines(uses: Sequence[Use], prefix: str) -> list[str]:
    """Uses in Prometheus's text format: tokens by kind, requests, and those with another prompt."""
    lines = []
    for u in uses:
        named = {"model": u.model, "key": u.key, "purpose": u.purpose}
        labels = ",".join(f'{k}="{_escaped(v)}"' for k, v in named.items())
        for kind in ("prompt", "cached", "sampled"):
            count = getattr(u.tokens, kind)
            lines.append(f'{prefix}tokens_total{{{labels},kind="{kind}"}} {count}')
        for name in ("requests", "unfinished", "differs"):
            lines.append(f"{prefix}{name}_total{{{labels}}} {getattr(u, name)}")
    return lines


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
