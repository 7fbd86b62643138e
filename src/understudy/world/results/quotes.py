"""Wordings that quote a field of a thing that the call names: one form with a slot for it.

`All tickets for Night River are gone.` and `All tickets for Blue Hill are gone.` are one form where
`Night River` and `Blue Hill` are the titles of the shows that were asked for. A wording is kept
where what stands in each slot is what one field says, of two different things at least, and seldom
anything else; episodes of a call's own scenario say nothing of its things beforehand.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from understudy.world.data.values import WORD
from understudy.world.known.context import Context
from understudy.world.known.walk import Walk
from understudy.world.outcomes.frames import OPEN, quoted
from understudy.world.outcomes.templates import form_of, spans_of
from understudy.world.results.rules import addressed
from understudy.world.traffic.transitions import Step

_Field = tuple[str, str, str]  # (argument, its field or "", field of the thing that it leads to)
_LEAST, _SURE = 2, 0.8  # different values of a slot; how often it is the field
_SHORT, _LONG = 3, 120  # characters of a field that is looked for, and of a text at most ten times
_SLOTS = 4  # of fields in one wording, at most


def mine(
    episodes: Sequence[Sequence[Step]],
    walk: Walk,
    read: Callable[[Step], str],
) -> dict[str, list[str]]:
    """The wordings of each tool, their slots marked, surest first. `read`: a result as text."""
    texts: dict[str, list[_Text]] = defaultdict(list)
    for episode in episodes:
        for s, c in walk.through(episode):
            if s.failed or isinstance(s.value, str):
                texts[s.name].append(_heard(read(s), c))
    found = {tool: _wordings(own) for tool, own in texts.items()}
    return {tool: own for tool, own in found.items() if own}


_Text = tuple[str, str, list[str], dict[_Field, str]]
"""(text, its form, what stands in the form's slots for fields, the texts of all fields)."""


def _heard(text: str, c: Context) -> _Text:
    fields: dict[_Field, str] = {}
    for (p, name), key in addressed(c):
        for own, value in c.state.fields(key).items():
            if isinstance(value, str) and _SHORT <= len(value) <= _LONG:
                fields.setdefault((p, name, own), value)
    if len(text) > 10 * _LONG:
        return text, "", [], fields
    values = sorted(set(fields.values()), key=lambda v: (-len(v), v))
    places = set(_places(text, values, c))
    spans = spans_of(text, c, sorted(places))
    form = form_of(text, spans, dict.fromkeys(places, OPEN)) if places else ""
    return text, form, [text[a:b] for a, b, _ in spans if (a, b) in places], fields


def _places(text: str, values: Sequence[str], c: Context) -> Iterator[tuple[int, int]]:
    """Where a text has the values, longest first, the call's own and single words with digits,
    which are slots anyway, aside."""
    said = {v for v in c.args.values() if isinstance(v, str)}
    taken: list[tuple[int, int]] = []
    for value in values:
        plain = WORD.fullmatch(value) and any(ch.isdigit() for ch in value)
        if plain or value in said or value not in text:
            continue
        for m in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", text):
            if len(taken) < _SLOTS and all(m.end() <= a or m.start() >= b for a, b in taken):
                taken.append(m.span())
    yield from sorted(taken)


def _wordings(texts: Sequence[_Text]) -> list[str]:
    groups: dict[str, list[list[str]]] = defaultdict(list)
    for _, form, slots, _ in texts:
        if form:
            groups[form].append(slots)
    found: Counter[str] = Counter()
    for form, seen in groups.items():
        columns = [Counter(column) for column in zip(*seen, strict=True)]
        parts = form.split(OPEN)
        wording = parts[0]
        for column, part in zip(columns, parts[1:], strict=True):
            (first, _), *more = column.items()
            wording += (OPEN if more else first.replace("{", "{{").replace("}", "}}")) + part
        if OPEN in wording and wording not in found:
            found[wording] = _holds(wording, texts)
    return [wording for wording, n in found.most_common() if n]


def _holds(wording: str, texts: Sequence[_Text]) -> int:
    """How many texts have the wording, where each slot is, as a rule, one field; else none."""
    hits: list[Counter[_Field]] = []
    known: list[Counter[_Field]] = []
    values: dict[tuple[int, _Field], set[str]] = defaultdict(set)
    n = 0
    for text, _, _, fields in texts:
        spans = quoted(text, [wording])
        hits = hits or [Counter() for _ in spans]
        known = known or [Counter() for _ in spans]
        n += bool(spans)
        for i, (a, b) in enumerate(spans):
            known[i].update(fields.keys())
            same = [f for f, value in fields.items() if value == text[a:b]]
            hits[i].update(same)
            for f in same:
                values[i, f].add(text[a:b])
    sure = (
        any(k >= _SURE * known[i][f] and len(values[i, f]) >= _LEAST for f, k in own.items())
        for i, own in enumerate(hits)
    )
    return n if all(sure) else 0
