"""From which episode to which a listing showed a record: in between it was there, before and after
it may not have been."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from understudy.world.lists.query import Query
from understudy.world.traffic.transitions import Step

Rows = Sequence[tuple[Step, list[dict[str, Any]]]]
_FINAL = 3  # records that listings showed no more, after they were missing once
_ENOUGH = 10  # records that calls of one argument list between others that list them


def spans(query: Query, good: Rows) -> dict[Any, tuple[int, int]]:
    """By key of a record the first and the last episode that showed it."""
    found: dict[Any, tuple[int, int]] = {}
    for s, rows in good:
        for key in {query.key_of(r) for r in rows} if query.key else ():
            first, last = found.get(key, (s.episode, s.episode))
            found[key] = min(first, s.episode), max(last, s.episode)
    return found


def siblings(good: Rows) -> dict[int, frozenset[int]]:
    """By scenario its episodes."""
    found: dict[int, set[int]] = defaultdict(set)
    for s, _ in good:
        found[s.origin].add(s.episode)
    return {origin: frozenset(own) for origin, own in found.items()}


def there(life: tuple[int, int] | None, without: frozenset[int]) -> bool:
    """Whether a record was seen before and after these episodes."""
    return life is not None and life[0] < min(without) and max(without) < life[1]


def enough(shown: int) -> bool:
    """Whether so many records, listed by calls between others that list them, say what is listed
    of those that are there; where there are fewer all records count as there."""
    return shown >= _ENOUGH


def bury(query: Query, good: Rows) -> None:
    """Forget the records that were missing last where they would be listed, if those that are
    missing once never come back: what is deleted stays so from one episode to the next."""
    missing: dict[Any, bool] = {}
    back: set[Any] = set()
    life = spans(query, good)
    for s, rows in good if query.key else ():
        listed = {query.key_of(r) for r in rows}
        back |= {key for key in listed if missing.get(key)}
        missing.update(dict.fromkeys(listed, False))
        if not query.cuts(len(rows), s.args):
            selected = (r.key for r in query.matches(s.args) if life[r.key][0] < s.episode)
            missing.update({key: True for key in selected if key not in listed})
    gone = {key for key, missed in missing.items() if missed} - back
    if len(gone) >= _FINAL and len(back) <= 0.05 * len(gone):
        query.forget([r for r in query.rows if not missing[r.key]])
