"""What is known when a call arrives: named sources of values, and features of the situation."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.core.types import ProvenanceKind
from understudy.world.data.moments import UNITS, is_moment, later
from understudy.world.data.ranges import Range
from understudy.world.data.values import (
    SIZES,
    at,
    call_key,
    column_sum,
    escape,
    is_number,
    leaves,
    operate,
)
from understudy.world.known.memory import Key
from understudy.world.known.sources import operation_text
from understudy.world.known.state import Past, State

_SLUG = 64  # characters of an identifier that is taken apart, at most
Source = tuple[Any, ...]
Found = tuple[Any, ProvenanceKind, str]


@dataclass(frozen=True, slots=True)
class Overlap:
    """What stands in the way of a call (world.outcomes.overlaps): things of a kind whose fields
    `begin` and `end` overlap what the call asks for, whose other fields are `equal` to its values,
    `without` those that have some value."""

    domain: str
    begin: str
    end: str
    start: Source
    until: Source
    equal: tuple[tuple[str, Source], ...] = ()
    without: tuple[tuple[str, Any], ...] = ()


@dataclass(slots=True)
class ToolFacts:
    """What every part of the world needs to know of a tool's arguments."""

    name: str
    known: list[str] = field(default_factory=list)  # arguments of successful calls
    required: list[str] = field(default_factory=list)
    categorical: dict[str, list[Any]] = field(default_factory=dict)  # few-valued arguments
    numeric: list[str] = field(default_factory=list)
    ranges: dict[str, Range] = field(default_factory=dict)  # of numbers that are no ids
    patterns: dict[str, list[str]] = field(default_factory=dict)  # formats of good arguments
    refused: dict[str, list[str]] = field(default_factory=dict)  # formats of failed calls alone
    kinds: dict[str, list[str]] = field(default_factory=dict)  # JSON types of good arguments
    words: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Good values of arguments that have few of them, each with (up to two) origins."""
    tools: list[str] = field(default_factory=list)  # the other tools of the traffic
    owners: list[tuple[str, str, str, str]] = field(default_factory=list)  # see world.known.owners
    frames: list[str] = field(default_factory=list)  # see world.outcomes.frames
    quotes: list[str] = field(default_factory=list)  # see world.results.quotes
    overlaps: list[Overlap] = field(default_factory=list)  # see world.outcomes.overlaps

    def missing(self, args: dict[str, Any]) -> list[str]:
        return [p for p in self.required if p not in args]

    def extra(self, args: dict[str, Any]) -> list[str]:
        return [p for p in args if p not in self.known] if self.known else []


@dataclass(slots=True)
class Context:
    """One call in its state."""

    state: State
    tool: ToolFacts
    args: dict[str, Any]
    hits: bool | None = None  # whether remembered records match, for tools that list
    unseen: bool | None = None  # a listing asked for a value that selects nothing by itself
    recall: Any = None  # what the traffic (other episodes) answered to this very call
    ids: list[tuple[str, str, Any]] = field(default_factory=list)
    key: str = ""
    out: dict[str, Any] = field(default_factory=dict)  # the result as far as it is made
    listings: Sequence[Any] = ()  # what was mined of the tools that list (world.lists.query)
    clashes: list[list[Any] | None] = field(default_factory=list)
    """For each of the tool's overlaps the things in the way; None: the call says too little."""
    _still: tuple[int | None] | None = None  # see `still`

    def __post_init__(self) -> None:
        self.ids = self.state.ids.of_args(self.tool.name, self.args)
        self.key = call_key(self.tool.name, self.args)

    def id_of(self, argument: str) -> Key | None:
        for p, domain, value in self.ids:
            if p == argument:
                return domain, value
        return None

    def still(self) -> int | None:
        """The session's last equal call that went well, if no other tool's call has named its
        things since; where it names none, its arguments' values."""
        if self._still is None:
            self._still = (self._unnamed_since() if self.key in self.state.same else None,)
        return self._still[0]

    def _unnamed_since(self) -> int | None:
        own, values = {(d, v) for _, d, v in self.ids}, {v for _, v in leaves(self.args)}
        for n in range(len(self.state.calls) - 1, -1, -1):
            past = self.state.calls[n]
            if past.ok and past.key == self.key:
                return n
            if not past.ok or past.name == self.tool.name:
                continue
            if own and own.isdisjoint(past.ids):
                continue
            if own or not values or any(v in values for _, v in leaves(past.args)):
                return None
        return None


def resolve(source: Source, c: Context) -> Found | None:
    """The value of a source in a context, with where it comes from; None where it has none."""
    kind = _KINDS.get(source[0])
    return None if kind is None else kind(source, c)


def _const(source: Source, c: Context) -> Found | None:
    return source[1], "inferred", "constant"


def _arg(source: Source, c: Context) -> Found | None:
    value = _at(c.args, source[1])
    return None if value is None else (value[0], "observed", f"argument {source[1]}")


