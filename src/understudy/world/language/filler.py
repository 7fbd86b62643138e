"""A language model in the gaps of a world: values that nothing determined, and prose.

The world decides what comes of a call, what changes, and all that its evidence holds; the model
is asked for what is left, as one JSON object of a gap's number to its value. A value is taken only
where the traffic's results may have it (world.language.bounds), where the result then still reads
as the same outcome, and where the model was no worse than the world's own draft on calls that it
had not seen (world.language.trial); what is not taken is counted. So results stay valid, and no
determined value becomes worse.
"""

import json
import re
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from understudy.core.background import Wait
from understudy.core.protocols import Chat, ChatError
from understudy.core.types import (
    Message,
    ModelRef,
    Request,
    Sampling,
    Scenario,
    Tool,
    ToolCall,
    ToolResult,
    call_parts,
    text_of,
)
from understudy.world.data.values import chance, kind_of, leaves, with_values
from understudy.world.fidelity.compare import failed
from understudy.world.fidelity.scoring import text_of_prediction
from understudy.world.known.context import Context
from understudy.world.known.state import Mark, State
from understudy.world.language.bounds import Bounds, type_of
from understudy.world.language.trial import Trial
from understudy.world.model import Foretold, World, WorldSession
from understudy.world.outcomes.templates import PROSE
from understudy.world.tools import Prediction

T = TypeVar("T")
MOST = 24  # values that are asked for at once
LEAD = "\n"  # what stands before an answer's JSON
SCHEMA = "schema"  # the key of a request's metadata that holds the answer's JSON Schema
_EARLIER = 2  # remembered calls that are shown
_LONG = 600  # characters of one of them, and of what is known
_LONGEST = 6000  # characters of a draft that is shown
_PAIR = re.compile(r'[\s,]*"(\d{1,3})"\s*:\s*')
_DECODER = json.JSONDecoder()
_SYSTEM = (
    "You complete results of a tool. In the draft, <1>, <2> and so on stand for values that are "
    'missing. Answer with one JSON object of number to value, {"1": ..., "2": ...}; each value is '
    "of the kind that earlier results have there."
)


def gaps(p: Prediction, c: Context) -> list[str]:
    """The paths of a prediction's values that nothing determined, at most MOST; "" is the whole of
    a text."""
    made_up = [
        path
        for path, mark in p.marks.items()
        if mark.kind == "invented"
        # identifiers must be like the others
        or (mark.source == "new id" and path not in c.state.ids.refs.get(c.tool.name, {}))
    ]
    if p.outcome in PROSE and isinstance(p.value, str):
        return [""] if "" in made_up else []
    given = {repr(v) for _, v in leaves(c.args)}
    found = [
        path
        for path, value in leaves(p.value)
        if any(path == at or path.startswith(f"{at}/") for at in made_up)
        and repr(value) not in given
    ]
    return found[:MOST] if isinstance(p.value, (dict, list)) else []


def view(c: Context, p: Prediction, asked: Sequence[str], earlier: Sequence[Any]) -> list[Message]:
    """What the model sees of a call: the call, what is known of the things that it names, earlier
    calls with their results, and the draft with numbers where values are asked for."""
    known = {str(item): c.state.fields((domain, item)) for _, domain, item in c.ids}
    shown: dict[str, Any] = {
        "tool": c.tool.name,
        "arguments": c.args,
        "known": known if len(json.dumps(known, default=str)) <= _LONG else {},
        "earlier": list(earlier),
        "draft": with_values(p.value, {path: f"<{n}>" for n, path in enumerate(asked, 1)}),
    }
    return [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": json.dumps(shown, ensure_ascii=False, default=str)},
    ]


def written_as(values: Mapping[str, Any]) -> str:
    """An answer as it is taught, by number: on a new line, as the JSON of tool calls is, for a
    small base knows the token of that."""
    return LEAD + json.dumps(values, ensure_ascii=False)


def told(written: str, asked: Sequence[str], cut: bool = False) -> dict[str, Any] | None:
    """The values in a model's answer by path, as far as it can be read; of an answer that was cut
    short without the last. None where it holds no JSON object."""
    start = written.find("{")
    if start < 0:
        return None
    found: list[tuple[str, Any]] = []
    end = start + 1
    while pair := _PAIR.match(written, end):
        try:
            value, end = _DECODER.raw_decode(written, pair.end())
        except (ValueError, RecursionError):
            break
        found.append((pair.group(1), value))
    values = dict(found[:-1] if cut else found)
    return {path: values[str(n)] for n, path in enumerate(asked, 1) if str(n) in values}


