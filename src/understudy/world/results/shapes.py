"""Successful results: the form of a tool's answer, and where each of its values comes from."""

import json
import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.core.types import ProvenanceKind
from understudy.world.data.moments import is_moment
from understudy.world.data.values import FreshIds, escape, is_number, put
from understudy.world.known import sights
from understudy.world.known.clocks import goes_on
from understudy.world.known.context import Context, Found, Source, branches, resolve, tuplify
from understudy.world.known.state import Mark
from understudy.world.outcomes.features import feature
from understudy.world.outcomes.tree import Node, decide, grow, tuples
from understudy.world.results import joins, new_ids
from understudy.world.results.edits import PLUS, before_it, mirror
from understudy.world.results.explain import (
    Holders,
    Seen,
    available,
    choice,
    direct,
    made_of,
    moments,
    rank,
    text,
    trusted,
)
from understudy.world.results.reckoning import arithmetic
from understudy.world.results.wholes import in_order, steady_objects

_NONE = object()
_UNSURE = 0.5  # doubt of a value with parts that nothing knows
_SOURCES = 5  # of a leaf
_SEVERAL = 2  # calls after others of their session


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
    repeated: bool = False  # whether the traffic shows an equal call, its things not named between
    made: bool = False  # an identifier that each call makes anew
    late: bool = False  # reckoned from leaves that stand behind it


_RECKONED = 64  # leaves of a form of which each may be made of others


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
        steady = steady_objects(seen)
        few = len(order) <= _RECKONED
        shape.joined = _mine_joins(seen)
        holders = Holders(seen)
        for path, n in order.items():
            if listing is not None and (path + "/").startswith(f"/{escape(listing)}/"):
                continue
            parents = [path[:i] for i, ch in enumerate(path) if ch == "/" and i]
            if any(p in order and p not in steady and PLUS not in path for p in parents):
                continue
            if path in steady:
                continue
            having = [s for s in seen if path in s.values]
            shape.leaves.append(_mine_leaf(path, having, holders, n / len(seen), precision, few))
        for leaf in shape.leaves if few else ():
            _look_behind(leaf, shape.leaves, [s for s in seen if leaf.path in s.values])
        return shape

    def render(
        self, c: Context, rng: random.Random, greedy: bool, counted: Collection[str] = ()
    ) -> tuple[Any, dict[str, Mark], float]:
        """A value, the provenance of its leaves, and its doubt: the expected share of wrong leaves,
        at least the doubt of any that is made up. Leaves at `counted` paths are not doubted: what
        the listing has takes their places."""
        out: dict[str, Any] = {}
        c.out = out
        marks: dict[str, Mark] = {}
        wrong = made_up = 0.0
        donor: Any = _NONE
        for leaf in sorted(self.leaves, key=lambda leaf: leaf.late):
            if PLUS in leaf.path:
                continue
            if leaf.share < 0.5 or (leaf.share < 1 and not greedy and rng.random() > leaf.share):
                continue
            item, mark, doubt = self._leaf(leaf, c, rng, greedy)
            time = goes_on(c, leaf.path) if item is _NONE or mark.kind == "invented" else None
            if time is not None:
                item, mark, doubt = time, Mark("invented", "the last time told"), _UNSURE
            if item is _NONE:
                if donor is _NONE:
                    donor = self._donor(c, rng)
                item = dict(branches(donor)).get(leaf.path)
                mark, doubt = Mark("invented", "another result of this tool"), 0.7
                if c.recall is not None:
                    mark, doubt = Mark("remembered", "the same call in the traffic"), 0.3
            if leaf.made and isinstance(item, (str, int)) and new_ids.has(c, leaf.path, item):
                item = new_ids.another(leaf.tree, leaf.path, item, c)
                mark, doubt = Mark("inferred", "new id"), max(doubt, _UNSURE)
            if leaf.path not in counted:
                wrong += doubt
                made_up = max(made_up, doubt * (mark.kind == "invented"))
            marks[leaf.path] = mark
            if not leaf.path:
                return item, marks, wrong
            put(out, leaf.path, item)
        if any(leaf.late for leaf in self.leaves):
            out = in_order(out, [leaf.path for leaf in self.leaves])
        return out, marks, max(made_up, wrong / max(1, len(self.leaves)))

    def _donor(self, c: Context, rng: random.Random) -> Any:
        return c.recall if c.recall is not None else rng.choice(self.donors)

    def _leaf(
        self, leaf: Leaf, c: Context, rng: random.Random, greedy: bool
    ) -> tuple[Any, Mark, float]:
        chosen = leaf.sources
        if leaf.choice is not None:
            counts = decide(leaf.choice, lambda f: feature(f, c))
            label = max(counts, key=counts.__getitem__) if greedy else weighted(counts, rng)
            source, share = tuplify(json.loads(label)), counts[label] / sum(counts.values())
            chosen = [(source, share), *chosen] if source is not None else chosen
        held = None if leaf.repeated else _held(leaf, c)
        for source, precise in chosen:
            if precise < 0.9 and leaf.tree is not None and leaf.choice is None:
                break
            if held is not None and (precise < 0.9 or source[0] == "recall"):
                break
            newer = sights.since(leaf.path, source, c)
            found = newer or self._resolve(leaf, source, c, rng, greedy)
            if found is not None and source[0] == "join" and found[1] == "invented":
                found = held or found
            if found is not None:
                sure = precise >= 0.9 or newer is not None or found[1] == "remembered"
                doubt = max(1 - precise, _UNSURE * (found[1] == "invented"))
                return found[0], Mark(found[1] if sure else "invented", found[2]), doubt
        if held is not None:
            return held[0], Mark(held[1], held[2]), 0.3
        if leaf.tree is not None:
            counts = decide(leaf.tree, lambda f: feature(f, c))
            total = sum(counts.values())
            label = max(counts, key=counts.__getitem__) if greedy else weighted(counts, rng)
            share = counts[label] / total
            mark = Mark("inferred" if share > 0.9 else "invented", "decision tree")
            return json.loads(label), mark, 1 - share
        if leaf.fresh is not None:
            item = new_ids.of_format(leaf.fresh, leaf.path, c, rng)
            return item, Mark("inferred", "new id"), 0.0 if not greedy else 1.0
        return _NONE, Mark("invented", ""), 1.0

    def _resolve(
        self, leaf: Leaf, source: Source, c: Context, rng: random.Random, greedy: bool
    ) -> tuple[Any, Any, str] | None:
        if source[0] == "join":
            made = self.joined[leaf.path].render(leaf.path, c)
            if made is None:
                return None
            kind: ProvenanceKind = "invented" if made[1] else "inferred"
            return made[0], kind, f"argument {source[1]} joined"
        if source[0] == "mirror":
            return mirror(source, c)
        if source[0] != "append":
            return resolve(source, c)
        before = before_it(source, c)
        if before is None:
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
        return [*before, item], "inferred", "a record added"

    def to_json(self) -> list[Any]:
        found = [
            [
                lf.path,
                lf.sources,
                lf.tree,
                lf.choice,
                lf.fresh and lf.fresh.to_json(),
                lf.share,
                lf.repeated,
                lf.made,
                lf.late,
            ]
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
                repeated,
                made,
                late,
            )
            for path, found_sources, tree, choice, fresh, share, repeated, made, late in found
        ]
        return cls(read, donors, listing, joins.from_json(joined))


