"""Conflicts of intervals: calls that are refused because the time that they ask for overlaps that
of a thing which is there already.

What a call asks for begins with a moment in its arguments and ends with another, or as much later
as a number says; things have two moments of their own, one before the other. Which of them it is,
what the things must have in common with the call and what makes them no obstacle is chosen on one
half of the scenarios, and kept where it holds on the other half.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from understudy.world.data.moments import UNITS, between, is_moment
from understudy.world.data.values import chance, escape, is_number
from understudy.world.known.context import Context, Overlap, Source, resolve
from understudy.world.known.memory import Memory
from understudy.world.known.walk import Walk
from understudy.world.traffic.transitions import Step

Span = tuple[float, float]
Form = tuple[str, str, str, Source, Source]  # an Overlap without its conditions
Refused = tuple[bool, bool]  # whether a thing is in the way, whether the call was refused
_LEAST, _SURE, _MOST = 5, 0.8, 0.5
_CALLS = 400  # of a tool that are looked at
_FORMS = 6  # of conflicts to which conditions are looked for
_POINT = 1e-6  # seconds: what a moment alone lasts


@dataclass(slots=True)
class _Call:
    """A call that went well or was refused, the scalars that it names, and the things (their
    fields) that overlap what it asks for."""

    refused: str
    half: bool
    values: dict[Source, Any]
    inside: dict[Form, list[dict[str, Any]]] = field(default_factory=dict)


def obstacles(o: Overlap, c: Context) -> list[Any] | None:
    """The identifiers of the things in the way of a call, the earliest first; None where the call
    does not say what it asks for."""
    asked = _span(*(found and found[0] for found in (resolve(o.start, c), resolve(o.until, c))))
    wanted = [(name, found[0]) for name, s in o.equal if (found := resolve(s, c)) is not None]
    if asked is None or len(wanted) < len(o.equal):
        return None
    met = []
    for key, fields in _things(o.domain, c, wanted):
        span = _span(fields.get(o.begin), fields.get(o.end))
        if span is not None and _meet(span, asked) and _counts(fields, wanted, o.without):
            met.append((span[0], str(key), key))
    return [key for _, _, key in sorted(met)]


def _things(
    domain: str, c: Context, wanted: Sequence[tuple[str, Any]] = ()
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The things of a kind that session or traffic know, those that the call names aside."""
    named, memory = {(d, v) for _, d, v in c.ids}, c.state.memory
    kept: Iterable[Any] = memory.versions.get(domain, ())
    if wanted:
        kept = memory.having(domain, *wanted[0])
    own = [v for d, v in c.state.things if d == domain]
    for key in dict.fromkeys([*kept, *own]):
        if (domain, key) not in named:
            yield key, c.state.fields((domain, key))


def _counts(
    fields: Mapping[str, Any],
    wanted: Iterable[tuple[str, Any]],
    without: Iterable[tuple[str, Any]],
) -> bool:
    same = all(name in fields and fields[name] == value for name, value in wanted)
    return same and not any(fields.get(name) == value for name, value in without)


def _meet(a: Span, b: Span) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def _span(begin: Any, end: Any) -> Span | None:
    """From one moment to another, in seconds of a clock of their own; None where they are none."""
    a, b = _seconds(begin), _seconds(end)
    return None if a is None or b is None or b < a else (a, max(b, a + _POINT))


def _seconds(moment: Any) -> float | None:
    return _clock(moment) if isinstance(moment, str) and is_moment(moment) else None


@lru_cache(maxsize=20_000)
def _clock(moment: str) -> float | None:
    for origin in ("2001-01-01T00:00:00Z", "2001-01-01T00:00:00"):
        seconds = between(origin, moment)
        if seconds is not None:
            return seconds
    return None


def mine(
    episodes: Sequence[Sequence[Step]],
    memory: Memory,
    walk: Walk,
    worded: Callable[[Step], str],
) -> dict[str, list[Overlap]]:
    """The conflicts of each tool. `worded` is the form of a failure."""
    refused = Counter((s.name, worded(s)) for own in episodes for s in own if s.failed)
    tools = {name for (name, _), n in refused.items() if n >= 2 * _LEAST}
    dated = {s.name for own in episodes for s in own if any(map(is_moment, s.args.values()))}
    pairs = _pairs(memory)
    if not pairs or not tools & dated:
        return {}
    calls: dict[str, list[_Call]] = defaultdict(list)
    for episode in episodes:
        for s, c in walk.through(episode):
            if s.name in tools & dated and len(calls[s.name]) < _CALLS:
                calls[s.name].append(_seen(s, c, pairs, worded(s) if s.failed else ""))
    found: dict[str, list[Overlap]] = {}
    for (tool, form), n in sorted(refused.items()):
        if n >= 2 * _LEAST and tool in calls:
            best = _best([call for call in calls[tool] if call.refused in ("", form)])
            if best is not None:
                found.setdefault(tool, []).append(best)
    return found


