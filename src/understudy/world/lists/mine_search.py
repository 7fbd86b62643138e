"""Mining text searches (world.data.search): what is listed holds the text, what is known to hold it
is listed, and what is not listed would not have been so rare by chance."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.world.data.search import MODES, Search, found, text_of, texts_of, words
from understudy.world.lists.query import Query
from understudy.world.lists.spans import enough, siblings, spans, there
from understudy.world.traffic.transitions import Step

_LEAST = 3  # texts that are looked for
_PRECISION = 0.9  # of what is selected, and no list was cut, so much is listed
_SLACK = 2  # calls that speak against a rule, by which another is not yet better
_MANY = 200  # calls, and records beside a call's own, that are looked at
_ACROSS = "in", "all", "all words", "any"

Rows = Sequence[tuple[Step, list[dict[str, Any]]]]


@dataclass(slots=True)
class _Call:
    """A call with the text that it looks for: the records that it listed, and those of other
    scenarios that it did not though its other arguments list them.
    `there`: of those that other scenarios showed, those that were there (world.lists.spans)."""

    asked: str
    listed: list[dict[str, Any]]
    cut: bool  # what it did not list may have been cut off
    known: int = 0  # of the listed, those that other scenarios showed
    there: int = 0
    others: list[tuple[dict[str, Any], bool]] = field(default_factory=list)  # record, there


def mine_search(query: Query, good: Rows, names: Sequence[str]) -> None:
    """Add the text searches of a listing to its rules."""
    for p in names:
        asked = [text_of(s.args.get(p)) for s, rows in good if rows and p in s.args]
        if len(set(asked)) < _LEAST or not all(isinstance(s.args.get(p), str) for s, _ in good
                                               if s.args.get(p) is not None):  # fmt: skip
            continue
        calls = _calls(query, good, p, names)
        tried = [r for m in MODES for r in _rules(p, m, calls)]
        right = [(n, r) for r in tried if (n := _against(r, calls)) is not None]
        if right:
            least = min(n for n, _ in right)
            query.searches.append(next(r for n, r in right if n <= least + _SLACK))
    query.forget(query.rows)  # what it has indexed is not all yet


def _calls(query: Query, good: Rows, p: str, names: Sequence[str]) -> list[_Call]:
    own, life = siblings(good), spans(query, good)
    equal = {q for q, _ in query.equal}
    asked = [(s, rows) for s, rows in good if text_of(s.args.get(p))]
    calls = []
    for s, rows in asked[-_MANY:]:
        call = _Call(text_of(s.args[p]), rows, query.cuts(len(rows), s.args))
        calls.append(call)
        rest = {q: v for q, v in s.args.items() if q not in (p, query.limit_by) and v is not None}
        if any(isinstance(v, (list, dict)) for v in rest.values()):
            continue
        shown = {query.key_of(r) for r in rows}
        pool = [
            row
            for row in query.narrowed(rest)
            if any(e not in own[s.origin] for e in row.episodes)
            and all(v in row.under.get(q, ()) for q, v in rest.items() if q not in equal)
            and query.selects(row.fields, rest)
        ]
        call.known = sum(row.key in shown for row in pool)
        sure = {row.key for row in pool if there(life.get(row.key), own[s.origin])}
        call.there = len(sure & shown)
        others = [(row.fields, row.key in sure) for row in pool if row.key not in shown]
        call.others = others[:: len(others) // _MANY + 1]
    return calls


def _rules(p: str, mode: str, calls: Sequence[_Call]) -> list[Search]:
    """The searches of a mode that have the fields which the listed records call for."""
    tests = [(c.asked, r) for c in calls for r in c.listed[:10]]
    rules = [Search(p, _fields(mode, tests), mode)]
    if mode in _ACROSS:
        single = [(w, r) for asked, r in tests for w in words(asked)]
        rules.append(Search(p, _fields("in", single), mode, across=True))
    return [r for r in rules if r.fields]


def _fields(mode: str, tests: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """The fewest fields, each that which explains most of the rest, in the records' order."""
    names = list(dict.fromkeys(n for _, r in tests for n, v in r.items() if texts_of(v)))
    has = {
        n: {i for i, (asked, r) in enumerate(tests) if found(mode, asked, texts_of(r.get(n)))}
        for n in names
    }
    chosen: list[str] = []
    left = set(range(len(tests)))
    while left and names:
        best = max(names, key=lambda n: len(has[n] & left))
        if len(has[best] & left) < _SLACK:
            break
        chosen.append(best)
        left -= has[best]
    return [n for n in names if n in chosen]


def _against(rule: Search, calls: Sequence[_Call]) -> int | None:
    """How much speaks against a rule; None where too much does, or too little for it."""
    sure = enough(sum(c.there for c in calls if not c.cut))
    wrong = missed = held = 0
    chance = total = 0.0
    for c in calls:
        asked = {rule.argument: c.asked}
        wrong += not all(rule.holds(r, asked) for r in c.listed)
        extra = [there for r, there in c.others if rule.holds(r, asked)]
        if not c.cut:
            missed += sum(extra) if sure else len(extra)
            held += c.there if sure else c.known
        total += len(c.listed)
        pool = len(c.others) + c.known
        chance += len(c.listed) * (len(c.others) - len(extra)) / pool if pool else 0.0
    if wrong > 0.02 * len(calls) or held < _PRECISION * (held + missed):
        return None
    return wrong + missed if chance >= 5 and chance > 0.04 * total else None
