"""Objects inside results: taken as wholes or part by part, and in which order."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from understudy.world.data.values import put
from understudy.world.known.context import branches
from understudy.world.results.explain import Seen

_WIDE = 200  # keys of an object that are taken one by one


def steady_objects(seen: Sequence[Seen]) -> set[str]:
    """Objects inside the form whose keys are always the same, and not so many that they are data:
    their parts are mined singly. Those that are often something else, as null, are not, where they
    are known as wholes."""
    keys: dict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
    others: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for s in seen:
        for path, item in s.values.items():
            if isinstance(item, dict):
                keys[path][tuple(item) if len(item) <= _WIDE else ()] += 1
                whole[path] += bool(s.right[path])
            else:
                others[path] += 1
    return {
        p
        for p, c in keys.items()
        if c.most_common(1)[0][1] >= 0.95 * c.total()
        and () not in c
        and not (others[p] > 0.05 * c.total() and whole[p] >= 0.9 * c.total())
    }


def in_order(value: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """A result with its leaves in the order of these paths."""
    found = dict(branches(value))
    out: dict[str, Any] = {}
    for path in paths:
        if path in found:
            put(out, path, found[path])
    return out
