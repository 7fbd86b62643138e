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
from understudy.world import joins
from understudy.world.edits import PLUS, aggregates, edits, explains, mirror, totals
from understudy.world.state import Mark
from understudy.world.tree import Node, decide, grow, tuples
from understudy.world.values import FreshIds, is_number, put, same

_COST = {
    "own": 1, "mirror": 2.5, "append": 2.6, "arg": 0.9, "join": 2.2, "sum": 2.5, "count": 2.7, "total": 2.8, "ref": 2, "repeat": 3, "const": 3.5, "recall": 4, "last": 5, "ref2": 6,
    "op": 7,
}  # fmt: skip
# (right, wrong) calls that each kind of source is credited with before the first is seen
_TRUST = {
    "own": (4.0, 0.05), "arg": (4.0, 0.05), "ref": (2.0, 0.1), "repeat": (1.0, 0.1),
    "recall": (1.0, 0.2), "const": (0.5, 0.2), "op": (0.5, 0.3), "ref2": (0.5, 0.5),
    "last": (0.2, 1.0),
}  # fmt: skip
_NONE = object()


@dataclass(slots=True)
class Leaf:
    """One value of a form: sources with their precision, a tree over few-valued ones, a format
    of made-up ids."""

    path: str
    sources: list[tuple[Source, float]] = field(default_factory=list)
    tree: Node | None = None
    choice: Node | None = None  # which source, by the situation; labels are JSON
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
    joined: dict[tuple[str, str], list[joins.Element]] = field(default_factory=dict)


def see(c: Context, value: Any, row: dict[Feature, Any]) -> Seen:
    """Compare a result with every source in its context."""
    values = dict(branches(value))
    edited: list[tuple[Source, str]] = []
    had: set[Source] = set()
    for source, path, before in edits(c):
        if path in values:
            had.add(source)
            if explains(source, before, values[path]):
                edited.append((source, path))
                if source[0] == "append":
                    added = values[path][-1]
                    values |= {f"{path}{PLUS}{k}": v for k, v in branches(added)}
    texts: dict[str, list[str]] = defaultdict(list)
    for path, item in values.items():
        texts[_text(item)].append(path)
    right: dict[str, set[Source]] = {path: set() for path in values}
    for source, path in edited:
        right[path].add(source)
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
        if is_number(item) and source[0] != "own":
            numbers[source] = item
        elif isinstance(item, list) and source[0] in ("ref", "arg"):
            numbers.update(aggregates(source, item))
    for path, item in values.items():
        if isinstance(item, list) and PLUS not in path:
            numbers.update(aggregates(("out", path), item))
    numbers.update(totals(numbers))
    return Seen(row, values, right, had, numbers, value, joins.see_joins(c, dict(branches(value))))


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
    joined: dict[str, joins.Join] = field(default_factory=dict)

    @classmethod
    def learn(cls, seen: Sequence[Seen], listing: str | None, precision: float) -> "Shape":
        shape = cls(listing=listing, donors=[s.whole for s in seen[-40:]])
        order: dict[str, int] = {}
        for s in seen:
            for path in s.values:
                order[path] = order.get(path, 0) + 1
        steady = _steady(seen)
        shape.joined = _mine_joins(seen)
        for path, n in order.items():
            if listing is not None and (path + "/").startswith(f"/{listing}/"):
                continue
            parents = [path[:i] for i, ch in enumerate(path) if ch == "/" and i]
            if any(p in order and p not in steady and PLUS not in path for p in parents):
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
        c.out = out
        marks: dict[str, Mark] = {}
        wrong = 0.0
        donor: Any = _NONE
        for leaf in self.leaves:
            if PLUS in leaf.path:
                continue
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
        chosen = leaf.sources
        if leaf.choice is not None:
            counts = decide(leaf.choice, lambda f: feature(f, c))
            label = max(counts, key=counts.__getitem__) if greedy else weighted(counts, rng)
            share = counts[label] / sum(counts.values())
            chosen = [(tuplify(json.loads(label)), share), *chosen]
        for source, precise in chosen:
            if precise < 0.9 and leaf.tree is not None and leaf.choice is None:
                break
            found = self._resolve(leaf, source, c, rng, greedy)
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

    def _resolve(
        self, leaf: Leaf, source: Source, c: Context, rng: random.Random, greedy: bool
    ) -> tuple[Any, Any, str] | None:
        if source[0] == "join":
            made = self.joined[leaf.path].render(leaf.path, c)
            return None if made is None else (made, "inferred", f"argument {source[1]} joined")
        if source[0] == "mirror":
            return mirror(source, c)  # type: ignore[no-any-return]
        if source[0] != "append":
            return resolve(source, c)
        before = resolve(("ref", *source[1:]), c)
        if before is None or not isinstance(before[0], list):
            return None
        item: Any = {}
        for part in self.leaves:
            head, plus, inner = part.path.partition(PLUS)
            if plus and head == leaf.path:
                value, _, _ = self._leaf(part, c, rng, greedy)
                if value is _NONE:
                    return None
                if not inner:
                    item = value
                else:
                    put(item, inner, value)
        return [*before[0], item], "inferred", "a record added"

    def to_json(self) -> list[Any]:
        found = [
            [lf.path, lf.sources, lf.tree, lf.choice, lf.fresh and lf.fresh.to_json(), lf.share]
            for lf in self.leaves
        ]
        return [found, self.donors, self.listing, joins.to_json(self.joined)]

    @classmethod
    def from_json(cls, data: list[Any]) -> "Shape":
        found, donors, listing, joined = data
        read = [
            Leaf(
                path,
                [(tuplify(s), p) for s, p in found_sources],
                tuples(tree) if tree else None,
                tuples(choice) if choice else None,
                FreshIds.from_json(fresh) if fresh else None,
                share,
            )
            for path, found_sources, tree, choice, fresh, share in found
        ]
        return cls(read, donors, listing, joins.from_json(joined))


