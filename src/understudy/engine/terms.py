"""What running requests ask of their draws beyond temperature, top-p and top-k: to follow a
grammar, to add to logits, to be told the likeliest tokens. The others cost nothing here."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from llguidance import LLExecutor, LLMatcher
from llguidance.numpy import consume_token_par, fill_next_token_bitmask_par
from torch import Tensor

from understudy.engine.grammar import problem
from understudy.engine.jobs import Job
from understudy.engine.sampling import Drawn, Terms

Ints = npt.NDArray[np.int64]
Told = tuple[tuple[tuple[int, float], ...], ...]  # for each draw the likeliest (id, logprob)


@dataclass(eq=False, slots=True)
class _Asked:
    """What one running request asks, and what it was told."""

    matcher: LLMatcher | None
    biases: tuple[tuple[int, float], ...]
    most: int
    told: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    wrong: str | None = None  # why its grammar cannot go on


class Asked:
    """The requests of one shard that ask something, by slot. `vocab`: the model's tokens."""

    def __init__(self, vocab: int, device: torch.device) -> None:
        self.words, self.device = -(-vocab // 32), device
        self._by_slot: dict[int, _Asked] = {}
        self._asks = np.zeros(0, dtype=bool)  # by slot
        self._executor: LLExecutor | None = None

    def begin(self, slot: int, job: Job) -> None:
        """A request starts in a slot."""
        s = job.sampling
        if job.matcher is None and not s.logit_bias and not s.top_logprobs:
            return
        if slot >= len(self._asks):
            self._asks = np.append(self._asks, np.zeros(slot + 1 - len(self._asks), dtype=bool))
        self._asks[slot] = True
        self._by_slot[slot] = _Asked(job.matcher, s.logit_bias, s.top_logprobs)

    def end(self, slot: int) -> tuple[str | None, Told]:
        """It leaves: why its grammar could not go on, and the likeliest tokens of each draw."""
        asked = self._by_slot.pop(slot, None)
        if asked is None:
            return None, ()
        self._asks[slot] = False
        wrong = None if asked.wrong is None else f"the grammar cannot go on: {asked.wrong}"
        return wrong, tuple(asked.told)

    def terms(self, slots: Ints) -> Terms | None:
        """What the rows of a batch, in the order of `slots`, may draw next."""
        rows = self._rows(slots)
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
        self, slots: Ints, ids: npt.NDArray[np.int64], drawn: Drawn
    ) -> npt.NDArray[np.bool_]:
        """Takes note of what was drawn; says which rows end with it: their grammar leaves nothing
        but the stop, or cannot go on."""
        over = np.zeros(len(slots), dtype=bool)
        rows = self._rows(slots)
        if not rows:
            return over
        held = [(r, a, a.matcher) for r, a in rows if a.matcher is not None and a.wrong is None]
        if held:
            fed = [(matcher, int(ids[r])) for r, _, matcher in held]
            for (r, a, matcher), taken in zip(
                held, consume_token_par(self._pool(), fed), strict=True
            ):
                a.wrong = None if taken else problem(matcher)
                over[r] = matcher.is_stopped()  # an error stops it too
        for r, a in rows:
            over[r] |= a.wrong is not None
        if drawn.top_ids_TK is not None and drawn.top_logprobs_TK is not None:
            tops = zip(drawn.top_ids_TK.tolist(), drawn.top_logprobs_TK.tolist(), strict=True)
            for asked, (found, logprobs) in zip([a for _, a in rows if a.most], tops, strict=True):
                pairs = zip(found[: asked.most], logprobs[: asked.most], strict=True)
                asked.told.append(tuple((i, p) for i, p in pairs if p > -np.inf))
        return over

    def _rows(self, slots: Ints) -> list[tuple[int, _Asked]]:
        """The rows that ask something."""
        if not self._by_slot:
            return []
        within = np.flatnonzero(slots < len(self._asks))
        rows = within[self._asks[slots[within]]].tolist()
        return [(r, self._by_slot[int(slots[r])]) for r in rows]

    def _masks(self, held: list[tuple[_Asked, LLMatcher]]) -> npt.NDArray[np.int32]:
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