def _own(source: Source, c: Context) -> Found | None:
    key = c.id_of(source[1])
    thing = c.state.things.get(key) if key else None
    return _inside(thing.fields.get(source[2]) if thing else None, source)


def _ref(source: Source, c: Context) -> Found | None:
    key = c.id_of(source[1])
    return _inside(c.state.field(key, source[2]) if key else None, source)


def _ref_of_ref(source: Source, c: Context) -> Found | None:
    key = hop(c, source[1], source[2])
    return c.state.field(key, source[3]) if key else None


def _out(source: Source, c: Context) -> Found | None:
    value = _at(c.out, source[1])
    return None if value is None else (value[0], "inferred", "this result")


def _last(source: Source, c: Context) -> Found | None:
    n = c.state.last.get(source[1])
    if n is None or c.state.elsewhere(n, c.ids) != (source[0] == "other"):
        return None
    return _of_call(n, source[2], c)


def _repeat(source: Source, c: Context) -> Found | None:
    n = c.state.same.get(c.key) if source[0] == "repeat" else c.still()
    return None if n is None or not c.state.calls[n].ok else _of_call(n, source[1], c)


def _of_call(n: int, path: str, c: Context) -> Found | None:
    """A leaf of an earlier result of the session."""
    past = c.state.calls[n]
    value = _at(past.value, path)
    return None if value is None else (value[0], kind_at(past, path), f"call {n}")


def _recall(source: Source, c: Context) -> Found | None:
    value = _at(c.recall, source[1]) if c.recall is not None else None
    return None if value is None else (value[0], "remembered", "same call in the traffic")


def _word(source: Source, c: Context) -> Found | None:
    value = _at(c.args, source[1])
    word = None if value is None else dict(_words(value[0])).get(source[2:])
    return None if word is None else (word, "inferred", f"a word of argument {source[1]}")


def _next(source: Source, c: Context) -> Found | None:
    number = c.state.next_number(source[1])
    return None if number is None else (number, "inferred", "the next number")


def _long(source: Source, c: Context) -> Found | None:
    found = resolve(source[2], c)
    if found is None or not isinstance(found[0], str):
        return None
    return SIZES[source[1]](found[0]), "inferred", f"{source[1]} of a text"


def _tool(source: Source, c: Context) -> Found | None:
    return c.tool.name, "observed", "tool"


def _amiss(source: Source, c: Context) -> Found | None:
    """An argument that is missing, or one that the tool does not know."""
    names = c.tool.missing(c.args) if source[0] == "missing" else c.tool.extra(c.args)
    return (names[source[1]], "inferred", source[0]) if source[1] < len(names) else None


def _clash(source: Source, c: Context) -> Found | None:
    met = c.clashes[source[1]] if source[1] < len(c.clashes) else None
    return (met[0], "inferred", "what is in the way") if met else None


def kind_at(past: Past, path: str) -> ProvenanceKind:
    """Where a leaf of an earlier result came from; what was really seen was observed."""
    if not past.marks:
        return "observed"
    mark = past.marks.get(path) or past.marks.get("")
    return mark.kind if mark else "remembered"


def _aggregate(source: Source, c: Context) -> Found | None:
    found = resolve(source[1], c)
    if found is None:
        return None
    if source[0] == "total":
        times = resolve(source[2], c)
        return None if times is None else (round(found[0] * times[0], 2), "inferred", "total")
    if not isinstance(found[0], list):
        return None
    if source[0] == "count":
        return len(found[0]), found[1], "number of items"
    total = column_sum(found[0], source[2])
    return None if total is None else (total, found[1], f"sum of {source[2]}")


def _words(value: Any) -> Iterator[tuple[tuple[int, str], str]]:
    """The words of an identifier that is made of some, with their places, in two forms."""
    if not isinstance(value, str) or len(value) > _SLUG or " " in value:
        return
    parts = re.split(r"[_.\-@]", value)
    for n, part in enumerate(parts if len(parts) > 1 else ()):
        if part.isalpha():
            yield (n, "plain"), part
            if part.capitalize() != part:
                yield (n, "capital"), part.capitalize()


def _short(source: Source, c: Context) -> Found | None:
    """A text as a message quotes it: with its middle left out where it is long."""
    _, whole, head, dots, tail = source
    found = resolve(whole, c)
    if found is None or not isinstance(found[0], str):
        return None
    value = found[0]
    long = len(value) > head + len(dots) + tail
    return (f"{value[:head]}{dots}{value[-tail:]}" if long else value), *found[1:]


def _inside(found: Found | None, source: Source) -> Found | None:
    """The part of a field's value that the source's path, if it has one, points to."""
    if found is None or len(source) < 4:
        return found
    part = _at(found[0], source[3])
    return None if part is None else (part[0], *found[1:])


