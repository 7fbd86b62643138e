"""The tiny model's synthetic pretraining corpus: dialogues of an agent in invented services.

Every dialogue invents its own API.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from random import Random

from . import calls, compare, families, lookup, ranking, rules
from .types import Dialogue, Probe, ProbeKind, Split

__all__ = ["FAMILIES", "Dialogue", "Probe", "ProbeKind", "Split", "generate"]

_MAKERS: dict[str, Callable[[Random, Split], Dialogue]] = {
    "lookup": lookup.lookup,
    "amounts": lookup.amounts,
    "calls": calls.calls,
    "choice": lookup.choice,
    "ranking": ranking.ranking,
    "flow": families.flow,
    "errors": families.errors,
    "rules": rules.rules,
    "correction": rules.correction,
    "compare": compare.compare,
}
FAMILIES = tuple(_MAKERS)


def generate(seed: int, split: Split, family: str | None = None) -> Dialogue:
    """One dialogue, the same for the same arguments.

    Raises KeyError for an unknown family.
    """
    rng = Random(zlib.crc32(f"{split}/{family}/{seed}".encode()) * 1_000_003 + seed)
    return _MAKERS[family or rng.choice(FAMILIES)](rng, split)
