"""What is learned when: dense drills first, whole dialogues last.

Look-ups by content appear within about two million tokens of dense drill and hardly at all from
whole dialogues alone, so the drills lead.
"""

from __future__ import annotations

# (share of the run at which the stage ends, family weights)
STAGES: list[tuple[float, dict[str, float]]] = [
    (
        0.25,
        {
            "lookup": 0.45, "extreme": 0.10, "induction": 0.08, "copy": 0.12, "records": 0.05,
            "flow": 0.10, "errors": 0.05, "plain": 0.05,
        },
    ),
    (
        0.60,
        {
            "lookup": 0.20, "extreme": 0.20, "number_drill": 0.08, "choice_drill": 0.12,
            "copy": 0.10, "flow": 0.08, "errors": 0.08, "rules": 0.05, "correction": 0.03,
            "compare": 0.03, "choice_flow": 0.03,
        },
    ),
    (
        1.0,
        {
            "lookup": 0.08, "extreme": 0.08, "number_drill": 0.04, "choice_drill": 0.12,
            "copy": 0.10, "flow": 0.12, "errors": 0.13, "rules": 0.10, "correction": 0.06,
            "compare": 0.06, "choice_flow": 0.05, "records": 0.04, "plain": 0.02,
        },
    ),
]  # fmt: skip
CHUNK_TOKENS = 66_000  # of 192 documents, about
TOKENS_PER_MINUTE = 780_000  # two cores, two workers


def chunks(minutes: float | None, tokens: float | None, workers: int) -> int:
    """About how many chunks each worker will pack in the whole run."""
    total = tokens or (minutes or 1) * TOKENS_PER_MINUTE
    return max(1, round(total / workers / CHUNK_TOKENS))