def _reckon(source: Source, c: Context) -> Found | None:
    """A moment out of another one (world.data.moments)."""
    begin = resolve(source[1], c)
    if begin is None or not is_moment(begin[0]):
        return None
    if source[0] == "day":
        return begin[0][:10], "inferred", "day of a time"
    by = resolve(source[3], c)
    if by is None or not is_number(by[0]):
        return None
    moment = later(begin[0], by[0] * UNITS[source[2]])
    return None if moment is None else (moment, "inferred", "moment that is later")


def _operate(source: Source, c: Context) -> Found | None:
    a, b = resolve(source[2], c), resolve(source[3], c)
    if a is None or b is None or not is_number(a[0]) or not is_number(b[0]):
        return None
    kind: ProvenanceKind = "invented" if "invented" in (a[1], b[1]) else "inferred"
    return operate(source[1], a[0], b[0]), kind, operation_text(*source[1:4])


_KINDS: dict[str, Callable[[Source, Context], Found | None]] = {
    "const": _const, "arg": _arg, "own": _own, "ref": _ref, "ref2": _ref_of_ref, "out": _out,
    "count": _aggregate, "sum": _aggregate, "total": _aggregate, "last": _last, "other": _last,
    "repeat": _repeat, "still": _repeat,
    "recall": _recall, "short": _short, "word": _word, "next": _next, "later": _reckon,
    "day": _reckon, "long": _long, "clash": _clash, "tool": _tool, "missing": _amiss,
    "extra": _amiss, "op": _operate, "now": lambda s, c: c.state.now(s[1]),
}  # fmt: skip


def _at(value: Any, path: str) -> tuple[Any] | None:
    """What stands at a pointer, in a tuple, as it may be null; None where nothing does."""
    try:
        return (at(value, path),)
    except KeyError:
        return None


def hop(c: Context, argument: str, name: str) -> Key | None:
    """The thing that a field of an argument's thing refers to."""
    key = c.id_of(argument)
    found = c.state.field(key, name) if key else None
    if found is None or not isinstance(found[0], (str, int)):
        return None
    return c.state.named(found[0])


def sources(c: Context) -> Iterator[tuple[Source, Any]]:
    """Every source of values in a context, simplest first."""
    yield from _in_arguments(c)
    for p, domain, item in c.ids:
        yield from _in_thing(c, p, (domain, item))
    for tool, n in c.state.last.items():
        past = c.state.calls[n]
        if isinstance(past.value, dict):
            kind = "other" if c.state.elsewhere(n, c.ids) else "last"
            for path, value in leaves(past.value):
                yield (kind, tool, path), value
    for form in c.state.memory.lives.course.ticks:
        if (time := c.state.now(form)) is not None:
            yield ("now", form), time[0]
    for domain in (*c.state.memory.versions, *c.state.numbering):
        number = c.state.next_number(domain)
        if number is not None:
            yield ("next", domain), number
    n_same = c.state.same.get(c.key)
    if n_same is not None and c.state.calls[n_same].ok:
        for path, value in branches(c.state.calls[n_same].value):
            yield ("repeat", path), value
    n_still = c.still()
    if n_still is not None:
        for path, value in branches(c.state.calls[n_still].value):
            yield ("still", path), value
    if c.recall is not None:
        for path, value in branches(c.recall):
            yield ("recall", path), value


def _in_arguments(c: Context) -> Iterator[tuple[Source, Any]]:
    for path, value in leaves(c.args):
        yield ("arg", path), value
        for (n, form), word in _words(value):
            yield ("word", path, n, form), word
    for p, value in c.args.items():
        if isinstance(value, (list, dict)):
            yield ("arg", f"/{escape(p)}"), value


def _in_thing(c: Context, p: str, key: Key) -> Iterator[tuple[Source, Any]]:
    """The fields of the thing that an argument names, and of those that it refers to."""
    thing = c.state.things.get(key)
    for name, (value, _, _) in thing.fields.items() if thing else ():
        yield from _parts(("own", p, name), value)
    own = c.state.fields(key)
    for name, value in own.items():
        yield from _parts(("ref", p, name), value)
    for name, value in own.items():
        if isinstance(value, (str, int)) and value != key[1]:
            to = hop(c, p, name)
            if to is not None and to != key:
                for far, v in c.state.fields(to).items():
                    yield ("ref2", p, name, far), v


def _parts(source: Source, value: Any) -> Iterator[tuple[Source, Any]]:
    yield source, value
    if isinstance(value, dict):
        for path, part in branches(value):
            yield (*source, path), part


def branches(value: Any) -> Iterator[tuple[str, Any]]:
    """A value's leaves, with lists also as wholes."""
    if isinstance(value, dict):
        for key, item in value.items():
            for path, leaf in branches(item):
                yield f"/{escape(key)}{path}", leaf
            if isinstance(item, dict):
                yield f"/{escape(key)}", item
    else:
        yield "", value


def tuplify(value: Any) -> Any:
    """Lists of a source read from JSON as tuples again."""
    return tuple(tuplify(v) for v in value) if isinstance(value, list) else value
