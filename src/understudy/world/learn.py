"""Learning a world from episodes: one pass over the traffic in order, tool by tool after it."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from understudy.core.types import Episode, Tool, is_function
from understudy.world.aftermath import mine_aftermath
from understudy.world.config import WorldConfig
from understudy.world.data.values import columns, kind_of
from understudy.world.hard import mine_hard
from understudy.world.known import evidence, order, versions
from understudy.world.known.context import Context, ToolFacts
from understudy.world.known.course import Later
from understudy.world.known.memory import Memory
from understudy.world.known.owners import Relation, broken, lasting, relations
from understudy.world.known.remembering import remember
from understudy.world.known.state import State
from understudy.world.known.walk import Walk
from understudy.world.lists import listings
from understudy.world.lists.query import Query
from understudy.world.model import World
from understudy.world.outcomes import by_words, frames, overlaps
from understudy.world.outcomes.amiss import blamed
from understudy.world.outcomes.decisions import count_conditions, outcome_tree
from understudy.world.outcomes.features import OF_OUTCOMES, feature, feature_names, fields_of_things
from understudy.world.outcomes.noting import facts_of
from understudy.world.outcomes.templates import Template, abstract, once
from understudy.world.results import draws, effects, logs, mine_gone, quotes
from understudy.world.results.explain import Seen, see
from understudy.world.results.gone import Taking
from understudy.world.results.leaving import leave
from understudy.world.results.rules import Effect
from understudy.world.results.shapes import Shape
from understudy.world.tools import ToolModel, conditions, context_of
from understudy.world.traffic import ids as ids_module
from understudy.world.traffic.aside import set_aside
from understudy.world.traffic.delays import mine_delays
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.joint import AND
from understudy.world.traffic.reading import origins_of, said_by_users
from understudy.world.traffic.transitions import Failures, Step, steps, transitions
from understudy.world.users.scenarios import mine_book

_ANSWERS, _MOMENTS = 4, 16  # answers to one call that are kept, so many times as state lasts
Row = tuple[dict[Any, Any], str, list[str]]  # features, outcome class, conditions


def learn(
    episodes: Sequence[Episode],
    config: WorldConfig | None = None,
    timed: Sequence[Episode] | None = None,
) -> World:
    """A world learned from episodes alone, in the order in which they are given: of time, where
    their state lasts (see world.known.order.arranged). `timed`: they and others in the order of
    time, where they are given otherwise. Raises ValueError where no call has a result."""
    config = config or WorldConfig()
    found = [transitions(e) for e in episodes]
    flat = [t for ts in found for t in ts]
    if not flat:
        raise ValueError("no tool call with a result in these episodes: nothing to learn from")
    failures = Failures.learn(flat)
    origins = origins_of(episodes)
    read = [steps(ts, n, failures, origins[n]) for n, ts in enumerate(found)]
    by_episode, left_out = set_aside(read)
    all_steps = [s for ss in by_episode for s in ss]
    ids = ids_module.mine(all_steps)
    told = {n: said_by_users(ts) for n, ts in enumerate(found)}
    memory = remember(all_steps, ids, told, config.versions)
    declared = {t["function"]["name"]: t for e in episodes for t in e.tools if is_function(t)}
    sights = order.lasting(all_steps, ids)
    if config.lasting is None:
        config = config.model_copy(update={"lasting": bool(sights.lasts)})
    learner = _Learner(config, ids, memory, declared, all_steps, origins)
    numbers = {e.id: n for n, e in enumerate(order.in_time(timed or episodes))}
    ordered = sorted(by_episode, key=lambda ss: numbers[episodes[ss[0].episode].id] if ss else -1)
    learner.versions = versions.mine([s for ss in ordered for s in ss], ids)
    if config.lasting:
        learner.leave(by_episode)
    learner.find_effects(by_episode)
    acting = {t for own in (learner.effects, learner.takings) for t, found in own.items() if found}
    if acting:
        learner.memory = remember(all_steps, ids, told, config.versions, learner.touched, acting)
    if config.lasting:
        learner.leave(by_episode)
    for n, episode in enumerate(by_episode):
        learner.follow(episode, told[n])
    learner.find_owners()
    pooled, unknown = learner.pooled()
    models = learner.models(pooled)
    book = mine_book(episodes, found)
    return World(
        ids,
        learner.memory,
        models,
        list(declared.values()),
        pooled,
        unknown,
        book,
        failures,
        [e.id for e in episodes],
        left_out=left_out,
        moments=order.moments(episodes, sights),
        versions=learner.versions,
    )


def _text(s: Step) -> str:
    """A result as text, out of its envelope where it is one inside."""
    return s.value if isinstance(s.value, str) else s.content


class _Learner:
    """Collects what each tool's calls show, in the order of the traffic."""

    def __init__(
        self,
        config: WorldConfig,
        ids: Ids,
        memory: Memory,
        declared: dict[str, Tool],
        all_steps: Sequence[Step],
        origins: Sequence[int],
    ) -> None:
        self.config, self.ids, self.memory, self.declared = config, ids, memory, declared
        self.origins = origins
        self.versions: dict[str, versions.Version] = {}
        siblings: dict[int, set[int]] = defaultdict(set)
        for n, origin in enumerate(origins):
            siblings[origin].add(n)
        self.siblings = {origin: frozenset(own) for origin, own in siblings.items()}
        self.by_tool: dict[str, list[Step]] = defaultdict(list)
        for s in all_steps:
            self.by_tool[s.name].append(s)
        self.real = {
            t
            for t, ss in self.by_tool.items()
            if (t in declared or any(not s.failed for s in ss)) and any(not s.bad_json for s in ss)
        }
        successful = sorted(t for t, ss in self.by_tool.items() if any(not s.failed for s in ss))
        self.facts = {
            t: facts_of(t, ss, declared.get(t), ids.args.get(t, {}), successful)
            for t, ss in self.by_tool.items()
        }
        self.queries: dict[str, Query | None] = {
            t: None if ids.joint.get(t) == AND else listings.mine(self.by_tool[t], ids, memory)
            for t in self.real
        }
        self.listings = [q for q in self.queries.values() if q is not None]
        fields = fields_of_things(all_steps, ids, memory.of_thing)
        self.features = {
            t: feature_names(
                self.facts[t],
                ids.args.get(t, {}),
                {p: fields[d] for p, d in ids.args.get(t, {}).items()},
            )
            for t in self.real
        }
        self._find_frames()
        self.prose = {t: self._prose(t) for t in self.real}
        self.recall: dict[str, dict[str, list[tuple[int, Any]]]] = defaultdict(dict)
        self.rows: dict[str, list[Row]] = defaultdict(list)
        self.relations: dict[str, list[dict[Relation, bool]]] = defaultdict(list)
        self.seen: dict[str, dict[str, list[Seen]]] = defaultdict(lambda: defaultdict(list))
        self.texts: dict[str, dict[str, list[tuple[Any, bool]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self.flags: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        self.trail: list[list[tuple[Step, str]]] = []
        self.delays: dict[str, list[tuple[str, float | None]]] = defaultdict(list)
        self.effects: dict[str, list[Effect]] = {}
        self.draws: dict[str, list[draws.Draw]] = {}
        self.takings: dict[str, list[Taking]] = {}
        self.touched: effects.Touched = {}
        self.evidence: evidence.Evidences = {}

    def _prose(self, tool: str) -> frozenset[str]:
        """The forms of a tool's good texts that are none of their own."""
        texts = [
            s for s in self.by_tool[tool]
            if isinstance(s.value, str) and not s.failed and self._usable(s)
        ]  # fmt: skip
        forms = Counter(self._form(s) for s in texts)
        return once(forms, self.config.max_forms)

    def _find_frames(self) -> None:
        """The wordings of each tool that differ in words of data alone."""
        data: Counter[str] = Counter()
        for s in (s for own in self.by_tool.values() for s in own):
            values = {
                v for part in (s.args, None if s.failed else s.value) for _, v in columns(part)
            }
            data.update(v for v in values if isinstance(v, str) and len(v) < 32)
        common = {word for word, n in data.items() if n > 2}
        for tool, own in self.by_tool.items():
            texts = [s for s in own if s.failed or isinstance(s.value, str)]
            facts = self.facts[tool]
            forms = [self._form(s) for s in texts]
            facts.frames = frames.mine(forms, common)

    def _find_quotes(self, found: dict[str, list[str]]) -> None:
        """Take the wordings that quote fields of things: others are forms anew."""
        for tool, own in found.items():
            self.facts[tool].quotes = own
        if found:
            self._find_frames()
            self.prose |= {tool: self._prose(tool) for tool in found}

    def _form(self, s: Step) -> str:
        return abstract(_text(s), self._bare(s))[0]

    def _bare(self, s: Step) -> Context:
        return Context(State(self.ids, self.memory, s.episode), self.facts[s.name], s.args)

    def start(self, first: Step) -> State:
        """The state before an episode: what other scenarios told, earlier ones where it lasts."""
        own = self.siblings[first.origin]
        known = Later(first.episode, own) if self.config.lasting else own
        return State(self.ids, self.memory, first.episode, without=known)

    def leave(self, by_episode: Sequence[list[Step]]) -> None:
        """Remember what episodes left, as far as it is known what calls do."""
        usable = [[s for s in episode if self._usable(s)] for episode in by_episode]
        leave(self.memory, usable, self.ids, self._context, self._follow_effects)

    def _usable(self, s: Step) -> bool:
        return s.name in self.real and not s.bad_json

    def find_effects(self, by_episode: Sequence[list[Step]]) -> None:
        """What calls do to things that their results do not show."""
        usable = [[s for s in episode if self._usable(s)] for episode in by_episode]
        self.effects = effects.mine(usable, self.ids, Walk(self.start, self._context))
        walk = Walk(self.start, self._context, self._follow_effects)
        added = logs.mine(usable, self.ids, walk)
        for tool, own in added.items():
            self.effects.setdefault(tool, []).extend(own)
        self._find_quotes(quotes.mine(usable, walk, _text))
        for tool, found in overlaps.mine(usable, self.memory, walk, self._form).items():
            self.facts[tool].overlaps = found
            self.features[tool] += [("clash", n) for n in range(len(found))]
        self.draws = draws.mine(usable, self.queries)
        self.takings = mine_gone.mine(usable, self.queries, walk)
        mine_gone.forget(usable, self.ids, self.takings, self.queries)
        self.touched = effects.touched(usable, self.start, self._context, self.effects)

    def _follow_effects(self, s: Step, c: Context) -> None:
        effects.apply(self.effects.get(s.name, ()), c, s.value)

    def follow(self, episode: list[Step], told: str) -> None:
        """One episode: every call in the state that preceded it."""
        if not episode:
            return
        state = self.start(episode[0])
        trail = []
        for s in episode:
            if not self._usable(s):
                self._follow_unknown(s, state)
                continue
            c = self._context(s, state)
            row = {f: feature(f, c) for f in self.features[s.name]}
            label = self._label(s, c, {f: v for f, v in row.items() if f[0] not in OF_OUTCOMES})
            wrong = blamed(conditions(c), _text(s), c) if s.failed else conditions(c)
            self.rows[s.name].append((row, label, wrong))
            self.relations[s.name].append(relations(c))
            self.flags[s.name][label].append(s.flag)
            if not s.failed and not self._outdated(s):
                held = self.recall[s.name].setdefault(c.key, [])
                if held and self.origins[held[-1][0]] == s.origin:
                    held.pop()
                held.append((s.episode, s.value))
                del held[: -_ANSWERS * (_MOMENTS if self.config.lasting else 1)]
            evidence.note(self.evidence, c, label, s.value, told)
            state.observe(s.name, s.args, label, s.value)
            if not s.failed:
                self._follow_effects(s, c)
                draws.note(self.draws.get(s.name, ()), c.args, s.value, state)
            trail.append((s, label))
            self.delays[s.name].append((label, s.latency_s))
        self.trail.append(trail)

    def _follow_unknown(self, s: Step, state: State) -> None:
        c = Context(state, ToolFacts(s.name), s.args)
        form, slots = abstract(s.content, c)
        self.texts[""][("bad:" if s.bad_json else "unknown:") + form].append((slots, s.flag))

    def _context(self, s: Step, state: State) -> Context:
        facts, query, recall = self.facts[s.name], self.queries[s.name], self.recall[s.name]
        return context_of(state, facts, s.args, self.listings, query, recall)

    def _outdated(self, s: Step) -> bool:
        """Whether a result has the fields that such results had before they changed."""
        version = None if s.failed else self.versions.get(s.name)
        return version is not None and version.outdated(s.value)

    def _label(self, s: Step, c: Context, row: dict[Any, Any]) -> str:
        if not s.failed and isinstance(s.value, str) and s.name in self.ids.written:
            label = "ok:prose"
        elif s.failed or isinstance(s.value, str):
            form, slots = abstract(_text(s), c)
            label = ("err:" if s.failed else "ok:text:") + form
            forms = self.texts[s.name]
            full = label not in forms and len(forms) >= self.config.max_forms
            if full or (not s.failed and form in self.prose[s.name]):
                label = "err:other" if s.failed else "ok:prose"
            if label not in ("err:other", "ok:prose"):
                marks = list(by_words.telling(c))
                forms[label].append(([(said, own + marks) for said, own in slots], s.flag))
                return label
        elif self._outdated(s):
            return "ok:{" + ",".join(self.versions[s.name].renewed(s.value)) + "}"
        elif isinstance(s.value, dict):
            label = "ok:{" + ",".join(sorted(s.value)) + "}"
            if label not in self.seen[s.name] and len(self.seen[s.name]) >= self.config.max_forms:
                label = "ok:{...}"
        else:
            label = f"ok:{kind_of(s.value)}"
        seen = self.seen[s.name][label]
        if len(seen) < self.config.max_rows:
            seen.append(see(c, s.value, row, s.origin))
        return label

    def models(self, pooled: dict[str, dict[str, int]]) -> dict[str, ToolModel]:
        """The tools, learned. What the situation decides is learned from the calls that are not
        wrong in themselves."""
        found = {}
        for tool in sorted(self.real):
            rows = self.rows[tool]
            query = self.queries[tool]
            hard = mine_hard(tool, self.trail, self.facts[tool], self.ids, self.memory)
            model = ToolModel(
                self.facts[tool],
                {},
                query=query,
                listings=self.listings,
                hard=hard,
                after=mine_aftermath(tool, self.trail, self.ids, self.queries),
                conditions=count_conditions([(r[2], r[1]) for r in rows]),
                effects=self.effects.get(tool, []),
                draws=self.draws.get(tool, []),
                takings=self.takings.get(tool, []),
                recall=self.recall[tool],
                calls=len(rows),
                evidence=self.evidence.get(tool, evidence.Evidence()),
            )
            right = [r for r in rows if model.wrong(r[2], pooled) is None]
            model.tree = outcome_tree([(r[0], r[1]) for r in right or rows], hard)
            for label, texts in self.texts[tool].items():
                model.texts[label] = Template.learn(
                    label.removeprefix("err:").removeprefix("ok:text:"), texts
                )
            for label, seen in self.seen[tool].items():
                listing = None
                if query is not None and any(listings.list_in(s.whole) for s in seen[:20]):
                    inside = listings.list_in(seen[0].whole)
                    listing = query.where if inside and inside[0] == query.where else None
                model.shapes[label] = Shape.learn(seen, listing, self.config.precision)
                flags = self.flags[tool][label]
                model.flags[label] = sum(flags) / len(flags)
            own = self.by_tool[tool]
            jsons = [s.content for s in own if isinstance(s.value, (dict, list)) and s.value]
            model.compact = sum('": ' not in t and ', "' not in t for t in jsons) > len(jsons) / 2
            model.latencies = mine_delays(self.delays[tool])
            found[tool] = model
        return found

    def find_owners(self) -> None:
        """Which arguments belong together; a call in which they do not is wrong in itself."""
        for tool, seen in self.relations.items():
            facts, rows = self.facts[tool], self.rows[tool]
            good = [r for r, row in zip(seen, rows, strict=True) if row[1].startswith("ok")]
            facts.owners = lasting(good)
            for found, row in zip(seen, rows, strict=True):
                row[2].extend(broken(found, facts.owners, self.ids.args.get(tool, {})))

    def pooled(self) -> tuple[dict[str, dict[str, int]], dict[str, Template]]:
        """What any tool answers to calls that are wrong in themselves, and to unknown names."""
        table = count_conditions([(r[2], r[1]) for rows in self.rows.values() for r in rows])
        unknown: dict[str, Template] = {}
        for label, texts in sorted(self.texts[""].items(), key=lambda t: len(t[1])):
            kind, _, form = label.partition(":")
            unknown[kind] = Template.learn(form, texts)
        return table, unknown
