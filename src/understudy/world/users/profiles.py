"""Profiles of users, mined from conversations: how each one told its wishes, answered, endured,
left and wrote. Simulated users are drawn from them, rare kinds more often than they were seen.

Profiles mined from real conversations bring simulated users closer to real ones than written ones
do (arXiv 2605.20204); without them simulators are too cooperative and too uniform (2603.11245).
"""

import math
import random
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from understudy.core.types import Episode, Message, text_of
from understudy.world.users.wording import Votes, slots, split_text

TAIL = 0.8  # a kind of user seen n times is drawn as if it had been seen n ** TAIL times
Slip = tuple[str, str, int]  # a word, how users misspelt it, how often
_STEADY = 2.0  # replies of all users that stand beside one user's own
Way = Literal["answers", "more", "evades", "asks"]


@dataclass(frozen=True, slots=True)
class Profile:
    """How one user talked. Counts and shares of what it said; None where nothing showed it."""

    reveal: float | None = None  # the share of its ticket's fields that its first message told
    words: float | None = None  # of a later turn, the geometric mean
    ways: dict[str, int] = field(default_factory=dict)  # later turns by what they did
    turns: int = 0  # messages that it wrote
    asked: int = 0  # questions that it heard, and that others answer
    gave_up: bool = False  # left the last of them open
    parting: bool | None = None  # left with a word (True) or silently; None: cut
    small: bool = False  # begins its messages with small letters
    typos: float = 0.0  # of the words that somebody misspells, the share it did in later turns

    @property
    def kind(self) -> tuple[Any, ...]:
        """What users are told apart by when rare ones are drawn more often."""
        length = None if self.words is None else round(math.log2(max(1.0, self.words)))
        reveal = None if self.reveal is None else round(2 * self.reveal)
        most = max(self.ways, key=lambda w: (self.ways[w], w)) if self.ways else None
        return reveal, length, most, self.gave_up, self.parting, self.small, self.typos > 0


