"""What is learned when: dense drills first, whole dialogues last.

Look-ups by content appear within about two million tokens of dense drill and hardly at all from
whole dialogues alone, so the drills lead.
"""

from __future__ import annotations

# (share of the run at which the stage ends, family weights)
STAGES: list[tuple[float, dict[str, float]]] = [
    (
        0.20,
        {
            "lookup": 0.35, "binding": 0.15, "extreme": 0.08, "induction": 0.10, "copy": 0.12,
            "flow": 0.10, "errors": 0.05, "plain": 0.05,
        },
    ),
    (
        0.60,
        {
            "lookup": 0.15, "binding": 0.15, "extreme": 0.12, "number_drill": 0.05,
            "choice_drill": 0.10, "copy": 0.10, "flow": 0.05, "flows": 0.06, "errors": 0.11,
            "rules": 0.04, "correction": 0.02, "compare": 0.03, "choice_flow": 0.02,
        },
    ),
    (
        1.0,
        {
            "lookup": 0.06, "binding": 0.10, "extreme": 0.06, "number_drill": 0.03,
            "choice_drill": 0.12, "copy": 0.10, "flow": 0.07, "flows": 0.09, "errors": 0.12,
            "rules": 0.09, "correction": 0.05, "compare": 0.05, "choice_flow": 0.04,
            "records": 0.02,
        },
    ),
]  # fmt: skip
CHUNK_TOKENS = 66_000  # of 192 documents, about
TOKENS_PER_MINUTE = 700_000  # of one worker on one core


def chunks(minutes: float | None, tokens: float | None, workers: int) -> int:
    """About how many chunks each worker will pack in the whole run."""
    mine = tokens / workers if tokens else (minutes or 1) * TOKENS_PER_MINUTE
    return max(1, round(mine / CHUNK_TOKENS))
