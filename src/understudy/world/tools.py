"""One tool of the world: which outcome a call has, and what the outcome looks like."""

import random
from dataclasses import dataclass, field
from typing import Any

from understudy.world.data.formats import has_format
from understudy.world.data.values import call_key, escape, kind_of
from understudy.world.known.context import Context, ToolFacts, kind_at
from understudy.world.known.evidence import Evidence
from understudy.world.known.owners import broken, relations
from understudy.world.known.state import Mark
from understudy.world.lists.lacks import lack
from understudy.world.lists.listings import list_in
from understudy.world.lists.own_rows import session_rows
from understudy.world.lists.query import Query
from understudy.world.outcomes.amiss import UNSEEN, untried
from understudy.world.outcomes.features import Feature, feature
from understudy.world.outcomes.overlaps import obstacles
from understudy.world.outcomes.refusals import takes_new, unheard
from understudy.world.outcomes.templates import Template
from understudy.world.outcomes.tree import Node, decide
from understudy.world.results import gone
from understudy.world.results.draws import Draw, after, note
from understudy.world.results.effects import apply
from understudy.world.results.listed import counts_of, inserted
from understudy.world.results.rules import Effect
from understudy.world.results.shapes import Shape, weighted
from understudy.world.retrieval import Retrieval
from understudy.world.traffic.delays import Delays
from understudy.world.traffic.failing import TRANSIENT

_MANY = 50  # calls of a tool after which what none of them ever named is not known to it
_POOLED = 2.0  # calls of its own that what other tools did under a condition counts as at most


@dataclass(slots=True)
class Hard:
    """A failure that stays: the arguments it hangs on, how surely it stays, and how often it
    struck each thing (shrunk towards the tool's rate with `strength` pseudo-counts)."""

    scope: list[str]
    persist: float
    by_id: dict[str, list[int]] = field(default_factory=dict)
    strength: float = 1e9


@dataclass(slots=True)
class After:
    """What follows from a failure class: the thing is no longer listed; fields of the failure's
    result replace the thing's. `seen`: the listings that show it."""

    vanishes: bool = False
    corrects: list[str] = field(default_factory=list)
    seen: int = 0


@dataclass(slots=True)
class Prediction:
    """A call's result before it is worded as a ToolResult."""

    outcome: str
    value: Any  # parsed
    text: str | None  # the exact text, where the class is one of texts
    flag: bool
    marks: dict[str, Mark]
    doubt: float
    failure: float  # probability of failure in this situation
    chances: dict[str, float]
    wrong: float = 0.0  # `doubt` with chance: that the outcome is another counts as wrong
    outside: float = 0.0  # how far beyond all experience the call is, or one that it rests on
    least: float = 0.0  # doubt that no correction takes away, for too few held-out calls like it


