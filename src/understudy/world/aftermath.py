"""What a failure changes: a thing that listings drop afterwards, a field that it corrects.

Read off the traffic: a listing that showed a thing before a failing call on it, and was asked the
same again later in the episode.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from understudy.world.data.values import call_key
from understudy.world.lists.listings import list_in
from understudy.world.lists.query import Query
from understudy.world.tools import After
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Step

Trail = Sequence[tuple[Step, str]]
_LEAST = 3  # listings seen again before anything is believed
_SURE = 0.8


def mine_aftermath(
    tool: str, trails: Sequence[Trail], ids: Ids, queries: dict[str, Query | None]
) -> dict[str, After]:
    """By failure class of `tool`."""
    seen: Counter[str] = Counter()
    absent: Counter[str] = Counter()
    agrees: dict[str, Counter[str]] = defaultdict(Counter)
    present: Counter[str] = Counter()
    for trail in trails:
        for i, (step, label) in enumerate(trail):
            named = {(d, v) for _, d, v in ids.of_args(tool, step.args)}
            if step.name != tool or not label.startswith("err") or len(named) != 1:
                continue
            (key,) = named
            for records in _asked_again(trail, i, key, queries):
                seen[label] += 1
                record = records.get(key[1])
                if record is None:
                    absent[label] += 1
                    continue
                present[label] += 1
                said = step.value if isinstance(step.value, dict) else {}
                agrees[label].update(n for n in said if n in record and record[n] == said[n])
    found: dict[str, After] = {}
    for label, n in seen.items():
        if n < _LEAST:
            continue
        corrects = [
            name
            for name, k in agrees[label].items()
            if present[label] >= _LEAST and k >= _SURE * present[label]
        ]
        vanishes = absent[label] >= _SURE * n
        if vanishes or corrects:
            found[label] = After(vanishes, sorted(corrects), n)
    return found


def _asked_again(
    trail: Trail, failure: int, key: tuple[str, Any], queries: dict[str, Query | None]
) -> list[dict[Any, dict[str, Any]]]:
    """Records by id of listings after the failure that, asked the same before it, showed the
    thing; the first one of each question."""
    before: set[str] = set()
    found: dict[str, dict[Any, dict[str, Any]]] = {}
    for j, (step, label) in enumerate(trail):
        query = queries.get(step.name)
        if query is None or query.key is None or query.domain != key[0]:
            continue
        inside = list_in(step.value) if label.startswith("ok") else None
        if inside is None:
            continue
        records = {query.key_of(r): r for r in inside[1] if query.key in r}
        asked = call_key(step.name, step.args)
        if j < failure and key[1] in records:
            before.add(asked)
        elif j > failure and asked in before and asked not in found:
            found[asked] = records
    return list(found.values())
