"""Replacing what looks personal in data: e-mail addresses, numbers of phones and cards, and the
texts of fields that are named. Formats stay, and equal values get equal replacements.

Names, addresses and the like cannot be told from other texts in general: name their fields.
"""

import hashlib
import hmac
import re
import secrets
import string
from collections import Counter
from collections.abc import Collection, Iterable
from datetime import date, timedelta
from random import Random
from typing import Any

MAIL = re.compile(r"(?<![\w.+%'-])[\w.+%'-]+@[\w-]+(?:\.[\w-]+)+")
_DAY = r"\d{4}-\d\d-\d\d|\d{1,2}[-./ ]\d{1,2}[-./ ]\d{4}"
NUMBER = re.compile(
    rf"(?<![\w.+/:-])(?!(?:{_DAY})(?!\d))(?!\d+\.\d+(?![.\d]))"  # no day, no decimal number
    r"(?:\+\d[\d ().-]{5,20}\d|(?:\(\d{1,4}\)[ -]?)?\d{2,5}(?:[ .-]\d{2,5}){1,5}|\d{13,19})"
    r"(?![\w/:-])"
)
DATE = re.compile(r"\d{4}-\d\d-\d\d(?!\d)")
MAIL_HOST = "example.com"  # reserved for this (RFC 2606): nothing that is sent there arrives


class Scrub:
    """Replaces texts of one set of data.

    `key`: equal keys make equal replacements, in other exports too; without one it is random, and
    nobody can find out what a replacement stood for by trying. `fields`: names of fields whose
    texts are replaced, there and wherever else the same text is a whole value.
    """

    def __init__(self, key: bytes | None = None, fields: Collection[str] = ()) -> None:
        self.fields = frozenset(fields)
        self.numbers_left = 0  # numbers in fields that were named: they stay
        self._key = key or secrets.token_bytes(16)
        self._named: set[str] = set()
        self._done: dict[str, str] = {}
        self._used: set[str] = set()
        self.kinds: Counter[str] = Counter()  # different values replaced, by kind

    def collect(self, records: Iterable[dict[str, Any]]) -> None:
        """Note the texts of the named fields; call it with all data before the first `of`."""
        for record in records if self.fields else ():
            self._collect(record, False)

    def _collect(self, value: Any, inside: bool) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                self._collect(item, inside or name in self.fields)
        elif isinstance(value, list):
            for item in value:
                self._collect(item, inside)
        elif inside and isinstance(value, str) and any(map(str.isalnum, value)):
            self._named.add(value)
        elif inside and isinstance(value, (int, float)) and not isinstance(value, bool):
            self.numbers_left += 1

    def of(self, value: Any) -> Any:
        """A value without what looks personal; the names of an object's fields are texts too."""
        if isinstance(value, dict):
            return {self._text(k): self.of(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.of(v) for v in value]
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        if text in self._named and not MAIL.fullmatch(text):
            return self._instead(text, "field")
        if "@" in text:
            text = MAIL.sub(lambda m: self._instead(m.group(), "mail"), text)
        return NUMBER.sub(self._number, text)

    def _number(self, found: re.Match[str]) -> str:
        text = found.group()
        digits = [int(c) for c in text if c.isdigit()]
        plain = text.isdigit() and not _luhn(digits)  # an id, rather than a card
        return text if plain or not 7 <= len(digits) <= 19 else self._instead(text, "number")

    def _instead(self, text: str, kind: str) -> str:
        if text not in self._done:
            for n in range(1000):
                digest = hmac.digest(
                    self._key, f"{n}:{text}".encode(errors="replace"), hashlib.sha256
                )
                made = _like(text, kind, Random(digest))
                if made not in self._used and made != text:
                    break
            else:  # a form of too few values
                made = f"{made}_{len(self._done)}"
            self._used.add(made)
            self._done[text] = made
            self.kinds[kind] += 1
        return self._done[text]


def _like(text: str, kind: str, rng: Random) -> str:
    """A text of the same form: letters for letters, digits for digits, a day for a day."""
    if kind == "mail":
        return f"{_shape(text.rpartition('@')[0], rng)}@{MAIL_HOST}"
    day = DATE.match(text)
    if day is not None:
        try:
            moved = date.fromisoformat(day.group()) + timedelta(days=rng.randint(-1500, 1500))
        except (ValueError, OverflowError):
            return _shape(text, rng)
        return moved.isoformat() + _shape(text[day.end() :], rng)
    return _shape(text, rng)


def _shape(text: str, rng: Random) -> str:
    return "".join(
        rng.choice(string.digits)
        if c.isdigit()
        else rng.choice(string.ascii_uppercase if c.isupper() else string.ascii_lowercase)
        if c.isalpha()
        else c
        for c in text
    )


def _luhn(digits: list[int]) -> bool:
    """Whether a card's check digit is right (ISO/IEC 7812-1)."""
    doubled = [d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0
