"""Tools that list records: how their arguments select and order them, and answers to new
combinations of arguments from the records that the traffic showed."""

import random
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.world.data.formats import has_format
from understudy.world.data.matching import answers, equal_values, folded, made_equal, values_of
from understudy.world.data.search import Search
from understudy.world.data.values import FreshIds, call_key, chance, is_number, same
from understudy.world.known.state import RANK, Mark, State

NONE: frozenset[int] = frozenset()
_TRIES = 3  # draws of a key, after which one that is not new is taken


@dataclass(slots=True)
class Row:
    """A record of the listing: its fields, the argument values that it was listed under,
    and (up to three of) the episodes that saw it, each of another scenario."""

    key: Any
    fields: dict[str, Any]
    under: dict[str, list[Any]] = field(default_factory=dict)
    episodes: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Query:
    """What was mined of one listing tool."""

    where: str  # the key that holds the list, "" for the whole result
    key: str | None  # the field that tells records apart
    domain: str | None = None
    tool: str = ""
    equal: list[tuple[str, str]] = field(default_factory=list)  # (argument, field)
    most: list[tuple[str, str]] = field(default_factory=list)  # field <= argument
    least: list[tuple[str, str]] = field(default_factory=list)  # field >= argument
    under: list[str] = field(default_factory=list)  # arguments that partition the records
    searches: list[Search] = field(default_factory=list)  # texts that the records have
    elsewhere: dict[str, str] = field(default_factory=dict)  # of `under`: a field of other tools
    total: str | None = None  # the key beside the list that counts what is selected
    order: dict[str, list[tuple[Any, str, bool]]] = field(default_factory=dict)  # descending?
    default: tuple[str, bool] | None = None
    ties: bool = False  # records that a sort leaves equal come in the order of `rows`
    stable: bool = False  # the traffic's own order never varies
    limit_by: str | None = None
    limit: int | None = None
    derived: dict[str, tuple[str, str]] = field(default_factory=dict)  # field = field * argument
    vary: str | None = None  # an argument with whose value the same records differ
    repeats: float = 0.0  # share of equal calls of an episode with equal answers
    recalls: float = 0.0  # the same across episodes
    present: float = 1.0  # chance that a matching record is listed
    lacks: list[float] = field(default_factory=list)  # see world.lists.lacks
    filled: float = 0.0  # share of calls with an unknown selecting value that list something
    paired: float = 0.0  # the same of known values that no remembered record has together
    typical: int = 0  # how many records those list
    forms: dict[str, list[str]] = field(default_factory=dict)  # of selecting values that list some
    rows: list[Row] = field(default_factory=list)
    _keyed: dict[Any, list[Row]] | None = field(default=None, repr=False)
    _index: "_Index | None" = field(default=None, repr=False)

    def key_of(self, record: dict[str, Any]) -> Any:
        """What tells a record from others: its key, or a text of one that is no scalar."""
        key = record.get(self.key or "")
        return repr(key) if isinstance(key, (list, dict)) else key

    def by_key(self, key: Any) -> list[Row]:
        """The remembered records of a key."""
        if self._keyed is None:
            self._keyed = {}
            for row in self.rows:
                self._keyed.setdefault(row.key, []).append(row)
        return self._keyed.get(key, []) if isinstance(key, (str, int)) else []

    def forget(self, kept: list[Row]) -> None:
        """Remember these records alone."""
        self.rows, self._keyed, self._index = kept, None, None

    def matches(
        self, args: dict[str, Any], without: Container[int] = NONE, own: Sequence[Row] = ()
    ) -> list[Row]:
        """The records that a call selects, before order and limit: those of the traffic, and the
        session's `own` in their places."""
        if self.vary is not None and self.vary in args:
            found = self.matches(self._unvaried(args), without, own)
            told = [r for r in found if args[self.vary] in r.under.get(self.vary, ())]
            return told or list({r.key: r for r in found}.values())
        found = [r for r in self.narrowed(args) if self._matches(r, args, without)]
        if not own:
            return found
        newer = {self._place(r): r for r in own if self.chooses(r, args)}
        kept = [newer.pop(self._place(r), r) for r in found]
        return [*kept, *newer.values()]

    def _place(self, row: Row) -> tuple[Any, str]:
        """What tells a row from others: its key, and where records vary the value they vary by."""
        return row.key, repr(row.under.get(self.vary or ""))

    def matched(self, args: dict[str, Any], without: Container[int] = NONE) -> bool:
        """Whether a call selects any remembered record."""
        args = self._unvaried(args)
        return any(self._matches(r, args, without) for r in self.narrowed(args))

    def _unvaried(self, args: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in args.items() if k != self.vary} if self.vary in args else args

    def _matches(self, row: Row, args: dict[str, Any], without: Container[int]) -> bool:
        fresh = not without or any(e not in without for e in row.episodes)
        return fresh and self.chooses(row, args)

    def narrowed(self, args: dict[str, Any]) -> list[Row]:
        """The fewest remembered records, in their order, that one selecting value alone leaves."""
        if self._index is None:
            self._index = _index(self)
            self.by_key("")  # made once as well
        least = self.rows
        for (p, name), rows in self._index.items():
            value = args.get(p)
            if value is not None and not isinstance(value, (list, dict)):
                found = rows.get(value if name is None else folded(value), [])
                least = found if len(found) < len(least) else least
        return least

    def chooses(self, row: Row, args: dict[str, Any]) -> bool:
        for p in self.under:
            value = args.get(p)
            if value is not None and value not in row.under.get(p, ()):
                return False
        return self.selects(row.fields, args)

    def unseen(self, args: dict[str, Any], without: Container[int] = NONE) -> bool:
        """Whether one of the selecting values alone matches no remembered record."""
        asked = self._selecting(args).items()
        return any(not self.matched({p: value}, without) for p, value in asked)

    def new(self, args: dict[str, Any], without: Container[int] = NONE) -> bool:
        """Whether the selecting values, bounds aside, match no remembered record together."""
        return not self.matched(self._selecting(args), without)

    def _selecting(self, args: dict[str, Any]) -> dict[str, Any]:
        selecting = [*self.under, *(p for p, _ in self.equal)]
        return {p: args[p] for p in selecting if args.get(p) is not None}

    def selects(self, fields: dict[str, Any], args: dict[str, Any]) -> bool:
        for p, name in self.equal:
            if args.get(p) is not None and not equal_values(args[p], fields.get(name)):
                return False
        for pairs, sign in ((self.most, 1), (self.least, -1)):
            for p, name in pairs:
                bound, value = args.get(p), self.value(fields, name, args)
                if is_number(bound) and is_number(value) and sign * (value - bound) > 0:
                    return False
        return all(search.holds(fields, args) for search in self.searches)

    def at_most(self, args: dict[str, Any]) -> int | None:
        """How many records a call lists at most."""
        asked = args.get(self.limit_by) if self.limit_by else None
        own = int(asked) if is_number(asked) and asked is not None and asked >= 0 else None
        return self.limit if own is None else own

    def cuts(self, n: int, args: dict[str, Any]) -> bool:
        """Whether so many listed records are as many as a call lists at most."""
        most = self.at_most(args)
        return most is not None and n >= most

    def value(self, fields: dict[str, Any], name: str, args: dict[str, Any]) -> Any:
        if name in self.derived:
            other, p = self.derived[name]
            if is_number(fields.get(other)) and is_number(args.get(p)):
                return round(fields[other] * args[p], 2)
        return fields.get(name)

    def answer(
        self, args: dict[str, Any], state: State, own: Sequence[Row] = ()
    ) -> list[tuple[dict[str, Any], Mark]]:
        """The records of a call, in the order of the tool, and where each comes from. `own` are
        those that the session's calls listed."""
        return self.selected(args, state, own)[: self.at_most(args)]

    def selected(
        self, args: dict[str, Any], state: State, own: Sequence[Row] = ()
    ) -> list[tuple[dict[str, Any], Mark]]:
        """The records of a call, as `answer` has them, before the rest is cut off."""
        found = []
        if self.vary and self.vary in self.forms and not self._formed(self.vary, args):
            return []
        rows = self.matches(args, state.without, own)
        if not rows and self.new(args, state.without) and self._lists(args, state.without):
            return self._invented(args, state)
        for row in rows:
            fields = self._current(row, state)
            if fields is not row.fields and not self.selects(fields, args):
                continue
            if (state.unlisted or state.memory.lives.gone) and state.hides(
                (self.domain, row.key), self.tool, args
            ):
                continue
            if self.elsewhere and not self._still(row, args, state):
                continue
            unsure = row.episodes and self.present < 0.97  # not what the session's calls showed
            if unsure and chance(state.seed, "in", row.key) > self.present:
                continue
            if self.derived:
                fields = {n: self.value(fields, n, args) for n in fields}
            found.append((row, fields))
        found = self._ordered(found, args, state.seed)
        return [(dict(fields), self._mark(row, state)) for row, fields in found]

    def _still(self, row: Row, args: dict[str, Any], state: State) -> bool:
        """Whether a record has what a call asks of fields that the listing does not show, as far as
        the session told of them."""
        thing = state.things.get((self.domain or "", row.key))
        own = thing.fields if thing else {}
        asked = [(args[p], own[n][0]) for p, n in self.elsewhere.items() if p in args and n in own]
        return all(value is None or value in values_of(told) for value, told in asked)

    def refreshed(
        self, shown: list[dict[str, Any]], call: int, args: dict[str, Any], state: State
    ) -> list[dict[str, Any]] | None:
        """What an earlier call listed, as it is after what was changed since; None where records
        that it cut off may have moved up."""
        kept = []
        for record in shown:
            name = record.get(self.key or "")
            own = state.things.get((self.domain, name)) if self.domain else None
            later = {
                n: own.fields[n][0]
                for n in record
                if own is not None and n in own.fields and _call(own.fields[n][2]) > call
            }
            fields = {**record, **({} if self.vary else later)}
            gone = self.domain is not None and state.hides((self.domain, name), self.tool, args)
            if not gone and (not later or self.selects(fields, args)):
                kept.append(fields)
        if len(kept) < len(shown) and (self.limit or self.limit_by):
            return None
        rows = [(Row(r.get(self.key or ""), r), r) for r in kept]
        by = self._by(args)
        return [r for _, r in (self._sorted(rows, by) if by else rows)]

    def listed(
        self, shown: list[dict[str, Any]], args: dict[str, Any], state: State
    ) -> list[dict[str, Any]] | None:
        """What of a listing the session's calls left there; None where records that it cut off may
        have moved up."""
        kept = [r for r in shown if not state.hides((self.domain, self.key_of(r)), self.tool, args)]
        return None if len(kept) < len(shown) and (self.limit or self.limit_by) else kept

    def _lists(self, args: dict[str, Any], without: Container[int]) -> bool:
        """Whether calls that no remembered record answers, with values of these forms, mostly list
        something."""
        share = self.filled if self.unseen(args, without) else self.paired
        return share >= 0.5 and all(self._formed(p, args) for p in self.forms)

    def _formed(self, p: str, args: dict[str, Any]) -> bool:
        """Whether a selecting text has a form with which something was listed."""
        return not isinstance(args.get(p), str) or has_format(args[p], self.forms[p])

    def _invented(self, args: dict[str, Any], state: State) -> list[tuple[dict[str, Any], Mark]]:
        """Records like others, for a selecting value that the traffic does not know."""
        call = call_key("", args)
        known = self._known(args, state)
        n = max(self.typical, len(known))
        rng = random.Random(f"{state.seed}:{call}")
        donors = rng.sample(self.rows, min(n, len(self.rows)))
        fresh = FreshIds.mine([r.key for r in self.rows[:400]]) if self.key else None
        asked = {name: args[p] for p, name in self.equal if args.get(p) is not None}
        made: list[tuple[Row, dict[str, Any]]] = []
        for i, row in enumerate(donors):
            told = {n: made_equal(v, row.fields[n]) for n, v in asked.items() if n in row.fields}
            fields = {**row.fields, **told}
            fields = {n: self.value(fields, n, args) for n in fields}
            if self.key is not None and i < len(known):
                fields[self.key] = known[i]
            elif fresh is not None and self.key is not None:
                fields[self.key] = self._new(fresh, [f[self.key] for _, f in made], rng, state)
            made.append((row, fields))
        made = self._ordered([m for m in made if self.selects(m[1], args)], args, state.seed)
        return [(fields, Mark("invented", "like other records")) for _, fields in made]

    def _new(self, fresh: FreshIds, made: list[Any], rng: random.Random, state: State) -> Any:
        """A key that no remembered record and none of those `made` has, as far as there are such.
        Those that the session's listings showed are drawn again for the same question."""
        remembered = state.memory.versions.get(self.domain or "", {})
        for _ in range(_TRIES):
            key = fresh.draw(rng)
            if key not in made and key not in remembered and not self.by_key(key):
                break
        return key

    def _known(self, args: dict[str, Any], state: State) -> list[Any]:
        """The keys of things that no listing showed, but session or traffic have with the values
        that a call asks for; none where it asks for more than values that records repeat."""
        asked = {name: args[p] for p, name in self.equal if args.get(p) is not None}
        more = [p for p in self.under if p != self.vary and args.get(p) is not None]
        if self.domain is None or not asked or more:
            return []
        name, value = next(iter(asked.items()))
        own = [key for domain, key in state.things if domain == self.domain]
        keys = dict.fromkeys([*own, *state.memory.having(self.domain, name, value)])
        found = []
        for key in keys:
            fields = state.fields((self.domain, key))
            told = all(equal_values(fields.get(n), v) for n, v in asked.items())
            if told and not state.hides((self.domain, key), self.tool, args):
                found.append(key)
        return found

    def _mark(self, row: Row, state: State) -> Mark:
        """The session's own knowledge of a record where there is some, else the traffic's."""
        if self.domain is not None and self.vary is None:
            thing = state.things.get((self.domain, row.key))
            known = [thing.fields[n] for n in row.fields if n in thing.fields] if thing else []
            if known:
                last = max(known, key=lambda v: (RANK[v[1]], _call(v[2]), v[2]))
                return Mark(last[1], last[2])
        seen = [e for e in row.episodes if e not in state.without]
        return Mark("remembered", f"episode {seen[-1]}" if seen else "")

    def _current(self, row: Row, state: State) -> dict[str, Any]:
        """A record as this session knows it."""
        if self.domain is None or self.vary is not None:
            return row.fields
        key = (self.domain, row.key)
        thing, held = state.things.get(key), state.remembered(key)
        if thing is None and held is None:
            return row.fields
        own = thing.fields if thing else {}
        old = held[1] if held else {}
        fields = {
            n: own[n][0] if n in own and n not in self.derived else old.get(n, v)
            for n, v in row.fields.items()
        }
        return row.fields if fields == row.fields else fields

    def _ordered(
        self, found: list[tuple[Row, dict[str, Any]]], args: dict[str, Any], seed: int
    ) -> list[tuple[Row, dict[str, Any]]]:
        by = self._by(args)
        if not (self.stable if by is None else self.ties):
            key = call_key("", args)
            found = sorted(found, key=lambda r: chance(seed, key, r[0].key))
        if by is None:
            return found
        return self._sorted(found, by)

    def _by(self, args: dict[str, Any]) -> tuple[str, bool] | None:
        """The field that a call's records are in the order of, and whether descending."""
        by = self.default
        for p, rules in self.order.items():
            by = next(((f, d) for v, f, d in rules if p in args and same(v, args[p])), by)
        return by

    def _sorted(
        self, found: list[tuple[Row, dict[str, Any]]], by: tuple[str, bool]
    ) -> list[tuple[Row, dict[str, Any]]]:
        name, down = by
        typed = [r for r in found if r[1].get(name) is not None]
        rest = [r for r in found if r[1].get(name) is None]
        values = [r[1][name] for r in typed]
        if not (all(isinstance(v, str) for v in values) or all(map(is_number, values))):
            return found
        typed.sort(key=lambda r: r[1][name], reverse=down)
        return typed + rest


_Index = dict[tuple[str, str | None], dict[Any, list[Row]]]
"""By argument, and by the field that equals it (None: the calls that listed the record had it)."""


def _index(query: Query) -> _Index:
    """The records by what selects them, each list in their order."""
    found: _Index = {}
    for p in query.under:
        under = found[p, None] = {}
        for row in query.rows:
            for value in dict.fromkeys(row.under.get(p, ())):
                under.setdefault(value, []).append(row)
    for p, name in query.equal:
        equal = found[p, name] = {}
        for row in query.rows:
            value = row.fields.get(name)
            for asked in () if isinstance(value, (list, dict)) else answers(value):
                equal.setdefault(asked, []).append(row)
    return found


def _call(source: str) -> int:
    """The number of the call that a value comes from; -1 where it comes from none."""
    head, _, number = source.partition(" ")
    return int(number) if head == "call" else -1
