"""What a tool takes, and what must come before it."""

from collections.abc import Iterator, Sequence
from typing import Any

from understudy.world.data.values import is_number, kind_of
from understudy.world.describing.facts import Case, Fact
from understudy.world.known.evidence import TOLD
from understudy.world.known.sources import forms_text, path_text, quoted, value_text

_FEW = 12  # values of an argument that are named one by one
_TYPES = {"empty": "string", "null": "null"}
Schema = dict[str, Any]


def facts_of_arguments(case: Case) -> Iterator[Fact]:
    """Types, values, formats, sources of the arguments of successful calls."""
    facts = case.model.facts
    for p in facts.known:
        values = [args[p] for args, _ in case.calls if p in args]
        given = len(values), len(case.calls)
        if p in facts.required:
            yield from case.fact("takes", p, "Required.", given)
        elif case.bar.least <= len(values) <= len(case.calls) - case.bar.least:
            text = f"Optional: left out in {_percent(given[1] - given[0], given[1])} of calls."
            yield Fact(case.tool, "takes", p, text, given[1], given[1])
        origin = list(_origin(case, p))
        yield from origin
        if origin or p in case.world.ids.args.get(case.tool, {}):
            yield from _form(case, p, values)
        elif few := few_values(case, p):
            yield from _chosen(case, p, values, few)
        elif values and all(map(is_number, values)):
            low, high = min(values), max(values)
            text = f"In the traffic between {low} and {high}."
            text = f"In the traffic always {low}." if low == high else text
            yield from case.fact("takes", p, text, (len(values), len(values)))
        else:
            yield from _form(case, p, values)


def few_values(case: Case, p: str) -> list[str]:
    """The values of an argument that has few, each in calls that went well of two scenarios: by
    Good and Turing's estimate (Biometrika 40, 1953) there is none that the traffic lacks."""
    words = case.model.facts.words.get(p, {})
    told = 2 <= len(words) <= _FEW and all(len(origins) > 1 for origins in words.values())
    return list(words) if told and p not in case.world.ids.args.get(case.tool, {}) else []


def _chosen(case: Case, p: str, values: Sequence[Any], few: Sequence[str]) -> Iterator[Fact]:
    text = f"One of {', '.join(map(value_text, few))}; no other was seen to work."
    yield from case.fact("takes", p, text, (sum(v in few for v in values), len(values)))


def _form(case: Case, p: str, values: Sequence[Any]) -> Iterator[Fact]:
    """The form of texts that all look alike."""
    forms = case.model.facts.patterns.get(p, [])
    if len(forms) == 1 and any(ch in forms[0] for ch in "0-:@."):
        text = f"Of the form {forms_text(forms)} (0: a digit, A: a capital, a: a small letter)."
        yield from case.fact("takes", p, text, (len(values), len(values)))


def _origin(case: Case, p: str) -> Iterator[Fact]:
    """Where the values of an identifier come from: the results that first showed them."""
    seen = case.model.evidence.origins.get(p, {})
    well = {origin: good for origin, (_, good) in seen.items() if good}
    total = sum(well.values())
    for origin, n in well.items():
        if not case.bar.passes(n, total):
            continue
        if origin == TOLD:
            yield Fact(case.tool, "takes", p, "Users say it.", total, n)
        elif origin:
            tool, _, path = origin.partition(" ")
            text = f"{path_text(path)} of an earlier result of `{tool}`."
            yield Fact(case.tool, "takes", p, text, total, n)
            text = f"Call `{tool}` before: its result shows the `{p}` to give."
            yield Fact(case.tool, "needs", p, text, total, n)
        return
    often = {o: n for o, n in well.items() if o and o != TOLD and n >= case.bar.least}
    if len(often) > 1 and case.bar.passes(sum(often.values()), total):
        tools = list(dict.fromkeys(o.partition(" ")[0] for o in often))
        text = f"From an earlier result of {quoted(tools)}."
        yield Fact(case.tool, "takes", p, text, total, sum(often.values()))


def schema_of(values: Sequence[Any], least: int) -> Schema:
    """A JSON Schema of values: their types, the parts of objects and lists. What fewer than
    `least` values show is left open."""
    if len(values) < least:
        return {}
    kinds = {_type(v, values) for v in values}
    if {"integer", "number"} <= kinds:
        kinds.discard("integer")
    schema: Schema = {"type": kinds.pop() if len(kinds) == 1 else sorted(kinds)}
    objects = [v for v in values if isinstance(v, dict)]
    names = list(dict.fromkeys(n for v in objects for n in v))
    if objects and len(names) <= 24:
        inner = {n: [v[n] for v in objects if n in v] for n in names}
        schema["properties"] = {n: schema_of(own, least) for n, own in inner.items()}
        schema["required"] = [n for n, own in inner.items() if len(own) == len(objects)]
    items = [x for v in values if isinstance(v, list) for x in v]
    if items:
        schema["items"] = schema_of(items, least)
    return schema


def _type(value: Any, others: Sequence[Any]) -> str:
    kind = kind_of(value)
    if kind == "number" and all(isinstance(v, int) for v in others if is_number(v)):
        return "integer"
    return _TYPES.get(kind, kind)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%"
