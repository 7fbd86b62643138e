"""How a tool fails: in which words, when, and whether the failure passes."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from understudy.runs.statistics import wilson
from understudy.world.describing.facts import Case, Fact
from understudy.world.describing.phrases import condition_text, phrase, wording
from understudy.world.known.sources import quoted
from understudy.world.outcomes.features import Feature
from understudy.world.outcomes.tree import Node

_WHEN = 0.9  # of the calls in a situation, those that fail: from here on it is the reason
_MOSTLY = 0.6  # of a class's failures, those that a reason must explain
_HELPS = 1.2  # how much more often a failure is after a test that is worth naming
_WORDS = re.compile(r" with `.*` \(95%", re.DOTALL)
_PASSES = 0.5  # of equal calls after a failure, those that fail alike: up to here it passes


def facts_of_failures(case: Case) -> Iterator[Fact]:
    """Each failure class that enough calls show."""
    passing = passing_failures(case)
    total = sum(case.model.evidence.classes.values())
    for label, n in case.model.evidence.classes.items():
        template = case.model.texts.get(label)
        if not label.startswith("err") or n < case.bar.least or template is None:
            continue
        share = f"{_share(n, total)} of calls with `{wording(template)}`"
        text = f"Fails in {share} ({_interval(n, total)})."
        yield Fact(case.tool, "fails", label, text, n, n)
        if label in passing:
            again, alike = case.model.evidence.repeats[label]
            share = f"{_share(again - alike, again)} of such calls went otherwise"
            text = f"Passes: repeated, {share} ({_interval(again - alike, again)})."
            yield Fact(case.tool, "fails", label, text, again, again)
            continue
        yield from _when(case, label, passing)
        again, alike = case.model.evidence.repeats.get(label, (0, 0))
        text = "Stays: the same call fails again."
        yield from case.fact("fails", label, text, (alike, again))
        yield from _aftermath(case, label)


def unworded(text: str) -> str:
    """How often a tool fails, without the words that it fails with; any other text as it is."""
    return _WORDS.sub(" (95%", text) if text.startswith("Fails in ") else text


def passing_failures(case: Case) -> set[str]:
    """The failure classes that the same call mostly does not have again."""
    return {
        label
        for label, (again, alike) in case.model.evidence.repeats.items()
        if again >= case.bar.least and alike <= _PASSES * again
    }


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if part > 0.005 * whole else "under 1%"


def _interval(part: int, whole: int) -> str:
    """Wilson's 95% interval of a rate, as if calls were independent."""
    found = wilson(part, whole)
    return f"95% interval {100 * found.low:.0f} to {100 * found.high:.0f}%"


def _aftermath(case: Case, label: str) -> Iterator[Fact]:
    after = case.model.after.get(label)
    if after is None or after.seen < case.bar.least:
        return
    if after.vanishes:
        text = "Listings do not show the thing afterwards."
        yield Fact(case.tool, "fails", label, text, after.seen, after.seen)
    if after.corrects:
        text = f"Listings then show the {quoted(after.corrects)} that the failure tells."
        yield Fact(case.tool, "fails", label, text, after.seen, after.seen)


@dataclass(frozen=True, slots=True)
class _Place:
    """A node of the tree of outcomes: the tests on the way to it, and what its calls came to."""

    tests: tuple[tuple[Feature, Any, bool], ...]
    counts: dict[str, int]


