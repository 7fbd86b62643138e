"""The tiny model's synthetic pretraining corpus: dialogues of an agent in invented services.

Every dialogue invents its own API. Words of train and heldout dialogues are disjoint.
"""

from __future__ import annotations

import zlib
from random import Random

from . import drills, families
from .types import Dialogue, Probe, ProbeKind, Split

__all__ = ["EARLY", "FAMILIES", "Dialogue", "Probe", "ProbeKind", "Split", "generate"]

_MAKERS = {
    "induction": drills.induction,
    "choice_drill": drills.choice_drill,
    "number_drill": drills.number_drill,
    **families.MAKERS,
}

# Sampling weights by dialogue, over the whole run and for its first fifth.
FAMILIES: dict[str, float] = {
    "induction": 0.09,
    "copy": 0.08,
    "choice_drill": 0.22,
    "number_drill": 0.10,
    "choice_flow": 0.08,
    "flow": 0.05,
    "flows": 0.04,
    "errors": 0.13,
    "rules": 0.09,
    "correction": 0.05,
    "compare": 0.06,
    "records": 0.03,
    "plain": 0.02,
}
EARLY: dict[str, float] = {
    "induction": 0.30,
    "copy": 0.20,
    "number_drill": 0.20,
    "choice_drill": 0.20,
    "flow": 0.10,
}


def generate(seed: int, split: Split, family: str | None = None) -> Dialogue:
    """One dialogue, the same for the same arguments.

    Raises KeyError for an unknown family.
    """
    rng = Random(zlib.crc32(f"{split}/{family}/{seed}".encode()) * 1_000_003 + seed)
    if family is None:
        family = rng.choices(list(FAMILIES), list(FAMILIES.values()))[0]
    return _MAKERS[family](rng, split)
