"""Situations that users were in: what an agent said to them, and what they did then."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.core.types import Episode, text_of
from understudy.world.wording import Part, Votes, split_text

Floats = NDArray[np.float32]
_NEAR = 12  # situations that count as close, at most
_STEP, _WIDER = 0.05, 0.3  # how much less alike than the best: alike as it is, and not at all


@dataclass(slots=True)
class Reply:
    """What users said, as parts (None: they left), how often, and how often as their last."""

    parts: list[Part] | None
    n: int
    last: int = 0


@dataclass(slots=True)
class Situation:
    """An agent message to users, its words, and what they did then."""

    words: list[str]
    replies: list[Reply] = field(default_factory=list)


def words(text: str, fields: Mapping[str, Any]) -> list[str]:
    """The words of an agent message without what is particular to one episode."""
    low = text.lower()
    for value in fields.values():
        if isinstance(value, str) and len(value) > 2:
            low = low.replace(value.lower(), " ")
    found = re.findall(r"[^\W\d_]{2,}|\?", low)
    return sorted(set(found))


def mine_situations(
    talks: Sequence[tuple[Episode, dict[str, Any]]],
    votes: Votes,
    limit: int = 1500,
    right: Mapping[str, str] | None = None,
) -> list[Situation]:
    """Situations of a traffic, equal ones merged; the rarest left out beyond the limit. `right`
    is how words are spelt that users misspelt."""
    table: dict[tuple[str, ...], dict[str, Reply]] = defaultdict(dict)
    for episode, fields in talks:
        messages = [m for m in episode.messages if m["role"] in ("user", "assistant")]
        for i, message in enumerate(messages):
            if message["role"] != "assistant" or message.get("tool_calls"):
                continue
            said = text_of(message.get("content"))
            after = messages[i + 1] if i + 1 < len(messages) else None
            if not said or (after is not None and after["role"] != "user"):
                continue
            parts: list[Part] | None = None
            if after is not None:
                text = _spelt(text_of(after.get("content")), right or {})
                parts = split_text(text, fields, votes)
            own = table[tuple(words(said, fields))]
            reply = own.setdefault(repr(parts), Reply(parts, 0))
            reply.n += 1
            reply.last += after is not None and after is episode.messages[-1]
    ranked = sorted(table.items(), key=lambda t: (-sum(r.n for r in t[1].values()), t[0]))
    return [
        Situation(list(said), sorted(own.values(), key=lambda r: -r.n)[:60])
        for said, own in ranked[:limit]
    ]


def left_at(talks: Sequence[tuple[Episode, Mapping[str, Any]]]) -> set[str]:
    """Agent messages that more users left at than answered."""
    ended: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    for episode, _ in talks:
        messages = episode.messages
        for i, m in enumerate(messages):
            if m["role"] == "assistant" and not m.get("tool_calls"):
                last = i == len(messages) - 1
                (ended if last else answered)[text_of(m.get("content"))] += 1
    return {said for said, n in ended.items() if n > answered[said]}


def _spelt(text: str, right: Mapping[str, str]) -> str:
    if not right:
        return text
    return re.sub(r"[^\W\d_]+", lambda m: right.get(m.group(), m.group()), text)


class Familiar:
    """Situations by likeness: the share of words in common, each weighted by its rarity.

    `popular` is how many of the other situations each one is close to, in shares: what users did
    in a situation that is close to all others would else be heard from everybody.
    """

    def __init__(self, situations: Sequence[Situation]) -> None:
        self.situations = situations
        self.places = {w: n for n, w in enumerate(sorted({w for s in situations for w in s.words}))}
        self.has_SW = np.zeros((len(situations), len(self.places)), dtype=np.float32)
        for k, situation in enumerate(situations):
            self.has_SW[k, [self.places[w] for w in situation.words]] = 1
        count_W = self.has_SW.sum(axis=0)
        self.weight_W = np.log(1 + len(situations) / np.maximum(count_W, 1)).astype(np.float32)
        self.size_S = self.has_SW @ self.weight_W
        self.popular = self._popular()

    def close(self, said: Sequence[str], able: Sequence[int]) -> list[int]:
        """The numbers of the situations close to an agent message of these words, best first, of
        those given."""
        if not len(able):
            return []
        known = [self.places[w] for w in set(said) if w in self.places]
        size = float(self.weight_W[known].sum()) + (len(set(said)) - len(known))
        both_A = self.has_SW[np.ix_(able, known)] @ self.weight_W[known]
        return [able[n] for n in _close(_likeness(both_A, self.size_S[able], size))]

    def _popular(self) -> list[float]:
        both_SS = (self.has_SW * self.weight_W) @ self.has_SW.T
        found = np.zeros(len(self.situations))
        for k in range(len(self.situations)):
            like_S = _likeness(both_SS[k], self.size_S, float(self.size_S[k]))
            like_S[k] = -1.0
            others = _close(like_S)
            for n in others:
                found[n] += 1 / len(others)
        return [float(f) for f in found]


def _likeness(both_S: Floats, size_S: Floats, size: float) -> Floats:
    total_S = size_S + size - both_S
    return np.where(total_S > 0, both_S / np.where(total_S > 0, total_S, 1), 1.0)


def _close(like_S: Floats) -> list[int]:
    """The few that are nearly as alike as the most alike, the wider the less alike that is."""
    order: list[int] = np.argsort(-like_S, kind="stable")[:_NEAR].tolist()
    best = float(like_S[order[0]]) if order else 0.0
    least = best - _STEP - _WIDER * (1 - best)
    return [n for n in order if like_S[n] >= max(least, 0.0)]
