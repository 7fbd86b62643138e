"""Values inside sentences: finding a ticket's fields in what a user said, and saying it anew."""

import datetime
import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from understudy.world.data.values import is_number, leaves

NUMBERS = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve",
]  # fmt: skip
_DATES = {
    "date:%-d %B %Y": "%d %B %Y", "date:%B %-d, %Y": "%B %d, %Y", "date:%B %-d": "%B %d",
    "date:%-d %B": "%d %B", "date:%d/%m/%Y": "%d/%m/%Y", "date:%m/%d/%Y": "%m/%d/%Y",
    "date:%d.%m.%Y": "%d.%m.%Y", "date:%b %-d": "%b %d", "date:%-d %b": "%d %b",
}  # fmt: skip
_NUMBER_WORD = re.compile(rf"(?<!\w)(?:{'|'.join(NUMBERS)})(?!\w)", re.IGNORECASE)
Part = str | tuple[str, str]  # literal text, or (path, format)
Occurrence = tuple[int, int, list[tuple[str, str]]]  # start, end, [(path, format)]


def say(value: Any, how: str) -> str | None:
    """A value in a format; None where the format cannot express it."""
    if isinstance(value, bool) or value is None or isinstance(value, (list, dict)):
        return None
    if isinstance(value, str):
        return _say_text(value, how)
    whole = isinstance(value, int) or value.is_integer()
    if how in ("word", "Word"):
        if not whole or not 1 <= value <= len(NUMBERS):
            return None
        word = NUMBERS[int(value) - 1]
        return word if how == "word" else word.capitalize()
    if how == "thousands":
        return f"{int(value):,}" if whole else f"{value:,.2f}"
    if how == "cents":
        return f"{value:.2f}"
    return str(int(value)) if whole else str(value) if how == "plain" else None


def _say_text(value: str, how: str) -> str | None:
    if how.startswith("date:"):
        try:
            day = datetime.date.fromisoformat(value)
        except ValueError:
            return None
        text = day.strftime(_DATES[how])
        return re.sub(r"\b0(\d)", r"\1", text) if "%-d" in how else text
    if how == "plain":
        return value
    spaced = re.sub(r"[_-]+", " ", value)
    forms = {
        "spaced": spaced, "lower": value.lower(), "capital": value[:1].upper() + value[1:],
        "Spaced": spaced[:1].upper() + spaced[1:],
    }  # fmt: skip
    return forms.get(how)


@functools.lru_cache(maxsize=20_000)
def forms(value: Any) -> list[tuple[str, str]]:
    """(format, text) of a value, plainest first, no text twice."""
    if isinstance(value, str):
        names = ["plain", "spaced", "lower", "capital", "Spaced"]
        if re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            names += list(_DATES)
    else:
        names = ["plain", "thousands", "cents", "word", "Word"]
    found: list[tuple[str, str]] = []
    for how in names:
        text = say(value, how)
        if text and all(text != t for _, t in found):
            found.append((how, text))
    return found


def occurrences(text: str, fields: Mapping[str, Any]) -> list[Occurrence]:
    """Where a ticket's values stand in a text; longer ones first, never overlapping."""
    by_text: dict[str, list[tuple[str, str]]] = {}
    for path, value in fields.items():
        if isinstance(value, bool) or value is None or (isinstance(value, str) and len(value) < 2):
            continue
        for how, form in forms(value):
            by_text.setdefault(form, []).append((path, how))
    found: list[Occurrence] = []
    for form in sorted(by_text, key=len, reverse=True):
        if form not in text:
            continue
        edge = r"(?<![\w])(?<!\d[.,])" if form[0].isalnum() else ""
        ending = r"(?![\w]|[.,]\d)" if form[-1].isalnum() else ""
        for m in re.finditer(edge + re.escape(form) + ending, text):
            if all(m.end() <= s or m.start() >= e for s, e, _ in found):
                found.append((m.start(), m.end(), by_text[form]))
    return sorted(found, key=lambda o: o[:2])


