"""Clusters of wordings: hashed words and neighbouring words, weighted by rarity, gathered around
leaders.

Deterministic, NumPy alone. A text is a vector of (1 + log count) x inverse document frequency over
hashed words and pairs of neighbouring words (K. Weinberger et al., "Feature hashing", 2009), of
length 1. Leader clustering (J. A. Hartigan, "Clustering algorithms", 1975, chapter 3): a text
joins the nearest leader that is alike enough, else it leads a cluster of its own.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.world.users.wording import occurrences

DIMENSIONS = 2048
ALIKE = 0.25  # cosine to a leader from which a text belongs to its cluster
_WORD = re.compile(r"[^\W\d_]+|\d+|[?!#*]+|\0")
Floats = NDArray[np.float32]


def masked(text: str, fields: Mapping[str, Any]) -> str:
    """A text without what is one person's own: values of its fields are a mark, digits are 0."""
    for start, end, _ in reversed(occurrences(text, fields)):
        text = f"{text[:start]}\0{text[end:]}"
    return re.sub(r"\d", "0", text.lower())


def tokens(text: str) -> list[str]:
    """The words of a masked text, numbers and marks among them."""
    return _WORD.findall(text)


def vectors(texts: Sequence[str]) -> Floats:
    """Masked texts as vectors [N, DIMENSIONS] of length 1; one without words is zero."""
    counts = [_counts(text) for text in texts]
    seen = Counter(place for own in counts for place in own)
    found = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
    for n, own in enumerate(counts):
        for place, k in own.items():
            rare = math.log((1 + len(texts)) / (1 + seen[place])) + 1
            found[n, place] = (1 + math.log(k)) * rare
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.where(length > 0, length, 1), dtype=np.float32)


def _counts(text: str) -> Counter[int]:
    said = tokens(text)
    pairs = [f"{a} {b}" for a, b in zip(["^", *said], [*said, "$"], strict=True)]
    return Counter(
        zlib.crc32(w.encode(errors="surrogatepass")) % DIMENSIONS for w in [*said, *pairs]
    )


def gather(like_NN: Floats, members: Sequence[int], leaders: Sequence[int] = ()) -> list[int]:
    """Leaders of the members, beside those given: `like_NN` holds the cosines of all texts.

    Members lead in the order of how many of them are alike, so that a cluster's leader is what is
    typical of it; the order of equal ones is their own."""
    own = np.asarray(members, dtype=np.int64)
    many = (like_NN[np.ix_(own, own)] >= ALIKE).sum(axis=1)
    found = list(leaders)
    for n in own[np.argsort(-many, kind="stable")]:
        if not found or like_NN[n, found].max() < ALIKE:
            found.append(int(n))
    return found


def assign(like_NN: Floats, members: Sequence[int], leaders: Sequence[int]) -> list[int | None]:
    """Each member's nearest leader; None where none is alike enough."""
    if not len(leaders):
        return [None for _ in members]
    like = like_NN[np.ix_(members, leaders)]
    best = like.argmax(axis=1)
    return [leaders[b] if like[i, b] >= ALIKE else None for i, b in enumerate(best.tolist())]


def entropy(counts: Sequence[int]) -> float:
    """Shannon's entropy of counts, in bits."""
    total = sum(counts)
    return -sum(k / total * math.log2(k / total) for k in counts if k) if total else 0.0
