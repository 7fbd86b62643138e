"""Inventing a service: tool names, parameters, record shapes, error styles."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from . import words as w
from .drills import numbers
from .script import Json, param, tool
from .types import Split

ERRORS: dict[str, list[tuple[str, str, int]]] = {
    "transient": [
        ("rate limited, try again", "rate_limited", 429),
        ("too many requests", "too_many_requests", 429),
        ("timeout", "timeout", 504),
        ("service busy, please retry", "busy", 503),
        ("temporarily unavailable", "unavailable", 503),
        ("connection reset, try again", "try_again", 502),
    ],
    "gone": [
        ("{id} is no longer available", "gone", 410),
        ("{id} was just taken", "taken", 409),
        ("sold out", "sold_out", 409),
        ("already taken", "conflict", 409),
        ("stale entry: {id} does not exist any more", "stale", 404),
        ("{id} not found, the list is out of date", "not_found", 404),
        ("no longer offered", "unavailable_item", 410),
    ],
    "expired": [
        ("{id} has expired", "expired", 410),
        ("expired, start again", "expired", 440),
        ("{id} timed out and was released", "released", 410),
        ("{id} is not valid any more", "lapsed", 410),
    ],
    "declined": [
        ("{m} declined", "declined", 402),
        ("{m} was refused", "refused", 402),
        ("{m} rejected", "rejected", 402),
        ("not accepted: {m}", "not_accepted", 402),
        ("insufficient funds on {m}", "insufficient_funds", 402),
    ],
    "hard": [
        ("forbidden", "forbidden", 403),
        ("access denied", "access_denied", 403),
        ("account suspended", "suspended", 403),
        ("not permitted for this agent", "not_permitted", 403),
        ("this action is blocked", "blocked", 403),
    ],
    "validation": [("{msg}", "invalid_argument", 400), ("{msg}", "validation_error", 422)],
}
ERROR_STYLES = (
    "error", "error", "reason", "status", "text", "http", "nested", "null", "body", "list", "code",
    "message",
)  # fmt: skip


def render_error(style: str, message: str, code: str, number: int) -> Any:
    """One error in the service's style; several styles report success outside (a 200)."""
    match style:
        case "error":
            return {"error": message}
        case "reason":
            return {"ok": False, "reason": message, "code": number}
        case "status":
            return {"status": "failed", "message": message}
        case "text":
            return f"Error: {message}"
        case "http":
            return f"{number} {message}"
        case "nested":
            return {"error": {"code": code, "message": message}}
        case "null":
            return {"result": None, "error": message}
        case "body":
            return {"status": 200, "body": {"error": message}}
        case "list":
            return {"success": False, "errors": [message]}
        case "code":
            return {"ok": False, "error": code, "detail": message}
        case _:
            return {"status": 200, "message": f"{code}: {message}"}


def join(style: str, *parts: str) -> str:
    """Words as one identifier."""
    pieces = [piece for part in parts for piece in part.split("_")]
    if style == "camel":
        return pieces[0] + "".join(p.capitalize() for p in pieces[1:])
    if style == "pascal":
        return "".join(p.capitalize() for p in pieces)
    if style == "kebab":
        return "-".join(pieces)
    return "_".join(pieces)


@dataclass
class Api:
    """A service: search -> (details) -> act -> (confirm), and what its records look like.

    `search`, `details`, `act`, `confirm` and so on are tool names; an empty name means that the
    service has no such tool. The other names are parameters and result fields.
    """

    noun: str
    verbs: dict[str, str]
    search: str
    act: str
    confirm: str
    details: str
    cancel: str
    escalate: str
    place: str
    size: str  # parameter of search, or ""
    size_text: str
    span: str  # second integer: parameter of act, or ""
    span_text: str
    person: str  # parameter of act, or ""
    method: str  # parameter of confirm, or ""
    cap: str  # parameter of search, or ""
    sort: str  # parameter of search, or ""
    sort_values: dict[tuple[str, bool], str]
    item_arg: str
    hold_arg: str
    note: str
    option: str  # optional parameter of act that rules may demand, or ""
    price: str
    good: str  # second numeric field, or ""
    attribute: str
    flag: str
    id_field: str
    label: str  # name field of an item, or ""
    hold_field: str
    final_field: str
    ids: w.IdStyle
    holds: w.IdStyle
    finals: w.IdStyle
    shape: str
    list_key: str
    error_style: str
    ok_style: str
    tools: list[Json] = field(default_factory=list)

    @property
    def numeric(self) -> list[str]:
        return [f for f in (self.price, self.good) if f]

    def error(self, rng: Random, kind: str, **values: Any) -> Any:
        message, code, number = rng.choice(ERRORS[kind])
        return render_error(self.error_style, message.format(**values), code, number)

    def ok(self, record: Json) -> Json:
        match self.ok_style:
            case "ok":
                return {"ok": True, **record}
            case "status":
                return {"status": "ok", **record}
            case "data":
                return {"data": record}
        return record

    def listing(self, records: list[Json]) -> Any:
        match self.shape:
            case "bare":
                return records
            case "count":
                return {"count": len(records), self.list_key: records}
            case "ok":
                return {"ok": True, self.list_key: records}
            case "nested":
                plain = (self.id_field, self.label)
                nested = [
                    {k: v for k, v in r.items() if k in plain}
                    | {"info": {k: v for k, v in r.items() if k not in plain}}
                    for r in records
                ]
                return {self.list_key: nested}
        return {self.list_key: records}


