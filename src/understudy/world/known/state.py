"""What a session knows: the calls so far, things by type and id with where each value comes
from, and under them the memory of what the traffic showed in other episodes."""

import json
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from operator import ne
from typing import Any, NamedTuple

from understudy.core.types import ProvenanceKind
from understudy.world.data.values import call_key, columns, escape
from understudy.world.known.memory import Key, Memory, Remembered, idlike, maskable
from understudy.world.traffic import joint
from understudy.world.traffic.counters import numbers
from understudy.world.traffic.ids import Ids

Value = tuple[Any, ProvenanceKind, str]
Where = list[tuple[str, str, str, bool]]
"""Which listings a thing is missing in: (tool or "" for any, an argument and its value as JSON or
"" for any, whether it is missing). The first that fits a call says it; where none does, it is."""


def hidden(where: Where, tool: str, args: dict[str, Any]) -> bool:
    """Whether a thing that is missing `where` is missing in a call's listing."""
    for listing, p, value, gone in where:
        asked = not p or (p in args and json.dumps(args[p], sort_keys=True) == value)
        if listing in ("", tool) and asked:
            return gone
    return True


class Mark(NamedTuple):
    """Where a value comes from, and what exactly: a call of the session, an episode of the
    traffic (by its number), a rule."""

    kind: ProvenanceKind
    source: str


@dataclass(slots=True)
class Past:
    """One call of the session and what became of it."""

    name: str
    key: str
    args: dict[str, Any]
    outcome: str  # class, "ok:..." or "err:..."
    value: Any
    ids: tuple[Key, ...]
    marks: dict[str, Mark] = field(default_factory=dict)  # path -> where it comes from
    names: frozenset[Any] = frozenset()  # id-like texts of the result
    outside: float = 0.0  # how far beyond all experience it is (world.data.ranges)
    of: dict[str, set[Any]] = field(default_factory=dict)
    """The things that it names or its result is the record of, by domain; of domains without any,
    those that its result refers to."""

    @property
    def ok(self) -> bool:
        return self.outcome.startswith("ok")


@dataclass(slots=True)
class Thing:
    """A record of the session: its fields, and who touched it when."""

    fields: dict[str, Value] = field(default_factory=dict)
    first: int = 0  # call at which the session first saw it
    touched: dict[str, int] = field(default_factory=dict)  # tool -> last successful call
    failed: dict[str, str] = field(default_factory=dict)  # tool -> class of its last failure


