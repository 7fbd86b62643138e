"""Clauses that users exchange: wordings recombined below the message.

What traffic shows of wordings is few whole messages, but many clauses in many orders. A clause
between two marks of punctuation that says certain fields is exchanged for another that says the
same fields, where both were said often and nothing else depends on which of them was said:
"cancel order {id}" and "change order {id}" say the same field, but what happens then tells them
apart.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.world.data.dependence import dependent
from understudy.world.users.wording import Part

_MARK = re.compile(r"([,.;:!?]+(?:\s+|$)|\s*\n\s*)")
_OFTEN = 3  # uses of a clause before it is exchanged
_ACCIDENT = 1e-4  # how likely what a clause seems to say may be by chance
_FEW = 8  # values that say nothing of whether more of them would be different
Clause = list[Part]
Saying = tuple[tuple[str, bool], ...]  # the fields that a clause says, and which of them are 1


@dataclass(slots=True)
class Exchange:
    """Clauses that can stand for each other, each with how often it was said."""

    saying: Saying
    clauses: list[tuple[Clause, int]]


def cut(parts: Sequence[Part]) -> list[Clause]:
    """A text as clauses and what separates them, in turn: the first and last are clauses."""
    found: list[Clause] = [[]]
    for part in parts:
        if not isinstance(part, str):
            found[-1].append(part)
            continue
        for n, piece in enumerate(_MARK.split(part)):
            if n % 2:
                found += [[piece], []]
            elif piece:
                found[-1].append(piece)
    return found


def saying(clause: Sequence[Part], fields: Mapping[str, Any]) -> Saying:
    """What a clause says; () where it says no field. A 1 is told apart for its grammar."""
    return tuple((p[0], fields.get(p[0]) == 1) for p in clause if not isinstance(p, str))


def mine_exchanges(
    texts: Sequence[tuple[Sequence[Part], Mapping[str, Any]]],
    facts: Sequence[Mapping[str, Any]],
) -> list[Exchange]:
    """What can be exchanged in texts (parts, with their fields). `facts` of each text is what no
    clause may decide, such as which tools were called after it. A fact that is another in nearly
    every text, an id for example, is none that a clause decides."""
    ids = {name for name in set().union(*facts) if _nearly_unique([f.get(name) for f in facts])}
    uses: dict[Saying, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    shown: dict[tuple[Saying, str], Counter[str]] = defaultdict(Counter)
    forms: dict[str, Clause] = {}
    for n, (parts, fields) in enumerate(texts):
        for clause in cut(parts)[::2]:
            said, words = saying(clause, fields), plain(clause)
            if said:
                uses[said][words].append(n)
                shown[said, words][repr(clause)] += 1
                forms[repr(clause)] = clause
    found = []
    for said, by_words in sorted(uses.items()):
        often = {words: ns for words, ns in sorted(by_words.items()) if len(ns) >= _OFTEN}
        which = [words for words, ns in often.items() for _ in ns]
        where = [n for ns in often.values() for n in ns]
        names = sorted({name for n in where for name in facts[n]} - ids)
        decided = (dependent(which, [facts[n].get(name, False) for n in where]) for name in names)
        if len(often) > 1 and not any(decided):
            counts = [item for words in often for item in sorted(shown[said, words].items())]
            found.append(Exchange(said, [(forms[form], n) for form, n in counts]))
    return found


Implied = dict[str, list[tuple[str, Any]]]  # a clause's words -> (field, value) that it says


def mine_implied(texts: Sequence[Sequence[Part]], facts: Sequence[Mapping[str, Any]]) -> Implied:
    """Clauses that say the value of a field without its words ("only me"): nearly all texts that
    have them have that value, which chance does not explain. `facts` are each text's fields; one
    of many values, or of one alone, says nothing, nor does a clause in which the field stands."""
    shares = _shares(facts)
    uses: dict[str, list[int]] = defaultdict(list)
    for n, parts in enumerate(texts):
        for words in {plain(clause) for clause in cut(parts)[::2]}:
            uses[words].append(n)
    found: Implied = {}
    for words, where in sorted(uses.items()):
        for path, values in shares.items():
            (value, k), *_ = Counter(facts[n].get(path) for n in where).most_common(1)
            likely = values.get(value, 1.0) ** len(where)
            stands = f"\0{path}\0" in words
            if (
                words
                and not stands
                and value is not None
                and k >= 0.95 * len(where)
                and likely < _ACCIDENT
            ):
                found.setdefault(words, []).append((path, value))
    return found


def _shares(facts: Sequence[Mapping[str, Any]]) -> dict[str, dict[Any, float]]:
    """How often each field of few values has each of them."""
    counts: dict[str, Counter[Any]] = defaultdict(Counter)
    for fields in facts:
        for path, value in fields.items():
            counts[path][value] += 1
    return {
        path: {value: n / len(facts) for value, n in values.items()}
        for path, values in sorted(counts.items())
        if 1 < len(values) <= _FEW
    }


def _nearly_unique(values: Sequence[Any]) -> bool:
    """Whether of many that are there more than half are different ones."""
    there = [value for value in values if value is not None]
    return len(there) > _FEW and len(set(there)) > 0.5 * len(there)


class Exchanger:
    """Says texts with other clauses."""

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        self.sets = {(e.saying, plain(c)): e.clauses for e in exchanges for c, _ in e.clauses}

    def say(
        self, parts: Sequence[Part], fields: Mapping[str, Any], rng: random.Random
    ) -> list[Part]:
        """The text, each clause exchanged that can be: for any of its set, as often as that was
        said. `fields` are those that the text was said with."""
        pieces = cut(parts)
        for i in range(0, len(pieces), 2):
            others = self.sets.get((saying(pieces[i], fields), plain(pieces[i])))
            if others:
                other = rng.choices([c for c, _ in others], [n for _, n in others])[0]
                pieces[i] = _in_case(other, pieces[i])
        return _joined(pieces)


def plain(clause: Sequence[Part]) -> str:
    """What is the same in two clauses that differ in their values, or in capitals, alone."""
    return "".join(p.lower() if isinstance(p, str) else f"\0{p[0]}\0" for p in clause).strip()


def _in_case(clause: Clause, like: Clause) -> Clause:
    """The clause with the capital, or without, that another began with."""
    first, model = clause[0], like[0]
    if not (isinstance(first, str) and isinstance(model, str) and first and model):
        return clause
    word = re.match(r"\w+", first)
    if word and len(word.group()) > 1:
        initial = first[0].upper() if model[0].isupper() else first[0].lower()
        return [initial + first[1:], *clause[1:]]
    return clause


def _joined(pieces: Sequence[Clause]) -> list[Part]:
    """The pieces as one text, neighbouring literals as one."""
    whole: list[Part] = []
    for part in (p for piece in pieces for p in piece):
        if isinstance(part, str) and whole and isinstance(whole[-1], str):
            whole[-1] += part
        else:
            whole.append(part)
    return whole
