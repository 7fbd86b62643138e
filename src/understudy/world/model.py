"""The world model: starts sessions, makes up scenarios and users, is saved as JSON."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy.core.types import (
    Episode,
    Feedback,
    Provenance,
    Scenario,
    Split,
    Tool,
    ToolCall,
    ToolResult,
    Transition,
    call_parts,
    is_function,
    text_of,
)
from understudy.world import nearest
from understudy.world.calibration import Doubts, doubt_beyond
from understudy.world.data.envelope import Envelope
from understudy.world.data.ranges import outside
from understudy.world.data.values import kind_of, parse, writable
from understudy.world.declared import schema
from understudy.world.doubting import doubt_of, far_out
from understudy.world.known.context import Context, ToolFacts
from understudy.world.known.course import Later
from understudy.world.known.memory import Memory
from understudy.world.known.order import Moments
from understudy.world.known.state import RANK, Mark, State
from understudy.world.known.versions import Version
from understudy.world.outcomes.refusals import refusal
from understudy.world.outcomes.templates import Template, abstract
from understudy.world.tools import Prediction, ToolModel
from understudy.world.traffic.aside import LARGEST
from understudy.world.traffic.delays import delay
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Failures
from understudy.world.users.notes import Notes
from understudy.world.users.scenarios import Book, draw_scenarios, user_seed
from understudy.world.users.user import Known, MinedUser
from understudy.world.users.wording import flat
from understudy.world.written import content


@dataclass(slots=True)
class World:
    """A learned environment. Immutable: sessions hold all that changes."""

    ids: Ids
    memory: Memory
    models: dict[str, ToolModel]
    declared: list[Tool]
    pooled: dict[str, dict[str, int]]
    unknown: dict[str, Template]
    book: Book
    failures: Failures
    episode_ids: list[str]  # of the traffic, by the numbers that memory knows them by
    doubts: Doubts | None = None  # how often results were wrong; None: doubt as it was reckoned
    fidelity: dict[str, Any] | None = None  # the JSON of the world's FidelityReport
    left_out: dict[str, int] = field(default_factory=dict)  # calls set aside, by their reason
    moments: Moments = field(default_factory=Moments)
    versions: dict[str, Version] = field(default_factory=dict)  # by tool
    _known: Known | None = field(default=None, repr=False)
    _hidden: dict[str, dict[str, Any]] | None = field(default=None, repr=False)

    async def start(
        self, scenario: Scenario, seed: int, snapshot: Any | None = None
    ) -> "WorldSession":
        """A session. With a snapshot it goes on from there: what is settled stays settled,
        what is not yet is drawn by the new seed."""
        return self.session(seed, snapshot, scenario.tools)

    def session(
        self,
        seed: int = 0,
        snapshot: Any | None = None,
        tools: tuple[Tool, ...] = (),
        at: int | None = None,
    ) -> "WorldSession":
        """A session; where state lasts, `at` is how many episodes of the traffic came before it
        (see `moment`): without it, all did."""
        state = snapshot.copy() if snapshot is not None else State(self.ids, self.memory, seed)
        if at is not None and snapshot is None and self.memory.lasts:
            state.without = Later(at)
        return WorldSession(self, state, seed, tools or tuple(self.tools()))

    def moment(self, episode: Episode) -> int | None:
        """How many episodes of the traffic came before another one; None where it is not known, or
        does not matter as no state lasts."""
        return self.moments.before(episode) if self.memory.lasts else None

    def tools(self) -> list[Tool]:
        """The tools as the traffic declared them, and others that went well, as it used them."""
        names = {t["function"]["name"] for t in self.declared if is_function(t)}
        used = [m for m in self.models.values() if m.facts.name not in names]
        return self.declared + [schema(m) for m in used if m.recall or not self.declared]

    def scenarios(self, n: int, seed: int = 0, split: Split = "train") -> list[Scenario]:
        """Up to n different scenarios of a split, recombined from its episodes."""
        return draw_scenarios(self.book, n, seed, split)

    def user(self, scenario: Scenario, seed: int = 0) -> MinedUser:
        """The user of a scenario, of a profile drawn by the seed; without a user message in the
        scenario it opens the conversation itself."""
        if self._known is None:
            self._known = Known(self.book)
        said = [text_of(m.get("content")) for m in scenario.messages if m["role"] == "user"]
        own, first = user_seed(scenario, seed), said[-1] if said else ""
        return MinedUser(self._known, scenario.goal, own, first)

    @property
    def notes(self) -> Notes:
        """What reads the fields that users say."""
        return Notes(frozenset(self.book.kinds), self.book.votes, self.book.implied)

    def fields(self, episode: Episode) -> dict[str, Any]:
        """The fields of a captured episode's ticket, by their paths, and those mined beside it;
        the ticket's alone where the world has not learned from the episode."""
        if self._hidden is None:
            self._hidden = {o.origin: o.hidden for o in self.book.openings}
        hidden = self._hidden.get(episode.scenario_id or episode.id, {})
        return flat(dict(episode.metadata)) | hidden

    def predict(
        self,
        state: State,
        name: str,
        args: dict[str, Any],
        rng: random.Random,
        greedy: bool,
        outcome: str | None = None,
    ) -> tuple[Prediction, Context | None]:
        """What a call returns in a state, in the class of outcome that is given where one is. The
        state is not changed."""
        p, c = self._predict(state, name, args, rng, greedy, outcome)
        p.wrong = 1 - (1 - p.doubt) * p.chances.get(p.outcome, 1.0)
        if c is not None:
            p.outside = far_out(c, p.marks)
        if self.doubts is not None:
            self.doubts.correct(name, p)
        else:
            doubt_beyond(p)
        if c is not None:
            least = max(p.least, self.models[name].untried(c, p.outcome))
            p.doubt, p.wrong = max(p.doubt, least), max(p.wrong, least)
        return p, c

    def _predict(
        self,
        state: State,
        name: str,
        args: dict[str, Any],
        rng: random.Random,
        greedy: bool,
        outcome: str | None,
    ) -> tuple[Prediction, Context | None]:
        model = self.models.get(name)
        if model is None:
            return self._unknown("unknown", state, name, args), None
        c = model.context(state, args)
        label, chances, fact = model.outcome(c, self.pooled, rng, greedy)
        if outcome is not None:
            label, fact = outcome, True
        text: str | None
        if label not in model.texts and label not in model.shapes:
            value, text, flag, marks, doubt = self._borrow(label, c)
        else:
            value, text, flag, marks, doubt = model.render(label, c, rng, greedy)
        failure = sum(p for k, p in chances.items() if k.startswith("err"))
        prediction = Prediction(label, value, text, flag, marks, 0.0, failure, chances)
        prediction.doubt = doubt_of(doubt, c, model, label, fact)
        if model.retrieval is not None and outcome is None:
            nearest.answer(self, model, model.retrieval, c, prediction)
        return prediction, c

    def provenance(self, p: Prediction, tool: str) -> tuple[Provenance, ...]:
        """Where each value of a prediction comes from, of a text the least sure one; episodes by
        their ids."""
        if p.marks and p.outcome.startswith("ok") and tool in self.failures.layouts:
            least = max(p.marks.values(), key=lambda m: RANK[m.kind])
            return (Provenance("", least.kind, self._named(least.source)),)
        around = self.failures.envelope if p.outcome.startswith("ok") else Envelope()
        return tuple(
            Provenance(around.path(path), m.kind, self._named(m.source))
            for path, m in p.marks.items()
        )

    def _named(self, source: str) -> str:
        head, number, *call = source.split(" ") if source.startswith("episode ") else ("", "")
        named = head == "episode" and number.isdigit() and int(number) < len(self.episode_ids)
        return " ".join((head, self.episode_ids[int(number)], *call)) if named else source

    def _borrow(self, label: str, c: Context) -> tuple[Any, str, bool, dict[str, Any], float]:
        """A failure that this very call had before, or that other tools worded."""
        again = c.state.same.get(c.key)
        if again is not None and (past := c.state.calls[again]).outcome == label:
            text = past.value if isinstance(past.value, str) else json.dumps(past.value)
            return past.value, text, True, {"": Mark("observed", f"call {again}")}, 0.1
        own = self.models[c.tool.name].texts.items()
        refused = refusal(label, c, [t for k, t in own if k.startswith("err")])
        if refused is not None:
            value, text, flag = refused
            return value, text, flag > 0.5, {"": Mark("invented", "nobody named this before")}, 0.9
        for model in self.models.values():
            if label in model.texts:
                text, guessed = model.texts[label].render(c, 0.0)
                return (
                    text,
                    text,
                    model.texts[label].flag > 0.5,
                    {"": Mark("inferred", "wording of another tool")},
                    max(0.3, guessed),
                )
        text = f"unknown: nothing in the traffic shows what {c.tool.name} answers here"
        return text, text, True, {"": Mark("invented", "")}, 1.0

    def _unknown(
        self, kind: str, state: State, name: str, args: dict[str, Any], withheld: bool = False
    ) -> Prediction:
        """A tool that the traffic never showed or that is withheld, or arguments that are no JSON
        object."""
        c = Context(state, ToolFacts(name), args)
        template = self.unknown.get(kind)
        declared = any(t["function"]["name"] == name for t in self.declared)
        offered = kind == "unknown" and declared and not withheld
        mark = Mark("inferred", "wording of this outcome")
        if offered:
            text, flag, doubt = (
                f"unknown: nothing in the traffic shows what {name} answers",
                True,
                1.0,
            )
            mark = Mark("invented", "")
        elif template is not None:
            text, guessed = template.render(c, 0.0)
            flag = template.flag > 0.5
            doubt = 0.05 + 0.5 * guessed
        else:
            what = "is not a known tool" if kind == "unknown" else "got arguments that are no JSON"
            text, flag, doubt = json.dumps({"error": f"{name} {what}"}), True, 0.9
        outcome = f"err:{kind}"
        return Prediction(
            outcome,
            parse(text),
            text,
            flag,
            {"": mark},
            doubt,
            1.0,
            {outcome: 1},
        )

    def classify(self, c: Context, content: str, failed: bool) -> str:
        """The outcome class of a real result."""
        around = self.failures.around(c.tool.name)
        value = parse(content) if failed else around.read(content)
        model = self.models.get(c.tool.name)
        if len(content) > LARGEST and (failed or isinstance(value, str)):
            return "err:other" if failed else "ok:prose"
        if failed or isinstance(value, str):
            text = value if isinstance(value, str) else content
            if not failed and c.tool.name in self.ids.written:
                return "ok:prose"
            label = ("err:" if failed else "ok:text:") + abstract(text, c)[0]
            if model is not None and label not in model.texts and not failed:
                return "ok:prose"
            return label
        if isinstance(value, dict):
            return "ok:{" + ",".join(sorted(value)) + "}"
        return f"ok:{kind_of(value)}"

    def save(self, folder: str | Path) -> None:
        """Write the world into a folder: world.json, zstd-compressed where it is large, and
        fidelity.json where it was measured."""
        from understudy.world.files import write

        write(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> "World":
        """Read a saved world. Raises FileNotFoundError or ValueError with what to do."""
        from understudy.world.files import read

        return read(Path(folder))


@dataclass(slots=True)
class Foretold:
    """A call before it is answered. `context` is None where no tool of the world was called."""

    name: str
    args: dict[str, Any]
    prediction: Prediction
    context: Context | None
    rng: random.Random


class WorldSession:
    """One single-use life of a world."""

    def __init__(self, world: World, state: State, seed: int, tools: tuple[Tool, ...]) -> None:
        self.world, self.state, self.seed, self._tools = world, state, seed, tools
        offered = {t["function"]["name"] for t in tools if is_function(t)}
        self._withheld = {t["function"]["name"] for t in world.declared} - offered

    def tools(self, role: str = "agent") -> tuple[Tool, ...]:
        return self._tools

    async def call(self, role: str, tool_call: ToolCall) -> ToolResult:
        """Answer a call, and keep what it changed."""
        return self.step(*call_parts(tool_call))

    def step(
        self, name: str, arguments: str, greedy: bool = False, outcome: str | None = None
    ) -> ToolResult:
        """`call` without the protocol around it; `greedy`: the likeliest result, not a draw; with
        a class of outcome the call has that one."""
        return self.take(self.foretell(name, arguments, greedy, outcome))

    def foretell(
        self, name: str, arguments: str, greedy: bool = False, outcome: str | None = None
    ) -> "Foretold":
        """What a call will be answered; the session is not changed."""
        state = self.state
        rng = random.Random(hash((self.seed, state.seed, len(state.calls))))
        args = parse(arguments or "{}")
        if not isinstance(args, dict):
            return Foretold(name, {}, self.world._unknown("bad", state, name, {}), None, rng)
        if name in self._withheld:
            withheld = self.world._unknown("unknown", state, name, args, withheld=True)
            return Foretold(name, args, withheld, None, rng)
        p, c = self.world.predict(state, name, args, rng, greedy, outcome)
        return Foretold(name, args, p, c, rng)

    def take(self, foretold: "Foretold") -> ToolResult:
        """The answer that was foretold, with what it changes kept."""
        name, args, p, c = foretold.name, foretold.args, foretold.prediction, foretold.context
        found, model = self.world.provenance(p, name), self.world.models.get(name)
        if model is None or c is None:
            return ToolResult(writable(p.text or ""), p.flag, None, found, p.doubt)
        model.settle(c, p.outcome, p.chances)
        self.state.observe(name, args, p.outcome, p.value, p.marks or {"": Mark("invented", "")})
        self.state.calls[-1].outside = p.outside
        model.follow_up(c, p.outcome, p.value)
        latency = delay(model.latencies, p.outcome, foretold.rng)
        return ToolResult(
            content(p, model, self.world.failures.around(name)),
            p.flag,
            latency,
            found,
            round(p.doubt, 4),
        )

    def observe(
        self, name: str, args: dict[str, Any], content_: str, is_error: bool | None
    ) -> None:
        """Take a real call and its real result as history."""
        model = self.world.models.get(name)
        if model is None:
            return
        value = parse(content_)
        seen = Transition("", 0, (), name, json.dumps(args), content_, is_error)
        failed = self.world.failures.failed(seen, value)
        value = value if failed else self.world.failures.around(name).opened(value)
        c = model.context(self.state, args)
        label = self.world.classify(c, content_, failed)
        model.settle(c, label, model.chances(c, self.world.pooled)[0])
        self.state.observe(name, args, label, value)
        self.state.calls[-1].outside = outside(args, model.facts.ranges)
        model.follow_up(c, label, value)

    async def snapshot(self) -> State:
        """The session's knowledge, to start others from; it does not follow this session."""
        return self.state.copy()

    async def outcome(self) -> list[Feedback]:
        """Nothing: whoever owns the agent judges its episodes."""
        return []

    async def aclose(self) -> None:
        return None
