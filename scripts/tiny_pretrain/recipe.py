"""What is learned when: dense drills first, whole dialogues last.

Look-ups by content appear within about two million tokens of dense drill and hardly at all from
whole dialogues alone, so the drills lead.
"""

from __future__ import annotations

# (share of the run at which the stage ends, family weights)
STAGES: list[tuple[float, dict[str, float]]] = [
    (
        0.14,
        {
            "lookup": 0.33, "binding": 0.15, "extreme": 0.06, "induction": 0.08, "copy": 0.12,
            "fallback": 0.06, "flow": 0.10, "errors": 0.05, "plain": 0.05,
        },
    ),
    (
        0.43,
        {
            "lookup": 0.11, "binding": 0.20, "fallback": 0.16, "extreme": 0.08,
            "number_drill": 0.03, "choice_drill": 0.06, "copy": 0.08, "flow": 0.05,
            "flows": 0.06, "errors": 0.10, "rules": 0.03, "correction": 0.02, "compare": 0.01,
            "choice_flow": 0.01,
        },
    ),
    (
        0.71,
        {
            "lookup": 0.05, "binding": 0.12, "fallback": 0.08, "extreme": 0.05,
            "number_drill": 0.02, "choice_drill": 0.10, "copy": 0.09, "flow": 0.07,
            "flows": 0.09, "errors": 0.13, "rules": 0.08, "correction": 0.05, "compare": 0.05,
            "choice_flow": 0.02,
        },
    ),
    (
        1.0,
        {
            "binding": 0.26, "fallback": 0.06, "flows": 0.16, "flow": 0.11, "errors": 0.12,
            "copy": 0.05, "lookup": 0.04, "rules": 0.05, "correction": 0.03, "compare": 0.06,
            "choice_drill": 0.04, "extreme": 0.02,
        },
    ),
]  # fmt: skip
CHUNK_TOKENS = 66_000  # of 192 documents, about
TOKENS_PER_MINUTE = 700_000  # of one worker on one core


def chunks(minutes: float | None, tokens: float | None, workers: int) -> int:
    """About how many chunks each worker will pack in the whole run."""
    mine = tokens / workers if tokens else (minutes or 1) * TOKENS_PER_MINUTE
    return max(1, round(mine / CHUNK_TOKENS))
