"""Rules of what calls do to the things that they name, and to those that they make."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.world.data.amounts import Value, amount
from understudy.world.data.values import is_number
from understudy.world.known.context import Context, hop, tuplify
from understudy.world.known.memory import Key
from understudy.world.results import settings

Role = tuple[str, str]
"""(argument, field or ""): its thing, or the thing that the field names. ("", kind of thing): what
the call makes."""


@dataclass(slots=True)
class Rule:
    """How one field changes. `kind`: "set", whatever it was before; "+" or "-" a number; "join" a
    text, after `by`; "append", "insert" (the list is in order) or "remove" an item of a list, `by`
    "once" where an item that is there already is not added;
    "parts": records by key, each under the rules of its kind; "log": a record is added to a list
    (world.results.logs)."""

    kind: str
    value: Value = ()
    by: str = ""  # between joined texts; parts: the field that tells kinds apart; lists: "once"
    gone: list[Any] = field(default_factory=list)  # kinds that vanish when they are named
    inner: list[tuple[Any, str, "Rule"]] = field(default_factory=list)
    """Parts: (kind, field, the rule of its number). Log: ("", field, one way to its value)."""


@dataclass(slots=True)
class Effect:
    """What a successful call does to a thing that it names."""

    role: Role
    rules: dict[str, Rule]  # field of the thing -> its rule


def addressed(c: Context) -> Iterator[tuple[Role, Key]]:
    """The things that a call names, and those that their records refer to."""
    for p, domain, item in c.ids:
        yield (p, ""), (domain, item)
        for name, value in c.state.fields((domain, item)).items():
            if isinstance(value, str) and (far := hop(c, p, name)) not in (None, (domain, item)):
                assert far is not None
                yield (p, name), far


def makes(c: Context, result: Any) -> dict[Role, Key]:
    """What a call makes, by the kind of thing."""
    made = settings.made(c.state.ids, c.tool.name, c.args, result)
    return {("", key[0]): key for key, _ in made}


def shifted(before: Any, rule: Rule, values: Mapping[Value, Any]) -> float | None:
    """A number after a rule that adds to it or takes from it; None where the call says none."""
    by = amount(rule.value, values)
    if not is_number(before) or by is None:
        return None
    after = before + by if rule.kind == "+" else before - by
    return after if isinstance(after, int) else round(after, 2)


def to_json(effects: Sequence[Effect]) -> list[Any]:
    return [[e.role, {n: _rule_json(r) for n, r in e.rules.items()}] for e in effects]


def _rule_json(r: Rule) -> list[Any]:
    inner = [[kind, name, _rule_json(i)] for kind, name, i in r.inner]
    return [r.kind, r.value, r.by, r.gone, inner]


def from_json(data: Sequence[Any]) -> list[Effect]:
    return [Effect((p, f), {n: _rule(r) for n, r in rules.items()}) for (p, f), rules in data]


def _rule(data: Sequence[Any]) -> Rule:
    kind, value, by, gone, inner = data
    return Rule(kind, tuplify(value), by, gone, [(k, name, _rule(r)) for k, name, r in inner])