@dataclass(slots=True)
class Population:
    """The users of a traffic. `seen` is the most messages that one of them wrote, `ways` what all
    of them did in later turns, `slips` how they misspell: word, misspelling, how often."""

    profiles: list[Profile] = field(default_factory=list)
    ways: dict[str, int] = field(default_factory=dict)
    seen: int = 0
    slips: list[Slip] = field(default_factory=list)
    again: float = 0.5  # the share of later turns with fields that tell no new one
    echoes: float = 1.0  # the share of later turns that say what the user has said before
    silent: float = 0.5  # the share that left without a word
    gives_up: float = 0.0  # the share of questions left open
    _pools: dict[Any, tuple[list[Profile], list[float]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def draw(self, rng: random.Random, first: str = "", tail: float = TAIL) -> Profile:
        """A user: from those who write as the first message is written, where there are any, by
        how often its kind was seen to the power `tail`. What it never showed is another's."""
        style = small(first) if first else None
        found = self._pick(rng, style, False, tail)
        if found is None or found.ways:
            return found or Profile()
        other = self._pick(rng, style, True, tail) or found
        return replace(found, words=other.words, ways=other.ways, typos=other.typos)

    def _pick(
        self, rng: random.Random, style: bool | None, spoke: bool, tail: float
    ) -> Profile | None:
        """One of those of a style (None: any), where there are any; of those who `spoke` on."""
        key = (style, spoke, tail)
        if key not in self._pools:
            able = [p for p in self.profiles if p.ways or not spoke]
            able = [p for p in able if style is None or p.small == style] or able
            counts = Counter(p.kind for p in able)
            self._pools[key] = able, [counts[p.kind] ** (tail - 1) for p in able]
        able, weights = self._pools[key]
        return rng.choices(able, weights)[0] if able else None

    @property
    def patience(self) -> int:
        """How many messages a user writes at most: one more than anybody was seen to."""
        return self.seen + 1

    def impatience(self, profile: Profile) -> float:
        """How much more often than all users this one leaves a question open."""
        if not profile.asked or not self.gives_up:
            return 1.0
        own = profile.gave_up + _STEADY * self.gives_up
        return own / (profile.asked + _STEADY) / self.gives_up

    def silence(self, profile: Profile) -> float:
        """How much more often than all users this one leaves without a word."""
        if profile.parting is None:
            return 1.0
        own = (not profile.parting) + _STEADY * self.silent
        return own / (1 + _STEADY) / self.silent

    def leaning(self, profile: Profile, way: Way) -> float:
        """How much more often than all users this one does it: its own turns, and a few of
        everybody's."""
        total = sum(self.ways.values())
        if not total or not self.ways.get(way):
            return 1.0
        usual = self.ways[way] / total
        own = profile.ways.get(way, 0) + _STEADY * usual
        return own / (sum(profile.ways.values()) + _STEADY) / usual


def small(text: str) -> bool:
    """Whether a text begins with a small letter."""
    letters = re.search(r"[^\W\d_]", text)
    return letters is not None and letters.group().islower()


def way_of(text: str, told: Collection[str]) -> Way:
    """What a later turn did; `told` are the fields that it says first."""
    if "?" in text:
        return "asks"
    return "more" if len(told) > 1 else "answers" if told else "evades"


def mine_population(
    talks: Sequence[tuple[Episode, Mapping[str, Any]]],
    votes: Votes,
    leaving: Collection[str],
    slips: Sequence[Slip] = (),
) -> Population:
    """The users of episodes, each with its ticket's fields. `leaving` are agent messages that
    most users leave at: leaving there is no giving up."""
    found = Population(slips=list(slips))
    told = repeated = later = echoed = 0
    for episode, fields in talks:
        messages = [m for m in episode.messages if m["role"] not in ("system", "developer")]
        said = [text_of(m.get("content")) for m in messages if m["role"] == "user"]
        if not said:
            continue
        spoken = [set(slots(split_text(text, fields, votes))) for text in said]
        new = [own - set().union(*spoken[:n]) for n, own in enumerate(spoken)]
        later += len(said) - 1
        echoed += sum(text in said[:n] for n, text in enumerate(said))
        told += sum(bool(own) for own in spoken[1:])
        repeated += sum(bool(own) and not n for own, n in zip(spoken[1:], new[1:], strict=True))
        share = len(spoken[0]) / len(fields) if fields else None
        found.profiles.append(_profile(messages, said, new, share, leaving, slips))
    found.ways = dict(sum((Counter(p.ways) for p in found.profiles), Counter()))
    found.seen = max((p.turns for p in found.profiles), default=0)
    found.again = (repeated + 0.5) / (told + 1)
    found.echoes = (echoed + 0.5) / (later + 1)
    parted = [p.parting for p in found.profiles if p.parting is not None]
    asked = sum(p.asked for p in found.profiles)
    found.gives_up = sum(p.gave_up for p in found.profiles) / max(1, asked)
    found.silent = (parted.count(False) + 0.5) / (len(parted) + 1)
    return found


def _profile(
    messages: Sequence[Message],
    said: Sequence[str],
    new: Sequence[Collection[str]],
    reveal: float | None,
    leaving: Collection[str],
    slips: Sequence[Slip],
) -> Profile:
    """One user. `new` are the fields that each of its messages says first."""
    later = [words(text) for text in said[1:]]
    lengths = [math.log(max(1, len(own))) for own in later]
    right, wrong = {w for w, _, _ in slips}, {w for _, w, _ in slips}
    written = Counter(w in wrong for own in later for w in own if w in right or w in wrong)
    last = messages[-1]
    there = last["role"] == "assistant" and not last.get("tool_calls")  # the user could answer
    heard = text_of(last.get("content")) if there else ""
    questions = [q for q in _questions(messages) if q not in leaving]
    parting = True if last["role"] == "user" else _after_a_statement(messages) if there else None
    return Profile(
        reveal=reveal,
        words=math.exp(sum(lengths) / len(lengths)) if lengths else None,
        ways=dict(Counter(way_of(t, own) for t, own in zip(said[1:], new[1:], strict=True))),
        turns=len(said),
        asked=len(questions),
        gave_up=bool(questions) and heard == questions[-1],
        parting=parting,
        small=sum(map(small, said)) * 2 > len(said),
        typos=written[True] / max(1, written.total()),
    )


def _questions(messages: Sequence[Message]) -> list[str]:
    """What the agent asked of the user."""
    said = (m for m in messages if m["role"] == "assistant" and not m.get("tool_calls"))
    return [text for text in (text_of(m.get("content")) for m in said) if "?" in text]


def _after_a_statement(messages: Sequence[Message]) -> bool:
    """Whether the last user message follows an agent message that asked nothing."""
    last = max(i for i, m in enumerate(messages) if m["role"] == "user")
    before = messages[last - 1] if last else None
    said = text_of(before.get("content")) if before and before["role"] == "assistant" else ""
    return bool(said) and "?" not in said


def mine_slips(said: Sequence[str], correct: Sequence[str]) -> list[Slip]:
    """Misspellings of users: a word that nobody else writes, seldom, one slip of the fingers away
    from one that users write often. `correct` are texts of agents and tools."""
    own = Counter(w for text in said for w in words(text))
    known = {w for text in correct for w in words(text)}
    often = [w for w, n in own.items() if n >= 20 and len(w) > 4]
    misspelt = {wrong: w for w in sorted(often) for wrong in slips_of(w)}
    return sorted(
        (misspelt[w], w, n)
        for w, n in own.items()
        if w in misspelt and w not in known and n <= 0.05 * own[misspelt[w]]
    )


def slips_of(word: str) -> set[str]:
    """A word with a letter left out, doubled or exchanged with the next, its ends kept."""
    found = set()
    for i in range(1, len(word) - 1):
        found.add(word[:i] + word[i + 1 :])
        found.add(word[:i] + word[i] + word[i:])
        if i < len(word) - 2:
            found.add(word[:i] + word[i + 1] + word[i] + word[i + 2 :])
    return found - {word}


def misspell(text: str, rate: float, slips: Sequence[Slip], rng: random.Random) -> str:
    """The text with words misspelt, each that users were seen to misspell at `rate` per word."""
    wrong: dict[str, list[tuple[str, int]]] = {}
    for word, misspelt, n in slips:
        wrong.setdefault(word, []).append((misspelt, n))

    def one(m: re.Match[str]) -> str:
        ways = wrong.get(m.group().lower())
        if not ways or rng.random() >= rate:
            return m.group()
        return rng.choices([w for w, _ in ways], [n for _, n in ways])[0]

    return re.sub(r"[^\W\d_]+", one, text) if rate and wrong else text


def words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())
