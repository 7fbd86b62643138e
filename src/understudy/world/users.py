"""A simulated user without a language model: what real users said after which agent message,
with the values of this user's own goal."""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.core.types import Episode, Message, text_of
from understudy.world.wording import Part, Votes, flat, join, slots, split_text


@dataclass(slots=True)
class Situation:
    """An agent message to users, its words, and what they did then: parts of a reply, or None
    where they left; each with a count."""

    words: list[str]
    replies: list[tuple[list[Part] | None, int]] = field(default_factory=list)


def words(text: str, fields: Mapping[str, Any]) -> list[str]:
    """The words of an agent message without what is particular to one episode."""
    low = text.lower()
    for value in fields.values():
        if isinstance(value, str) and len(value) > 2:
            low = low.replace(value.lower(), " ")
    found = re.findall(r"[^\W\d_]{2,}|\?", low)
    return sorted(set(found))


def mine_situations(
    talks: Sequence[tuple[Episode, dict[str, Any]]], votes: Votes, limit: int = 1500
) -> list[Situation]:
    """Situations of a traffic, equal ones merged; the rarest left out beyond the limit."""
    table: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    texts: dict[str, list[Part] | None] = {}
    for episode, fields in talks:
        messages = [m for m in episode.messages if m["role"] in ("user", "assistant")]
        for i, message in enumerate(messages):
            if message["role"] != "assistant" or message.get("tool_calls"):
                continue
            said = text_of(message.get("content"))
            after = messages[i + 1] if i + 1 < len(messages) else None
            if not said or (after is not None and after["role"] != "user"):
                continue
            parts = split_text(text_of(after.get("content")), fields, votes) if after else None
            texts[repr(parts)] = parts
            table[tuple(words(said, fields))][repr(parts)] += 1
    ranked = sorted(table.items(), key=lambda t: (-sum(t[1].values()), t[0]))[:limit]
    return [
        Situation(list(said), [(texts[r], n) for r, n in replies.most_common(60)])
        for said, replies in ranked
    ]


class MinedUser:
    """Answers as real users answered the most similar agent messages; leaves when they left,
    or when patience ends."""

    def __init__(
        self,
        situations: Sequence[Situation],
        goal: Mapping[str, Any],
        seed: int,
        patience: int = 12,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.situations, self.patience = situations, patience
        self.fields = flat(dict(goal))
        self.rng = random.Random(f"user:{seed}")
        self.weights = weights if weights is not None else rarity(situations)

    async def reply(self, seen: Sequence[Message]) -> Message | None:
        """The user's next message after the agent's last one, or None: the user has left."""
        said = text_of(seen[-1].get("content")) if seen else ""
        turns = sum(m["role"] == "user" for m in seen)
        agent = [text_of(m.get("content")) for m in seen if m["role"] == "assistant"]
        repeated = bool(said) and agent.count(said) > 2
        if turns >= self.patience or repeated or not self.situations:
            return None
        found: list[tuple[float, list[Part] | None, int]] = []
        for score, situation in self._nearest(words(said, self.fields)):
            for parts, n in situation.replies:
                if parts is None or all(p in self.fields for p in slots(parts)):
                    found.append((score, parts, n))
        if not found:
            return None
        best = max(s for s, _, _ in found)
        close = [(parts, n) for s, parts, n in found if s >= best - 0.05]
        parts = self.rng.choices([p for p, _ in close], weights=[n for _, n in close])[0]
        text = join(parts, self.fields) if parts is not None else None
        return None if text is None else {"role": "user", "content": text}

    def _nearest(self, said: Sequence[str]) -> list[tuple[float, Situation]]:
        own = set(said)
        scored = []
        size = sum(self.weights.get(w, 1.0) for w in own)
        for n, situation in enumerate(self.situations):
            both = sum(self.weights.get(w, 1.0) for w in situation.words if w in own)
            total = size + sum(self.weights.get(w, 1.0) for w in situation.words) - both
            scored.append((both / total if total else 1.0, -n, situation))
        scored.sort(key=lambda s: s[:2], reverse=True)
        return [(s, situation) for s, _, situation in scored[:5]]


def rarity(situations: Sequence[Situation]) -> dict[str, float]:
    """Inverse document frequency of the words of agent messages."""
    counts = Counter(w for s in situations for w in s.words)
    return {w: math.log(1 + len(situations) / n) for w, n in counts.items()}
