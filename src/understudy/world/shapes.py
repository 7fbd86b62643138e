"""Successful results: the form of a tool's answer, and where each of its values comes from."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.world.context import (
    Context,
    Feature,
    Source,
    apply,
    branches,
    feature,
    resolve,
    sources,
    tuplify,
)
from understudy.world.state import Mark
from understudy.world.tree import Node, decide, grow, tuples
from understudy.world.values import FreshIds, is_number, put, same

_COST = {"const": 3.5, "arg": 1, "ref": 2, "repeat": 3, "recall": 4, "last": 5, "ref2": 6, "op": 7}
_NONE = object()


@dataclass(slots=True)
class Leaf:
    """One value of a form: sources with their precision, a tree over few-valued ones, a format
    of made-up ids."""

    path: str
    sources: list[tuple[Source, float]] = field(default_factory=list)
    tree: Node | None = None
    fresh: FreshIds | None = None
    share: float = 1.0  # how often the form has this leaf


@dataclass(slots=True)
class Seen:
    """One successful result with what could have explained its values."""

    row: dict[Feature, Any]
    values: dict[str, Any]  # leaf path -> value
    right: dict[str, set[Source]]  # leaf path -> sources that had this very value
    had: set[Source]
    numbers: dict[Source, float]
    whole: Any


def see(c: Context, value: Any, row: dict[Feature, Any]) -> Seen:
    """Compare a result with every source in its context."""
    values = dict(branches(value))
    texts: dict[str, list[str]] = defaultdict(list)
    for path, item in values.items():
        texts[_text(item)].append(path)
    right: dict[str, set[Source]] = {path: set() for path in values}
    had: set[Source] = set()
    numbers: dict[Source, float] = {}
    for source, item in sources(c):
        if source[0] in ("repeat", "recall"):
            had.add(source)
            if source[1] in values and same_value(values[source[1]], item):
                right[source[1]].add(source)
            continue
        had.add(source)
        for path in texts.get(_text(item), ()):
            right[path].add(source)
        if is_number(item):
            numbers[source] = item
    return Seen(row, values, right, had, numbers, value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value
    if is_number(value):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(value, sort_keys=True)


def same_value(a: Any, b: Any) -> bool:
    return bool(a == b) if isinstance(a, (dict, list)) else same(a, b)


@dataclass(slots=True)
class Shape:
    """The form of one class of successful results."""

    leaves: list[Leaf] = field(default_factory=list)
    donors: list[Any] = field(default_factory=list)
    listing: str | None = None  # path of the list that a query fills

    @classmethod
    def learn(cls, seen: Sequence[Seen], listing: str | None, precision: float) -> "Shape":
        shape = cls(listing=listing, donors=[s.whole for s in seen[-40:]])
        order: dict[str, int] = {}
        for s in seen:
            for path in s.values:
                order[path] = order.get(path, 0) + 1
        steady = _steady(seen)
        for path, n in order.items():
            if listing is not None and (path + "/").startswith(f"/{listing}/"):
                continue
            parents = [path[:i] for i, ch in enumerate(path) if ch == "/" and i]
            if any(p in order and p not in steady for p in parents):
                continue
            if path in steady:
                continue
            having = [s for s in seen if path in s.values]
            shape.leaves.append(_mine_leaf(path, having, n / len(seen), precision))
        return shape

    def render(
        self, c: Context, rng: random.Random, greedy: bool
    ) -> tuple[Any, dict[str, Mark], float]:
        """A value, the provenance of its leaves, and the expected share of wrong ones."""
        out: dict[str, Any] = {}
        marks: dict[str, Mark] = {}
        wrong = 0.0
        donor: Any = _NONE
        for leaf in self.leaves:
            if leaf.share < 0.5 or (leaf.share < 1 and not greedy and rng.random() > leaf.share):
                continue
            item, mark, doubt = self._leaf(leaf, c, rng, greedy)
            if item is _NONE:
                if donor is _NONE:
                    donor = self._donor(c, rng)
                item = dict(branches(donor)).get(leaf.path)
                mark, doubt = Mark("invented", "another result of this tool"), 0.7
                if c.recall is not None:
                    mark, doubt = Mark("remembered", "the same call in the traffic"), 0.3
            wrong += doubt
            marks[leaf.path] = mark
            if not leaf.path:
                return item, marks, wrong
            put(out, leaf.path, item)
        return out, marks, wrong / max(1, len(self.leaves))

    def _donor(self, c: Context, rng: random.Random) -> Any:
        return c.recall if c.recall is not None else rng.choice(self.donors)

    def _leaf(
        self, leaf: Leaf, c: Context, rng: random.Random, greedy: bool
    ) -> tuple[Any, Mark, float]:
        for source, precise in leaf.sources:
            if precise < 0.9 and leaf.tree is not None:
                break
            found = resolve(source, c)
            if found is not None:
                sure = precise >= 0.9 or found[1] == "remembered"
                return found[0], Mark(found[1] if sure else "invented", found[2]), 1 - precise
        if leaf.tree is not None:
            counts = decide(leaf.tree, lambda f: feature(f, c))
            total = sum(counts.values())
            label = max(counts, key=counts.__getitem__) if greedy else weighted(counts, rng)
            share = counts[label] / total
            mark = Mark("inferred" if share > 0.9 else "invented", "decision tree")
            return json.loads(label), mark, 1 - share
        if leaf.fresh is not None:
            return leaf.fresh.draw(rng), Mark("inferred", "new id"), 0.0 if not greedy else 1.0
        return _NONE, Mark("invented", ""), 1.0

    def to_json(self) -> list[Any]:
        found = [
            [lf.path, lf.sources, lf.tree, lf.fresh and lf.fresh.to_json(), lf.share]
            for lf in self.leaves
        ]
        return [found, self.donors, self.listing]

    @classmethod
    def from_json(cls, data: list[Any]) -> "Shape":
        found, donors, listing = data
        read = [
            Leaf(
                path,
                [(tuplify(s), p) for s, p in found_sources],
                tuples(tree) if tree else None,
                FreshIds.from_json(fresh) if fresh else None,
                share,
            )
            for path, found_sources, tree, fresh, share in found
        ]
        return cls(read, donors, listing)


def weighted(counts: dict[str, int] | dict[str, float], rng: random.Random) -> str:
    """A key drawn by its weight."""
    labels = list(counts)
    if len(labels) == 1:
        return labels[0]
    return rng.choices(labels, weights=[counts[x] for x in labels])[0]


def _steady(seen: Sequence[Seen]) -> set[str]:
    """Objects inside the form whose keys are always the same: their parts are mined singly."""
    keys: dict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
    for s in seen:
        for path, item in s.values.items():
            if isinstance(item, dict):
                keys[path][tuple(item)] += 1
    return {
        p
        for p, c in keys.items()
        if c.most_common(1)[0][1] >= 0.95 * sum(c.values()) and () not in c
    }


def _mine_leaf(path: str, seen: Sequence[Seen], share: float, precision: float) -> Leaf:
    leaf = Leaf(path, share=share)
    texts = Counter(_text(s.values[path]) for s in seen)
    ranked = _direct(path, seen, texts)
    sure = [source for source, p, _ in ranked if p >= 0.97]
    open_ = sum(not any(_available(x, s) for x in sure) for s in seen)
    if open_ > 0.05 * len(seen) and all(is_number(s.values[path]) for s in seen[:50]):
        ranked += _arithmetic(path, seen)
    ranked.sort(
        key=lambda r: (-round(min(r[1], 0.995), 2), _COST.get(r[0][0], 9), -r[2], str(r[0]))
    )
    left = len(seen)
    rows = list(seen)
    for source, precise, _ in ranked:
        if precise < max(0.5, precision - 0.35) or len(leaf.sources) >= 5:
            break
        rest = [s for s in rows if not _available(source, s)]
        if len(rest) == len(rows):
            continue
        leaf.sources.append((source, precise))
        rows = rest
        if not rows or len(rows) < 0.002 * left:
            break
    unsure = not leaf.sources or leaf.sources[0][1] < 0.97 or len(rows) > 0.05 * left
    if unsure and len(texts) <= 12 and len(seen) >= 3 * len(texts):
        labels = [json.dumps(s.values[path]) for s in seen]
        leaf.tree = grow([s.row for s in seen], labels)
    new = [s.values[path] for s in seen if not s.right[path]]
    # ids of a small space recur across episodes by chance, hence far less than all different
    if len(new) > 0.9 * len(seen) and len(texts) > 0.6 * len(seen) and len(seen) > 4:
        leaf.fresh = FreshIds.mine([v for v in new if isinstance(v, (str, int))][:400])
        if leaf.fresh is not None:
            leaf.sources = [s for s in leaf.sources if s[1] > 0.97]
    return leaf


def _direct(
    path: str, seen: Sequence[Seen], texts: Counter[str]
) -> list[tuple[Source, float, int]]:
    """(source, precision, hits) of every single source that was ever right."""
    hits: Counter[Source] = Counter()
    for s in seen:
        hits.update(s.right[path])
    ranked = []
    for source, n in hits.items():
        had = sum(source in s.had for s in seen)
        if n >= 2 or (source[0] in ("repeat", "recall", "arg", "ref") and n == had):
            ranked.append((source, n / had if had > 2 else n / (had + 1), n))
    top, times = texts.most_common(1)[0]
    if times >= 0.97 * len(seen) and len(seen) > 2:
        value = next(s.values[path] for s in seen if _text(s.values[path]) == top)
        ranked.append((("const", value), times / len(seen), times))
    return ranked


def _available(source: Source, s: Seen) -> bool:
    if source[0] == "const":
        return True
    if source[0] == "op":
        return source[2] in s.numbers and source[3] in s.numbers
    return source in s.had


def _arithmetic(path: str, seen: Sequence[Seen]) -> list[tuple[Source, float, int]]:
    """Products, sums and differences of two known numbers."""
    hits: Counter[Source] = Counter()
    had: Counter[tuple[Source, Source]] = Counter()
    sample = seen[:: max(1, len(seen) // 120)]
    for s in sample:
        target = s.values[path]
        if not is_number(target):
            continue
        known = sorted(s.numbers.items(), key=lambda n: (_COST.get(n[0][0], 9), str(n[0])))[:24]
        for i, (a, x) in enumerate(known):
            for b, y in known[i:]:
                had[a, b] += 1
                for op, left, right in (("*", a, b), ("+", a, b), ("-", a, b), ("-", b, a)):
                    u, v = (x, y) if left is a else (y, x)
                    if abs(apply(op, u, v) - target) < 0.006:
                        hits["op", op, left, right] += 1
    ranked = []
    for source, n in hits.items():
        pair = (source[2], source[3])
        times = had.get(pair) or had[pair[1], pair[0]]
        if n >= 4 and n >= 0.8 * times:
            ranked.append((source, n / times, n))
    return ranked
