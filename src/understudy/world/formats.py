"""Formats of texts: what the values of an argument look like, as far as the traffic shows it."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from understudy.world.values import pattern

_MANY = 10  # different values of one width, after which another width is another format
_DIGITS = re.compile("0+")


def formats(texts: Iterable[str]) -> list[str]:
    """The patterns (see values.pattern) that cover texts. A run of digits is of any length, `0+`,
    where texts that are else alike show several lengths, or are too few to show one."""
    alike: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for text in texts:
        exact = pattern(text)
        alike[_loose(exact)][exact].add(text)
    found = []
    for loose, own in alike.items():
        ((exact, values),) = own.items() if len(own) == 1 else ((loose, set()),)
        found.append(exact if len(values) >= _MANY else loose)
    return found


def has_format(text: str, known: Sequence[str]) -> bool:
    """Whether a text is of one of these formats."""
    exact = pattern(text)
    return exact in known or _loose(exact) in known


def _loose(exact: str) -> str:
    return _DIGITS.sub("0+", exact)