@dataclass(slots=True)
class State:
    """The knowledge of one session. `without` are the episodes that memory must not use."""

    ids: Ids
    memory: Memory
    seed: int = 0
    without: Container[int] = frozenset()
    calls: list[Past] = field(default_factory=list)
    things: dict[Key, Thing] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)  # tool -> last successful call
    same: dict[str, int] = field(default_factory=dict)  # call key -> its last call
    facts: dict[str, str] = field(default_factory=dict)  # tool+scope -> class that stays
    immune: dict[str, bool] = field(default_factory=dict)  # tool+scope that went well
    picked: dict[Key, Remembered | None] = field(default_factory=dict)
    shown: set[Any] = field(default_factory=set)  # id-like texts in the session's results
    unlisted: dict[Key, Where] = field(default_factory=dict)  # things that listings show no longer
    drawn: dict[tuple[str, Any, str], list[tuple[int, tuple[Any, ...], float]]] = field(
        default_factory=dict
    )
    """What calls took from numbers of listed records: (listing, key, varying value) -> (call, path,
    by how much); see world.results.draws."""
    largest: dict[str, int] = field(default_factory=dict)  # domain -> number of a record shown
    numbering: dict[str, int] = field(default_factory=dict)  # counter -> its next number
    changed: int = -1  # the last call after which listings differ
    relisted: int = -1  # the last call after which they show more
    enlisted: dict[Key, None] = field(default_factory=dict)  # made things that listings show
    ended: set[Key] = field(default_factory=set)  # things that there are no more
    times: dict[str, str] = field(default_factory=dict)  # see world.known.course: the last by form

    def copy(self) -> "State":
        """An independent copy: results are shared, they are never edited."""
        return State(
            self.ids, self.memory, self.seed, self.without, list(self.calls),
            {
                k: Thing(dict(t.fields), t.first, dict(t.touched), dict(t.failed))
                for k, t in self.things.items()
            },
            dict(self.last), dict(self.same), dict(self.facts), dict(self.immune),
            dict(self.picked), set(self.shown), dict(self.unlisted),
            {k: list(v) for k, v in self.drawn.items()}, dict(self.largest), dict(self.numbering),
            self.changed, self.relisted, dict(self.enlisted), set(self.ended),
            dict(self.times),
        )  # fmt: skip

    def remembered(self, key: Key) -> Remembered | None:
        if key not in self.picked:
            self.picked[key] = self.memory.pick(key, self.seed, self.without)
        return self.picked[key]

    def standing(self, key: Key) -> str:
        """`session`: a record of this session's results; `shown`: named in one of them;
        `memory`: in the traffic only; `gone`: no more, where state lasts; `new`."""
        if key in self.ended:
            return "gone"
        if key in self.things and self.things[key].fields:
            return "session"
        if key[1] in self.shown:
            return "shown"
        if self.memory.lives.gone and self.memory.ended(key, self.without):
            return "gone"
        if self.remembered(key) is not None or self.memory.mentioned(key[1], self.without):
            return "memory"
        return "new"

    def near(self, value: Any) -> bool:
        """Whether a text differs in one character from an identifier of session or traffic."""
        if not maskable(value):
            return False
        own = {v for (_, v), t in self.things.items() if v != value and (t.fields or t.touched)}
        own |= self.shown
        return any(
            isinstance(v, str) and len(v) == len(value) and sum(map(ne, v, value)) == 1 for v in own
        ) or self.memory.near(value, self.without)

    def field(self, key: Key, name: str) -> Value | None:
        """A field of a thing: the session's value first, the traffic's else."""
        thing = self.things.get(key)
        if thing is not None and name in thing.fields:
            value, kind, source = thing.fields[name]
            return self._there(key, name, value), kind, source
        held = self.remembered(key)
        if held is not None and name in held.fields:
            episode = held.others.get(name, held.episode)
            return self._there(key, name, held.fields[name]), "remembered", f"episode {episode}"
        return None

    def _there(self, key: Key, name: str, value: Any) -> Any:
        """A field without what it lists and there is no more."""
        domain = self.memory.lives.lists.get(key[0], {}).get(name) if self.ended else None
        if domain is None or not isinstance(value, list):
            return value
        return [item for item in value if (domain, item) not in self.ended]

    def fields(self, key: Key) -> dict[str, Any]:
        held = self.remembered(key)
        found = dict(held[1]) if held else {}
        thing = self.things.get(key)
        if thing is not None:
            found.update((n, v[0]) for n, v in thing.fields.items())
        for name in self.memory.lives.lists.get(key[0], ()) if self.ended else ():
            if name in found:
                found[name] = self._there(key, name, found[name])
        return found

    def named(self, value: str | int) -> Key | None:
        """The thing of session or traffic that a value names, of whatever domain."""
        for domain in self.memory.versions:
            if value in self.memory.versions[domain] or (domain, value) in self.things:
                return domain, value
        return None

    def next_number(self, domain: str) -> int | str | None:
        """The next number of a counter, or one more than the largest that a thing of a kind has,
        as its id; None where none has any."""
        if domain in self.numbering:
            return self.numbering[domain]
        course = self.memory.lives.course
        serial = domain in course.serials
        last = course.peak(domain, self.without) if serial else self.memory.largest(domain)
        known = [v for v in (self.largest.get(domain), last) if v is not None]
        if not known:
            return None
        return course.written(domain, max(known) + 1) if serial else max(known) + 1

    def now(self, form: str) -> Value | None:
        """The last time that a result told, of the session or of the traffic before it."""
        if form in self.times:
            return self.times[form], "inferred", "the last time told"
        time = self.memory.lives.course.tick(form, self.without)
        return None if time is None else (time, "remembered", "the last time told")

    def together(self, one: Any, other: Any) -> bool | None:
        """Whether a result of the session named two identifiers at once; None where none named
        the first."""
        seen = [past.names for past in self.calls if one in past.names]
        return any(other in names for names in seen) if seen else None

    def elsewhere(self, n: int, ids: Iterable[tuple[str, str, Any]]) -> bool:
        """Whether an earlier call was of another thing than one that names `ids` (see
        `Context.ids`): of a kind that both have, it had others. What it says holds of the thing
        only where the traffic shows that different things share it."""
        of = self.calls[n].of
        return any(domain in of and item not in of[domain] for _, domain, item in ids)

    def unlist(self, key: Key, where: Where | None = None) -> None:
        """Take a thing out of later listings: of all of them, or `where`."""
        self.unlisted[key] = where or []
        self.changed = len(self.calls)

    def relist(self, key: Key) -> None:
        """Have listings show a thing again."""
        if self.unlisted.pop(key, None) is not None:
            self.changed = self.relisted = len(self.calls)

    def enlist(self, key: Key) -> None:
        """Have listings show a thing that a call made."""
        self.enlisted[key] = None
        self.changed = self.relisted = len(self.calls)

    def hides(self, key: tuple[str | None, Any], tool: str, args: dict[str, Any]) -> bool:
        """Whether a listing does not show a thing, for what calls did to it."""
        where = self.unlisted.get((key[0] or "", key[1]))
        if where is None:
            return bool(self.memory.lives.gone) and self.standing((key[0] or "", key[1])) == "gone"
        return hidden(where, tool, args)

    def correct(self, key: Key, fields: dict[str, Any]) -> None:
        """Take fields of a thing that a failing call told."""
        source, self.changed = f"call {len(self.calls)}", len(self.calls)
        thing = self.things.setdefault(key, Thing(first=len(self.calls)))
        thing.fields.update({n: (v, "observed", source) for n, v in fields.items()})

    def observe(
        self,
        name: str,
        args: dict[str, Any],
        outcome: str,
        value: Any,
        marks: dict[str, Mark] | None = None,
    ) -> None:
        """Take a call and its result into the state. Without `marks` all of it was observed."""
        n = len(self.calls)
        key = call_key(name, args)
        named: list[Key] = [(d, v) for _, d, v in self.ids.of_args(name, args)]
        alone: list[Key] = [(d, v) for _, d, v in self.ids.alone(name, args)]
        read = self.ids.read(name, args)
        ok = outcome.startswith("ok")
        own: list[Key] = []
        names: frozenset[Any] = frozenset()
        cells: list[tuple[str, Any]] = []
        if ok:
            if self.memory.lives.endings:
                self._end(name, args, value)
            own = self._take_records(name, alone if read is None else [read], value, n, marks)
            if isinstance(value, (dict, list)):
                cells = list(columns(value))
                names = frozenset(v for _, v in cells if idlike(v))
                self.shown |= names
            self.last[name] = n
            for time in self.memory.lives.course.told(name, args, value):
                self.times[str(len(time))] = max(time, self.times.get(str(len(time)), time))
            for path, (counter, step) in self.ids.counters.get(name, {}).items():
                number = dict(numbers(value)).get(path)
                if number is not None:
                    self.numbering[counter] = number + step
        for k in {*named, *own}:
            thing = self.things.setdefault(k, Thing(first=n))
            if ok:
                thing.touched[name] = n
                thing.failed.pop(name, None)
            else:
                thing.failed[name] = outcome
        self.same[key] = n
        refs = self.ids.refs.get(name, {})
        of = grouped((refs[path], v) for path, v in cells if path in refs and v is not None)
        of |= grouped([*named, *own])
        self.calls.append(
            Past(name, key, args, outcome, value, tuple(named), marks or {}, names, of=of)
        )

    def _end(self, name: str, args: dict[str, Any], value: Any) -> None:
        """Take what there is no more, and what there is again."""
        self.ended -= {key[:2] for key in self.ids.of_result(name, value)}
        named = self.ids.of_args(name, args)
        self.ended |= {(d, v) for p, d, v in named if (name, p) in self.memory.lives.endings}

    def _take_records(
        self, name: str, named: list[Key], value: Any, n: int, marks: Any
    ) -> list[Key]:
        if isinstance(value, str) and name in self.ids.joint:
            for key in named:
                self._merge(key, self.ids.record(name, value), n, marks, name, False)
        if not isinstance(value, (dict, list)):
            return []
        own: list[Key] = []
        found = False
        for domain, item, record in self.ids.of_result(name, value):
            found = True
            if record is value:
                own.append((domain, item))
            if record is value and (domain, item) in named:
                record = self.memory.of_thing(name, record)
            self._merge((domain, item), record, n, marks, name, record is value)
        if isinstance(value, dict) and "" not in self.ids.keys.get(name, {}):
            same = [k for k in named if any(v == k[1] for v in value.values())]
            if joint.AND in self.ids.joint.get(name, "") or (
                not found and not same and len(named) == 1
            ):
                same = named
            nameless = self.ids.joint.get(name) == joint.AND
            told = value if nameless else self.memory.of_thing(name, value)
            for key in same:
                self._merge(key, told, n, marks, name, True)
        return own

    def _merge(
        self, key: Key, record: dict[str, Any], n: int, marks: Any, name: str, top: bool
    ) -> None:
        thing = self.things.get(key)
        if thing is None:
            thing = self.things[key] = Thing(first=n)
        number = key[1] if type(key[1]) is int else self.memory.lives.course.number(*key)
        if number is not None:
            self.largest[key[0]] = max(number, self.largest.get(key[0], number))
        source = f"call {n}"
        for field_name, item in record.items():
            if marks is None:
                kind: ProvenanceKind = "observed"
            else:
                kind = _kind(marks, field_name, top)
            thing.fields[field_name] = (item, kind, source)


def grouped(keys: Iterable[Key]) -> dict[str, set[Any]]:
    """The identifiers of things by their domain."""
    found: dict[str, set[Any]] = {}
    for domain, item in keys:
        found.setdefault(domain, set()).add(item)
    return found


def _kind(marks: dict[str, Mark], name: str, top: bool) -> ProvenanceKind:
    path = f"/{escape(name)}"
    if top and path in marks:
        return marks[path].kind
    if not top:
        return marks[""].kind if "" in marks else "remembered"
    return worst(m.kind for p, m in marks.items() if p.startswith(f"{path}/"))


RANK: dict[ProvenanceKind, int] = {"observed": 0, "remembered": 1, "inferred": 2, "invented": 3}


def worst(kinds: Iterable[ProvenanceKind]) -> ProvenanceKind:
    """The least certain of several kinds."""
    return max(kinds, key=RANK.__getitem__, default="remembered")
