"""Situations that users were in: what an agent said to them, and what they did then."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.core.types import Episode, text_of
from understudy.world.users.clusters import ALIKE, masked, vectors
from understudy.world.users.wording import Part, Votes, split_text

Floats = NDArray[np.float32]
_STEP = 0.05  # how much less alike than the best a situation may be where that one is equal
# How much less where it is not alike at all, and how many situations at most: close, and wide.
_WIDTHS = ((0.3, 12), (0.6, 100))
_AGAIN = "="  # in a situation's words: the agent had said it before
_TRIED = 300  # replies by which the share of wide ones is found
_BLOCK = 256  # situations whose likeness to all others is held at once


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


def heard(said: Sequence[str], fields: Mapping[str, Any]) -> list[str]:
    """The words of the last of an agent's messages to its user, marked where one before it had
    the same: whom the agent tells again does not answer as at first."""
    *before, own = (words(text, fields) for text in said)
    return [*own, _AGAIN] if own in before else own


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
        told: list[str] = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant" or message.get("tool_calls"):
                continue
            said = text_of(message.get("content"))
            after = messages[i + 1] if i + 1 < len(messages) else None
            if not said or (after is not None and after["role"] != "user"):
                continue
            told.append(said)
            parts: list[Part] | None = None
            if after is not None:
                text = _spelt(text_of(after.get("content")), right or {})
                parts = split_text(text, fields, votes)
            own = table[tuple(heard(told, fields))]
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
    in a situation that is close to all others would else be heard from everybody. `wide` is the
    share of replies that are better foretold by wider likeness: where agents say the same again
    and again it is none, where each message is a new one users say more than the few closest
    situations hold.
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
        self.wide = self._wide()

    def close(self, said: Sequence[str], able: Sequence[int], wide: bool = False) -> list[int]:
        """The numbers of the situations close to an agent message of these words, best first, of
        those given."""
        if not len(able):
            return []
        known = [self.places[w] for w in set(said) if w in self.places]
        size = float(self.weight_W[known].sum()) + (len(set(said)) - len(known))
        both_A = self.has_SW[np.ix_(able, known)] @ self.weight_W[known]
        return [able[n] for n in _close(_likeness(both_A, self.size_S[able], size), wide)]

    def _like(self, some: NDArray[np.int64]) -> Floats:
        """The likeness of some situations to all, [some, all]."""
        both_NS = (self.has_SW[some] * self.weight_W) @ self.has_SW.T
        total_NS = self.size_S[some, None] + self.size_S - both_NS
        return np.where(total_NS > 0, both_NS / np.where(total_NS > 0, total_NS, 1), 1.0)

    def _popular(self) -> list[float]:
        found = np.zeros(len(self.situations))
        for begin in range(0, len(self.situations), _BLOCK):
            some = np.arange(begin, min(begin + _BLOCK, len(self.situations)))
            for k, like_S in zip(some, self._like(some), strict=True):
                like_S[k] = -1.0
                others = _close(like_S)
                for n in others:
                    found[n] += 1 / len(others)
        return [float(f) for f in found]

    def _wide(self) -> float:
        """The share by deleted interpolation (F. Jelinek and R. L. Mercer, "Interpolated
        estimation of Markov source parameters from sparse data", 1980): each reply is foretold
        from all others, the share fitted by expectation and maximisation."""
        replies = [(k, r) for k, s in enumerate(self.situations) for r in s.replies if stays(r)]
        if not replies:
            return 0.0
        where_R = np.array([k for k, _ in replies])
        times_R = np.array([r.n for _, r in replies], dtype=np.float32)
        v = vectors([_wording(r) for _, r in replies])
        tried = random.Random(0).sample(range(len(replies)), min(_TRIED, len(replies)))
        alike_TR = v[tried] @ v.T >= ALIKE
        rare_S = 1 / (0.5 + np.array(self.popular))
        chance_T2 = np.zeros((len(tried), 2))
        like_TS = self._like(where_R[tried])
        for i, n in enumerate(tried):
            left_R = times_R.copy()
            left_R[n] -= 1
            there_S = np.bincount(where_R, left_R, len(self.situations)) > 0
            like_S = np.where(there_S, like_TS[i], -1.0)
            for wide in (False, True):
                near_S = np.zeros(len(self.situations))
                near = _close(like_S, wide)
                near_S[near] = rare_S[near]
                weight_R = left_R * near_S[where_R]
                chance_T2[i, int(wide)] = weight_R @ alike_TR[i] / max(weight_R.sum(), 1e-9)
        return _share(chance_T2[chance_T2.sum(axis=1) > 0])


def stays(reply: Reply) -> bool:
    """Whether users went on after this reply, more often than not."""
    return reply.parts is not None and 2 * reply.last <= reply.n


def _wording(reply: Reply) -> str:
    said = "".join(p if isinstance(p, str) else "\0" for p in reply.parts or ())
    return masked(said, {})


def _share(chance_T2: NDArray[np.float64]) -> float:
    """The weight of the second of two predictors that makes what was seen likeliest."""
    share = 0.5
    if not len(chance_T2) or np.array_equal(chance_T2[:, 0], chance_T2[:, 1]):
        return 0.0
    for _ in range(100):
        wide_T = share * chance_T2[:, 1]
        share = float((wide_T / (wide_T + (1 - share) * chance_T2[:, 0])).mean())
    return share


def _likeness(both_S: Floats, size_S: Floats, size: float) -> Floats:
    total_S = size_S + size - both_S
    return np.where(total_S > 0, both_S / np.where(total_S > 0, total_S, 1), 1.0)


def _close(like_S: Floats, wide: bool = False) -> list[int]:
    """Those that are nearly as alike as the most alike, the wider the less alike that is."""
    wider, most = _WIDTHS[wide]
    order: list[int] = np.argsort(-like_S, kind="stable")[:most].tolist()
    best = float(like_S[order[0]]) if order else 0.0
    least = best - _STEP - wider * (1 - best)
    return [n for n in order if like_S[n] >= max(least, 0.0)]