def weighted(counts: dict[str, int] | dict[str, float], rng: random.Random) -> str:
    """A key drawn by its weight."""
    labels = list(counts)
    if len(labels) == 1:
        return labels[0]
    return rng.choices(labels, weights=[counts[x] for x in labels])[0]


def _mine_joins(seen: Sequence[Seen]) -> dict[str, joins.Join]:
    """Joins that hold, by the path of their list; what they explain is noted in what was seen."""
    found: dict[str, joins.Join] = {}
    for path, p in sorted({key for s in seen for key in s.joined}):
        own = [s for s in seen if (path, p) in s.joined]
        if len(own) < 0.5 * len(seen):
            continue
        join = joins.mine_join(p, [e for s in own for e in s.joined[path, p]])
        if join is None:
            continue
        found[path] = join
        for s in own:
            can, right = joins.explained(join, s.joined[path, p])
            if can:
                s.had.add(("join", p))
            if right:
                s.right[path].add(("join", p))
    return found


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
    left = len(seen)
    rows = list(seen)
    numeric = all(is_number(s.values[path]) for s in seen[:50])
    while len(rows) > 0.002 * left and len(leaf.sources) < 5:
        ranked = _direct(path, rows)
        if numeric and not any(_trusted(r) >= 0.9 for r in ranked):
            ranked += _arithmetic(path, rows)
        ranked = [r for r in ranked if r[1] >= max(0.5, precision - 0.35)]
        if not ranked:
            known = [r for r in _direct(path, seen) if r[0][0] != "const" and _trusted(r) >= 0.9]
            used = {source for source, _ in leaf.sources}
            more = [(x, p) for x, p, _ in sorted(known, key=_rank) if x not in used]
            leaf.sources += more[: 5 - len(leaf.sources)]
            break
        source, precise, _ = min(ranked, key=_rank)
        leaf.sources.append((source, precise))
        rows = [s for s in rows if not _available(source, s)]
    leaf.choice = _choice(path, seen)
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


_CHOSEN = {"own", "ref", "arg", "append", "mirror", "repeat"}


