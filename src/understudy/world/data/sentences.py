"""Results that are one sentence with values in it, as records, and records as that sentence.

Only sentences that say a number which counts up are read so: of what a call made, or of how many
there are now. What other sentences say hangs on the call and its things (world.outcomes.templates).
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from understudy.world.data.values import text_form

_TOKEN = re.compile(r"\w+(?:[-.:/@]\w+)*|\s+|[^\w\s]")
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,6})?")
_SURE, _LEAST, _MOSTLY = 0.95, 5, 0.8
_MOST = 60  # words and marks of a sentence
_LONGEST = 2000  # its characters


@dataclass(slots=True)
class Sentence:
    """`literals`: what is before, between and after the values; `names`: of the values, each the
    word before it; `numbers`: the names of those that are numbers."""

    literals: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)

    def read(self, text: str) -> dict[str, Any] | None:
        """The values of a sentence; None where it is another one."""
        if len(text) > _LONGEST:
            return None
        found = re.fullmatch(r"(\S+(?: \S*\d\S*)*?)".join(map(re.escape, self.literals)), text)
        if found is None:
            return None
        said = zip(self.names, found.groups(), strict=True)
        return {name: self._value(name, value) for name, value in said}

    def _value(self, name: str, text: str) -> Any:
        if name in self.numbers and _NUMBER.fullmatch(text):
            return float(text) if "." in text else int(text)
        return text

    def write(self, record: Any) -> str:
        """The sentence that says these values."""
        values = [text_form(record.get(name, "")) for name in self.names]
        pairs = zip(self.literals, [*values, ""], strict=True)
        return "".join(literal + value for literal, value in pairs)

    @classmethod
    def mine(cls, texts: Sequence[str]) -> "Sentence | None":
        """The sentence that nearly all texts are, in the order of time; None where they are of
        several forms, or say no number that counts up."""
        split = [_TOKEN.findall(t) for t in texts]
        forms = Counter(_form(tokens) for tokens in split)
        form, n = forms.most_common(1)[0]
        if n < _SURE * len(texts) or not 1 < len(form) <= _MOST:
            return None
        own = [tokens for tokens in split if _form(tokens) == form]
        varied = [len({t[i] for t in own}) > 1 for i in range(len(form))]
        if sum(v for v, token in zip(varied, form, strict=True) if token == "w") < 1:
            return None
        found = cls([""])
        held: list[list[str]] = []  # of each value
        for i in range(len(form)):
            column = [t[i] for t in own]
            if not varied[i]:
                found.literals[-1] += column[0]
            elif held and found.literals[-1] == " " and _digits(held[-1]) and _digits(column):
                found.literals.pop()
                held[-1] = [f"{a} {b}" for a, b in zip(held[-1], column, strict=True)]
                found.literals.append("")
            else:
                found.names.append(_name(found.literals[-1], found.names))
                found.literals.append("")
                held.append(column)
        if "" in found.literals[1:-1] or not any(_counts(column, held) for column in held):
            return None
        found.numbers = [
            name
            for name, column in zip(found.names, held, strict=True)
            if all(map(_is_number, column))
        ]
        return found


def _form(tokens: Sequence[str]) -> tuple[str, ...]:
    """The marks of a sentence with `w` for each word."""
    return tuple("w" if t[0].isalnum() or t[0] == "_" else t for t in tokens)


def _digits(column: Sequence[str]) -> bool:
    return all(any(ch.isdigit() for ch in t) for t in column)


def _is_number(text: str) -> bool:
    if not _NUMBER.fullmatch(text):
        return False
    return text_form(float(text) if "." in text else int(text)) == text


def _counts(column: Sequence[str], held: Sequence[Sequence[str]]) -> bool:
    """Whether what a place says ends in a number that is higher each time, or one higher each time
    that another place says the same."""
    ends = [re.search(r"(?<!\d[-.:/ ])\d{1,15}$", value) for value in column]
    numbers = [int(end.group()) for end in ends if end is not None]
    if len(numbers) < len(column):
        return False
    more = sum(a < b for a, b in pairwise(numbers))
    if len(set(numbers)) >= _LEAST and more >= _SURE * (len(numbers) - 1):
        return True
    for other in (o for o in held if o is not column):
        last: dict[str, int] = {}
        steps = []
        for value, number in zip(other, numbers, strict=True):
            if value in last:
                steps.append(number - last[value])
            last[value] = number
        often = len(last) >= _LEAST <= len(steps)
        if often and sum(step == 1 for step in steps) >= _MOSTLY * len(steps):
            return True
    return False


def _name(before: str, taken: Sequence[str]) -> str:
    words = re.findall(r"[^\W\d_]+", before)
    name = words[-1] if words else "value"
    return name if name not in taken else f"{name} {len(taken) + 1}"
