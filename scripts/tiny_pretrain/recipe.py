"""What is learned when: dense look-ups and calls first, whole dialogues more and more."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A part of the run: the share of it at which it ends, the families' weights, and the share of
    the tokens outside assistant turns that carry loss.

    Those are mostly random names and numbers. They teach to copy early on, and are noise later.
    """

    end: float
    context: float
    mixture: dict[str, float]


STAGES = (
    Stage(
        0.10,
        0.10,
        {"lookup": 0.25, "amounts": 0.15, "ranking": 0.20, "calls": 0.25, "flow": 0.15},
    ),
    Stage(
        1.0,
        0.02,
        {
            "lookup": 0.05, "amounts": 0.06, "ranking": 0.08, "calls": 0.23, "flow": 0.21,
            "errors": 0.13, "rules": 0.08, "correction": 0.05, "compare": 0.05, "choice": 0.07,
        },
    ),
)  # fmt: skip
CHUNK_TOKENS = 100_000  # of 192 documents, about
TOKENS_PER_MINUTE = 1_000_000  # of one worker on one core


def chunks(minutes: float | None, tokens: float | None, workers: int) -> int:
    """About how many chunks each worker will pack in the whole run."""
    mine = tokens / workers if tokens else (minutes or 1) * TOKENS_PER_MINUTE
    return max(1, round(mine / CHUNK_TOKENS))
