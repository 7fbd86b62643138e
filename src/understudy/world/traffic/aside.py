"""Calls whose results say nothing of how the system behaves: set aside before anything is learned,
each with a reason that is counted."""

import json
from collections import Counter
from collections.abc import Sequence

from understudy.world.data.values import DEPTH, too_deep
from understudy.world.traffic.transitions import Step

LARGEST = 2**17  # characters of a result that is learned from

BROKEN = "whose result is JSON that was cut off or is broken"
DEEP = f"whose result is nested deeper than {DEPTH}"
LARGE = f"whose result is longer than {LARGEST:,} characters"


def set_aside(
    episodes: Sequence[Sequence[Step]],
) -> tuple[list[list[Step]], dict[str, int]]:
    """The episodes with the steps to learn from, and how many others there are by their reason.

    What a tool never says otherwise is its own way of saying it: a result in JSON that does not
    end counts as cut off where results of the tool that do end are no fewer.
    """
    counts: Counter[str] = Counter()
    whole = Counter(s.name for own in episodes for s in own if isinstance(s.value, (dict, list)))
    found = {id(s): why for own in episodes for s in own if (why := _why(s)) is not None}
    broken = Counter(s.name for own in episodes for s in own if found.get(id(s)) == BROKEN)
    kept: list[list[Step]] = []
    for own in episodes:
        kept.append([])
        for s in own:
            why = found.get(id(s))
            if why is None or (why == BROKEN and broken[s.name] > whole[s.name]):
                kept[-1].append(s)
            else:
                counts[why] += 1
    return kept, dict(counts)


def _why(s: Step) -> str | None:
    """Why a result may be no good to learn from."""
    if len(s.content) > LARGEST:
        return LARGE
    if not isinstance(s.value, str) or s.value[:1] not in ("{", "["):
        return None
    if s.failed and s.value[0] == "[":
        return None  # a failure's text with a tag in front
    try:
        return DEEP if too_deep(json.loads(s.value)) else None
    except RecursionError:
        return DEEP
    except json.JSONDecodeError as error:
        inside = error.pos > 1 or error.pos >= len(s.value) or "Unterminated" in error.msg
        return BROKEN if inside and not error.msg.startswith("Extra data") else None
    except ValueError:
        return BROKEN  # a number with more digits than are read
