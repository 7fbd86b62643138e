"""An agent mined from recorded conversations: what the recorded agents did next in the situation
most like this one. A stand-in by retrieval, with no skill of its own: it shows what world and users
make of an agent like those that were recorded.

A situation is what happened last (a user's turn, or a tool's result with its outcome class), the
words of the last user turn and of the agent's own last message, and which tools were called how
often. Values of the recorded conversation are exchanged for what this one has shown in their
places (world.users.filling).
"""

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.core.ids import uuid7
from understudy.core.types import (
    Completion,
    Episode,
    Message,
    Request,
    ToolCall,
    Transition,
    text_of,
)
from understudy.world.data.values import WORD, call_key, parse
from understudy.world.fidelity.compare import label_of
from understudy.world.traffic.transitions import Failures
from understudy.world.users.filling import Shown, Slot, filled, note, read, slots_of
from understudy.world.users.said import Said
from understudy.world.users.situations import words

LARGEST = 4000  # moves that are remembered
_TRIED = 60  # moves that are looked at until one can be made here
_SPREAD = 0.05  # of likeness: moves that differ by less are about as likely
_TEXT: tuple[str, str] = ("", "text")  # where values stand in a message
_OFTEN = 3  # calls of a tool up to which their number tells situations apart
Event = tuple[str, str]  # tool and outcome class of the last result; "" and "user" for a turn


@dataclass(frozen=True, slots=True)
class Move:
    """What an agent did once, and where: `slots` are of the calls, `words_in` of the text."""

    event: Event
    words: frozenset[str]
    text: str
    words_in: dict[str, Slot]
    calls: tuple[tuple[str, Any, dict[str, Slot]], ...]


@dataclass(slots=True)
class SoFar:
    """A conversation up to a point, as the stand-in sees it."""

    failures: Failures
    shown: Shown = field(default_factory=Shown)
    names: dict[str, str] = field(default_factory=dict)
    event: Event = ("", "user")
    heard: list[str] = field(default_factory=list)  # words of the last user turn
    said: list[str] = field(default_factory=list)  # and of the agent's last message
    done: Counter[str] = field(default_factory=Counter)
    made: Counter[str] = field(default_factory=Counter)  # calls, the same word for word

    def add(self, message: Message) -> None:
        """Go on by a message."""
        text = text_of(message.get("content"))
        note(self.shown, message, self.names)
        if message["role"] == "user":
            self.event, self.heard = ("", "user"), words(text, {})
        elif message["role"] == "tool":
            tool = self.names.get(message.get("tool_call_id", ""), "")
            value = parse(text)
            result = Transition("", 0, (), tool, "{}", text)
            self.event = tool, label_of(value, self.failures.failed(result, value))[:200]
        elif message["role"] == "assistant":
            self.done.update(tool for tool, _ in read(message, self.names))
            self.made.update(_keys(message))
            self.said = words(text, {}) if text else self.said

    @property
    def words(self) -> frozenset[str]:
        """What tells this situation from others, beside the last event."""
        done = (f"did {t} {min(n, _OFTEN)}" for t, n in self.done.items())
        heard = (f"heard {w}" for w in self.heard)
        return frozenset([*done, *heard, *(f"said {w}" for w in self.said)])


def moves_of(episode: Episode, failures: Failures, said: Said) -> Iterator[Move]:
    """What the agent of an episode did, step by step; `said` learns of its calls.

    Where a recording does not end with words to its user, the last move is one without words: the
    agent had done its part."""
    so_far = SoFar(failures)
    for message in episode.messages:
        if message["role"] == "assistant":
            shown, text = so_far.shown, text_of(message.get("content"))
            made = [(t, a, slots_of(shown, t, a)) for t, a in read(message, so_far.names)]
            for tool, args, _ in made:
                said.learn(shown.texts, tool, args)
            if text or made:
                where = {w: shown.slot(_TEXT, w) for w in WORD.findall(text) if _own(w)}
                found = {w: s for w, s in where.items() if s is not None}
                yield Move(so_far.event, so_far.words, text, found, tuple(made))
        so_far.add(message)
    last: Message = episode.messages[-1] if episode.messages else {"role": "system"}
    if last["role"] in ("user", "tool") or last.get("tool_calls"):
        tools = [tool for tool, _ in read(last, {})]
        event = (tools[-1], "") if tools else so_far.event
        yield Move(event, so_far.words, "", {}, ())


