"""What calls draw from the numbers of listed records: places of a class on a day, the stock of a
size.

A record that a listing shows twice in an episode, with one successful call between the two that
names it, says what the call did to it; numbers inside the record that moved are explained by the
call's arguments: which of them it is (a part of its path that an argument names) and by how much.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from understudy.world.data.amounts import CENT, Value, amount, call_values, moved_by
from understudy.world.data.values import is_number, leaves, unescape
from understudy.world.known.context import tuplify
from understudy.world.known.state import State
from understudy.world.lists.listings import list_in
from understudy.world.lists.query import Query
from understudy.world.traffic.transitions import Step

Part = tuple[str, str]  # ("is", name), or ("arg", the argument that names it)
_LEAST = 2  # calls that show a draw
_SURE = 0.8


@dataclass(slots=True)
class Draw:
    """What a successful call does to the records of a listing that it names."""

    listing: str  # the tool that lists
    group: str  # the argument that names records in its elements; "" where arguments name one
    key: str  # where in the element (or the arguments) the record's key stands
    vary: str  # and the value of the listing's varying argument; "" where it has none
    path: list[Part]  # the number inside the record
    sign: str
    amount: Value
    seen: int = 0  # calls that showed the number before and after
    right: int = 0  # of these: it moved by the amount


@dataclass(slots=True)
class _Seen:
    """A record before and after a call that names it there."""

    place: tuple[str, str, str]
    values: dict[Value, Any]
    args: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]


@dataclass(slots=True)
class _Sight:
    """A record that was listed twice, and the calls in between that name it, each with where."""

    listing: str
    named: list[tuple[Step, tuple[str, str, str]]]
    before: dict[str, Any]
    after: dict[str, Any]


def mine(
    episodes: Sequence[Sequence[Step]], queries: Mapping[str, Query | None]
) -> dict[str, list[Draw]]:
    """The draws of each tool."""
    listings = {n: q for n, q in queries.items() if q is not None and q.key is not None}
    sights = [sight for episode in episodes for sight in _sights(episode, listings)]
    alone: dict[str, list[bool]] = defaultdict(list)  # tool -> whether the record was as before
    for sight in sights:
        if len(tools := {call.name for call, _ in sight.named}) == 1:
            alone[tools.pop()].append(sight.before == sight.after)
    idle = {tool for tool, same in alone.items() if len(same) >= _LEAST and all(same)}
    samples: dict[tuple[str, str], list[_Seen]] = defaultdict(list)
    for sight in sights:
        named = [(call, place) for call, place in sight.named if call.name not in idle]
        if len({id(call) for call, _ in named}) == 1:
            call, place = named[0]
            values = call_values(call.args, call.value)
            seen = _Seen(place, values, call.args, sight.before, sight.after)
            samples[call.name, sight.listing].append(seen)
    found: dict[str, list[Draw]] = defaultdict(list)
    for (tool, listing), seen_ in samples.items():
        deep = 1 if listings[listing].vary else 2  # plain fields are world.results.effects'
        found[tool] += _draws(listing, seen_, deep)
    return {tool: draws for tool, draws in found.items() if draws}


def _sights(episode: Sequence[Step], listings: Mapping[str, Query]) -> Iterator[_Sight]:
    """Records that an episode lists again, with the calls in between that name them."""
    known: dict[tuple[str, Any, Any], tuple[dict[str, Any], list[Step]]] = {}
    for s in episode:
        if s.failed:
            continue
        query = listings.get(s.name)
        if query is None:
            for _, between in known.values():
                between.append(s)
            continue
        varying = s.args.get(query.vary) if query.vary else None
        for record in (list_in(s.value) or ("", []))[1]:
            key = record.get(query.key or "")
            if not isinstance(key, (str, int)):
                continue
            held = s.name, key, repr(varying)
            for before, between in [known[held]] if held in known else []:
                named = [(c, p) for c in between for p in _places(c.args, key, varying)]
                yield _Sight(s.name, named, before, record)
            known[held] = record, []


def _places(args: dict[str, Any], key: Any, varying: Any) -> Iterator[tuple[str, str, str]]:
    """Where a call's arguments name a record, and beside it the varying value."""
    groups = [(p, e) for p, v in args.items() if isinstance(v, list) for e in v]
    for group, inside in [("", args), *groups]:
        if not isinstance(inside, dict):
            continue
        keys = [n for n, v in inside.items() if v == key and isinstance(v, (str, int))]
        values = [n for n, v in inside.items() if v == varying] if varying is not None else [""]
        yield from ((group, n, m) for n in keys[:1] for m in values[:1])


