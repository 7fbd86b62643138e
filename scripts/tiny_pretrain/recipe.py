"""What is learned when: dense look-ups and calls first, whole dialogues more and more."""

from __future__ import annotations

# (share of the run at which the stage ends, family weights)
STAGES: list[tuple[float, dict[str, float]]] = [
    (0.10, {"lookup": 0.40, "calls": 0.40, "flow": 0.20}),
    (
        0.40,
        {
            "lookup": 0.12, "calls": 0.28, "flow": 0.22, "errors": 0.12, "rules": 0.09,
            "correction": 0.05, "compare": 0.05, "choice": 0.07,
        },
    ),
    (
        1.0,
        {
            "lookup": 0.05, "calls": 0.20, "flow": 0.26, "errors": 0.16, "rules": 0.11,
            "correction": 0.08, "compare": 0.06, "choice": 0.08,
        },
    ),
]  # fmt: skip
CHUNK_TOKENS = 100_000  # of 192 documents, about
TOKENS_PER_MINUTE = 700_000  # of one worker on one core


def chunks(minutes: float | None, tokens: float | None, workers: int) -> int:
    """About how many chunks each worker will pack in the whole run."""
    mine = tokens / workers if tokens else (minutes or 1) * TOKENS_PER_MINUTE
    return max(1, round(mine / CHUNK_TOKENS))