def around(text: str, start: int, end: int) -> list[tuple[str, str]]:
    """The words beside a place: what tells one number from another."""
    before = re.findall(r"[^\W\d_]+|[$€£]", text[max(0, start - 40) : start].lower())
    after = re.findall(r"[^\W\d_]+|[$€£]", text[end : end + 40].lower())
    return [
        ("-1", before[-1] if before else "^"), ("-2", " ".join(before[-2:])),
        ("+1", after[0] if after else "$"), ("+2", " ".join(after[:2])),
    ]  # fmt: skip


class Votes:
    """Which field stands in which surroundings, counted where there is no doubt, and in which a
    word for a number names one."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, tuple[str, str]]] = Counter()
        self.totals: Counter[tuple[str, str]] = Counter()
        self.words: Counter[tuple[str, bool, tuple[str, str]]] = Counter()
        """(word, whether a field has its number, surroundings)."""

    def hear(self, text: str, fields: Mapping[str, Any]) -> None:
        """Count a text's words for numbers: to be heard of all texts before any is learned."""
        numbers = [v for v in fields.values() if is_number(v)]
        for m in _NUMBER_WORD.finditer(text):
            word = m[0].lower()
            held = NUMBERS.index(word) + 1 in numbers
            self.words.update((word, held, place) for place in around(text, *m.span()))

    def names(self, text: str, found: Occurrence) -> bool:
        """Whether what was found is said there. A word for a number ("the best one") is none where
        it stands in as many texts of others, whose number is another."""
        start, end, said = found
        word = text[start:end].lower()
        if word not in NUMBERS or any(how not in ("word", "Word") for _, how in said):
            return True
        places = around(text, start, end)
        held = [(self.words[word, True, p], self.words[word, False, p]) for p in places]
        return not any(map(any, held)) or sum((a - b) / (a + b + 1) for a, b in held) > 0

    def learn(self, text: str, fields: Mapping[str, Any]) -> None:
        for start, end, said in (o for o in occurrences(text, fields) if self.names(text, o)):
            kinds = {kind(p) for p, _ in said}
            weight = 4 if len(kinds) == 1 else 1
            for name in kinds:
                for place in around(text, start, end):
                    self.counts[name, place] += weight
            for place in around(text, start, end):
                self.totals[place] += weight

    def score(self, path: str, text: str, start: int, end: int) -> float:
        return sum(
            self.counts[kind(path), place] / (self.totals[place] + 1)
            for place in around(text, start, end)
        )


def kind(path: str) -> str:
    """A path without the numbers of list items."""
    return "/".join("#" if part.isdigit() else part for part in path.split("/"))


def split_text(text: str, fields: Mapping[str, Any], votes: Votes) -> list[Part]:
    """A text as literals and slots. Of several fields of one value, the one whose usual
    surroundings these are takes the place; each takes one before any takes two."""
    found = [o for o in occurrences(text, fields) if votes.names(text, o)]
    used: Counter[str] = Counter()
    chosen: dict[int, tuple[str, str]] = {}
    order = sorted(
        (
            (-votes.score(path, text, start, end), i, path, how)
            for i, (start, end, said) in enumerate(found)
            for path, how in said
        ),
    )
    for again in (False, True):
        for _, i, path, how in order:
            if i not in chosen and (again or not used[path]):
                chosen[i] = (path, how)
                used[path] += 1
    parts: list[Part] = []
    done = 0
    for i, (start, end, _) in enumerate(found):
        parts += [text[done:start], chosen[i]]
        done = end
    parts.append(text[done:])
    return [p for p in parts if p != ""]


def join(parts: Sequence[Part], fields: Mapping[str, Any]) -> str | None:
    """The text with its slots filled; None where a field is missing."""
    out = []
    for part in parts:
        if isinstance(part, str):
            out.append(part)
            continue
        value = fields.get(part[0])
        text = say(value, part[1])
        if text is None and is_number(value):
            text = say(value, "plain")
        if text is None and isinstance(value, str):
            text = say(value, "spaced")
        if text is None:
            return None
        out.append(text)
    return "".join(out)


def slots(parts: Sequence[Part]) -> list[str]:
    return [p[0] for p in parts if not isinstance(p, str)]


def flat(metadata: Any) -> dict[str, Any]:
    """A ticket's scalar fields by JSON pointer."""
    return dict(leaves(metadata))