class StandIn:
    """A `Chat` that does what recorded agents did. Deterministic by the request's seed.

    `left_out` counts the moves of the episodes that are not remembered, `stuck` the turns for
    which no remembered move had all its values here: they say the most alike text. Raises
    ValueError where the episodes hold no agent's message.
    """

    def __init__(self, episodes: Sequence[Episode], failures: Failures, seed: int = 0) -> None:
        self.failures, self.said, self.stuck = failures, Said(), 0
        order = list(episodes)
        random.Random(f"stand-in:{seed}").shuffle(order)
        found = [move for e in order for move in moves_of(e, failures, self.said)]
        self.left_out = max(0, len(found) - LARGEST)
        self.moves = found[:LARGEST]
        if not self.moves:
            raise ValueError("no agent said or did anything in these episodes: import others")
        self._tool_M = np.array([m.event[0] for m in self.moves])
        self._event_M = np.array(["\0".join(m.event) for m in self.moves])
        self._most = max(_most(e) for e in order)
        known = sorted({w for m in self.moves for w in m.words})
        self._places = {w: n for n, w in enumerate(known)}
        self._has_MW = np.zeros((len(self.moves), len(known)), dtype=np.float32)
        for n, move in enumerate(self.moves):
            self._has_MW[n, [self._places[w] for w in move.words]] = 1
        count_W = self._has_MW.sum(axis=0)
        self._weight_W = np.log(1 + len(self.moves) / np.maximum(count_W, 1)).astype(np.float32)
        self._size_M = self._has_MW @ self._weight_W

    async def complete(self, request: Request) -> Completion:
        """The next message of a conversation."""
        so_far = SoFar(self.failures)
        for message in request.messages:
            so_far.add(message)
        rng = random.Random(f"stand-in:{request.sampling.seed}:{request.scenario_id}")
        said = self._next(so_far, rng)
        reason = "tool_calls" if said.get("tool_calls") else "stop"
        return Completion(uuid7(), request, "ok", said, reason)  # type: ignore[arg-type]

    def _next(self, so_far: SoFar, rng: random.Random) -> Message:
        ranked = self._ranked(so_far, rng)
        for n in ranked[:_TRIED]:
            said = _made(self.moves[n], so_far, self.said)
            if said is not None and not self._circles(said, so_far):
                return said
        self.stuck += 1
        text = next((m.text for n in ranked for m in (self.moves[n],) if m.text), "")
        return {"role": "assistant", "content": text}

    def _circles(self, said: Message, so_far: SoFar) -> bool:
        """Whether a message makes a call once more than any recorded agent did."""
        return any(so_far.made[key] >= self._most for key in _keys(said))

    def _ranked(self, so_far: SoFar, rng: random.Random) -> list[int]:
        """The numbers of the moves: those after the same event first, then after the same tool,
        then all others; the most alike first among these, about equal ones by chance."""
        own = so_far.words
        known = [self._places[w] for w in own if w in self._places]
        size = float(self._weight_W[known].sum()) + (len(own) - len(known))
        both_M = self._has_MW[:, known] @ self._weight_W[known]
        like_M: NDArray[Any] = both_M / np.maximum(self._size_M + size - both_M, 1e-9)
        near_M = 2 - (self._tool_M == so_far.event[0]).astype(int)
        near_M -= self._event_M == "\0".join(so_far.event)
        drawn_M = np.random.default_rng(rng.getrandbits(32)).gumbel(0, _SPREAD, len(self.moves))
        order: list[int] = np.lexsort((-like_M - drawn_M, near_M)).tolist()
        return order


def _keys(message: Message) -> list[str]:
    return [call_key(tool, args) for tool, args in read(message, {})]


def _most(episode: Episode) -> int:
    """How often one call was made in an episode, at most; 1 where none was."""
    counts = Counter(key for m in episode.messages for key in _keys(m))
    return max(counts.values(), default=1)


def _own(word: str) -> bool:
    return len(word) > 3 and any(c.isdigit() for c in word)


def _made(move: Move, so_far: SoFar, said_for: Said) -> Message | None:
    """A move with this conversation's values; None where it lacks one of a call's."""
    shown, calls = so_far.shown, list[ToolCall]()
    for tool, args, slots in move.calls:
        try:
            given = filled(shown, said_for, tool, args, slots)
        except LookupError:
            return None
        text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        function: Any = {"name": tool, "arguments": text}
        number = f"call_{so_far.done.total()}_{len(calls)}"
        calls.append({"id": number, "type": "function", "function": function})
    here = {word: shown.fill(_TEXT, slot) for word, slot in move.words_in.items()}
    text = WORD.sub(lambda m: str(here.get(m.group()) or m.group()), move.text)
    said: Message = {"role": "assistant", "content": text or None}
    if calls:
        said["tool_calls"] = calls
    return said
