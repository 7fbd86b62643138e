"""What single requests ask of their draws beyond temperature, top-p and top-k: to follow a grammar,
to add to logits, to be told the likeliest tokens. The others cost nothing here."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from llguidance import LLExecutor, LLMatcher
from llguidance.numpy import consume_token_par, fill_next_token_bitmask_par
from torch import Tensor

from understudy.core.types import Sampling
from understudy.engine.grammar import problem
from understudy.engine.sampling import Drawn, Terms


@dataclass(eq=False, slots=True)
class Asked:
    """What one request asks, and how far it has come: its matcher is behind what was drawn, `top`
    has the likeliest (id, logprob) of each draw, `wrong` is why its grammar cannot go on."""

    matcher: LLMatcher | None
    biases: tuple[tuple[int, float], ...]
    most: int
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    wrong: str | None = None


def asked_of(sampling: Sampling, matcher: LLMatcher | None) -> Asked | None:
    """None where nothing is asked."""
    if matcher is None and not sampling.logit_bias and not sampling.top_logprobs:
        return None
    return Asked(matcher, sampling.logit_bias, sampling.top_logprobs)


Row = tuple[int, Asked]  # a row of a batch that asks something


class TermKeeper:
    """Works out the terms of the rows that ask something, and takes note of what was drawn.
    `vocab`: the model's tokens."""

    def __init__(self, vocab: int, device: torch.device) -> None:
        self.words, self.device = -(-vocab // 32), device
        self._executor: LLExecutor | None = None

    def terms(self, rows: Sequence[Row]) -> Terms | None:
        """What they may draw next; None for no rows."""
        if not rows:
            return None
        held = [(r, a, a.matcher) for r, a in rows if a.matcher is not None]
        bits = self._masks([(a, matcher) for _, a, matcher in held])
        biased = [(r, *pair) for r, a in rows for pair in a.biases]
        told = [(r, a.most) for r, a in rows if a.most]
        return Terms(
            self._tensor([r for r, _, _ in held]),
            torch.from_numpy(bits).to(self.device),
            self._tensor([r for r, _, _ in biased]),
            self._tensor([token for _, token, _ in biased]),
            torch.tensor([bias for _, _, bias in biased], dtype=torch.float64, device=self.device),
            self._tensor([r for r, _ in told]),
            max((most for _, most in told), default=0),
        )

    def follow(
        self, rows: Sequence[Row], ids: npt.NDArray[np.int64], drawn: Drawn
    ) -> npt.NDArray[np.bool_]:
        """Takes note of what all rows of the batch drew, `ids`; says which of them end with it:
        their grammar leaves nothing but the stop, or cannot go on."""
        over = np.zeros(len(ids), dtype=bool)
        held = [(r, a, a.matcher) for r, a in rows if a.matcher is not None and a.wrong is None]
        fed = [(matcher, int(ids[r])) for r, _, matcher in held]
        taken = consume_token_par(self._pool(), fed) if fed else []
        for (r, a, matcher), ok in zip(held, taken, strict=True):
            a.wrong = None if ok else problem(matcher)
            over[r] = matcher.is_stopped()
        for r, a in rows:
            over[r] |= a.wrong is not None
        if drawn.top_ids_TK is not None and drawn.top_logprobs_TK is not None:
            told = [a for _, a in rows if a.most]
            tops = zip(drawn.top_ids_TK.tolist(), drawn.top_logprobs_TK.tolist(), strict=True)
            for a, (found, logprobs) in zip(told, tops, strict=True):
                pairs = zip(found[: a.most], logprobs[: a.most], strict=True)
                a.top.append(tuple((i, p) for i, p in pairs if p > -np.inf))
        return over

    def _masks(self, held: list[tuple[Asked, LLMatcher]]) -> npt.NDArray[np.int32]:
        """What each grammar allows next, one bit a token. One that cannot go on allows all: its row
        ends with what is drawn."""
        bits = np.zeros((len(held), self.words), dtype=np.int32)
        if held:
            filled = [(matcher, m) for m, (_, matcher) in enumerate(held)]
            fill_next_token_bitmask_par(self._pool(), filled, bits)
        for m, (asked, matcher) in enumerate(held):
            if matcher.is_error() or not bits[m].any():
                asked.wrong = problem(matcher) or "no token goes on"
                bits[m] = -1
        return bits

    def _pool(self) -> LLExecutor:
        if self._executor is None:  # a shard on the CPU is one thread, and has its neighbours
            self._executor = LLExecutor(1) if self.device.type == "cpu" else LLExecutor()
        return self._executor

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)
