"""Formats of texts: what the values of an argument look like, as far as the traffic shows it."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

from understudy.world.data.values import pattern

_MANY = 10  # different values of one width, after which another width is another format
_UNSEEN = 0.1  # the chance of a format that the traffic lacks, above which it shows none
_DIGITS = re.compile("0+")
_SIGN = re.compile(r"[a0]\+|.", re.DOTALL)


def formats(seen: Iterable[tuple[str, int]]) -> list[str]:
    """The patterns (see values.pattern) of texts, each given with the scenario that showed it.

    A run of digits is of any length, `0+`, where texts that are else alike show several lengths, or
    are too few to show one. None at all where scenarios seldom share a text, and the next of them
    is likely to show a new format: by Good and Turing's estimate (Biometrika 40, 1953) as likely
    as one of them was the only one to show its own.
    """
    alike: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    origins: dict[str, set[int]] = defaultdict(set)
    shown = set(seen)
    for text, origin in shown:
        exact = pattern(text)
        alike[_wide(exact)][exact].add(text)
        origins[_wide(exact)].add(origin)
    single = sum(len(own) == 1 for own in origins.values())
    shared = len(shown) >= 2 * len({text for text, _ in shown})
    if single > _UNSEEN * len({origin for _, origin in shown}) and not shared:
        return []
    found = []
    for loose, own in alike.items():
        ((exact, values),) = own.items() if len(own) == 1 else ((loose, set()),)
        found.append(exact if len(values) >= _MANY else loose)
    return found


def has_format(text: str, known: Sequence[str]) -> bool:
    """Whether a text is of one of these formats."""
    exact = pattern(text)
    return exact in known or _wide(exact) in known


def accepted(text: str, good: Sequence[str], refused: Sequence[str]) -> bool:
    """Whether a text is of a good form or, where it is of none that was seen, no nearer to the
    refused forms than to the good ones."""
    return has_format(text, good) or distance(text, good) <= distance(text, refused)


def distance(text: str, known: Sequence[str]) -> float:
    """The least edits (Levenshtein's) from a text's form to one of these; a run is one sign."""
    if has_format(text, known):
        return 0
    return min((_edits(loose(text), form) for form in known), default=math.inf)


@lru_cache(maxsize=4096)
def _edits(one: str, other: str) -> int:
    a, b = _SIGN.findall(one), _SIGN.findall(_wide(other))
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def loose(text: str) -> str:
    """The form of a text with its runs of digits of any length."""
    return _wide(pattern(text))


def _wide(exact: str) -> str:
    return _DIGITS.sub("0+", exact)