def _draws(listing: str, seen: Sequence[_Seen], deep: int) -> list[Draw]:
    """The numbers that move, each with what moves them."""
    place, n = Counter(s.place for s in seen).most_common(1)[0]
    seen = [s for s in seen if s.place == place]
    moved: Counter[tuple[Part, ...]] = Counter()
    for s in seen:
        before = dict(leaves(s.before))
        for path, value in leaves(s.after):
            if is_number(value) and is_number(before.get(path)) and value != before[path]:
                parts = _parts(path, s.args)
                if len(parts) >= deep:
                    moved[parts] += 1
    found = []
    for parts, times in moved.items():
        pairs = [(s.values, _at(s.after, parts, s.args) - b) for s in seen
                 if (b := _at(s.before, parts, s.args)) is not None
                 and _at(s.after, parts, s.args) is not None]  # fmt: skip
        by = moved_by(pairs) if times >= max(_LEAST, _SURE * n) else None
        if by is not None:
            sign = 1 if by[0] == "+" else -1
            moves = [(amount(by[1], values), sign * moved) for values, moved in pairs]
            right = sum(a is not None and abs(a - moved) < CENT for a, moved in moves)
            found.append(Draw(listing, *place, list(parts), *by, len(pairs), right))
    return found


def _parts(path: str, args: dict[str, Any]) -> tuple[Part, ...]:
    """A path with those of its parts that arguments name."""
    told = {v: p for p, v in args.items() if isinstance(v, str)}
    names = [unescape(n) for n in path.split("/")[1:]]
    return tuple(("arg", told[n]) if n in told else ("is", n) for n in names)


def _at(record: Any, parts: Sequence[Part], args: dict[str, Any]) -> Any:
    """The number at a path, None where there is none."""
    for kind, name in parts:
        name = args.get(name, "") if kind == "arg" else name
        record = record.get(name) if isinstance(record, dict) and isinstance(name, str) else None
    return record if is_number(record) else None


def note(draws: Sequence[Draw], args: dict[str, Any], result: Any, state: State) -> None:
    """Write what a successful call drew into the state, which has seen the call."""
    values = call_values(args, result) if draws else {}
    for draw in draws:
        taken = amount(draw.amount, values)
        within = args.get(draw.group) if draw.group else [args]
        if taken is None or not isinstance(within, list):
            continue
        path = tuple(args.get(n) if kind == "arg" else n for kind, n in draw.path)
        signed = taken if draw.sign == "+" else -taken
        for inside in within:
            if isinstance(inside, dict) and isinstance(inside.get(draw.key), (str, int)):
                varying = repr(inside.get(draw.vary) if draw.vary else None)
                known = state.drawn.setdefault((draw.listing, inside[draw.key], varying), [])
                known.append((len(state.calls) - 1, path, signed))
                state.changed = len(state.calls) - 1


def after(
    record: dict[str, Any], key: tuple[str, Any, Any], since: int, state: State
) -> dict[str, Any]:
    """A record as it is after what the session's calls later than `since` drew from it."""
    later = [(path, by) for call, path, by in state.drawn.get(key, ()) if call > since]
    if not later:
        return record
    record = deepcopy(record)
    for path, by in later:
        inside: Any = record
        for name in path[:-1]:
            inside = inside.get(name) if isinstance(inside, dict) else None
        if isinstance(inside, dict) and is_number(inside.get(path[-1])):
            inside[path[-1]] = round(inside[path[-1]] + by, 2)
    return record


def read(data: Mapping[str, Any]) -> Draw:
    """A draw from its JSON."""
    path = [(kind, name) for kind, name in data["path"]]
    return Draw(**{**data, "path": path, "amount": tuplify(data["amount"])})