@dataclass(slots=True)
class ToolModel:
    """What was learned of one tool."""

    facts: ToolFacts
    tree: Node
    shapes: dict[str, Shape] = field(default_factory=dict)
    texts: dict[str, Template] = field(default_factory=dict)
    flags: dict[str, float] = field(default_factory=dict)  # class of values -> error flag's rate
    query: Query | None = None
    listings: list[Query] = field(default_factory=list)  # of all tools
    hard: dict[str, Hard] = field(default_factory=dict)
    after: dict[str, After] = field(default_factory=dict)
    conditions: dict[str, dict[str, int]] = field(default_factory=dict)
    recall: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)
    takings: list[gone.Taking] = field(default_factory=list)
    latencies: Delays = field(default_factory=dict)
    compact: bool = False
    calls: int = 0
    evidence: Evidence = field(default_factory=Evidence)
    retrieval: Retrieval | None = None  # where nearest calls are right more often

    def context(self, state: Any, args: dict[str, Any]) -> Context:
        return context_of(state, self.facts, args, self.listings, self.query, self.recall)

    def chances(
        self, c: Context, pooled: dict[str, dict[str, int]]
    ) -> tuple[dict[str, float], bool]:
        """The probability of each outcome class, session facts aside, and whether the call is
        wrong in itself."""
        wrong = self.wrong(conditions(c), pooled)
        if wrong:
            return wrong, True
        counts = decide(self.tree, lambda f: feature(f, c))
        total = sum(counts.values())
        return {k: v / total for k, v in counts.items()}, False

    def wrong(self, found: list[str], pooled: dict[str, dict[str, int]]) -> dict[str, float] | None:
        """The probability of each outcome class of a call that has these conditions; None where
        none of them surely makes it fail, or it is left to the tree of situations."""
        failing = False
        for condition in found:
            own, other = self.conditions.get(condition, {}), pooled.get(condition, {})
            if not own and takes_new(self.conditions, condition):
                continue
            n, every = sum(own.values()), sum(other.values())
            weight = min(1.0, _POOLED / (1 + n) / every) if every else 0.0
            use = {k: own.get(k, 0) + weight * other.get(k, 0) for k in {*own, *other}}
            total = sum(use.values())
            failed = sum(v for k, v in use.items() if k.startswith("err"))
            failing |= failed >= 0.8 * total > 0
            formal = condition.startswith(("extra", "missing", "kind:", "foreign:"))
            if (n >= 8 and not (formal and failed >= 0.95 * total)) or (
                n + every < 2 and not formal
            ):
                continue
            if total and failed >= 0.8 * total:
                return {k: v / total for k, v in use.items()}
        if "missing" in found and "missing" not in {*self.conditions, *pooled}:
            return {UNSEEN: 1.0}
        if self.calls >= _MANY and not failing:
            for condition in found:
                sign, _, what = condition.partition(":")
                heard = condition in self.conditions or condition in pooled
                if sign in ("form", "value", "new") and not heard and self._all_known(what):
                    return {unheard(what): 1.0}
        return None

    def untried(self, c: Context, outcome: str) -> float:
        """The least doubt of an outcome for arguments that no call of the tool had."""
        asked: dict[Feature, Any] = {}
        if c.tool.refused:
            decide(self.tree, lambda f: asked.setdefault(f, feature(f, c)))
        return untried(c, outcome, self.conditions, asked)

    def _all_known(self, what: str) -> bool:
        """Whether the traffic shows all values that an argument of few may have: each came again
        in another scenario (the Good-Turing estimate of the rest is zero)."""
        return all(len(origins) > 1 for origins in self.facts.words.get(what, {}).values())

    def outcome(
        self, c: Context, pooled: dict[str, dict[str, int]], rng: random.Random, greedy: bool
    ) -> tuple[str, dict[str, float], bool]:
        """The outcome class of a call, the chances, and whether a fact of the session set it.

        A hard failure that chance brought stays for the session; what went well once is not
        struck by it later; what the situation alone decides is left to the situation.
        """
        again = c.state.same.get(c.key)
        before = c.state.calls[again].outcome if again is not None else ""
        new = before not in self.texts and before not in self.shapes
        if before.startswith("err") and new and not TRANSIENT.search(before):
            return before, {before: 1.0}, True  # a failure that only this session has seen
        chances, wrong = self.chances(c, pooled)
        if wrong:
            label = max(chances, key=chances.__getitem__) if greedy else weighted(chances, rng)
            return label, chances, False
        facts, immune = c.state.facts, c.state.immune
        for label, hard in self.hard.items():
            if label not in facts.values() and not immune and not hard.by_id:
                continue
            scope = scope_key(self.facts.name, label, hard.scope, c.args)
            if scope in facts and (greedy or rng.random() < hard.persist):
                return label, {label: 1.0}, True
            if chances.get(label, 0) > 0 and not self.caused(label, chances):
                if scope in immune:
                    chances = _without(chances, label)
                elif hard.by_id and len(hard.scope) == 1:
                    k, n = hard.by_id.get(repr(c.args.get(hard.scope[0])), [0, 0])
                    p = (k + hard.strength * chances[label]) / (n + hard.strength)
                    chances = _rescaled(chances, label, p)
        label = max(chances, key=chances.__getitem__) if greedy else weighted(chances, rng)
        return label, chances, False

    def caused(self, label: str, chances: dict[str, float]) -> bool:
        """Whether the situation alone decides for a class, passing failures aside."""
        lasting = sum(p for k, p in chances.items() if k in self.hard or k.startswith("ok"))
        return chances.get(label, 0.0) >= 0.9 * lasting

    def settle(self, c: Context, label: str, chances: dict[str, float]) -> None:
        """Write what an outcome fixed for the rest of the session."""
        name, state = self.facts.name, c.state
        if label in self.hard:
            if not self.caused(label, chances):
                state.facts[scope_key(name, label, self.hard[label].scope, c.args)] = label
        elif label.startswith("ok"):
            for other, hard in self.hard.items():
                scope = scope_key(name, other, hard.scope, c.args)
                state.immune[scope] = True
                state.facts.pop(scope, None)

    def follow_up(self, c: Context, label: str, value: Any) -> None:
        """Write what a call changed elsewhere: a failure for what is listed later (see
        world.aftermath), a success on other things than its result shows (see
        world.results.effects) and for what is listed (see world.results.gone)."""
        if label.startswith("ok"):
            apply(self.effects, c, value)
            gone.apply(self.takings, c, value)
            note(self.draws, c.args, value, c.state)
        if (after := self.after.get(label)) is None:
            return
        for _, domain, item in c.ids:
            if after.vanishes:
                c.state.unlist((domain, item))
            told = value if isinstance(value, dict) else {}
            fields = {n: told[n] for n in after.corrects if n in told}
            if fields:
                c.state.correct((domain, item), fields)

    def render(
        self, label: str, c: Context, rng: random.Random, greedy: bool
    ) -> tuple[Any, str | None, bool, dict[str, Mark], float]:
        """(value, text, flag, provenance, doubt) of an outcome class."""
        flag = label.startswith("err")
        if label in self.texts:
            template = self.texts[label]
            text, guessed = template.render(c, 0.0 if greedy else rng.random())
            mark = Mark("invented" if guessed else "inferred", "wording of this outcome")
            return text, text, template.flag > 0.5, {"": mark}, guessed
        shape = self.shapes.get(label)
        if shape is None:
            return None, None, flag, {}, 1.0
        lists = shape.listing is not None and self.query is not None
        counts = counts_of(shape) if lists and shape.listing else []
        paths = [f"/{escape(key)}" for key in counts]
        if lists and self.query is not None and self.query.total:
            paths.append(f"/{escape(self.query.total)}")
        value, marks, doubt = shape.render(c, rng, greedy, paths)
        if shape.listing is not None and self.query is not None:
            again = self._again(c, counts)
            if again is not None:
                return again[0], None, self.flags.get(label, 0.0) > 0.5, {"": again[1]}, 0.02
            own = session_rows(self.query, self.facts.name, c.state)
            found = self.query.selected(c.args, c.state, own)
            total = {self.query.total: len(found)} if self.query.total else {}
            found = found[: self.query.at_most(c.args)]
            path = f"/{escape(shape.listing)}" if shape.listing else ""
            marks[path] = Mark("remembered", "records of the traffic")
            marks |= {f"{path}/{i}": mark for i, (_, mark) in enumerate(found)}
            found = [(self._drawn(fields, c, -1), mark) for fields, mark in found]
            made_up = any(mark.kind == "invented" for _, mark in found)
            lacking = lack(self.query, c.args, len(found))
            unsure = 0.1 if found else 0.3 if lacking is None else 0.0
            doubt = max(doubt, 0.8 if made_up else unsure, lacking or 0.0)
            listed = [fields for fields, _ in found]
            if shape.listing == "":
                value = listed
            else:
                value = inserted(value, shape, listed, dict.fromkeys(counts, len(listed)) | total)
                marks |= dict.fromkeys(paths, Mark("inferred", "number of records"))
        return value, None, self.flags.get(label, float(flag)) > 0.5, marks, doubt

    def _again(self, c: Context, counts: list[str]) -> tuple[Any, Mark] | None:
        """A listing that repeats itself: in this session, or as the traffic showed it. `counts`:
        the keys that hold how many records it has."""
        assert self.query is not None
        n = c.state.same.get(c.key)
        if self.query.repeats >= 0.8 and n is not None and c.state.calls[n].ok:
            past = c.state.calls[n]
            mark = Mark(kind_at(past, ""), f"call {n}")
            if n >= c.state.changed:
                return past.value, mark
            where, shown = list_in(past.value) or ("", [])
            now = self.query.refreshed(shown, n, c.args, c.state)
            if now is None or n < c.state.relisted:
                return None
            now = [self._drawn(fields, c, n) for fields in now]
            told = dict.fromkeys(counts, len(now))
            return ({**past.value, where: now, **told} if where else now), mark
        if n is not None and n < c.state.changed:
            return None
        if self.query.recalls >= 0.8 and c.recall is not None:
            mark = Mark("remembered", "the same call in the traffic")
            where, shown = list_in(c.recall) or ("", [])
            now = self.query.listed(shown, c.args, c.state)
            if now is None or len(now) == len(shown):
                return None if now is None else (c.recall, mark)
            told = dict.fromkeys(counts, len(now))
            return ({**c.recall, where: now, **told} if where else now), mark
        return None

    def _drawn(self, fields: dict[str, Any], c: Context, since: int) -> dict[str, Any]:
        """A listed record after what the session's calls took from it."""
        assert self.query is not None
        varying = c.args.get(self.query.vary) if self.query.vary else None
        key = self.facts.name, fields.get(self.query.key or ""), repr(varying)
        return after(fields, key, since, c.state) if c.state.drawn else fields


