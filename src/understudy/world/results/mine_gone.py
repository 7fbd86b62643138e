"""What calls do to listings (world.results.gone), read off the traffic.

A thing that a listing showed before, and would show by its rule, is missing
after a call that named it, the last one on it that does anything of the kind. A listing counts as
evidence only where it keeps to its rule for things that no call touched; and one that selects by a
field which changes in the traffic, and which nothing told after the call, is evidence for listings
that select so alone: the call may have changed the field, where others on the thing go well still.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.world.data.values import chance
from understudy.world.known.context import Context
from understudy.world.known.memory import Key
from understudy.world.known.state import State, Where, hidden
from understudy.world.known.walk import Walk
from understudy.world.lists.listings import list_in, mine_presence
from understudy.world.lists.query import Query, Row
from understudy.world.results import settings
from understudy.world.results.explain import held_out
from understudy.world.results.gone import Taking, text
from understudy.world.results.settings import Setting
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Step

_LEAST = 3  # listings that show something
_SURE = 0.9
_IDLE = 0.1  # how often a thing may be missing after calls that do not take it out
_APART = 8  # listings that show that it hangs on what the call says
_FEW = 8  # values of what it hangs on, at most


@dataclass(slots=True)
class _Call:
    """A successful call on a thing, by the argument that names the thing."""

    tool: str
    argument: str
    number: int
    said: dict[Setting, Any]


@dataclass(slots=True)
class _Sight:
    """A listing that shows a thing or, as far as it can be known, would but for calls on it."""

    listing: str
    args: dict[str, Any]
    shown: bool
    level: str
    """Why it would be shown: it was to the "same" question, it is by the "rule", or it was "made"
    since that question was asked; ""."""
    calls: list[_Call]
    fold: int
    untold: list[tuple[str, Key]] = field(default_factory=list)
    """Arguments that select by fields which nothing told since the last call: (argument, (kind of
    thing, field))."""


@dataclass(slots=True)
class _Traffic:
    sights: list[_Sight] = field(default_factory=list)
    rests: dict[tuple[str, str], list[bool]] = field(default_factory=lambda: defaultdict(list))
    """Whether things that no call touched are shown again, by listing and level."""
    changing: set[Key] = field(default_factory=set)  # (kind of thing, field)
    refused: dict[tuple[str, str], list[bool]] = field(default_factory=lambda: defaultdict(list))
    """Whether the next call on a thing failed, by the tool and the argument of the last one."""

    def usable(self, s: _Sight) -> bool:
        rest = self.rests.get((s.listing, s.level), [])
        if s.shown:
            return True
        few = len(rest) < _LEAST
        return s.level in ("same", "made") if few else sum(rest) >= _SURE * len(rest)

    def weak(self, s: _Sight) -> list[str]:
        """The arguments by which a listing may have lost a thing that the call only changed."""
        refused = self.refused.get((s.calls[-1].tool, s.calls[-1].argument), [])
        if s.shown or (len(refused) >= _LEAST and sum(refused) >= _SURE * len(refused)):
            return []  # it is there, or nowhere any more
        return [p for p, at in s.untold if at in self.changing]


def mine(
    episodes: Sequence[Sequence[Step]],
    queries: Mapping[str, Query | None],
    walk: Walk,
) -> dict[str, list[Taking]]:
    """What each tool does to listings."""
    traffic = _Traffic()
    for episode in episodes:
        calls: dict[Key, list[_Call]] = defaultdict(list)
        asked: dict[tuple[str, Key], set[str]] = defaultdict(set)
        for s, c in walk.through(episode):
            state, query = c.state, queries.get(s.name)
            new = [] if s.failed else _new(s, state)
            if not s.failed and isinstance(s.value, (dict, list)):
                traffic.changing |= set(_differing(s, state))
            if not s.failed and query is not None:
                _look(traffic, s, c, query, calls, asked)
            for key in {(domain, item) for _, domain, item in c.ids if calls.get((domain, item))}:
                last = calls[key][-1]
                traffic.refused[last.tool, last.argument].append(s.failed)
            if not s.failed and query is None:
                said = settings.said(s.args, s.value, {})
                own = [(p, (domain, item)) for p, domain, item in c.ids]
                for p, key in [*own, *(("", key) for key in new)]:
                    calls[key].append(_Call(s.name, p, len(state.calls), said))
    return _takings(traffic)


def forget(
    episodes: Sequence[Sequence[Step]],
    ids: Ids,
    takings: Mapping[str, Sequence[Taking]],
    queries: Mapping[str, Query | None],
) -> None:
    """Leave what calls made out of the records that listings remember: other episodes do not have
    it."""
    made = _made(episodes, ids, takings)
    for tool, query in queries.items() if made else ():
        if query is None or query.domain is None:
            continue
        kept = [row for row in query.rows if (query.domain, row.key) not in made]
        if not kept or len(kept) == len(query.rows):
            continue
        query.forget(kept)
        good = []
        for s in (s for own in episodes for s in own if s.name == tool and not s.failed):
            _, records = list_in(s.value) or ("", [])
            others = [r for r in records if (query.domain, query.key_of(r)) not in made]
            good.append((s, others))
        mine_presence(query, good)


def _made(
    episodes: Sequence[Sequence[Step]], ids: Ids, takings: Mapping[str, Sequence[Taking]]
) -> set[Key]:
    """The things of the traffic that listings show because calls made them: each episode that shows
    one made it."""
    makers = {tool for tool, own in takings.items() if any(not t.argument for t in own)}
    found, others = set[Key](), set[Key]()
    for episode in episodes if makers else ():
        own: set[Key] = set()
        for s in (s for s in episode if not s.failed):
            new = settings.made(ids, s.name, s.args, s.value) if s.name in makers else ()
            shown = {(d, item) for d, item, _ in ids.of_result(s.name, s.value)}
            own |= {key for key, _ in new if key not in others}
            others |= shown - own
        found |= own
    return found - others


def _new(s: Step, state: State) -> list[Key]:
    """The things that a call made."""
    made = settings.made(state.ids, s.name, s.args, s.value)
    return [key for key, _ in made if key not in state.things]


def _differing(s: Step, state: State) -> Iterator[Key]:
    """The fields of things that a result shows otherwise than before."""
    for domain, item, record in state.ids.of_result(s.name, s.value):
        thing = state.things.get((domain, item))
        told = thing.fields if thing is not None else {}
        for name, value in record.items():
            if name in told and told[name][0] != value:
                yield domain, name


def _look(
    traffic: _Traffic,
    s: Step,
    c: Context,
    query: Query,
    calls: Mapping[Key, list[_Call]],
    asked: dict[tuple[str, Key], set[str]],
) -> None:
    """What a listing shows of the things that calls touched, and of those that it showed before."""
    inside = list_in(s.value)
    if inside is None or query.key is None or query.domain is None:
        return
    shown = {(query.domain, query.key_of(record)) for record in inside[1] if query.key in record}
    full = query.cuts(len(shown), s.args)
    before = [key for tool, key in asked if tool == s.name]
    touched = [key for key, own in calls.items() if own and key[0] == query.domain]
    for key in dict.fromkeys([*touched, *before]):
        own = list(calls.get(key, ()))
        new = _lacked(c, own)
        level = _level(s, c, query, key, asked.get((s.name, key), set()), new)
        if key not in shown and (full or not level):
            continue
        if own and (own[-1].argument or new):
            sight = _Sight(
                s.name, s.args, key in shown, level, own, int(2 * chance("fold", s.origin))
            )
            sight.untold = _untold(query, key, s.args, c.state, own[-1].number)
            traffic.sights.append(sight)
        elif not own and level:
            traffic.rests[s.name, level].append(key in shown)
    for key in shown:
        asked[s.name, key].add(c.key)


def _lacked(c: Context, calls: Sequence[_Call]) -> bool:
    """Whether the same listing was seen before a call made the thing that calls touched."""
    if not calls or calls[0].argument:
        return False
    return any(past.ok and past.key == c.key for past in c.state.calls[: calls[0].number])


def _level(s: Step, c: Context, query: Query, key: Key, asked: set[str], new: bool) -> str:
    """Why a listing would show a thing; "" where nothing says so."""
    rows = query.by_key(key[1])
    if query.vary is not None:
        return "same" if c.key in asked else ""
    under: dict[str, list[Any]] = {}
    for row in rows:
        for p, values in row.under.items():
            under.setdefault(p, []).extend(values)
    whole = {**(rows[0].fields if rows else {}), **c.state.fields(key)}
    if not query.chooses(Row(key[1], whole, under), s.args):
        return ""
    if c.key in asked:
        return "same"
    others = any(e not in c.state.without for row in rows for e in row.episodes)
    return "rule" if asked or (others and query.present >= 0.97) else "made" if new else ""


def _untold(
    query: Query, key: Key, args: Mapping[str, Any], state: State, call: int
) -> list[tuple[str, Key]]:
    """The arguments that select by a field of a thing which nothing told after a call, nor it."""
    thing = state.things.get(key)
    found = []
    for p, name in query.equal:
        source = thing.fields[name][2] if thing is not None and name in thing.fields else ""
        head, _, number = source.partition(" ")
        if args.get(p) is not None and not (head == "call" and int(number) >= call):
            found.append((p, (key[0], name)))
    return found


def _takings(traffic: _Traffic) -> dict[str, list[Taking]]:
    sights = [s for s in traffic.sights if traffic.usable(s)]
    idle = _idle(sights)
    for s in sights:
        s.calls = [call for call in s.calls if (call.tool, call.argument) not in idle]
    found = defaultdict[str, list[Taking]](list)
    names = sorted({(call.tool, call.argument) for s in sights for call in s.calls})
    for back in (False, True):
        ranked = []
        for tool, p in names:
            own = _own(sights, tool, p, found, back)
            taking = _taking(traffic, own, p, back)
            if taking is not None:
                ranked.append((-taking.seen, tool, p))
        for _, tool, p in sorted(ranked):
            # what another tool took out before is not what this one does
            taking = _taking(traffic, _own(sights, tool, p, found, back), p, back)
            if taking is not None:
                found[tool].insert(0 if back else len(found[tool]), taking)
    return {tool: own for tool, own in found.items() if own}


def _idle(sights: Sequence[_Sight]) -> set[tuple[str, str]]:
    """The tools after whose calls alone things are listed as before."""
    alone: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for s in sights:
        names = {(call.tool, call.argument) for call in s.calls if call.argument}
        if len(names) == 1:
            alone[names.pop()].append(s.shown)
    return {
        name for name, shown in alone.items()
        if len(shown) >= _LEAST and sum(shown) >= (1 - _IDLE) * len(shown)
    }  # fmt: skip


def _own(
    sights: Sequence[_Sight],
    tool: str,
    p: str,
    found: Mapping[str, Sequence[Taking]],
    back: bool,
) -> list[_Sight]:
    """The sights of things that a tool's call touched last, and that were listed before it; of
    those that were not, for what brings things back."""
    own = []
    for s in sights:
        if s.calls and (s.calls[-1].tool, s.calls[-1].argument) == (tool, p):
            where = _where_before(s.calls[:-1], found)
            gone = where is not None and hidden(where, s.listing, s.args)
            if (gone or not p) == back:
                own.append(s)
    return own


def _where_before(calls: Sequence[_Call], found: Mapping[str, Sequence[Taking]]) -> Where | None:
    """The listings out of which calls took their thing; None where it is in all."""
    where = None
    for call in calls:
        for taking in found.get(call.tool, ()):
            if taking.argument == call.argument and taking.says(call.said):
                where = None if taking.back else taking.where
    return where


def _taking(traffic: _Traffic, own: Sequence[_Sight], p: str, back: bool) -> Taking | None:
    """What calls do to listings: all of them, or those that say some value."""
    whole = _fitted(traffic, own, Taking(p, back=back))
    if whole is not None or len(own) < _APART:
        return whole
    found = []
    for when in sorted({setting for s in own for setting in s.calls[-1].said}):
        by_value: dict[str, list[_Sight]] = defaultdict(list)
        for s in own:
            by_value[text(s.calls[-1].said.get(when))].append(s)
        if not 2 <= len(by_value) <= _FEW:
            continue
        values = [
            v for v, those in sorted(by_value.items())
            if _fitted(traffic, those, Taking(p, back=back)) is not None
        ]  # fmt: skip
        those = [s for v in values for s in by_value[v]]
        others = [s.shown == back for v in by_value if v not in values for s in by_value[v]]
        taking = _fitted(traffic, those, Taking(p, [], back, when, values))
        if taking is not None and sum(others) <= _IDLE * len(others):
            found.append(taking)
    return max(found, key=lambda t: t.seen, default=None)


def _fitted(traffic: _Traffic, own: Sequence[_Sight], taking: Taking) -> Taking | None:
    """What such calls do, where it is sure: on both halves of the scenarios."""
    where = [] if taking.back else _where(traffic, own)
    if where is None:
        return None
    right, had = [0, 0], [0, 0]
    for s in own:
        if hidden(where, s.listing, s.args):
            had[s.fold] += 1
            right[s.fold] += s.shown == taking.back
    taking.where, taking.seen = where, sum(had)
    precise = held_out((right[0], right[1]), (had[0], had[1])) if had != [0, 0] else 0.0
    return taking if taking.seen >= _LEAST and precise >= _SURE else None


def _where(traffic: _Traffic, own: Sequence[_Sight]) -> Where | None:
    """The listings that calls take a thing out of; None where it is none."""
    by_listing: dict[str, list[_Sight]] = defaultdict(list)
    for s in own:
        by_listing[s.listing].append(s)
    where: Where = []
    everywhere = False
    for listing, seen in sorted(by_listing.items()):
        plain = [s for s in seen if not traffic.weak(s)]
        if plain and _missing(plain):
            everywhere = True
            continue
        but = _but(plain)
        if but is not None:
            everywhere = True
            where.append((listing, *but, False))
            continue
        asked = Counter((p, text(s.args[p])) for s in seen for p in traffic.weak(s))
        for p, value in sorted(asked):
            those = [s for s in seen if p in s.args and text(s.args[p]) == value]
            if len(those) >= _LEAST and _missing(those):
                where.append((listing, p, value, True))
        where.append((listing, "", "", False))
    if not everywhere:
        where.append(("", "", "", False))
    return where if everywhere or any(gone for *_, gone in where) else None


def _but(seen: Sequence[_Sight]) -> tuple[str, str] | None:
    """The argument, and its value, with which a listing shows a thing that it does not else."""
    asked = Counter((p, text(v)) for s in seen for p, v in s.args.items())
    for p, value in sorted(asked) if len(seen) >= _APART else ():
        those = [s for s in seen if p in s.args and text(s.args[p]) == value]
        others = [s for s in seen if s not in those]
        kept = sum(s.shown for s in those) >= _SURE * len(those)
        if kept and len(those) > 1 and len(others) >= _LEAST and _missing(others):
            return p, value
    return None


def _missing(seen: Sequence[_Sight]) -> bool:
    return sum(not s.shown for s in seen) >= _SURE * len(seen)
