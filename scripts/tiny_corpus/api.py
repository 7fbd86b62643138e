"""Inventing a service: tools, parameters, what its records look like, how it reports errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from . import words as w
from .script import Json, param, tool
from .types import Split

Kind = Literal["place", "people", "count", "limit", "sort", "person", "choice"]
Step = Literal["search", "act"]

ERRORS: dict[str, tuple[str, ...]] = {
    "transient": ("rate limited", "busy, try again", "timeout", "too many requests"),
    "gone": ("{id} is gone", "no longer available", "sold out", "{id} was just taken"),
    "expired": ("{id} has expired", "expired"),
    "declined": ("{m} declined", "declined", "{m} was refused", "not accepted"),
    "hard": ("access denied", "not permitted", "blocked"),
    "lower": ("{p} must be lower case", "{p}: small letters only"),
}
ERROR_STYLES = ("error", "error", "error", "ok", "nested", "text", "status")


def render_error(style: str, message: str) -> Any:
    """One error in the service's style; several report success outside."""
    match style:
        case "error":
            return {"error": message}
        case "ok":
            return {"ok": False, "error": message}
        case "nested":
            return {"error": {"message": message}}
        case "status":
            return {"status": "failed", "reason": message}
    return f"Error: {message}"


@dataclass(frozen=True)
class Slot:
    """A parameter, and the word that users have for it."""

    name: str
    word: str
    kind: Kind
    step: Step
    required: bool = True
    options: tuple[str, ...] = ()


@dataclass
class Service:
    """search -> (details) -> act -> (confirm). An empty name: the service has no such thing."""

    noun: str
    verbs: dict[str, str]
    search: str
    act: str
    confirm: str
    details: str
    cancel: str
    slots: list[Slot]
    method: str  # parameter of confirm
    item_arg: str
    hold_arg: str
    final: str
    price: str
    good: str
    id_field: str
    option: str  # parameter of act that a rule may demand
    error_style: str
    ok: bool  # results say {"ok": true}
    ids: w.IdStyle
    holds: w.IdStyle
    finals: w.IdStyle
    tools: list[Json] = field(default_factory=list)

    def slot(self, kind: Kind) -> Slot | None:
        return next((s for s in self.slots if s.kind == kind), None)

    def done(self, record: Json) -> Json:
        return {"ok": True, **record} if self.ok else record

    def error(self, rng: Random, kind: str, **values: Any) -> Any:
        return render_error(self.error_style, rng.choice(ERRORS[kind]).format(**values))


_INTEGERS: tuple[tuple[tuple[Kind, Step], ...], ...] = (
    (("people", "search"), ("count", "act")), (("people", "search"), ("count", "act")),
    (("people", "search"), ("count", "act")), (("people", "search"), ("count", "search")),
    (("people", "search"), ("count", "search")), (("count", "search"), ("count", "act")),
    (("count", "search"), ("people", "act")), (("people", "act"), ("count", "act")),
    (("people", "search"), ("count", "act"), ("count", "act")), (("people", "search"),),
    (("count", "act"),), (),
)  # fmt: skip


def people_slot(names: w.Names, step: Step) -> Slot:
    """How many come: users say people, or the parameter's own word."""
    rng = names.rng
    word = names.many(w.PEOPLE) if rng.random() < 0.8 else names.word(w.PEOPLE)
    name = word
    if rng.random() < 0.2:
        name = rng.choice(("num_{w}", "{w}_count", "number_of_{w}")).format(w=word)
    return Slot(name, word, "people", step)


def count_slot(names: w.Names, step: Step) -> Slot:
    """How many of something; users say the parameter's own word."""
    rng = names.rng
    word = names.many(w.COUNT)
    name = word
    if rng.random() < 0.2:
        name = rng.choice(("num_{w}", "{s}_count", "number_of_{w}")).format(
            w=word, s=w.singular(word)
        )
    return Slot(name, word, "count", step)


def limit_slot(names: w.Names, price: str) -> Slot:
    name = names.rng.choice(("max_{f}", "max_{f}", "{f}_limit", "{f}_max", "limit", "budget"))
    name = name.format(f=price)
    return Slot("top_price" if name == "max_price" else name, price, "limit", "search", False)


