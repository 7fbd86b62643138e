"""Luck: episodes that pass although the agent guessed what its user had not said.

Rejection sampling keeps lucky guesses: where nobody says a number, one guess in six passes, and
what is distilled from such episodes guesses too. Whether a verdict hangs on a field that no message
says is seen by asking the check again: the same episode, with another value of that field in its
ticket. Where the check then says otherwise, the agent did not know what it did.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from understudy.core.types import Episode, Feedback, text_of
from understudy.judges.check import Check, conversation
from understudy.world.data.values import columns, parse, with_values
from understudy.world.users.notes import Notes
from understudy.world.users.wording import flat, kind

_OTHERS = 4  # values that a field is given instead
_LEAST = 2  # captured episodes that show that a field can be known otherwise


class Luck:
    """Tells guesses, by captured episodes: which values a field has, and where agents know one that
    notes do not read, for the captured ones pass there as often as elsewhere."""

    def __init__(
        self, notes: Notes, check: Check, captured: Sequence[Episode], threshold: float = 1.0
    ) -> None:
        self.notes, self.check, self.threshold = notes, check, threshold
        values: dict[str, dict[str, Any]] = defaultdict(dict)
        tried: dict[bool, Counter[tuple[str, str]]] = {True: Counter(), False: Counter()}
        passed: dict[bool, Counter[tuple[str, str]]] = {True: Counter(), False: Counter()}
        for episode in captured:
            fields, went = self._fields(episode), self._passes(episode)
            unsaid = self._unsaid(episode, fields)
            for path, value in fields.items():
                values[kind(path)][repr(value)] = value
                for at in ((kind(path), repr(value)), (kind(path), "")):
                    tried[path in unsaid][at] += 1
                    passed[path in unsaid][at] += went
        self.values = {k: [own[r] for r in sorted(own)] for k, own in values.items()}
        self.known = {
            at
            for at, n in passed[True].items()
            if at[1]
            and n >= _LEAST
            and n / tried[True][at]
            >= 0.5 * passed[False][at[0], ""] / max(1, tried[False][at[0], ""])
        }

    def guessed(self, episode: Episode) -> str | None:
        """The field that an episode's success hangs on, though nobody said it; None where there is
        none."""
        fields = self._fields(episode)
        for path, value in sorted(self._unsaid(episode, fields).items()):
            if (kind(path), repr(value)) not in self.known and self._hangs(episode, path, value):
                return path
        return None

    def _fields(self, episode: Episode) -> dict[str, Any]:
        """The fields of a ticket that users say."""
        told = flat(dict(episode.metadata))
        return {p: v for p, v in told.items() if kind(p) in self.notes.kinds and v is not None}

    def _unsaid(self, episode: Episode, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Those that no user's message says and no result holds."""
        said: set[str] = set()
        shown: set[str] = set()
        for message in conversation(episode):
            text = text_of(message.get("content"))
            if message["role"] == "user":
                said |= self.notes.said(text, fields).keys()
            elif message["role"] == "tool":
                shown |= {repr(v) for _, v in columns(parse(text))}
        return {p: v for p, v in fields.items() if p not in said and repr(v) not in shown}

    def _hangs(self, episode: Episode, path: str, value: Any) -> bool:
        """Whether the check says otherwise of most other values of a field."""
        others = [v for v in self.values.get(kind(path), ()) if repr(v) != repr(value)]
        others = others[:: max(1, len(others) // _OTHERS)][:_OTHERS]
        metadata = dict(episode.metadata)
        told = [
            self._passes(replace(episode, metadata=with_values(metadata, {path: other})))
            for other in others
        ]
        return 2 * sum(told) < len(told)

    def _passes(self, episode: Episode) -> bool:
        verdict = self.check.judge_episode(episode)
        value = verdict.value if isinstance(verdict, Feedback) else None
        return isinstance(value, (int, float)) and value >= self.threshold
