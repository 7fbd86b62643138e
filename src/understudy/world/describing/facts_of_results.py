"""What a tool gives, and what it changes."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from understudy.world.data.amounts import Value
from understudy.world.data.matching import equal_values
from understudy.world.data.values import at, escape, is_number
from understudy.world.describing.facts import Case, Fact, common_fields, tally
from understudy.world.describing.facts_of_searches import facts_of_searches
from understudy.world.known.context import resolve
from understudy.world.known.sources import path_text, quoted, source_text, unnamed, value_text
from understudy.world.lists.listings import list_in
from understudy.world.lists.query import Query
from understudy.world.results.draws import Draw
from understudy.world.results.explain import same_value
from understudy.world.results.gone import Taking
from understudy.world.results.rules import Effect, Rule
from understudy.world.results.shapes import Leaf

Rows = list[tuple[dict[str, Any], list[dict[str, Any]]]]


def facts_of_results(case: Case) -> Iterator[Fact]:
    """The form of results, how listings are chosen and ordered, what values are made of."""
    query = case.model.query
    if query is not None:
        yield from _listing(case, query)
    forms: dict[str, list[tuple[dict[str, Any], Any]]] = defaultdict(list)
    for args, value in case.calls:
        if isinstance(value, dict) and value:
            forms["ok:{" + ",".join(sorted(value)) + "}"].append((args, value))
    every = Counter(name for own in forms.values() for name in own[0][1])
    for label, own in forms.items():
        fields = list(own[0][1])
        times = case.model.evidence.classes.get(label, 0)
        telling = next((n for n in fields if every[n] == 1), None)
        where = f"In results with `{telling}`, " if len(forms) > 1 and telling else ""
        text = f"Gives {quoted(fields)}" + (f" in {times} calls." if len(forms) > 1 else ".")
        yield from case.fact("gives", "", text, (times, times))
        if len(forms) == 1 or telling:
            shape = case.model.shapes.get(label)
            for leaf in shape.leaves if shape is not None else ():
                yield from _leaf(case, leaf, own, where)
    yield from _new(case)


def _listing(case: Case, query: Query) -> Iterator[Fact]:
    rows = [(args, found[1]) for args, v in case.calls if (found := list_in(v)) is not None]
    full = [(args, listed) for args, listed in rows if listed]
    fields = common_fields([r for _, listed in full for r in listed], case.bar.sure)
    where = f" under `{query.where}`" if query.where else ""
    text = f"Lists records{where}, each with {quoted(fields)}."
    whole = tally(all(f in r for r in listed for f in fields) for _, listed in full)
    yield from case.fact("gives", query.where, text, whole)
    yield from _chosen(case, query, full)
    yield from facts_of_searches(case, query, full)
    yield from _ordered(case, query, full)
    whole_values = [v for _, v in case.calls if isinstance(v, dict) and query.where in v]
    for name in common_fields(whole_values, case.bar.sure) if query.where else ():
        counts = tally(v.get(name) == len(v[query.where]) for v in whole_values)
        varied = len({v.get(name) for v in whole_values if is_number(v.get(name))}) > 1
        if varied:
            text = f"`{name}` is the number of records under `{query.where}`."
            yield from case.fact("gives", name, text, counts)
    lengths = [len(listed) for _, listed in full]
    if query.limit is not None and lengths.count(query.limit) >= case.bar.least:
        text = f"Lists at most {query.limit} records."
        yield from case.fact("gives", "", text, tally(n <= query.limit for n in lengths))
    if query.limit_by is not None:
        p = query.limit_by
        told = tally(len(listed) <= a[p] for a, listed in full if is_number(a.get(p)))
        yield from case.fact("takes", p, "At most so many records are listed.", told)
    for name, (other, p) in query.derived.items():
        text = f"`{name}` of a record is its `{other}` times the argument `{p}`."
        right = tally(
            abs(r[name] - r[other] * a[p]) < 0.011
            for a, listed in full
            for r in listed
            if is_number(a.get(p)) and is_number(r.get(name)) and is_number(r.get(other))
        )
        yield from case.fact("gives", name, text, right)


def _chosen(case: Case, query: Query, full: Rows) -> Iterator[Fact]:
    """Which arguments choose among the records."""
    for p, name in query.equal:
        right = tally(all(equal_values(a[p], r.get(name)) for r in rows) for a, rows in full
                      if a.get(p) is not None)  # fmt: skip
        yield from case.fact("takes", p, f"Only records with this `{name}` are listed.", right)
    for pairs, sign, word in ((query.most, 1, "most"), (query.least, -1, "least")):
        for p, name in pairs:
            right = tally(all(sign * (r[name] - a[p]) <= 0 for r in rows if is_number(r.get(name)))
                          for a, rows in full if is_number(a.get(p)))  # fmt: skip
            text = f"Only records whose `{name}` is at {word} this are listed."
            yield from case.fact("takes", p, text, right)
    for p in query.under:
        if p == query.vary or p in query.elsewhere:
            continue
        groups: dict[Any, set[str]] = defaultdict(set)
        times: dict[Any, int] = defaultdict(int)
        for a, rows in full:
            for r in rows if a.get(p) is not None else ():
                key = repr(r.get(query.key) if query.key else r)
                groups[key].add(repr(a[p]))
                times[key] += 1
        again = tally(len(groups[key]) == 1 for key, n in times.items() if n > 1)
        text = "Chooses which records are listed: none is listed under two values of it."
        yield from case.fact("takes", p, text, again)


def _ordered(case: Case, query: Query, full: Rows) -> Iterator[Fact]:
    for p, rules in query.order.items():
        for value, name, down in rules:
            listed = [rows for a, rows in full if p in a and same_value(a[p], value)]
            text = f"With {value_text(value)} records come by `{name}`, {_direction(down)}."
            yield from case.fact("takes", p, text, _in_order(listed, name, down))
    if query.default is not None:
        name, down = query.default
        listed = [rows for a, rows in full if not any(p in a for p in query.order)]
        text = f"Records come by `{name}`, {_direction(down)}"
        text += f", unless {quoted(query.order)} says otherwise." if query.order else "."
        yield from case.fact("gives", "", text, _in_order(listed, name, down))


def _direction(down: bool) -> str:
    return "from the highest" if down else "from the lowest"


def _in_order(lists: Sequence[list[dict[str, Any]]], name: str, down: bool) -> tuple[int, int]:
    """Of the lists with two records and more, how many are in this order."""
    columns = [[r[name] for r in rows if r.get(name) is not None] for rows in lists]
    return tally(
        all((a >= b) if down else (a <= b) for a, b in pairwise(values))
        for values in columns
        if len(values) > 1 and len({type(v) for v in values if not is_number(v)}) <= 1
    )


def _leaf(
    case: Case, leaf: Leaf, values: Sequence[tuple[dict[str, Any], Any]], where: str
) -> Iterator[Fact]:
    """What a value of the result is made of: the first source that the remembered calls bear."""
    for source, _ in leaf.sources:
        said = source_text(source)
        itself = source in (("arg", leaf.path), ("out", leaf.path))
        if said is None or itself or (source[0] == "ref" and leaf.path == f"/{escape(source[2])}"):
            continue
        answers = []
        for args, value in values:
            try:
                shown = at(value, leaf.path)
            except KeyError:
                continue
            c = case.context(args)
            c.out = value
            found = resolve(source, c)
            if found is not None:
                answers.append(same_value(found[0], shown))
        counts = tally(answers)
        if case.bar.passes(*counts):
            about = leaf.path.removeprefix("/")
            is_ = "was always" if source[0] == "const" else "is"
            text = f"{where}{path_text(leaf.path)} {is_} {said}."
            yield from case.fact("gives", about, text, counts)
            return


def _new(case: Case) -> Iterator[Fact]:
    """Fields of a result that equal calls fill anew each time, and what takes them."""
    taking: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for tool, model in case.world.models.items():
        for p, seen in model.evidence.origins.items():
            total = sum(good for _, good in seen.values())
            for origin, (_, good) in seen.items():
                maker, _, path = origin.partition(" ")
                if maker == case.tool and case.bar.passes(good, total):
                    taking[path].append((f"`{tool}` takes it as `{p}`", good))
    for path, said in taking.items():
        text = f"{path_text(path)}: {', '.join(t for t, _ in said)}."
        n = sum(good for _, good in said)
        yield Fact(case.tool, "gives", path.removeprefix("/"), text, n, n)
    for path in _made(case):
        pairs = [
            (_get(a, path), _get(b, path))
            for held in case.model.recall.values()
            for (_, a), (_, b) in pairwise(held)
        ]
        text = f"Makes a new {path_text(path)} at each call."
        new = tally(a != b for a, b in pairs if a is not None)
        yield from case.fact("changes", path.removeprefix("/"), text, new)


def _made(case: Case) -> list[str]:
    leaves = [leaf for shape in case.model.shapes.values() for leaf in shape.leaves]
    return list(dict.fromkeys(leaf.path for leaf in leaves if leaf.fresh is not None))


def _get(value: Any, path: str) -> Any:
    try:
        return at(value, path)
    except KeyError:
        return None


def _listed_later(case: Case, taking: Taking) -> Iterator[Fact]:
    """That listings show what the call names no longer, or again, where it hangs on nothing."""
    if taking.where or taking.when or not taking.argument or taking.seen < case.bar.least:
        return
    text = f"Listings {'show' if taking.back else 'do not show'} the `{taking.argument}` given "
    text += "again afterwards." if taking.back else "afterwards."
    yield Fact(case.tool, "changes", "", text, taking.seen, taking.seen)


def facts_of_changes(case: Case) -> Iterator[Fact]:
    """What differs after the call: in its own result, in other things, in later results."""
    evidence, known = case.model.evidence, case.world.ids.keys.get(case.tool, {})
    of = f" of the record that {quoted(known[''])} names" if len(known.get("", ())) == 1 else ""
    changed = False
    for name, (sights, differ) in evidence.changes.items():
        becomes = evidence.becomes.get(name, {})
        to = next(iter(becomes), "null")
        const = tally(v.get(name) == json.loads(to) for _, v in case.calls if isinstance(v, dict))
        if len(becomes) == 1 and differ >= case.bar.least and case.bar.passes(*const):
            text = f"Sets `{name}`{of} to {to}."
            facts = [Fact(case.tool, "changes", name, text, sights, sights)]
        else:
            text = f"Changes `{name}`{of}."
            facts = case.fact("changes", name, text, (differ, sights))
        changed = changed or differ > (1 - case.bar.sure) * sights
        yield from facts
        if facts:
            yield from _shown_later(case, name)
    for effect in case.model.effects:
        yield from _effect(case, effect)
    for draw in case.model.draws:
        yield from _draw(case, draw)
    for taking in case.model.takings:
        yield from _listed_later(case, taking)
    told = [n for n, _ in evidence.changes.values()]
    acts = case.model.effects or case.model.draws or case.model.takings
    quiet = not (changed or acts or _made(case))
    if told and quiet:
        text = "Shows records as earlier results did: no change was seen."
        differ = sum(d for _, d in evidence.changes.values())
        yield from case.fact("changes", "", text, (sum(told) - differ, sum(told)))


def _shown_later(case: Case, name: str) -> Iterator[Fact]:
    for tool, (times, same) in case.model.evidence.shown.get(name, {}).items():
        if tool != case.tool:
            text = f"`{tool}` shows this `{name}` afterwards."
            yield from case.fact("changes", name, text, (same, times))


def _effect(case: Case, effect: Effect) -> Iterator[Fact]:
    """A field of another thing, by the rule that the world learned of it."""
    p, through = effect.role
    whose = f"the record that `{p}` names" if p else "the record that the result names"
    if through and p:
        whose = f"the record that `{through}` of {whose} names"
    for name, rule in effect.rules.items():
        seen, right = case.model.evidence.effects.get(name, (0, 0))
        text = unnamed(f"{_rule(rule)} `{name}` of {whose}.")
        yield from case.fact("changes", name, text, (right, seen))


def _draw(case: Case, draw: Draw) -> Iterator[Fact]:
    """A number inside a record that another tool lists."""
    *outer, last = [f"`{n}`" if kind == "is" else f"what `{n}` names" for kind, n in draw.path]
    number = " in ".join([last, *reversed(outer)])
    whose = f"`{draw.key}` in `{draw.group}`" if draw.group else f"`{draw.key}`"
    beside = f" for the `{draw.vary}` beside it" if draw.vary else ""
    text = (
        f"{_rule(Rule(draw.sign, draw.amount))} {number} of the record that {whose} names, as "
        f"`{draw.listing}` lists it{beside}."
    )
    about = next((n for kind, n in draw.path if kind == "is"), "")
    yield from case.fact("changes", about, text, (draw.right, draw.seen))


def _rule(rule: Rule) -> str:
    if rule.kind == "set" and rule.value[0] == "const":
        return f"Puts {rule.value[1]} into"
    if rule.kind == "parts":
        return "Changes what the arguments name in"
    if rule.kind == "log":
        return "Adds a record to"
    verbs = {"+": "Adds {} to", "-": "Takes {} from", "append": "Puts {} at the end of"}
    verbs |= {"set": "Puts {} into", "insert": "Puts {}, in order, into"}
    verbs["join"] = verbs["append"]
    return verbs.get(rule.kind, "Takes {} out of").format(_value(rule.value or ("", "")))


def _value(source: Value) -> str:
    """Where in a call a value is, in words."""
    head, *_, path = source
    if head == "const":
        return f"{path}"
    if head in ("and", "less"):
        one, other = map(_value, source[1:])
        return f"{one} and {other}" if head == "and" else f"{one} less {other}"
    pointer = path.startswith("/") and not head.startswith("part-")
    value = path_text(path if pointer else f"/{escape(path)}")
    counted = {"sum": f"the sum of {value}", "count": f"the number of {value}"}
    return counted.get(head, value)