def make_service(rng: Random, split: Split, **want: bool) -> Service:
    """Invent a service. `want` forces a feature on or off: confirm, details, cancel, method, sort,
    limit, person, choice, option, integers."""

    def has(feature: str, chance: float) -> bool:
        return want[feature] if feature in want else rng.random() < chance

    names = w.Names(rng, split)
    noun = names.noun()
    verbs = {r: names.word(w.VERBS[r]) for r in ("search", "act", "confirm", "details", "cancel")}
    price, good = names.word(w.PRICE), names.word(w.GOOD) if rng.random() < 0.6 else ""
    hold, id_field = names.word(w.HOLD), rng.choice(w.ID)
    names.used |= {id_field, *w.SORT, *w.ATTRIBUTES}
    place = names.word(w.PLACE)
    slots = [Slot(place, place, "place", "search")]
    for kind, step in rng.choice(_INTEGERS) if has("integers", 1.0) else ():
        slots.append((people_slot if kind == "people" else count_slot)(names, step))
    if has("limit", 0.6):
        slots.append(limit_slot(names, price))
    if has("sort", 0.55):
        name, fields = rng.choice(w.SORT), tuple(f for f in (price, good) if f)
        slots.append(Slot(name, name, "sort", "search", False, fields))
    if has("person", 0.2):
        person = names.word(w.PERSON)
        slots.append(Slot(person, person, "person", "act"))
    if has("choice", 0.15):
        kind = rng.choice(list(w.ATTRIBUTES))
        options = tuple(rng.sample(w.ATTRIBUTES[kind], 3))
        slots.append(Slot(kind, kind, "choice", rng.choice(("search", "act")), True, options))
    slots = list({x.name: x for x in reversed(slots)}.values())[::-1]  # names of two rarely meet
    confirms = has("confirm", 0.65)
    many = w.plural(noun)
    s = Service(
        noun=noun,
        verbs=verbs,
        search=f"{verbs['search']}_{many if rng.random() < 0.7 else noun}",
        act=f"{verbs['act']}_{noun}",
        confirm=f"{verbs['confirm']}_{hold}" if confirms else "",
        details=f"{noun}_{verbs['details']}" if has("details", 0.15) else "",
        cancel=f"{verbs['cancel']}_{rng.choice((noun, hold))}" if has("cancel", 0.2) else "",
        slots=slots,
        method=names.word(w.METHOD) if confirms and has("method", 0.75) else "",
        item_arg=rng.choice((id_field, f"{noun}_{id_field}", f"{noun}_{id_field}", noun)),
        hold_arg=rng.choice((hold, f"{hold}_id", f"{hold}_id")),
        final=names.word(w.FINAL),
        price=price,
        good=good,
        id_field=id_field,
        option=names.word(w.ID + w.METHOD) if has("option", 0.0) else "",
        error_style=rng.choice(ERROR_STYLES),
        ok=rng.random() < 0.4,
        ids=w.IdStyle(rng),
        holds=w.IdStyle(rng),
        finals=w.IdStyle(rng),
    )
    s.tools = _schemas(rng, s)
    return s


def schema(slot: Slot) -> Json:
    if slot.options:
        return param("string", list(slot.options))
    kinds = {"people": "integer", "count": "integer", "limit": "number"}
    return param(kinds.get(slot.kind, "string"))


def _schemas(rng: Random, s: Service) -> list[Json]:
    def slots_of(step: Step) -> tuple[Json, list[str]]:
        mine = [x for x in s.slots if x.step == step]
        return {x.name: schema(x) for x in mine}, [x.name for x in mine if x.required]

    item = {s.item_arg: param("string")}
    asked, needed = slots_of("search")
    tools = [tool(s.search, asked, needed)]
    if s.details:
        tools.append(tool(s.details, dict(item), [s.item_arg]))
    more, required = slots_of("act")
    if s.option:
        more[s.option] = param("string")
    tools.append(tool(s.act, {**item, **more}, [s.item_arg, *required]))
    if s.confirm:
        pay = {s.hold_arg: param("string")}
        if s.method:
            pay[s.method] = param("string")
        tools.append(tool(s.confirm, pay, list(pay)))
    if s.cancel:
        tools.append(tool(s.cancel, {s.final: param("string")}, [s.final]))
    if rng.random() < 0.15:
        rng.shuffle(tools)
    return tools


def make_items(rng: Random, s: Service, count: int) -> list[Json]:
    """Records in no order; no two alike in a field, and prices that mostly differ early."""
    prices = numbers(rng, count)
    goods = rng.sample([g / 10 for g in range(10, 51)], count)
    return [
        {s.id_field: s.ids.new(), s.price: p, **({s.good: g} if s.good else {})}
        for p, g in zip(prices, goods, strict=True)
    ]


def numbers(rng: Random, count: int) -> list[int]:
    """Different numbers of two or three digits; mostly no two begin alike."""
    digits = rng.choice((2, 2, 3))
    if rng.random() < 0.7:
        firsts = rng.sample(range(1, 10), count)
        return [f * 10 ** (digits - 1) + rng.randrange(10 ** (digits - 1)) for f in firsts]
    return rng.sample(range(10 ** (digits - 1), 10**digits), count)
