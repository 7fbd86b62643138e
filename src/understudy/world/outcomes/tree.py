"""Decision trees over features of a situation: which outcome, and how sure. A split is kept
only where a likelihood-ratio (G) test says that it is no accident of the sample."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from understudy.world.data.values import is_number
from understudy.world.outcomes.features import Feature

# Of splits that explain a sample nearly as well, the one that is likelier to hold elsewhere.
_TRUST = (
    "miss", "extra", "unseen", "hits", "clash", "known", "near", "field", "has", "kind", "fmt",
    "val", "cmp", "pair", "in", "with", "size", "amount", "holds", "rep", "prev", "ownfail",
    "idfail", "by", "num", "done", "since", "n",
)  # fmt: skip
_ORDERED = ("num", "n", "since", "amount", "size")  # features with bounds, not values
_MOST = 200  # values of a feature that are told apart
Node = dict[str, Any]  # {"counts"} and, unless a leaf, {"feature", "value", "yes", "no"}


def grow(
    rows: Sequence[dict[Feature, Any]],
    labels: Sequence[str],
    max_depth: int = 8,
    least: int = 2,
) -> Node:
    """A tree for labels. Tests are `feature == value`, or `<= value` for numbers."""
    return _grow(list(range(len(rows))), rows, labels, max_depth, least)


def _grow(
    here: list[int],
    rows: Sequence[dict[Feature, Any]],
    labels: Sequence[str],
    depth: int,
    least: int,
) -> Node:
    counts = Counter(labels[i] for i in here)
    node: Node = {"counts": dict(counts)}
    if depth == 0 or len(counts) < 2 or len(here) < 2 * least:
        return node
    best = _best_split(here, rows, labels, counts, least)
    if best is None:
        return node
    name, value = best
    yes = [i for i in here if passes(rows[i].get(name), value)]
    inside = set(yes)
    no = [i for i in here if i not in inside]
    node.update(
        feature=name,
        value=value,
        yes=_grow(yes, rows, labels, depth - 1, least),
        no=_grow(no, rows, labels, depth - 1, least),
    )
    return node


def passes(value: Any, test: Any) -> bool:
    """A test is a value to equal, or ["<=", bound] for numbers."""
    if isinstance(test, list):
        return is_number(value) and bool(value <= test[1])
    return bool(value == test) and type(value) is type(test)


def _best_split(
    here: list[int],
    rows: Sequence[dict[Feature, Any]],
    labels: Sequence[str],
    counts: Counter[str],
    least: int,
) -> tuple[Feature, Any] | None:
    total = len(here)
    base = _entropy(counts.values(), total)
    splits: list[tuple[float, Feature, Any]] = []
    tests = 0
    for name in rows[here[0]]:
        values = [rows[i].get(name) for i in here]
        joint: Counter[tuple[Hashable, str]] = Counter(
            zip(values, (labels[i] for i in here), strict=True)
        )
        by_value: dict[Any, Counter[str]] = {}
        for (value, label), n in joint.items():
            if is_number(value) and name[0] in _ORDERED:
                by_value.setdefault(value, Counter())[label] += n
            else:
                by_value.setdefault((type(value).__name__, value), Counter())[label] += n
        if len(by_value) < 2 or len(by_value) > _MOST:
            continue
        for test, inside in _tests(name, by_value):
            tests += 1
            n = sum(inside.values())
            if n < least or total - n < least:
                continue
            outside = counts - inside
            gain = base - _entropy(inside.values(), n) - _entropy(outside.values(), total - n)
            splits.append((gain, name, test))
    most = max((s[0] for s in splits), default=0.0)
    if not splits or 2 * most < 2 * math.log(max(tests, 1)) + 11:
        return None
    near = [s for s in splits if s[0] >= 0.97 * most - 1e-9]
    best = min(near, key=lambda s: (_TRUST.index(s[1][0]), -s[0]))
    return best[1], best[2]


def _tests(name: Feature, by_value: dict[Any, Counter[str]]) -> list[tuple[Any, Counter[str]]]:
    numbers = sorted(v for v in by_value if not isinstance(v, tuple))
    found: list[tuple[Any, Counter[str]]] = []
    if len(numbers) > 1:
        inside: Counter[str] = Counter()
        for low in numbers[:-1]:
            inside = inside + by_value[low]
            found.append((["<=", low], inside))
    found += [(v[1], n) for v, n in by_value.items() if isinstance(v, tuple)]
    return found


def _entropy(counts: Any, total: int) -> float:
    return -sum(n * math.log(n / total) for n in counts if n)


def decide(node: Node, feature_of: Callable[[Feature], Any]) -> dict[str, int]:
    """The counts of labels at the leaf that a situation falls into."""
    while "feature" in node:
        node = node["yes"] if passes(feature_of(node["feature"]), node["value"]) else node["no"]
    counts: dict[str, int] = node["counts"]
    return counts


def tuples(node: Node) -> Node:
    """A tree read from JSON, with its features as tuples again."""
    if "feature" in node:
        node["feature"] = tuple(node["feature"])
        tuples(node["yes"])
        tuples(node["no"])
    return node
