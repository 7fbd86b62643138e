"""Renaming the words of a dialogue, so that names must be read from the context, never recalled.

In a disguised dialogue each noun, verb and parameter name of the corpus's closed pools becomes,
everywhere in the text, one invented word of random vocabulary pieces.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from random import Random

_RUN = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_KEPT = """
    name number order key string integer boolean object array null true false type arguments
    parameters description status error message result results data ok sort limit im start end user
    assistant system call tool tools response
"""
PROTECTED = frozenset(_KEPT.split())


@lru_cache(maxsize=1)
def eligible() -> dict[str, bool]:
    """Words that may be renamed; True for those with a plural."""
    from tiny_corpus import words as w

    pools = [w.PLACE, w.SIZE, w.PERSON, w.METHOD, w.ID, w.HOLD, w.FINAL, w.NOTE, w.FLAGS]
    keep = {*w.PRICE, *w.GOOD, *w.NUMERIC, *w.SORT, *w.METHODS, *PROTECTED}
    keep |= {part for c in w.CAP for part in _RUN.findall(c)}
    found = dict.fromkeys(w.NOUNS, True)
    found |= {word: True for pool in pools for word in pool if word.isalpha()}
    found |= {word.removesuffix("s"): True for word in w.SPAN}
    found |= {word: False for verbs in w.VERBS.values() for word in verbs}
    found |= dict.fromkeys([*w.ATTRIBUTES, *w.OPTION], False)
    return {word: many for word, many in found.items() if word not in keep}


def pieces(folder: Path) -> list[str]:
    """Vocabulary tokens to build words of."""
    tokens = json.loads((folder / "tokens.json").read_text())
    return [t for t in tokens if t.isascii() and t.isalpha() and t.islower() and len(t) <= 5]


def disguise(text: str, rng: Random, parts: list[str], share: float) -> str:
    """`text` with about `share` of its eligible words renamed, consistently."""
    from tiny_corpus.words import plural

    known = eligible()
    present = {run.lower() for run in _RUN.findall(text)}
    names: dict[str, str] = {}
    for word, many in known.items():
        if not ({word, plural(word)} & present if many else word in present):
            continue
        if rng.random() > share:
            continue
        new = "".join(rng.choice(parts) for _ in range(rng.choice((1, 2, 2, 3))))[:12]
        if len(new) < 3 or new in present or new in PROTECTED or new in known:
            continue
        names[word] = new
        if many:
            names[plural(word)] = plural(new)
    if not names:
        return text

    def swap(match: re.Match[str]) -> str:
        word = match.group()
        new = names.get(word.lower())
        if new is None:
            return word
        return new.capitalize() if word[0].isupper() else new

    return _RUN.sub(swap, text)
