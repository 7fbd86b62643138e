"""A first message for a ticket that somebody else brings: how a real user with a ticket like it
began, with this ticket's values."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from understudy.world.data.values import unescape
from understudy.world.users.clauses import Exchanger, cut, plain
from understudy.world.users.scenarios import Book, Opening, fits
from understudy.world.users.wording import join, kind, slots


@dataclass(frozen=True, slots=True)
class _Needs:
    """What an opening asks of a ticket: fields that it says (their values may be others of the
    same kind), and fields of which it says, or may say, in words of its own what they are."""

    opening: Opening
    free: dict[str, Any]
    fixed: dict[str, Any]


class Openings:
    """The captured openings of a book's training split, by what they ask of a ticket."""

    def __init__(self, book: Book) -> None:
        self.book, self.exchanger = book, Exchanger(book.exchanges)
        self.matter = {*book.kinds, *(kind(p) for own in book.implied.values() for p, _ in own)}
        self.needs = {n: self._needs(o) for n, o in enumerate(book.openings) if o.split == "train"}

    def _needs(self, opening: Opening) -> _Needs:
        """A choice that a clause implies is fixed, and so is what has no value."""
        own = opening.fields
        implied = {
            path
            for clause in cut(opening.parts)[::2]
            for path, _ in self.book.implied.get(plain(clause), ())
        }
        said = set(slots(opening.parts))
        ticket = {p for p in own if p not in opening.hidden and kind(p) in self.matter}
        asked = said | ticket
        free = {
            p for p in asked
            if kind(p) in self.book.kinds and p not in implied and own[p] is not None
        }  # fmt: skip
        return _Needs(opening, {p: own[p] for p in sorted(free)},
                      {p: own[p] for p in sorted(asked - free)})  # fmt: skip

    def first_message(
        self,
        fields: Mapping[str, Any],
        rng: random.Random,
        weight: Callable[[int], float] = lambda n: 1.0,
    ) -> str | None:
        """What a user with these fields (by their paths) says first; None where no captured
        opening is true of them. `weight` is of an opening's number in the book."""
        held = {p for p in fields if kind(p) in self.matter}
        able = [n for n, needs in self.needs.items() if _able(needs, fields, held)]
        if not able:
            return None
        opening = self.book.openings[rng.choices(able, [weight(n) for n in able])[0]]
        return join(self.exchanger.say(opening.parts, opening.fields, rng), fields)


def _able(needs: _Needs, fields: Mapping[str, Any], held: set[str]) -> bool:
    """Whether an opening is true of a ticket's fields, and nothing of them is beyond it: a third
    item of a list that it has two of. `held` are those that wordings depend on."""
    for path, old in needs.fixed.items():
        if path not in fields or fields[path] != old:
            return False
    for path, old in needs.free.items():
        if path not in fields or (fields[path] != old and not fits(fields[path], old)):
            return False
    metadata = needs.opening.metadata
    beyond = held - needs.free.keys() - needs.fixed.keys()
    return not any(unescape(p.split("/")[1]) in metadata for p in beyond)