def make_api(rng: Random, split: Split, **want: bool | None) -> Api:
    """Invent a service. `want` forces a feature on or off:

    confirm, details, cancel, escalate, size, span, person, method, cap, sort, good, attribute,
    flag, option.
    """

    def has(feature: str, chance: float) -> bool:
        forced = want.get(feature)
        return rng.random() < chance if forced is None else forced

    used: set[str] = set()

    def pick(words: list[str]) -> str:
        for _ in range(30):
            chosen = w.word(rng, words, split)
            if chosen not in used:
                break
        else:
            chosen = w.invented(rng, split, 2).lower()
        used.add(chosen)
        return chosen

    noun = w.noun(rng, split)
    used.add(noun)
    style = rng.choice(("snake", "snake", "snake", "camel", "camel", "kebab", "pascal", "reversed"))
    prefix = w.invented(rng, split, 1).lower() + "_" if rng.random() < 0.06 else ""
    arg_style = "camel" if style in ("camel", "pascal") and rng.random() < 0.7 else "snake"
    roles = ("search", "act", "confirm", "details", "cancel", "escalate")
    verbs = {role: pick(w.VERBS[role]) for role in roles}
    hold = pick(w.HOLD)

    def name(role: str, thing: str) -> str:
        if style == "reversed":
            return join("snake", prefix + thing, verbs[role])
        return join(style, prefix + verbs[role], thing)

    price = pick(w.PRICE)
    good = pick(w.GOOD if rng.random() < 0.7 else w.NUMERIC) if has("good", 0.55) else ""
    cap = rng.choice(w.pool(w.CAP, split) or ("max_{f}",)).format(f=price)
    cap = "price_max" if cap == "max_price" else cap  # a name of the demo's
    sort = pick(w.SORT) if has("sort", 0.3) else ""
    with_cap = has("cap", 0.45)
    with_confirm = has("confirm", 0.6)
    id_field = pick(w.ID)
    item_arg = rng.choice((id_field, join("snake", noun, id_field), noun))
    size = pick(w.SIZE) if has("size", 0.5) else ""
    span = pick(w.SPAN) if has("span", 0.5) else ""
    api = Api(
        noun=noun,
        verbs=verbs,
        search=name("search", w.plural(noun) if rng.random() < 0.7 else noun),
        act=name("act", noun),
        confirm=name("confirm", hold) if with_confirm else "",
        details=name("details", rng.choice((noun, noun + "_info"))) if has("details", 0.25) else "",
        cancel=name("cancel", rng.choice((noun, hold))) if has("cancel", 0.12) else "",
        escalate=name("escalate", pick(w.OFFICE)) if has("escalate", 0.1) else "",
        place=join(arg_style, pick(w.PLACE)),
        size=join(arg_style, size) if size else "",
        size_text=w.SIZE_TEXT.get(size, size),
        span=join(arg_style, span) if span else "",
        span_text=span,
        person=join(arg_style, pick(w.PERSON)) if has("person", 0.45) else "",
        method=join(arg_style, pick(w.METHOD)) if with_confirm and has("method", 0.65) else "",
        cap=join(arg_style, cap) if with_cap else "",
        sort=join(arg_style, sort) if sort else "",
        sort_values={},
        item_arg=join(arg_style, item_arg),
        hold_arg=join(arg_style, rng.choice((hold, f"{hold}_{id_field}", f"{hold}_id"))),
        note=join(arg_style, pick(w.NOTE)),
        option=join(arg_style, pick(list(w.OPTION))) if has("option", 0.08) else "",
        price=price,
        good=good,
        attribute=pick(list(w.ATTRIBUTES)) if has("attribute", 0.25) else "",
        flag=pick(w.FLAGS) if has("flag", 0.0) else "",
        id_field=id_field,
        label=pick(["name", "title", "label"]) if rng.random() < 0.3 else "",
        hold_field=rng.choice((hold, f"{hold}_id", "id", id_field)),
        final_field=pick(w.FINAL),
        ids=w.IdStyle(rng),
        holds=w.IdStyle(rng),
        finals=w.IdStyle(rng),
        shape=rng.choice(("key", "key", "bare", "count", "ok", "nested")),
        list_key=rng.choice((w.plural(noun), w.word(rng, w.LIST, split))),
        error_style=rng.choice(ERROR_STYLES),
        ok_style=rng.choice(("plain", "plain", "ok", "status", "data")),
    )
    if api.sort:
        api.sort_values = _sort_values(rng, api)
    api.tools = _schemas(rng, split, api, hold)
    return api