def filled(
    world: World, bounds: Bounds, foretold: Foretold, values: Mapping[str, Any]
) -> tuple[Any, list[str]]:
    """A prediction's value with those of a model's values that may stand there, and their paths:
    of the draft's JSON type and within the bounds of the traffic, none where the result would then
    no longer read as the same outcome."""
    p, c, name = foretold.prediction, foretold.context, foretold.name
    draft = dict(leaves(p.value))
    fits = {
        path: value
        for path, value in values.items()
        if kind_of(value) == kind_of(draft.get(path)) and bounds.fits(name, path, value)
    }
    value = with_values(p.value, fits)
    after = replace(p, value=value, text=value if p.text is not None else None)
    if c is None or _reads(world, name, c, after) != _reads(world, name, c, p):
        return p.value, []
    return value, list(fits)


def _reads(world: World, name: str, c: Context, p: Prediction) -> tuple[bool, str]:
    """Whether a result says that its call failed, and its outcome class."""
    text = text_of_prediction(world, name, p)
    fails = failed(world.failures, name, text, p.flag)
    prose = p.outcome in PROSE and isinstance(world.failures.around(name).read(text), str)
    return fails, p.outcome if prose else world.classify(c, text, fails)


class Earlier:
    """Remembered successes of a world's tools, to show what results look like."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._read: dict[str, list[tuple[dict[str, Any], set[tuple[str, str]], Any]]] = {}

    def like(self, c: Context) -> list[dict[str, Any]]:
        """Those of the tool whose arguments are most alike, of other scenarios."""
        name, own = c.tool.name, {(k, repr(v)) for k, v in c.args.items()}
        if name not in self._read:
            read = [(json.loads(key.removeprefix(name)), held)
                    for key, held in sorted(self.world.models[name].recall.items())]  # fmt: skip
            self._read[name] = [(a, {(k, repr(v)) for k, v in a.items()}, h) for a, h in read]
        found: list[tuple[float, int, Any, Any]] = []
        for n, (args, other, held) in enumerate(self._read[name]):
            value = next((v for e, v in reversed(held) if e not in c.state.without), None)
            if value is not None:
                found.append((-len(own & other) / max(1, len(own | other)), n, args, value))
        found.sort(key=lambda f: f[:2])
        shown = [{"arguments": args, "result": value} for _, _, args, value in found[:50]]
        short = [s for s in shown if len(json.dumps(s["result"], default=str)) <= _LONG]
        return short[:_EARLIER]


class LanguageWorld:
    """core.protocols.Environment: a world whose gaps a model fills over any `Chat`.

    With a trial, only at places where the model passed it; without one, wherever its values fit.
    `counted`: how many calls had gaps, how many values were asked for, fitted and were taken, and
    why others were not. Requests carry the JSON Schema of their answer in `metadata[SCHEMA]`.
    `wait` waits for the model where a session's `step` is called, which nobody awaits. Raises
    ChatError where the model has never answered yet; later the draft stays, counted.
    """

    def __init__(
        self,
        world: World,
        chat: Chat,
        model: ModelRef,
        temperature: float = 0.0,
        trial: Trial | None = None,
        wait: Wait | None = None,
    ) -> None:
        self.world, self.chat, self.model, self.temperature = world, chat, model, temperature
        self.trial, self.wait = trial, wait
        self.counted: Counter[str] = Counter()
        self.bounds, self.earlier = Bounds(world), Earlier(world)

    async def start(
        self, scenario: Scenario, seed: int, snapshot: Any | None = None
    ) -> "LanguageSession":
        return self.session(seed, snapshot, scenario.tools)

    def session(
        self, seed: int = 0, snapshot: Any | None = None, tools: tuple[Tool, ...] = ()
    ) -> "LanguageSession":
        begun = self.world.session(seed, snapshot, tools)
        return LanguageSession(self, begun.state, seed, begun.tools())

    async def fill(self, foretold: Foretold, seed: int) -> None:
        """Fill the gaps of a prediction, in place."""
        p, c, name = foretold.prediction, foretold.context, foretold.name
        asked = gaps(p, c) if c is not None else []
        if c is None or not asked:
            return
        self.counted += Counter({"calls": 1, "asked": len(asked)})
        wanted = [path for path in asked if self.trial is None or self.trial.takes(name, path)]
        if not wanted:
            self.counted["no better than the draft"] += len(asked)
            return
        if len(json.dumps(p.value, default=str)) > _LONGEST:
            self.counted["of results too long to show"] += len(asked)
            return
        messages = view(c, p, asked, self.earlier.like(c))
        values = await self.ask(name, p, asked, wanted, messages, seed)
        value, taken = filled(
            self.world, self.bounds, foretold, {k: v for k, v in values.items() if k in wanted}
        )
        self.counted["taken"] += len(taken)
        self.counted["no better than the draft"] += len(asked) - len(wanted)
        self.counted["missing or does not fit"] += len(wanted) - len(taken)
        p.value = value
        if p.text is not None and "" in taken:
            p.text = value
        p.marks |= {path: Mark("invented", "a language model") for path in taken}

    def fill_now(self, foretold: Foretold, session: WorldSession) -> None:
        """Fill the gaps of a session's prediction, in place, for a caller that does not await."""
        self.waited(self.fill(foretold, luck(session)))

    def waited(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of what asks the model, for a caller that does not await. Raises RuntimeError
        where nothing waits for the model."""
        if self.wait is None:
            work.close()
            raise RuntimeError("nothing waits for the model here: await `call` in place of `step`")
        return self.wait(work)

    async def ask(
        self,
        name: str,
        p: Prediction,
        asked: Sequence[str],
        wanted: Sequence[str],
        messages: list[Message],
        seed: int,
    ) -> dict[str, Any]:
        """The model's values for these paths, fit or not; `wanted` are those that matter. Raises
        ChatError where it has never answered."""
        values = dict(leaves(p.value))
        draft = json.dumps([values[path] for path in asked], ensure_ascii=False)
        longest = 512 if "" in asked else 128
        sampling = Sampling(
            temperature=self.temperature,
            seed=seed,
            max_tokens=longest + 4 * len(asked) + len(draft),
        )
        request = Request(tuple(messages), self.model, sampling=sampling, purpose="world",
                          metadata={SCHEMA: self._schema(name, values, asked, wanted)})  # fmt: skip
        try:
            done = await self.chat.complete(request)
        except ChatError:
            if not self.counted["answers"]:
                raise
            self.counted["calls not answered"] += 1
            return {}
        self.counted["answers"] += 1
        written = text_of(done.message.get("content") if done.message else None)
        found = told(written, asked, done.finish_reason == "length")
        if not found:
            self.counted["answers without a JSON object"] += 1
        return found or {}

    def _schema(
        self, name: str, draft: Mapping[str, Any], asked: Sequence[str], wanted: Sequence[str]
    ) -> dict[str, Any]:
        """The answer's JSON Schema: values of the draft's kinds, those wanted as the traffic bounds
        them."""
        properties: dict[str, Any] = {}
        for n, path in enumerate(asked, 1):
            bound = self.bounds.at(name, path)
            kind = kind_of(draft[path])
            properties[str(n)] = (
                bound.schema(kind, path in wanted) if bound else {"type": type_of(kind)}
            )
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }


class LanguageSession(WorldSession):
    """One single-use life of such a world."""

    def __init__(self, owner: LanguageWorld, state: State, seed: int, tools: Any) -> None:
        super().__init__(owner.world, state, seed, tools)
        self.owner = owner

    async def call(self, role: str, tool_call: ToolCall) -> ToolResult:
        """Answer a call, and keep what it changed and what the model made up."""
        foretold = self.foretell(*call_parts(tool_call))
        await self.owner.fill(foretold, luck(self))
        return self.take(foretold)

    def step(
        self, name: str, arguments: str, greedy: bool = False, outcome: str | None = None
    ) -> ToolResult:
        """The same without awaiting. Raises RuntimeError where nothing waits for the model."""
        foretold = self.foretell(name, arguments, greedy, outcome)
        self.owner.fill_now(foretold, self)
        return self.take(foretold)


Answering = World | LanguageWorld  # what a world is played as


def counts_of(played: Answering) -> dict[str, int]:
    """What became of gaps so far; nothing where no model fills them."""
    return dict(played.counted) if isinstance(played, LanguageWorld) else {}


def became(counted: Mapping[str, int]) -> str:
    """What became of gaps, as a line."""
    return "language model: " + ", ".join(f"{n} {what}" for what, n in counted.items())


def luck(session: WorldSession) -> int:
    """The seed of what a model makes up for a session's next call."""
    return int(chance(session.seed, len(session.state.calls)) * 2**31)
