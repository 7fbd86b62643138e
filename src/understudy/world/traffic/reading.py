"""What is read off episodes beside their calls."""

from collections.abc import Sequence

from understudy.core.types import Episode, Transition, text_of


def origins_of(episodes: Sequence[Episode]) -> list[int]:
    """For each episode the first of its scenario: what they share is no evidence of what a new
    scenario will show."""
    first: dict[str, int] = {}
    return [first.setdefault(e.scenario_id or e.id, n) for n, e in enumerate(episodes)]


def said_by_users(found: Sequence[Transition]) -> str:
    """What users said in an episode, as one text."""
    longest = max((t.history for t in found), key=len, default=())
    return "\n".join(text_of(m.get("content")) for m in longest if m["role"] == "user")
