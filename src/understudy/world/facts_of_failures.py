"""How a tool fails: in which words, when, and whether the failure passes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.runs.statistics import wilson
from understudy.world.facts import Case, Fact, quoted, value_text
from understudy.world.features import Feature
from understudy.world.templates import Template
from understudy.world.tree import Node
from understudy.world.values import unescape

_WHEN = 0.9  # of the calls in a situation, those that fail: from here on it is the reason
_HELPS = 1.2  # how much more often a failure is after a test that is worth naming
_PASSES = 0.5  # of equal calls after a failure, those that fail alike: up to here it passes


def facts_of_failures(case: Case) -> Iterator[Fact]:
    """Each failure class that enough calls show."""
    passing = passing_failures(case)
    total = sum(case.model.evidence.classes.values())
    for label, n in case.model.evidence.classes.items():
        template = case.model.texts.get(label)
        if not label.startswith("err") or n < case.bar.least or template is None:
            continue
        share = f"{_share(n, total)} of calls with {wording(template)}"
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


def passing_failures(case: Case) -> set[str]:
    """The failure classes that the same call mostly does not have again."""
    return {
        label
        for label, (again, alike) in case.model.evidence.repeats.items()
        if again >= case.bar.least and alike <= _PASSES * again
    }


def wording(template: Template) -> str:
    """A failure's text, with <argument> where it repeats one and ... where it varies."""
    slots = []
    for sources, samples in zip(template.slots, template.samples, strict=True):
        names = [_named(source) for source, share in sources if share > 0.9]
        always = samples[0] if len(samples) == 1 and template.count > 1 else None
        slots.append(next((n for n in names if n), always or "..."))
    return f"`{template.form.format(*slots)}`"


def _named(source: tuple[Any, ...]) -> str | None:
    if source[0] == "arg":
        return f"<{unescape(source[1].rpartition('/')[2])}>"
    return {"missing": "<argument>", "extra": "<argument>"}.get(source[0])


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
    way = _way(case.model.tree, label, case.bar.sure)
    rates = [_rate(place.counts, label, passing) for place in way]
    while len(way) > 1 and rates[-1][0] < _HELPS * rates[-2][0]:
        way.pop(), rates.pop()
    phrases = [_phrase(case, *test) for test in way[-1].tests]
    rate, n = rates[-1]
    if None in phrases or n < case.bar.least:
        return
    about = " and ".join(dict.fromkeys(p for p in phrases if p))
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
    for condition, counts in case.model.conditions.items():
        rate, n = _rate(counts, label, passing)
        said = _condition_text(case, condition)
        if said is not None and rate >= _WHEN and n >= case.bar.least:
            yield Fact(case.tool, "fails", label, f"When {said}.", n, counts[label])


def _condition_text(case: Case, condition: str) -> str | None:
    sign, _, what = condition.partition(":")
    what, _, kind = what.partition(":")
    domains = case.world.ids.args.get(case.tool, {})
    names = [p for p, domain in domains.items() if domain == what] or [what]
    p = quoted(names)
    texts = {
        "extra": "an argument is given that it does not know",
        "missing": "a required argument is missing",
        "kind": f"{p} is a {kind} (JSON type)",
        "value": f"{p} is none of the values that are known to work",
        "empty": f"{p} is empty",
        "new": f"the {p} given is in no result, of this conversation or another",
        "near": f"the {p} given is in no result, of this conversation or another",
        "foreign": f"{p} does not belong to what the other arguments name",
    }
    if sign == "form":
        forms = case.model.facts.patterns.get(names[0], [])
        return f"{p} is not of the form {' or '.join(forms)}" if forms else None
    if sign == "kind" and what not in case.model.facts.known and what not in domains.values():
        return None
    return texts.get(sign)


_YES_NO = (
    "has", "fmt", "hits", "unseen", "miss", "extra", "done", "prev", "with", "in", "holds",
)  # fmt: skip


def _phrase(case: Case, feature: Feature, value: Any, holds: bool) -> str | None:
    """A test of the tree in words; None where it has none."""
    head, *rest = feature
    p = f"`{rest[0]}`" if rest else ""
    no = "" if holds else "not "
    if isinstance(value, list):
        at_most = f"is at most {value[1]}" if holds else f"is above {value[1]}"
        if head in ("amount", "size"):
            return f"{_number(head, rest[1])} of the record that {p} names {at_most}"
        return f"{p} {at_most}" if head == "num" else None
    if head in _YES_NO:
        if not isinstance(value, bool):
            return None
        return _yes_no(case, head, rest, value is holds)
    if head == "val":
        return f"{p} is {no}{value_text(value)}"
    if head == "kind":
        return f"{p} is {no}a {value} (JSON type)"
    if head == "field" and value is not None:
        return f"`{rest[1]}` of the record that {p} names is {no}{value_text(value)}"
    words = {"<": "below", ">": "above", "=": "equal to", True: "equal to"}
    if head == "pair" and value in words:
        one, other = _number(rest[1], rest[2]), _number(rest[3], rest[4])
        return f"{one} is {no}{words[value]} {other}, both of the record that {p} names"
    if head == "cmp":
        other = f"`{rest[2]}` of the record that {p} names"
        return f"`{rest[1]}` is {no}{words[value]} {other}" if value in words else None
    if head == "known":
        return _known(p, value, holds) if value in ("session", "new") else None
    return None


def _number(head: str, name: str) -> str:
    return f"the number of items in `{name}`" if head == "size" else f"`{name}`"


def _known(p: str, value: str, holds: bool) -> str:
    if value == "session":
        return f"an earlier result has {'' if holds else 'not '}shown the {p} given"
    no = "no" if holds else "a"
    return f"the {p} given is in {no} result, of this conversation or another"


def _yes_no(case: Case, head: str, rest: Sequence[str], yes: bool) -> str:
    """A test that holds or does not."""
    no = "" if yes else "not "
    p = f"`{rest[0]}`" if rest else ""
    forms = " or ".join(case.model.facts.patterns.get(rest[0], [])) if rest else ""
    return {
        "has": f"{p} is {no}given",
        "fmt": f"{p} is {no}of the form {forms}",
        "hits": "something matches" if yes else "nothing matches",
        "unseen": f"a value asked for is {'not ' if yes else ''}known",
        "miss": "a required argument is missing" if yes else "no argument is missing",
        "extra": "an unknown argument is given" if yes else "all arguments are known",
        "done": f"{p} went well before" if yes else f"{p} did not go well before",
        "prev": f"`{rest[-1] if rest else ''}` has {no}gone well with this {p} before",
        "with": f"{p} and `{rest[-1] if rest else ''}` were {no}shown in one result",
        "holds": f"`{rest[-1] if rest else ''}` is {no}in the record that {p} names",
        "in": f"`{rest[-1] if rest else ''}` is {no}part of the record that {p} names",
    }[head]