def context_of(
    state: Any,
    facts: ToolFacts,
    args: dict[str, Any],
    listings: list[Query],
    query: Query | None,
    recall: dict[str, list[tuple[int, Any]]],
) -> Context:
    """A call of a tool in its state; `query` and `recall` are the tool's own."""
    c = Context(state, facts, args, listings=listings)
    if query is not None:
        c.hits = query.matched(args, state.without)
        c.unseen = not c.hits and query.unseen(args, state.without)
    c.clashes = [obstacles(o, c) for o in facts.overlaps]
    held = recall.get(c.key)
    if held:
        c.recall = next((v for e, v in reversed(held) if e not in state.without), None)
    return c


def conditions(c: Context) -> list[str]:
    """What is wrong with a call in itself, in the order in which systems look at it."""
    found = []
    if c.tool.extra(c.args):
        found.append("extra")
    if c.tool.missing(c.args):
        found.append("missing")
    domains = c.state.ids.args.get(c.tool.name, {})
    for p, value in c.args.items():
        kinds = c.tool.kinds.get(p)
        if kinds and kind_of(value) not in kinds and value != "":
            if p not in domains:
                found.append(f"kind:{p}:{kind_of(value)}")
            found.append(f"kind:{domains.get(p) or '|'.join(kinds)}:{kind_of(value)}")
        elif (
            p in c.tool.words
            and p not in domains
            and isinstance(value, str)
            and not _good(value, p, c)
        ):
            strange = p in c.tool.patterns and not has_format(value, c.tool.patterns[p])
            strange = strange and not c.state.memory.says(value, c.state.without)
            found.append(f"{'form' if strange else 'value'}:{p}")
    for p, domain, value in c.state.ids.alone(c.tool.name, c.args):
        if value == "":
            found.append(f"empty:{domain}")
        elif c.state.standing((domain, value)) == "new":
            forms = c.tool.patterns.get(p, [])
            odd = isinstance(value, str) and bool(forms) and not has_format(value, forms)
            found += [f"near:{domain}"] * c.state.near(value) + [f"new:{domain}"]
            found += [f"form:{domain}"] * odd
    found += broken(relations(c, c.tool.owners), c.tool.owners, domains) if c.tool.owners else []
    return sorted(found, key=lambda k: k.startswith(("form:", "value:", "new:")))


def _good(value: str, p: str, c: Context) -> bool:
    """Whether an argument had a value in a call that went well, in another scenario or before in
    this session."""
    return any(e not in c.state.without for e in c.tool.words[p].get(value, ())) or any(
        past.ok and past.name == c.tool.name and past.args.get(p) == value for past in c.state.calls
    )


def scope_key(tool: str, label: str, scope: list[str], args: dict[str, Any]) -> str:
    return f"{label}|" + call_key(tool, {p: args.get(p) for p in scope} if scope else args)


def _without(chances: dict[str, float], label: str) -> dict[str, float]:
    rest = {k: v for k, v in chances.items() if k != label}
    total = sum(rest.values())
    return {k: v / total for k, v in rest.items()} if total > 0 else chances


def _rescaled(chances: dict[str, float], label: str, p: float) -> dict[str, float]:
    rest = 1 - chances[label]
    return {k: p if k == label else v * (1 - p) / rest for k, v in chances.items()}
