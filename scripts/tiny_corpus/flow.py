"""A scripted expert in an invented service: it writes whole requests that end well."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from . import phrases
from . import words as w
from .api import Service, make_items
from .script import Json, Script
from .types import ProbeKind


@dataclass(frozen=True)
class Policy:
    """How the expert behaves. The defaults are what it does when nobody says otherwise."""

    extra: tuple[str, str] | None = None  # parameter of act, always this value
    confirm_first: bool = False
    details_first: bool = False
    on_gone: str = "next"  # next | stop
    on_declined: str = "next"  # next | stop
    on_transient: str = "retry"  # retry | stop
    ending: str = ""  # the last message ends with this word
    terse: bool = False  # the last message is the reference alone


@dataclass
class Faults:
    """What goes wrong in the service."""

    gone: int = 0  # so many chosen items are gone
    declined: int = 0
    expired: bool = False
    lower: bool = False  # the method's capital letter is refused
    transient: tuple[str, ...] = ()  # steps that fail once
    hard: str = ""  # step that is refused for good
    empty: bool = False


@dataclass
class Goal:
    """What the user wants: a value of each slot by its name, and the methods to try in order."""

    values: Json
    items: list[Json]
    methods: list[str]
    unsaid: list[str] = field(default_factory=list)  # slots that the first message leaves out
    cancel: str = ""  # an earlier one that is to be cancelled first


class Stop(Exception):
    """The expert has told the user why it ends here."""


def small(rng: Random) -> int:
    return rng.randrange(1, 8) if rng.random() < 0.7 else rng.randrange(1, 13)


def quantity(rng: Random) -> int:
    """Mostly small, so that it may be said in words."""
    return small(rng) if rng.random() < 0.85 else rng.randrange(10, 400)


def draw_values(rng: Random, s: Service, names: w.Names, items: list[Json]) -> Json:
    """A value of each slot; optional ones may be absent. At least one item is under the limit."""
    values: Json = {}
    for slot in s.slots:
        if not slot.required and rng.random() < 0.2:
            continue
        match slot.kind:
            case "place" | "person":
                values[slot.name] = names.proper()
            case "people" | "count":
                values[slot.name] = small(rng)
            case "limit":
                prices = [i[s.price] for i in items]
                top = rng.choice(prices)
                values[slot.name] = top + -top % rng.choice((1, 5, 10))
            case _:
                values[slot.name] = rng.choice(slot.options)
    return values


def make_goal(rng: Random, s: Script, api: Service, **want: Any) -> Goal:
    """A goal. `want`: count of items, methods, unsaid, cancel."""
    names = w.Names(rng, s.split)
    count = want.get("count") or rng.choice((1, 2, 3, 3, 4))
    items = make_items(rng, api, count)
    split = w.base(s.split)
    pool = w.pool(w.METHODS, split)
    methods: list[str] = []
    while len(methods) < (want.get("methods") or rng.choice((1, 1, 2))):
        made = rng.random() < 0.5 or len(pool) < 3
        method = w.pseudo(rng, split) if made else rng.choice(pool)
        if method not in methods:
            methods.append(method)
    goal = Goal(draw_values(rng, api, names, items), items, methods)
    if want.get("unsaid", rng.random() < 0.25):
        said = [x.name for x in api.slots if x.required and x.kind != "choice"]
        goal.unsaid = [rng.choice([*said, *([api.method] * bool(api.method))])]
    if api.cancel and want.get("cancel", rng.random() < 0.5):
        goal.cancel = api.finals.new()
    return goal


class Expert:
    """Plays one goal in one service into a script."""

    def __init__(
        self,
        s: Script,
        api: Service,
        goal: Goal,
        policy: Policy | None = None,
        faults: Faults | None = None,
        marks: dict[str, ProbeKind] | None = None,
    ) -> None:
        self.s, self.api, self.goal = s, api, goal
        self.policy, self.faults = policy or Policy(), faults or Faults()
        self.rng, self.marks = s.rng, marks or {}
        self.flaky = set(self.faults.transient)

    def run(self) -> None:
        """From the user's request to the final message."""
        self.s.user(self.request())
        self.ask_missing()
        try:
            if self.goal.cancel:
                self.s.call(self.api.cancel, {self.api.final: self.goal.cancel}, "copy")
                self.s.result(self.api.done({"status": "cancelled"}))
            self.choose_and_act(self.search())
        except Stop:
            return

    def mark(self, step: str, default: ProbeKind = "copy") -> ProbeKind:
        return self.marks.get(step, default)

    def request(self) -> str:
        api, goal, rng = self.api, self.goal, self.rng
        units = [x.word for x in api.slots if x.kind == "count"]
        unit = units[0] if units and rng.random() < 0.5 else ""
        facts = [
            phrases.slot_text(rng, x, goal.values[x.name], api.price, unit)
            for x in api.slots
            if x.name in goal.values and x.name not in goal.unsaid
        ]
        first, rest = facts[:1], facts[1:]
        limit = api.slot("limit")
        if limit and limit.name not in goal.values and rng.random() < 0.3:
            rest.append(phrases.no_limit(rng, limit))
        if api.method and api.method not in goal.unsaid:
            said = [m.capitalize() for m in goal.methods] if self.faults.lower else goal.methods
            rest.append(phrases.methods(rng, api.method, said))
        if goal.cancel:
            verb = api.verbs["cancel"]
            form = rng.choice(("first {v} {c}", "{v} {c} first", "before that {v} my {f} {c}"))
            rest.append(form.format(v=verb, c=goal.cancel, f=api.final))
        rng.shuffle(rest)
        return phrases.request(rng, api, [*first, *rest])

    def ask_missing(self) -> None:
        for name in self.goal.unsaid:
            slot = next((x for x in self.api.slots if x.name == name), None)
            if slot is None:
                question, value = f"Which {name}?", ", ".join(self.goal.methods)
            else:
                given = self.goal.values[name]
                question, value = phrases.ask(slot), str(given)
                if type(given) is int:
                    value = phrases.number(self.rng, given)
            self.s.say(question, "talk")
            self.s.user(self.rng.choice((value, value, f"{value}.", f"{value} please")))

    def attempt(self, step: str, name: str, arguments: Json, kind: ProbeKind) -> None:
        """Call, once more if it fails in passing; leaves the last result open."""
        s, api = self.s, self.api
        s.call(name, arguments, kind)
        if step in self.flaky:
            self.flaky.discard(step)
            s.result(api.error(self.rng, "transient"))
            if self.policy.on_transient == "stop":
                self.give_up("transient")
            s.call(name, arguments, self.mark("transient"))
        if self.faults.hard == step:
            s.result(api.error(self.rng, "hard"))
            self.give_up("hard")

    def give_up(self, why: str) -> None:
        self.s.say(phrases.GAVE_UP[why], self.mark(why, "talk"))
        raise Stop

    def search(self) -> list[Json]:
        """The list that the service shows."""
        api, goal = self.api, self.goal
        asked = {x.name: goal.values[x.name] for x in api.slots
                 if x.step == "search" and x.name in goal.values}  # fmt: skip
        shown = list(goal.items)
        limit, sort = api.slot("limit"), api.slot("sort")
        if limit and limit.name in asked:
            shown = [i for i in shown if i[api.price] <= asked[limit.name]]
        if sort and sort.name in asked:
            by = asked[sort.name]
            shown.sort(key=lambda i: i[by], reverse=by == api.good)
        self.attempt("search", api.search, asked, self.mark("search"))
        if self.faults.empty:
            shown = []
        self.s.result(self.api.done({w.plural(api.noun): shown}))
        if not shown:
            self.give_up("nothing")
        return shown

    def choose_and_act(self, shown: list[Json]) -> None:
        s, api, policy = self.s, self.api, self.policy
        kind = self.mark("pick")
        for i, item in enumerate(shown):
            hold = self.act(item, i < self.faults.gone, kind)
            if hold:
                break
            if policy.on_gone == "stop" or i + 1 == len(shown):
                self.give_up("gone")
            kind = self.mark("gone")
        else:
            return
        reference = self.confirm(item, hold) if api.confirm else hold
        text = phrases.final(api, reference)
        if policy.terse:
            text = reference
        if policy.ending:
            text = f"{text} {policy.ending}"
        s.say(text, self.mark("final"))

    def act(self, item: Json, gone: bool, kind: ProbeKind) -> str:
        """Details and confirmation where demanded, then the act. Empty if the item is gone."""
        s, api, policy, goal = self.s, self.api, self.policy, self.goal
        item_id = item[api.id_field]
        if policy.details_first:
            s.call(api.details, {api.item_arg: item_id}, self.mark("details", kind))
            s.result(api.done(dict(item)))
        if policy.confirm_first:
            s.say(phrases.propose(api, item_id, item[api.price]), self.mark("confirm_first", kind))
            s.user(self.rng.choice(("yes", "Yes please.", "ok", "go ahead")))
        arguments: Json = {api.item_arg: item_id}
        arguments |= {x.name: goal.values[x.name] for x in api.slots if x.step == "act"}
        if policy.extra:
            arguments[policy.extra[0]] = policy.extra[1]
            kind = self.mark("extra", kind)
        self.attempt("act", api.act, arguments, kind)
        if gone:
            s.result(api.error(self.rng, "gone", id=item_id))
            return ""
        made = api.holds.new() if api.confirm else api.finals.new()
        record = {api.hold_arg if api.confirm else api.final: made}
        if self.rng.random() < 0.3:
            record[api.price] = item[api.price]
        s.result(api.done(record))
        return made

    def confirm(self, item: Json, hold: str) -> str:
        s, api, policy, faults = self.s, self.api, self.policy, self.faults
        methods, loud, expired = list(self.goal.methods), faults.lower, faults.expired
        refused, kind = faults.declined, self.mark("confirm")
        while True:
            arguments: Json = {api.hold_arg: hold}
            if api.method:
                method = methods[0].capitalize() if loud else methods[0]
                arguments[api.method] = method
            self.attempt("confirm", api.confirm, arguments, kind)
            if loud:
                loud = False
                s.result(api.error(self.rng, "lower", p=api.method))
            elif expired:
                expired = False
                s.result(api.error(self.rng, "expired", id=hold))
                hold = self.act(item, False, "copy")
            elif refused:
                refused -= 1
                s.result(api.error(self.rng, "declined", m=methods.pop(0)))
                if policy.on_declined == "stop" or not methods:
                    self.give_up("declined")
                kind = self.mark("declined")
            else:
                reference = api.finals.new()
                s.result(api.done({api.final: reference}))
                return reference