def _pairs(memory: Memory) -> list[tuple[str, str, str]]:
    """(domain, field, field) of moments of which one comes before the other."""
    found = []
    for domain, things in memory.versions.items():
        known = [fields for held in list(things.values())[:100] for _, fields in held[-1:]]
        names = Counter(n for f in known for n, v in f.items() if is_moment(v))
        often = [n for n, k in names.items() if k >= _SURE * len(known) and k >= _LEAST]
        for one in often:
            for other in often:
                spans = [_span(f.get(one), f.get(other)) for f in known if one in f and other in f]
                if one != other and sum(s is not None for s in spans) >= 0.95 * len(spans) > 0:
                    found.append((domain, one, other))
    return found


def _seen(s: Step, c: Context, pairs: Sequence[tuple[str, str, str]], refused: str) -> _Call:
    values: dict[Source, Any] = {
        ("arg", f"/{escape(p)}"): v for p, v in c.args.items() if not isinstance(v, (dict, list))
    }
    for p, domain, item in c.ids:
        own = c.state.fields((domain, item))
        values |= {("ref", p, n): v for n, v in own.items() if not isinstance(v, (dict, list))}
    call = _Call(refused, chance("half", s.origin) < 0.5, values)
    asked: dict[tuple[Source, Source], Span] = {}
    for one, other in _asked(values):
        begin, end = resolve(one, c), resolve(other, c)
        wanted = _span(begin and begin[0], end and end[0])
        if wanted is not None:
            asked[one, other] = wanted
    for domain in dict.fromkeys(d for d, _, _ in pairs):
        things = [fields for _, fields in _things(domain, c)]
        for _, first, last in (p for p in pairs if p[0] == domain):
            spans = [(f, its) for f in things if (its := _span(f.get(first), f.get(last)))]
            for (begins, ends), span in asked.items():
                form = domain, first, last, begins, ends
                call.inside[form] = [f for f, its in spans if _meet(its, span)]
    return call


def _asked(values: Mapping[Source, Any]) -> Iterator[tuple[Source, Source]]:
    """From where to where a call may ask: from one of its moments to another, to itself, or for as
    long as a number says."""
    moments = [s for s, v in values.items() if s[0] == "arg" and is_moment(v)]
    numbers = [s for s, v in values.items() if is_number(v) and v > 0]
    for one in moments:
        yield from ((one, other) for other in moments)
        yield from ((one, ("later", one, unit, n)) for n in numbers for unit in UNITS)


def _best(calls: Sequence[_Call]) -> Overlap | None:
    """The conflict that tells best which calls are refused; None where it does not do so on
    scenarios that it was not chosen on."""
    chosen, apart = [c for c in calls if c.half], [c for c in calls if not c.half]
    forms = Counter(form for c in chosen if c.refused for form, own in c.inside.items() if own)
    able = [Overlap(*form) for form, n in forms.items() if n >= _LEAST]
    likely = sorted(able, key=lambda o: (-_f1(o, chosen), repr(o)))[:_FORMS]
    grown = [_conditioned(o, chosen) for o in likely]
    best = max(grown, key=lambda o: (_f1(o, chosen), -len(repr(o)), repr(o)), default=None)
    if best is None:
        return None
    seen = _told(best, apart)
    hits, wrong, missed = seen[True, True], seen[True, False], seen[False, True]
    sure = hits >= _SURE * (hits + wrong) and hits >= _MOST * (hits + missed)
    return best if sure and hits >= _LEAST else None


def _conditioned(o: Overlap, calls: Sequence[_Call]) -> Overlap:
    """A conflict with the conditions that make it tell more."""
    score = _f1(o, calls)
    for _ in range(4):
        more = max(_narrower(o, calls), key=lambda n: (_f1(n, calls), repr(n)), default=o)
        better = _f1(more, calls)
        if better < score + 0.01:
            return o
        o, score = more, better
    return o


def _narrower(o: Overlap, calls: Sequence[_Call]) -> Iterator[Overlap]:
    """A conflict with one condition more: a field that is as the call says, a value with which a
    thing is no obstacle."""
    equal: Counter[tuple[str, Source]] = Counter()
    values: Counter[tuple[str, Any]] = Counter()
    for c in calls:
        for fields in c.inside.get(_form(o), ()):
            for name, value in fields.items():
                if isinstance(value, str) and c.refused:
                    equal.update((name, s) for s, v in c.values.items() if v == value)
                elif isinstance(value, (str, bool)):
                    values[name, value] += 1
    for condition, n in equal.items():
        if n >= _LEAST and condition not in o.equal:
            yield Overlap(*_form(o), (*o.equal, condition), o.without)
    for condition_, n in values.most_common(40):
        if n > 1 and condition_ not in o.without:
            yield Overlap(*_form(o), o.equal, (*o.without, condition_))


def _form(o: Overlap) -> Form:
    return o.domain, o.begin, o.end, o.start, o.until


def _told(o: Overlap, calls: Sequence[_Call]) -> Counter[Refused]:
    """How often something is in the way, and the call was refused."""
    seen: Counter[Refused] = Counter()
    for c in calls:
        wanted = [(name, c.values.get(s)) for name, s in o.equal]
        met = any(_counts(f, wanted, o.without) for f in c.inside.get(_form(o), ()))
        seen[met, bool(c.refused)] += 1
    return seen


def _f1(o: Overlap, calls: Sequence[_Call]) -> float:
    seen = _told(o, calls)
    hits, wrong = seen[True, True], seen[True, False] + seen[False, True]
    return 2 * hits / (2 * hits + wrong) if hits else 0.0
