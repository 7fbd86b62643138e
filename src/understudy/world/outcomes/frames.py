"""Wordings that differ in a word of the traffic's own data: one form with a slot for it.

`Moved from open to done.` and `Moved from review to done.` are one form where `open` and `review`
are values that arguments or results have elsewhere.
"""

import re
from collections import defaultdict
from collections.abc import Container, Iterable
from functools import lru_cache

_WORD = re.compile(r"(?<![\w{}-])[^\W\d_][\w-]*(?![\w{}-])")
OPEN = "\0"
_PARTS = re.compile(r"(\0|\{\}|\{\{|\}\})")
_REGEX = {OPEN: r"([^\"\n]+?)", "{}": ".+?", "{{": re.escape("{"), "}}": re.escape("}")}
_LONGEST = 1000  # characters of a text that is held against such wordings


def mine(forms: Iterable[str], data: Container[str]) -> list[str]:
    """The forms, their open words marked, of texts with slots that differ in such words alone."""
    groups: dict[str, list[str]] = defaultdict(list)
    for form in dict.fromkeys(forms):
        groups[_WORD.sub(lambda m: OPEN if m[0] in data else m[0], form)].append(form)
    found = []
    for bare, own in groups.items():
        if len(own) < 2 or not any(ch.isalpha() for ch in bare):
            continue
        words = [[m[0] for m in _WORD.finditer(form)] for form in own]
        varied = {i for i, column in enumerate(zip(*words, strict=True)) if len(set(column)) > 1}
        count = iter(range(len(words[0])))
        found.append(_WORD.sub(lambda m: OPEN if next(count) in varied else m[0], own[0]))  # noqa: B023
    return found


def opened(form: str, frames: Iterable[str]) -> tuple[str, list[tuple[int, str]]]:
    """A form with slots for the words that the first frame that fits it leaves open, and these
    words, each with the number of its slot."""
    for frame in frames:
        match = _pattern(frame).fullmatch(form)
        if match is not None:
            before = frame.split(OPEN)[:-1]
            counts = [part.count("{}") for part in before]
            places = [sum(counts[: i + 1]) + i for i in range(len(counts))]
            return frame.replace(OPEN, "{}"), list(zip(places, match.groups(), strict=True))
    return form, []


@lru_cache(maxsize=4096)
def _pattern(frame: str) -> re.Pattern[str]:
    return re.compile(r"([^\W\d_][\w-]*)".join(re.escape(part) for part in frame.split(OPEN)))


def quoted(text: str, quotes: Iterable[str]) -> list[tuple[int, int]]:
    """Where the first wording that fits a text leaves it open."""
    for quote in quotes if len(text) <= _LONGEST else ():
        match = _wording(quote).fullmatch(text)
        if match is not None:
            return [match.span(n + 1) for n in range(len(match.groups()))]
    return []


@lru_cache(maxsize=4096)
def _wording(quote: str) -> re.Pattern[str]:
    return re.compile("".join(_REGEX.get(p) or re.escape(p) for p in _PARTS.split(quote)))
