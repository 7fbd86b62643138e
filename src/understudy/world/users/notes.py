"""Notes: beside each user message, the fields that it says.

A world knows more of its users' messages than an agent does: it made them of a ticket's values.
A policy that reads with notes errs less, and what it then does can be taught to one without
them, since a note holds nothing that its message does not say. The idea is STaR's rationalization
(arXiv 2203.14465): a hint finds the good attempts, training leaves it out.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from understudy.core.protocols import User
from understudy.core.types import Message, text_of
from understudy.world.users.clauses import Implied, cut, plain
from understudy.world.users.wording import Votes, kind, slots, split_text

_BEGIN = "\n[said] "


@dataclass(slots=True)
class Notes:
    """Reads fields in messages: those of the kinds given, where their surroundings are usual, and
    those that clauses say in words of their own (world.users.clauses)."""

    kinds: Collection[str]
    votes: Votes
    implied: Implied = field(default_factory=dict)

    def of(self, text: str, fields: Mapping[str, Any]) -> str:
        """Which of the fields a text says, as JSON, by the last parts of their paths."""
        known, said = self._known(fields), self.said(text, fields)
        names = _short({*known, *(path for own in self.implied.values() for path, _ in own)})
        note = {names[path]: said[path] for path in sorted(said)}
        return json.dumps(note, ensure_ascii=False)

    def said(self, text: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that a text says, by their paths."""
        known = self._known(fields)
        parts = split_text(text, known, self.votes)
        said = {path: known[path] for path in slots(parts)}
        for clause in cut(parts)[::2]:
            for path, value in self.implied.get(plain(clause), ()):
                if fields.get(path) == value:
                    said[path] = value
        return said

    def _known(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {p: v for p, v in fields.items() if kind(p) in self.kinds and v is not None}

    def beside(self, text: str, fields: Mapping[str, Any]) -> str:
        """The text with its note."""
        return f"{text}{_BEGIN}{self.of(text, fields)}"

    def reading(self, message: Message, fields: Mapping[str, Any]) -> list[Message]:
        """A user's message with the question what it says, and its note as the answer."""
        text = text_of(message.get("content"))
        answer: Message = {"role": "assistant", "content": self.of(text, fields)}
        return [_with(message, f"{text}{_BEGIN.rstrip()}"), answer]

    def add(self, messages: Iterable[Message], fields: Mapping[str, Any]) -> list[Message]:
        """The messages, those of users with notes."""
        return [
            _with(m, self.beside(text_of(m.get("content")), fields)) if m["role"] == "user" else m
            for m in messages
        ]


def without(messages: Iterable[Message]) -> list[Message]:
    """The messages as they were before `Notes.add`."""
    return [
        _with(m, text_of(m.get("content")).rpartition(_BEGIN)[0]) if m["role"] == "user" else m
        for m in messages
    ]


class NotedUser:
    """A user whose messages come with notes; it does not see them itself."""

    def __init__(self, user: User, notes: Notes, fields: Mapping[str, Any]) -> None:
        self.user, self.notes, self.fields = user, notes, fields

    async def reply(self, seen: Sequence[Message]) -> Message | None:
        said = await self.user.reply(without(seen))
        return None if said is None else self.notes.add([said], self.fields)[0]


def _with(message: Message, text: str) -> Message:
    return cast(Message, {**message, "content": text})


def _short(paths: Iterable[str]) -> dict[str, str]:
    """Names of paths: without the parts that all begin with."""
    split = {path: path.split("/")[1:] for path in paths}
    shared = 0
    while len({tuple(parts[: shared + 1]) for parts in split.values()}) == 1 and all(
        len(parts) > shared + 1 for parts in split.values()
    ):
        shared += 1
    return {path: "/".join(parts[shared:]) for path, parts in split.items()}
