"""A simulated user without a language model: what real users said after which agent message,
with the values of this user's own goal, in the manner of one of them."""

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.core.types import Message, text_of
from understudy.world.users.openings import Openings
from understudy.world.users.profiles import Profile, misspell, way_of
from understudy.world.users.scenarios import Book
from understudy.world.users.situations import Familiar, Reply, heard, stays
from understudy.world.users.wording import flat, join, kind, slots, split_text


@dataclass(frozen=True, slots=True)
class _Choice:
    """Something that the user may do now, and how likely."""

    reply: Reply
    text: str | None
    weight: float


class Known:
    """A book, and what is worked out of it once for all of its users."""

    def __init__(self, book: Book) -> None:
        self.book, self.openings = book, Openings(book)
        self.familiar = Familiar(book.situations)


class MinedUser:
    """Answers as real users answered the most similar agent messages, for a share of its turns
    (see Familiar) less similar ones, in its profile's manner; leaves when they left, or when its
    patience ends. Its checklist is what it has not said yet.

    The profile is drawn by the seed, and nothing else is shared with the world's own chance.
    Without a user message so far it opens the conversation. `left`: it has said its last.
    """

    def __init__(
        self,
        known: Known,
        goal: Mapping[str, Any],
        seed: int,
        first: str = "",
        profile: Profile | None = None,
    ) -> None:
        self.known, self.book = known, known.book
        self.fields = flat(dict(goal))
        self.rng = random.Random(f"user:{seed}")
        drawn = self.book.population.draw(random.Random(f"profile:{seed}"), first)
        self.profile = profile if profile is not None else drawn
        self.left = False
        self._said: set[str] = set()
        self._able: dict[int, list[Reply]] = {}  # situations by number, what it could reply there

    def unsaid(self, seen: Sequence[Message]) -> set[str]:
        """The checklist: fields of the goal that users say and this one has not said yet."""
        own = {p: v for p, v in self.fields.items() if kind(p) in self.book.kinds}
        said = {
            path
            for m in seen
            if m["role"] == "user"
            for path in slots(split_text(text_of(m.get("content")), own, self.book.votes))
        }
        return {path for path, value in own.items() if value is not None} - said

    async def reply(self, seen: Sequence[Message]) -> Message | None:
        """The user's next message after the agent's last one, or None: the user has left."""
        turns = sum(m["role"] == "user" for m in seen)
        if not turns:
            return self._opening()
        said = text_of(seen[-1].get("content"))
        self._said |= {text_of(m.get("content")) for m in seen if m["role"] == "user"}
        agent = [text_of(m.get("content")) for m in seen if m["role"] == "assistant"]
        tired = turns >= self.book.population.patience or agent.count(said) > 2
        choices = [] if self.left or tired or not said else self._choices(said, seen)
        if not choices:
            self.left = True
            return None
        chosen, other = self._draw(choices)
        self.left = chosen.text is None or self.rng.random() * chosen.reply.n < chosen.reply.last
        if not self.left and self.rng.random() < self.known.familiar.wide:
            wider = [c for c in self._choices(said, seen, wide=True) if stays(c.reply)]
            chosen, other = self._draw(wider) if wider else (chosen, other)
        if chosen.text is None:
            return None
        once = chosen.reply.n == 1 and not self.left and not other.reply.last
        crossed = once and other.text is not None
        text = _crossed(chosen.text, other.text or "", self.rng) if crossed else chosen.text
        self._said.add(text)
        slips = self.book.population.slips
        return {"role": "user", "content": misspell(text, self.profile.typos, slips, self.rng)}

    def _draw(self, choices: Sequence[_Choice]) -> tuple[_Choice, _Choice]:
        """Two of the choices, each for itself."""
        first, second = self.rng.choices(choices, [c.weight for c in choices], k=2)
        return first, second

    def _opening(self) -> Message | None:
        population, own = self.book.population, self.profile
        text = self.known.openings.first_message(
            self.fields, self.rng, lambda n: _alike(population.profiles[n], own)
        )
        self.left = text is None
        return None if text is None else {"role": "user", "content": text}

    def _choices(self, said: str, seen: Sequence[Message], wide: bool = False) -> list[_Choice]:
        """What users did after messages nearly as similar as the most similar one; `wide`: not as
        nearly."""
        familiar = self.known.familiar
        self._able = self._able or self._usable()
        told = [text_of(m.get("content")) for m in seen[:-1] if m["role"] == "assistant"
                and not m.get("tool_calls")]  # fmt: skip
        found = familiar.close(heard([*told, said], self.fields), list(self._able), wide)
        close = [(1 / (0.5 + familiar.popular[n]), r) for n in found for r in self._able[n]]
        unsaid = self.unsaid(seen)
        new = any(r.parts is not None and unsaid & set(slots(r.parts)) for _, r in close)
        asked = "?" in said
        choices = (self._choice(r, w, unsaid, new, asked) for w, r in close)
        return [c for c in choices if c is not None]

    def _usable(self) -> dict[int, list[Reply]]:
        """What users did in each situation, without what says a field that this one has not."""
        found = {
            n: [
                r for r in s.replies if r.parts is None or self.fields.keys() >= set(slots(r.parts))
            ]
            for n, s in enumerate(self.known.familiar.situations)
        }
        return {n: replies for n, replies in found.items() if replies}

    def _choice(
        self, reply: Reply, w: float, unsaid: set[str], new: bool, asked: bool
    ) -> _Choice | None:
        """A reply in this user's manner; `new`: another one would tell what is not said yet."""
        population, profile = self.book.population, self.profile
        if reply.parts is None:
            lean = population.impatience if asked else population.silence
            return _Choice(reply, None, w * reply.n * lean(profile))
        text = join(reply.parts, self.fields)
        if text is None:
            return None
        told = set(slots(reply.parts))
        weight = w * reply.n * population.leaning(profile, way_of(text, told & unsaid))
        if new and told and not told & unsaid:
            weight *= population.again
        if text in self._said:
            weight *= population.echoes
        if profile.words is not None:
            weight *= math.exp(-0.5 * abs(math.log(max(1, len(text.split())) / profile.words)))
        return _Choice(reply, text, weight)


def _crossed(text: str, other: str, rng: random.Random) -> str:
    """The beginning of one message and the end of another, of whole sentences, where the other
    has several: what was seen once is one of many ways to put it."""
    own, theirs = (re.split(r"(?<=[.!?])\s+", t) for t in (text, other))
    if len(theirs) < 2:
        return text
    until, since = rng.randint(1, len(own)), rng.randint(1, len(theirs))
    return " ".join([*own[:until], *theirs[since:]])


def _alike(other: Profile, own: Profile) -> float:
    """How likely somebody who opened like `other` is for a user who opens like `own`."""
    far = abs((other.reveal or 0.0) - (own.reveal or 0.0)) if other.reveal and own.reveal else 0.0
    return math.exp(-4 * far) * (1.0 if other.small == own.small else 0.1)
