"""Failures that nothing marks: no error flag, and words that nobody here knows.

A service answers a call that is wrong in itself, and calls that it refuses, in a form of its own,
which several tools share and none has as its usual one: an object with other keys than theirs, or a
text in an object's place.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Call = tuple[str, Mapping[str, Any], Any]  # tool, arguments, result
Form = frozenset[str]  # the keys of a result
_LEAST = 3  # calls that are wrong in themselves
_SURE = 0.8
_USUAL = 5  # calls that show what a tool usually gives


def mine(calls: Sequence[Call]) -> list[list[str]]:
    """The forms of such failures that are objects, as sorted keys."""
    forms: dict[str, Counter[Form]] = defaultdict(Counter)
    given: dict[str, Counter[str]] = defaultdict(Counter)
    totals: Counter[str] = Counter()
    for tool, args, value in calls:
        totals[tool] += 1
        given[tool].update(args.keys())
        if isinstance(value, dict):
            forms[tool][frozenset(value)] += 1
    own: Counter[Form] = Counter()  # in how many tools a form is seldom
    often: set[Form] = set()  # forms of what is no failure
    for tool, seen in forms.items():
        for form, n in seen.items():
            own[form] += n < 0.5 * totals[tool]
            usual_here = n >= 0.5 * totals[tool] and totals[tool] >= _USUAL
            often |= {form} if usual_here else set()
    said: dict[tuple[bool, str], set[str]] = defaultdict(set)
    values: dict[Form, list[dict[str, Any]]] = defaultdict(list)
    for _, _, value in calls:
        if isinstance(value, dict):
            form = frozenset(value)
            values[form].append(value)
            for key, item in value.items():
                said[form in often, key].add(repr(item))
    usual = {key for form in often for key in form}
    wrong = [
        frozenset(value)
        for tool, args, value in calls
        if isinstance(value, dict) and _wrong(args, given[tool], totals[tool])
    ]
    after_wrong = Counter(wrong)
    return [
        sorted(form)
        for form, n in own.items()
        if n > 1
        and form - usual
        and all(said[True, key].isdisjoint(said[False, key]) for key in form & usual)
        and (
            after_wrong[form] >= max(_LEAST, _SURE * len(wrong))
            or n > max(2, 0.6 * len(totals))
            or _tells(form, values[form])
        )
    ]


def texts(calls: Sequence[Call]) -> list[str]:
    """The tools whose texts are such failures: a sentence is seldom what they give, and it is one
    that several such tools say, words with digits aside."""
    plain: dict[str, list[str]] = defaultdict(list)
    totals: Counter[str] = Counter()
    for tool, _, value in calls:
        totals[tool] += 1
        if isinstance(value, str) and " " in value.strip():
            plain[tool].append(re.sub(r"\w*\d\w*", "#", value))
    odd = {t: own for t, own in plain.items()
           if totals[t] >= _USUAL and len(own) <= (1 - _SURE) * totals[t]}  # fmt: skip
    tools = Counter(wording for own in odd.values() for wording in set(own))
    return sorted(t for t, own in odd.items() if any(tools[w] > 1 for w in own))


def _wrong(args: Mapping[str, Any], given: Counter[str], total: int) -> bool:
    """Whether a call lacks what nearly all calls of its tool have, or has what hardly any has."""
    lacks = any(n >= 0.9 * total and p not in args for p, n in given.items())
    return total >= 20 and (lacks or any(given[p] <= 0.03 * total for p in args))


def _tells(form: Form, seen: Sequence[Mapping[str, Any]]) -> bool:
    """Whether objects of a form tell somebody why, and hold no data: a sentence, beside at most
    values of which there are few."""
    columns = [[v[key] for v in seen] for key in form]
    wordy = [_sentences(column) for column in columns]
    few = [_few(column, max(_LEAST, 0.3 * len(seen))) for column in columns]
    return any(wordy) and all(a or b for a, b in zip(wordy, few, strict=True))


def _sentences(column: Iterable[Any]) -> bool:
    return all(isinstance(v, str) and " " in v.strip() for v in column)


def _few(column: Iterable[Any], most: float) -> bool:
    kinds = {repr(v) for v in column if not isinstance(v, (dict, list))}
    return len(kinds) <= most and not any(isinstance(v, (dict, list)) for v in column)
