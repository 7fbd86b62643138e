"""Failures that nothing marks: no error flag, and words that nobody here knows.

A service answers a call that is wrong in itself, and calls that it refuses, in a form of its own,
which many tools share and none has as its usual one.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

Form = frozenset[str]  # the keys of a result
_LEAST = 3  # calls that are wrong in themselves
_SURE = 0.8


def mine(calls: Sequence[tuple[str, Mapping[str, Any], Any]]) -> list[list[str]]:
    """The forms of such failures, as sorted keys, from calls (tool, arguments, result)."""
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
            often |= {form} if n >= 0.5 * totals[tool] else set()
    said: dict[tuple[bool, str], set[str]] = defaultdict(set)
    for _, _, value in calls:
        for key, item in value.items() if isinstance(value, dict) else ():
            said[frozenset(value) in often, key].add(repr(item))
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
        and (after_wrong[form] >= max(_LEAST, _SURE * len(wrong)) or n > max(2, 0.6 * len(totals)))
    ]


def _wrong(args: Mapping[str, Any], given: Counter[str], total: int) -> bool:
    """Whether a call lacks what nearly all calls of its tool have, or has what hardly any has."""
    lacks = any(n >= 0.9 * total and p not in args for p, n in given.items())
    return total >= 20 and (lacks or any(given[p] <= 0.03 * total for p in args))