def _when(case: Case, label: str, passing: set[str]) -> Iterator[Fact]:
    """The situation of a failure. Calls that passing failures turned away say nothing of it."""
    conditions = list(_conditions(case, label, passing))
    yield from conditions
    if conditions:
        return
    reason = _reason(case, label, passing)
    if reason is not None:
        yield reason
        return
    way = _way(case.model.tree, label, case.bar.sure)
    rates = [_rate(place.counts, label, passing) for place in way]
    while len(way) > 1 and rates[-1][0] < _HELPS * rates[-2][0]:
        way.pop(), rates.pop()
    rate, n = rates[-1]
    if n < case.bar.least:
        return
    about = " and ".join(dict.fromkeys(phrase(case, *test) for test in way[-1].tests))
    hits = way[-1].counts.get(label, 0)
    if about and rate >= _WHEN:
        yield Fact(case.tool, "fails", label, f"When {about}.", n, hits)
    elif about:
        text = f"Only when {about}; then in {_share(hits, n)} of calls ({_interval(hits, n)})."
        yield Fact(case.tool, "fails", label, text, n, n)
    else:
        text = "No sign of it was found beforehand."
        yield Fact(case.tool, "fails", label, text, n, n)


def _rate(counts: dict[str, int], label: str, passing: set[str]) -> tuple[float, int]:
    n = sum(k for other, k in counts.items() if other not in passing)
    return counts.get(label, 0) / max(1, n), n


def _reason(case: Case, label: str, passing: set[str]) -> Fact | None:
    """What the ways to all leaves have in common that nearly always fail so, where these hold most
    of the failures."""
    leaves = [p for p in _leaves(case.model.tree) if _rate(p.counts, label, passing)[0] >= _WHEN]
    hits = sum(p.counts.get(label, 0) for p in leaves)
    total = case.model.tree["counts"].get(label, 0)
    if hits < max(case.bar.least, _MOSTLY * total):
        return None
    first, *more = leaves
    common = [test for test in first.tests if all(test in p.tests for p in more)]
    about = " and ".join(dict.fromkeys(phrase(case, *test) for test in common))
    if not about:
        return None
    head = "When" if hits >= case.bar.sure * total else f"{hits} of {total} times when"
    n = sum(_rate(p.counts, label, passing)[1] for p in leaves)
    return Fact(case.tool, "fails", label, f"{head} {about}.", n, hits)


def _leaves(tree: Node, tests: tuple[tuple[Feature, Any, bool], ...] = ()) -> Iterator[_Place]:
    if "feature" not in tree:
        yield _Place(tests, tree["counts"])
        return
    for side in (True, False):
        test = (tree["feature"], tree["value"], side)
        yield from _leaves(tree["yes" if side else "no"], (*tests, test))


def _way(tree: Node, label: str, sure: float) -> list[_Place]:
    """From the root to the deepest node that holds nearly all failures of a class."""
    place = _Place((), tree["counts"])
    way = [place]
    total = tree["counts"].get(label, 0)
    while "feature" in tree:
        sides = {True: tree["yes"], False: tree["no"]}
        side = max(sides, key=lambda s: sides[s]["counts"].get(label, 0))
        if sides[side]["counts"].get(label, 0) < max(1, sure * total):
            break
        place = _Place(
            (*place.tests, (tree["feature"], tree["value"], side)), sides[side]["counts"]
        )
        way.append(place)
        tree = sides[side]
    return way


def _conditions(case: Case, label: str, passing: set[str]) -> Iterator[Fact]:
    """What is wrong with the calls in themselves, where they mostly fail with this class."""
    for condition, counts in _unknown_names(case, label, passing).items():
        rate, n = _rate(counts, label, passing)
        said = condition_text(case, condition)
        if said is not None and rate >= _WHEN and n >= case.bar.least:
            yield Fact(case.tool, "fails", label, f"When {said}.", n, counts[label])


def _unknown_names(case: Case, label: str, passing: set[str]) -> dict[str, dict[str, int]]:
    """The conditions of calls; identifiers that nothing named are one condition, whether or not
    they are like known ones, where both fail so."""
    found: dict[str, dict[str, int]] = dict(case.model.conditions)
    for condition, counts in case.model.conditions.items():
        sign, _, domain = condition.partition(":")
        new = case.model.conditions.get(f"new:{domain}", {})
        both = dict(Counter(counts) + Counter(new))
        if sign == "near" and _rate(both, label, passing)[0] >= _WHEN:
            found[f"new:{domain}"] = both
            del found[condition]
    return found