def _held(leaf: Leaf, c: Context) -> Found | None:
    """What the session's last equal call answered, where nothing named its things since, and the
    value is no identifier that each call makes anew. Nothing in the traffic says so: it was never
    seen to call twice so."""
    if leaf.path in c.state.ids.refs.get(c.tool.name, {}):
        return None
    still = ("still", leaf.path)
    return sights.since(leaf.path, still, c) or resolve(still, c)


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


def _mine_leaf(
    path: str,
    seen: Sequence[Seen],
    holders: Holders,
    share: float,
    precision: float,
    reckon: bool,
) -> Leaf:
    """What a leaf comes from; with `reckon`, out of other numbers too."""
    again = any(available(("still", path), s) for s in seen)
    leaf = Leaf(path, share=share, repeated=again)
    leaf.sources, left = _mine_sources(path, seen, holders, precision, reckon)
    leaf.choice = choice(path, seen)
    kinds = len({text(s.values[path]) for s in seen})
    unsure = not leaf.sources or leaf.sources[0][1] < 0.97 or len(left) > 0.05 * len(seen)
    if unsure and kinds <= 12 and len(seen) >= 3 * kinds:
        labels = [json.dumps(s.values[path]) for s in seen]
        leaf.tree = grow([s.row for s in seen], labels)
    counts_up = any(source[0] == "next" for source, _ in leaf.sources)
    leaf.fresh = _mine_fresh(path, left if counts_up else seen, kinds)
    if leaf.fresh is not None:
        leaf.sources = [s for s in leaf.sources if s[1] > 0.97]
    leaf.made = _made(path, seen, bool(leaf.sources or leaf.tree))
    return leaf