def _choice(path: str, seen: Sequence[Seen]) -> Node | None:
    """Which source a value comes from, where several do and the situation tells."""
    hits = Counter(x for s in seen for x in s.right[path] if x[0] in _CHOSEN)
    kept: list[Source] = []
    left = [s for s in seen if s.right[path]]
    for source in sorted(hits, key=lambda x: (-hits[x], _COST.get(x[0], 9), str(x))):
        own = [s for s in left if source in s.right[path]]
        if len(own) >= 3 and len(kept) < 4:
            kept.append(source)
            left = [s for s in left if source not in s.right[path]]
    if len(kept) < 2:
        return None
    rows = [(s, next((x for x in kept if x in s.right[path]), None)) for s in seen]
    labelled = [(s.row, json.dumps(x)) for s, x in rows if x is not None]
    tree = grow([r for r, _ in labelled], [x for _, x in labelled])
    return tree if "feature" in tree else None


def _trusted(ranked: tuple[Source, float, int]) -> float:
    """The precision of a source, shrunk towards what its kind is worth."""
    source, precise, n = ranked
    right, wrong = _TRUST.get(source[0], (0.5, 0.5))
    return (n + right) / (n / max(precise, 1e-9) + right + wrong)


def _rank(ranked: tuple[Source, float, int]) -> tuple[float, float, int, str]:
    source, _, n = ranked
    return -round(_trusted(ranked), 2), _COST.get(source[0], 9), -n, str(source)


def _direct(
    path: str, seen: Sequence[Seen]
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
    texts = Counter(_text(s.values[path]) for s in seen)
    top, times = texts.most_common(1)[0]
    if times >= 0.97 * len(seen) and len(seen) > 2:
        value = next(s.values[path] for s in seen if _text(s.values[path]) == top)
        ranked.append((("const", value), times / len(seen), times))
    return ranked


def _available(source: Source, s: Seen) -> bool:
    if source[0] == "const":
        return True
    if source[0] == "op":
        return _available(source[2], s) and _available(source[3], s)
    return source in s.had or source in s.numbers


def _arithmetic(path: str, seen: Sequence[Seen]) -> list[tuple[Source, float, int]]:
    """Products, sums and differences of two known numbers."""
    hits: Counter[Source] = Counter()
    had: Counter[tuple[Source, Source]] = Counter()
    scaled: Counter[Source] = Counter()
    spans: dict[tuple[Source, Source], set[float]] = defaultdict(set)
    sample = seen[:: max(1, len(seen) // 120)]
    for s in sample:
        target = s.values[path]
        if not is_number(target):
            continue
        own = path.partition(PLUS)[0]
        usable = [n for n in s.numbers.items() if f"'out', '{own}'" not in str(n[0])]
        known = sorted(usable, key=lambda n: (_COST.get(n[0][0], 9), str(n[0])))[:40]
        for i, (a, x) in enumerate(known):
            for b, y in known[i:]:
                had[a, b] += 1
                for op, left, right in (("*", a, b), ("+", a, b), ("-", a, b), ("-", b, a)):
                    if op == "-" and a == b:
                        continue
                    u, v = (x, y) if left is a else (y, x)
                    if abs(apply(op, u, v) - target) < 0.006:
                        hits["op", op, left, right] += 1
                    if op == "-" and u > v and target:
                        factor = round(target / (u - v), 4)
                        if factor != 1:
                            scaled["op", "*", ("const", factor), ("op", op, left, right)] += 1
                            spans[left, right].add(u - v)
    ranked = []
    for source, n in hits.items():
        pair = (source[2], source[3])
        times = had.get(pair) or had[pair[1], pair[0]]
        if n >= 4 and n >= 0.8 * times:
            ranked.append((source, n / times, n))
    for source, n in scaled.items():
        pair = source[3][2], source[3][3]
        times = had.get(pair) or had[pair[1], pair[0]]
        if n >= 4 and n >= 0.8 * times and len(spans[pair]) > 1:
            ranked.append((source, n / times, n))
    return ranked