def _sort_values(rng: Random, api: Api) -> dict[tuple[str, bool], str]:
    if rng.random() < 0.5:  # the field's name alone: cheapest first, best first
        values = {(api.price, True): api.price}
        if api.good in w.GOOD:
            values[(api.good, False)] = api.good
        return values
    ends = rng.choice((("asc", "desc"), ("up", "down"), ("low", "high")))
    return {
        (f, low): f"{f}_{ends[0] if low else ends[1]}" for f in api.numeric for low in (True, False)
    }


def _schemas(rng: Random, split: Split, api: Api, hold: str) -> list[Json]:
    describe = rng.random() < 0.25
    many = w.plural(api.noun)
    text = {
        "search": rng.choice((f"Find {many}", f"Search {many} by {api.place}", f"List {many}")),
        "details": rng.choice((f"Facts about one {api.noun}", f"One {api.noun} in full")),
        "act": rng.choice(
            (f"{api.verbs['act'].capitalize()} {w.article(api.noun)}", f"Gives a {hold}")
        ),
        "confirm": rng.choice(
            (f"Make the {hold} final", f"{api.verbs['confirm'].capitalize()} a {hold}")
        ),
        "escalate": "Ask a person for help",
    }
    text = {key: value if describe else "" for key, value in text.items()}
    where = {api.place: param("string")}
    required = [api.place]
    if api.size:
        where[api.size] = param("integer")
        required.append(api.size)
    optional: Json = {}
    if api.cap:
        optional[api.cap] = param("number" if rng.random() < 0.6 else "integer")
    if api.sort:
        optional[api.sort] = param("string", list(dict.fromkeys(api.sort_values.values())))
    tools = [tool(api.search, {**where, **optional}, required, text["search"])]
    item = {api.item_arg: param(api.ids.json_type)}
    if api.details:
        tools.append(tool(api.details, dict(item), [api.item_arg], text["details"]))
    act = dict(item)
    act_required = [api.item_arg]
    if api.person:
        act[api.person] = param("string")
        act_required.append(api.person)
    if api.span:
        act[api.span] = param("integer")
        act_required.append(api.span)
    if api.option:
        act[api.option] = param("string")
    tools.append(tool(api.act, act, act_required, text["act"]))
    if api.confirm:
        pay = {api.hold_arg: param(api.holds.json_type)}
        if api.method:
            pay[api.method] = param("string")
        tools.append(tool(api.confirm, pay, list(pay), text["confirm"]))
    if api.cancel:
        number = {api.final_field: param(api.finals.json_type)}
        tools.append(tool(api.cancel, number, list(number)))
    if api.escalate:
        tools.append(tool(api.escalate, {api.note: param("string")}, [api.note], text["escalate"]))
    if rng.random() < 0.35:  # a tool that this dialogue does not need
        other = f"{w.word(rng, w.VERBS['create'], split)}_{w.noun(rng, split)}"
        argument = w.word(rng, w.NOTE, split)
        if other not in (t["function"]["name"] for t in tools):
            tools.append(tool(other, {argument: param("string")}, [argument]))
    if rng.random() < 0.3:
        rng.shuffle(tools)
    return tools


def make_items(rng: Random, split: Split, api: Api, count: int) -> list[Json]:
    """Records without ties in any numeric field, in no order."""
    columns = {api.price: numbers(rng, count)}
    if api.good:
        columns[api.good] = numbers(rng, count, "good" if api.good in w.GOOD else "num")
    values = w.ATTRIBUTES.get(api.attribute, [])
    flagged = set(rng.sample(range(count), rng.randrange(1, max(2, count)))) if api.flag else set()
    items: list[Json] = []
    for i in range(count):
        record: Json = {api.id_field: api.ids.new()}
        if api.label:
            record[api.label] = w.place_name(rng, split)
        for name, column in columns.items():
            record[name] = column[i]
        if api.attribute:
            record[api.attribute] = rng.choice(values)
        if api.flag:
            record[api.flag] = i in flagged
        items.append(record)
    return items