def _look_behind(leaf: Leaf, leaves: Sequence[Leaf], seen: Sequence[Seen]) -> None:
    """Reckon a number that nothing before it explains from those that come after it and are not
    made of it: a tax out of the total that holds it."""
    explained = leaf.sources and leaf.sources[0][1] >= 0.9
    numeric = all(is_number(s.values[leaf.path]) for s in seen[:50])
    if explained or not seen or not numeric or PLUS in leaf.path:
        return
    own = ("out", leaf.path)
    behind = {
        other.path for other in leaves
        if other.sources and not other.late and not any(made_of(x, own) for x, _ in other.sources)
    }  # fmt: skip
    ranked = [r for r in arithmetic(leaf.path, seen, behind) if trusted(r) >= 0.9]
    if ranked:
        source, precise, _ = min(ranked, key=lambda r: rank(r, leaf.path))
        leaf.sources, leaf.late = [(source, precise), *leaf.sources][:_SOURCES], True


def _mine_sources(
    path: str, seen: Sequence[Seen], holders: Holders, precision: float, reckon: bool
) -> tuple[list[tuple[Source, float]], list[Seen]]:
    """Sources of a leaf with their precision, the next for what those before do not have; and the
    results for which none of them has a value."""
    found: list[tuple[Source, float]] = []
    rows = list(seen)
    numeric = reckon and all(is_number(s.values[path]) for s in seen[:50])
    dated = reckon and all(is_moment(s.values[path]) for s in seen[:50])
    while len(rows) > 0.002 * len(seen) and len(found) < _SOURCES:
        ranked = direct(path, rows, holders)
        if numeric and not any(trusted(r) >= 0.9 for r in ranked):
            ranked += arithmetic(path, rows)
        if dated and not any(trusted(r) >= 0.9 for r in ranked):
            ranked += moments(path, rows)
        ranked = [r for r in ranked if r[1] >= max(0.5, precision - 0.35)]
        if not ranked:
            return found + _others(path, seen, holders, found), rows
        source, precise, _ = min(ranked, key=lambda r: rank(r, path))
        found.append((source, precise))
        rows = [s for s in rows if not available(source, s)]
    return found, rows


def _others(
    path: str, seen: Sequence[Seen], holders: Holders, found: Sequence[tuple[Source, float]]
) -> list[tuple[Source, float]]:
    """Sources that are right of all results, for those that stand where `found` have nothing."""
    known = [r for r in direct(path, seen, holders) if r[0][0] != "const" and trusted(r) >= 0.9]
    used = {source for source, _ in found}
    more = [(x, p) for x, p, _ in sorted(known, key=rank) if x not in used]
    return more[: _SOURCES - len(found)]


def _mine_fresh(path: str, seen: Sequence[Seen], kinds: int) -> FreshIds | None:
    """The format of identifiers that each call makes anew."""
    new = [s.values[path] for s in seen if not s.right[path]]
    if all(map(is_moment, new)):
        return None
    # ids of a small space recur across episodes by chance, hence far less than all different
    if len(new) > 0.9 * len(seen) and kinds > 0.6 * len(seen) and len(seen) > 4:
        return FreshIds.mine([v for v in new if isinstance(v, (str, int))][:400])
    return None


def _made(path: str, seen: Sequence[Seen], explained: bool) -> bool:
    """Whether a leaf is an identifier that each call makes: no session had one before. Where
    something tells which one it is, calls that say other things must have been given the same,
    as by a system that begins anew with every episode, so that it does not hang on what they say;
    and sessions must have made several, or results be the records of what their calls say."""
    own = [s for s in seen if path in s.known]
    if not own or any(s.known[path] for s in own):
        return False
    calls: dict[Any, set[str]] = defaultdict(set)
    for s in own:
        calls[s.values[path]].add(s.key)
    alike = any(len(keys) > 1 for keys in calls.values())
    several = sum(s.again for s in own) >= _SEVERAL
    return not explained or (alike and (several or all(map(_echoes, own))))


def _echoes(s: Seen) -> bool:
    """Whether a result has all that its call says."""
    said = {source for source in s.had if source[0] == "arg"}
    return bool(said) and said <= set().union(*s.right.values())
