"""A scripted expert in an invented service: it writes whole dialogues that end well."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from . import phrases
from . import words as w
from .api import Api
from .goal import Goal
from .script import Json, Script
from .types import ProbeKind


@dataclass(frozen=True)
class Policy:
    """How the expert behaves. The defaults are what it does when nobody says otherwise."""

    rank: int = 0  # 0: the best item, 1: the second best
    order: tuple[str, bool] | None = None  # overrides the user's preference
    default_order: tuple[str, bool] | None = None  # where the user has none
    skip_flag: bool = False
    cap_argument: bool = True  # pass the user's limit to the search
    search_tool: str = ""  # instead of the service's usual search
    extra: tuple[str, str] | None = None  # parameter of act, always this value
    confirm_first: bool = False
    details_first: bool = False
    on_gone: str = "next"  # next | again | stop | escalate
    on_declined: str = "next"  # next | stop | escalate
    on_expired: str = "redo"  # redo | stop
    on_transient: str = "retry"  # retry | stop
    code_word: str = ""
    opening: str = ""
    terse: str = ""  # "id": the final message is the reference alone; "short": at most four words


@dataclass
class Faults:
    """What goes wrong in the service."""

    gone: int = 0  # so many chosen items are gone
    declined: int = 0
    expired: bool = False
    transient: dict[str, int] = field(default_factory=dict)  # step -> times in a row
    hard: str = ""  # step that is refused for good
    empty: bool = False
    validation: str = ""  # place | method | option


class Stop(Exception):
    """The expert has told the user why it ends here."""


class Expert:
    """Plays one goal in one service into a script."""

    def __init__(
        self,
        s: Script,
        api: Api,
        goal: Goal,
        policy: Policy,
        faults: Faults | None = None,
        marks: dict[str, ProbeKind] | None = None,
    ) -> None:
        self.s, self.api, self.goal, self.policy = s, api, goal, policy
        self.rng = s.rng
        self.faults = faults or Faults()
        self.marks = marks or {}
        self.place: str = goal.place
        self.shown: list[Json] = []
        self.dead: set[Any] = set()
        self.sorted_by_service = False

    # -- steps ---------------------------------------------------------------------------------

    def run(self) -> None:
        """From the user's request to the final message."""
        self.s.user(phrases.request(self.rng, self.api, self.goal))
        self.ask_missing()
        try:
            self.cancel_first()
            self.search()
            self.choose_and_act()
        except Stop:
            return

    def cancel_first(self) -> None:
        if self.goal.cancel is not None:
            self.s.call(self.api.cancel, {self.api.final_field: self.goal.cancel}, "copy")
            self.s.result(self.api.ok({"state": self.rng.choice(("cancelled", "done", "gone"))}))

    def mark(self, step: str, default: ProbeKind | None) -> ProbeKind | None:
        return self.marks.get(step, default)

    def ask_missing(self) -> None:
        for fact in self.goal.missing:
            name = {"place": self.api.place, "size": self.api.size, "person": self.api.person,
                    "span": self.api.span}[fact]  # fmt: skip
            value = {"place": self.goal.place, "size": self.goal.size, "person": self.goal.person,
                     "span": self.goal.span}  # fmt: skip
            question = phrases.ask(self.rng, name)
            self.s.say(question, "valid", name.replace("_", " "))
            self.s.user(phrases.answer(self.rng, name, str(value[fact])))

    def attempt(self, step: str, name: str, arguments: Json, kind: ProbeKind | None) -> None:
        """Call, and call again while the failure is transient; leaves the last result open."""
        s, api = self.s, self.api
        failures = self.faults.transient.pop(step, 0)
        s.call(name, arguments, kind, phrases.lead(self.rng, step))
        for i in range(failures):
            s.result(api.error(self.rng, "transient"))
            if self.policy.on_transient == "stop" or i == 2:
                s.say(*phrases.gave_up(self.rng, "transient"), **self._text_mark("transient"))
                raise Stop
            s.call(name, arguments, self.mark("transient", "valid"))
        if self.faults.hard == step:
            s.result(api.error(self.rng, "hard"))
            s.say(*phrases.gave_up(self.rng, "hard"), **self._text_mark("hard"))
            raise Stop

    def _text_mark(self, step: str) -> dict[str, Any]:
        """Probe of a message that gives up: any wording will do, so a common stem is expected."""
        return {"kind": self.mark(step, "valid"), "expected": "Sorry"}

    def search(self) -> None:
        api, goal, s = self.api, self.goal, self.s
        arguments: Json = {api.place: self.place}
        if api.size:
            arguments[api.size] = goal.size
        name = self.policy.search_tool or api.search
        listed = list(goal.items)
        if api.cap and goal.cap is not None and self.policy.cap_argument:
            integer = self._type(api.search, api.cap) == "integer"
            arguments[api.cap] = int(goal.cap) if integer else goal.cap
            listed = [i for i in listed if i[api.price] <= goal.cap]
        order = self._order()
        if api.sort and order in api.sort_values:
            arguments[api.sort] = api.sort_values[order]
            listed.sort(key=lambda i: i[order[0]], reverse=not order[1])
            self.sorted_by_service = True
        if self.faults.validation == "place":
            code = f"{goal.place[:2].upper()}{self.rng.randrange(1, 90)}"
            s.call(name, arguments, self.mark("search", "copy"))
            s.result(self._invalid(phrases.wrong_value(self.rng, api.place, goal.place, code)))
            self.place = code
            arguments = {**arguments, api.place: code}
        if self.faults.validation == "cap" and api.cap in arguments:
            s.call(name, arguments, self.mark("search", "copy"))
            s.result(self._invalid(phrases.unsupported(self.rng, api.cap)))
            del arguments[api.cap]
            listed = (
                list(goal.items)
                if not (order and self.sorted_by_service)
                else sorted(goal.items, key=lambda i: i[order[0]], reverse=not order[1])
            )
        self.attempt("search", name, arguments, self.mark("search", "copy"))
        if self.faults.empty:
            listed = []
        self.shown = [i for i in listed if i[api.id_field] not in self.dead]
        s.result(api.listing(self.shown))

    def _type(self, tool_name: str, parameter: str) -> str:
        for t in self.api.tools:
            if t["function"]["name"] == tool_name:
                return str(t["function"]["parameters"]["properties"][parameter]["type"])
        raise KeyError(tool_name)

    def _invalid(self, message: str) -> Any:
        return self.api.error(self.rng, "validation", msg=message)

    def _order(self) -> tuple[str, bool] | None:
        return self.policy.order or self.goal.order or self.policy.default_order

    def candidates(self) -> list[Json]:
        """Items that fit the goal, best first (in the listed order if there is no preference)."""
        api, goal = self.api, self.goal
        fitting = [i for i in self.shown if i[api.id_field] not in self.dead]
        if goal.cap is not None:
            fitting = [i for i in fitting if i[api.price] <= goal.cap]
        if goal.match:
            fitting = [i for i in fitting if i[api.attribute] == goal.match]
        if self.policy.skip_flag:
            fitting = [i for i in fitting if not i[api.flag]]
        order = self._order()
        if order:
            fitting.sort(key=lambda i: i[order[0]], reverse=not order[1])
        return fitting

    def pick_from(self, items: list[Json]) -> Json | None:
        """The item that the policy would choose among `items`."""
        self.shown = list(items)
        fitting = self.candidates()
        return fitting[min(self.policy.rank, len(fitting) - 1)] if fitting else None

    def choose_and_act(self) -> None:
        s, api, policy = self.s, self.api, self.policy
        gone_left = self.faults.gone
        after_gone = False
        while True:
            fitting = self.candidates()
            if not fitting:
                step = "gone" if self.dead else "nothing"
                why = "all_gone" if self.dead else "nothing"
                s.say(*phrases.gave_up(self.rng, why), **self._text_mark(step))
                raise Stop
            item = fitting[min(policy.rank, len(fitting) - 1)]
            easy = len(self.shown) == 1 or (self.sorted_by_service and item is self.shown[0])
            kind = self.mark("pick", "copy" if easy else "choice")
            if after_gone:
                kind = self.mark("gone", kind)
            hold = self.act(item, gone_left > 0, kind)
            if hold is not None:
                break
            gone_left -= 1
            self.dead.add(item[api.id_field])
            after_gone = True
            if policy.on_gone in ("stop", "escalate"):
                self.give_up("gone", policy.on_gone, item)
            if policy.on_gone == "again":
                saved, self.marks = self.marks, {**self.marks, "search": self.mark("gone", "copy")}  # type: ignore[dict-item]
                self.search()
                self.marks = saved
        final = self.confirm(item, hold) if api.confirm else hold
        text = phrases.final(self.rng, api, self.goal, item, final)
        if policy.terse == "id":
            text = str(final)
        elif policy.terse == "short":
            text = f"Done: {final}"
        if policy.opening:
            text = f"{policy.opening} {text}"
        if policy.code_word:
            text = f"{text} {policy.code_word}"
        expected = text if policy.terse else str(final)
        expected = policy.code_word or policy.opening or expected
        s.say(text, self.mark("final", "copy"), expected)

    def act(self, item: Json, gone: bool, kind: ProbeKind | None) -> Any:
        """Details and confirmation where demanded, then the act. None if the item is gone."""
        s, api, policy = self.s, self.api, self.policy
        item_id = item[api.id_field]
        if policy.details_first:
            s.call(api.details, {api.item_arg: item_id}, self.mark("details", kind))
            s.result(api.ok(dict(item)))
            kind = "copy"
        if policy.confirm_first:
            text = phrases.propose(self.rng, api, item)
            s.say(text, self.mark("confirm_first", kind), str(item_id))
            s.user(self.rng.choice(("yes", "Yes please.", "ok", "go ahead", "fine, do it", "sure")))
            kind = "copy"
        arguments: Json = {api.item_arg: item_id}
        if api.person:
            arguments[api.person] = self.goal.person
        if api.span:
            arguments[api.span] = self.goal.span
        if self.faults.validation == "option" and api.option:
            value = w.option_value(self.rng, api.option)
            s.call(api.act, arguments, kind)
            s.result(self._invalid(phrases.required(self.rng, api.option, value)))
            self.faults.validation = ""
            arguments[api.option] = value
            kind = "valid"
        if policy.extra:
            arguments[policy.extra[0]] = policy.extra[1]
            kind = self.mark("extra", kind)
        self.attempt("act", api.act, arguments, kind)
        if gone:
            s.result(api.error(self.rng, "gone", id=item_id))
            return None
        hold = api.holds.new() if api.confirm else api.finals.new()
        record = {api.hold_field if api.confirm else api.final_field: hold}
        if self.rng.random() < 0.4:
            record[api.price] = item[api.price]
        s.result(api.ok(record))
        return hold

    def confirm(self, item: Json, hold: Any) -> Any:
        s, api, policy, faults = self.s, self.api, self.policy, self.faults
        methods = list(self.goal.methods)
        refused = faults.declined
        kind: ProbeKind | None = self.mark("confirm", "copy")
        while True:
            arguments: Json = {api.hold_arg: hold}
            if api.method:
                arguments[api.method] = methods[0]
            if faults.validation == "method" and api.method:
                s.call(api.confirm, arguments, kind)
                better = f"{methods[0]}_{self.rng.randrange(1, 10)}"
                s.result(
                    self._invalid(phrases.wrong_value(self.rng, api.method, methods[0], better))
                )
                faults.validation = ""
                methods[0] = better
                arguments = {**arguments, api.method: better}
                kind = "valid"
            self.attempt("confirm", api.confirm, arguments, kind)
            if faults.expired:
                faults.expired = False
                s.result(api.error(self.rng, "expired", id=hold))
                if policy.on_expired == "stop":
                    s.say(*phrases.gave_up(self.rng, "expired"), **self._text_mark("expired"))
                    raise Stop
                plain = replace(policy, details_first=False, confirm_first=False)
                self.policy, saved = plain, policy
                hold = self.act(item, False, self.mark("expired", "copy"))
                self.policy = saved
                kind = self.mark("confirm", "copy")
                continue
            if refused > 0:
                refused -= 1
                s.result(api.error(self.rng, "declined", m=methods.pop(0)))
                if policy.on_declined in ("stop", "escalate"):
                    self.give_up("declined", policy.on_declined, item)
                if not methods:
                    s.say(*phrases.gave_up(self.rng, "declined"), **self._text_mark("declined"))
                    raise Stop
                kind = self.mark("declined", "valid")
                continue
            break
        final = api.finals.new()
        record = {api.final_field: final}
        if self.rng.random() < 0.3:
            record[api.price] = item[api.price]
        s.result(api.ok(record))
        return final

    def give_up(self, step: str, how: str, item: Json) -> None:
        s, api = self.s, self.api
        if how == "escalate":
            why = f"{item[api.id_field]} {'gone' if step == 'gone' else 'declined'}"
            s.call(api.escalate, {api.note: why}, self.mark(step, "valid"))
            s.result(api.ok({"sent": True}))
            s.say(self.rng.choice(("I passed it on to a person.", "A person will take over.")))
        else:
            s.say(*phrases.gave_up(self.rng, step), **self._text_mark(step))
        raise Stop
