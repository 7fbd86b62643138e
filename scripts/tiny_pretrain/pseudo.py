"""Words that nobody has seen, spelled like English.

The tokenizer cuts an unknown word into many short pieces, and names in a new service are such
words. Words made of whole pieces alone would leave the model unable to read those.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from random import Random

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@lru_cache(maxsize=1)
def _followers() -> dict[str, str]:
    """What follows each letter in the corpus's words of the train split; "^" begins a word."""
    from tiny_corpus import words as w

    pools = [w.NOUNS, w.PLACE, w.SIZE, w.SPAN, w.PERSON, w.NUMERIC, w.PRICE, w.FLAGS, w.NOTE]
    known = {x for pool in [*pools, *w.VERBS.values()] for x in pool if x.isalpha()}
    found: dict[str, str] = defaultdict(str)
    for word in sorted(known):
        if w.split_of(word) == "train":
            for a, b in zip("^" + word, word, strict=False):
                found[a] += b
    return dict(found)


def pseudo_word(rng: Random) -> str:
    """Three to eight letters; a third of them drawn evenly, the rest as English follows."""
    from tiny_corpus import words as w

    follow = _followers()
    while True:
        text = ""
        for _ in range(rng.choice((3, 4, 4, 5, 5, 6, 6, 7, 8))):
            even = rng.random() < 0.3
            text += rng.choice(LETTERS if even else follow.get(text[-1:] or "^", LETTERS))
        forms = {text, text.removesuffix("s")}
        if w.split_of(text) == "train" and not forms & w.FORBIDDEN_NAMES:
            return text
