"""A language model in the gaps of a world: values that nothing determined, and prose.

The world decides what comes of a call, what changes, and all that its evidence holds; the model
is asked for what is left, as one JSON object of path to value. What it writes at other paths, or
of another JSON type than the world's draft there, is not taken and is counted: results stay valid
against the shapes of the traffic, and no determined value becomes worse.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from understudy.core.protocols import Chat
from understudy.core.types import (
    Completion,
    Episode,
    Message,
    ModelRef,
    Request,
    Sampling,
    Scenario,
    ToolCall,
    ToolResult,
    call_parts,
    text_of,
)
from understudy.world.context import Context
from understudy.world.model import Foretold, World, WorldSession
from understudy.world.state import Mark, State
from understudy.world.templates import PROSE
from understudy.world.tools import Prediction
from understudy.world.transitions import Step, steps, transitions
from understudy.world.values import chance, escape, kind_of, leaves, parse

MOST = 24  # values that are asked for at once
_EARLIER = 2  # remembered calls that are shown
_LONG = 600  # characters of one of them, and of what is known


def gaps(p: Prediction, c: Context) -> list[str]:
    """The paths of a prediction's values that nothing determined, at most MOST; "" is the whole of
    a text."""
    if p.outcome in PROSE and isinstance(p.value, str):
        return [""]
    given = {repr(v) for _, v in leaves(c.args)}
    used = c.state.ids.refs.get(c.tool.name, {})  # identifiers must be like the others
    made_up = [
        path
        for path, mark in p.marks.items()
        if mark.kind == "invented" or (mark.source == "new id" and path not in used)
    ]
    found = [
        path
        for path, value in leaves(p.value)
        if any(path == at or path.startswith(f"{at}/") for at in made_up)
        and repr(value) not in given
    ]
    return found[:MOST] if isinstance(p.value, (dict, list)) else []


def view(c: Context, p: Prediction, asked: Sequence[str], earlier: Sequence[Any]) -> list[Message]:
    """What the model sees of a call: the call, what is known of the things that it names, earlier
    calls with their results, and the draft with what is asked for left open."""
    known = {str(item): c.state.fields((domain, item)) for _, domain, item in c.ids}
    shown: dict[str, Any] = {
        "tool": c.tool.name,
        "arguments": c.args,
        "known": known if len(json.dumps(known, default=str)) <= _LONG else {},
        "earlier": list(earlier),
        "draft": _opened(p.value, set(asked)),
        "fill": list(asked),
    }
    return [
        {"role": "system", "content": "You complete results of a tool. Answer with one JSON "
         "object: a value for each path under `fill`, of the kind that earlier results have."},
        {"role": "user", "content": json.dumps(shown, ensure_ascii=False, default=str)},
    ]  # fmt: skip


def _opened(value: Any, asked: set[str], path: str = "") -> Any:
    if path in asked:
        return None
    if isinstance(value, dict):
        return {k: _opened(v, asked, f"{path}/{escape(k)}") for k, v in value.items()}
    if isinstance(value, list):
        return [_opened(v, asked, f"{path}/{i}") for i, v in enumerate(value)]
    return value


def filled(draft: Any, written: str, asked: Sequence[str]) -> tuple[Any, list[str], str | None]:
    """(the draft with what fits of the model's answer, the paths taken, why others were not)."""
    told = parse(_json_in(written))
    if not isinstance(told, dict):
        return draft, [], "not a JSON object"
    fits = {
        path: told[path]
        for path in asked
        if path in told and kind_of(told[path]) == kind_of(dict(leaves(draft)).get(path))
    }
    why = None if len(fits) == len(asked) else "a value is missing or of another type"
    return _closed(draft, fits), list(fits), why


def _json_in(text: str) -> str:
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def _closed(value: Any, fits: Mapping[str, Any], path: str = "") -> Any:
    if path in fits:
        return fits[path]
    if isinstance(value, dict):
        return {k: _closed(v, fits, f"{path}/{escape(k)}") for k, v in value.items()}
    if isinstance(value, list):
        return [_closed(v, fits, f"{path}/{i}") for i, v in enumerate(value)]
    return value


def earlier_calls(world: World, c: Context) -> list[dict[str, Any]]:
    """Remembered successes of the tool whose arguments are most alike, of other scenarios."""
    model, own = world.models[c.tool.name], {(k, repr(v)) for k, v in c.args.items()}
    found: list[tuple[float, str, Any]] = []
    for key, held in model.recall.items():
        value = next((v for e, v in reversed(held) if e not in c.state.without), None)
        if value is not None and len(json.dumps(value, default=str)) <= _LONG:
            args = json.loads(key.removeprefix(c.tool.name))
            other = {(k, repr(v)) for k, v in args.items()}
            found.append((len(own & other) / max(1, len(own | other)), key, value))
    found.sort(key=lambda f: (-f[0], f[1]))
    return [
        {"arguments": json.loads(key.removeprefix(c.tool.name)), "result": value}
        for _, key, value in found[:_EARLIER]
    ]


class LanguageWorld:
    """core.protocols.Environment: a world whose gaps a model fills over any `Chat`.

    `counted`: how many calls had gaps, how many values were asked for and taken, and why others
    were not. Raises ChatError where the model does not answer.
    """

    def __init__(self, world: World, chat: Chat, model: ModelRef, temperature: float = 0.0) -> None:
        self.world, self.chat, self.model, self.temperature = world, chat, model, temperature
        self.counted: Counter[str] = Counter()

    async def start(
        self, scenario: Scenario, seed: int, snapshot: Any | None = None
    ) -> "LanguageSession":
        begun = self.world.session(seed, snapshot, scenario.tools)
        return LanguageSession(self, begun.state, seed, begun.tools())

    async def fill(self, foretold: Foretold, seed: int) -> None:
        """Fill the gaps of a prediction, in place."""
        p, c = foretold.prediction, foretold.context
        asked = gaps(p, c) if c is not None else []
        if c is None or not asked:
            return
        messages = view(c, p, asked, earlier_calls(self.world, c))
        sampling = Sampling(
            temperature=self.temperature, seed=seed, max_tokens=64 + 16 * len(asked)
        )
        request = Request(tuple(messages), self.model, sampling=sampling, purpose="world")
        done = await self.chat.complete(request)
        written = text_of(done.message.get("content") if done.message else None)
        p.value, taken, why = filled(p.value, written, asked)
        if p.text is not None and "" in taken:
            p.text = p.value
        p.marks |= {path: Mark("invented", "a language model") for path in taken}
        self.counted += Counter({"calls": 1, "asked": len(asked), "taken": len(taken)})
        if why is not None:
            self.counted[why] += 1


class LanguageSession(WorldSession):
    """One single-use life of such a world."""

    def __init__(self, owner: LanguageWorld, state: State, seed: int, tools: Any) -> None:
        super().__init__(owner.world, state, seed, tools)
        self.owner = owner

    async def call(self, role: str, tool_call: ToolCall) -> ToolResult:
        """Answer a call, and keep what it changed and what the model made up."""
        foretold = self.foretell(*call_parts(tool_call))
        seed = int(chance(self.seed, len(self.state.calls)) * 2**31)
        await self.owner.fill(foretold, seed)
        return self.take(foretold)


def lessons(world: World, episodes: Sequence[Episode]) -> Iterator[Episode]:
    """What a model learns to fill gaps from: the calls of episodes that the world has not learned
    from, each with its true outcome's gaps, as conversations of one answer. What changes a thing,
    or fails, comes twice."""
    for n, episode in enumerate(episodes):
        session = world.session(n)
        for s in steps(transitions(episode), 0, world.failures):
            if not s.bad_json and s.name in world.models:
                yield from _lessons_of(world, session, s, f"{episode.id}-{s.index}")
            session.observe(s.name, s.args, s.content, s.flag)


def _lessons_of(world: World, session: WorldSession, s: Step, name: str) -> Iterator[Episode]:
    c = world.models[s.name].context(session.state, s.args)
    label = world.classify(c, s.content, s.failed)
    foretold = session.foretell(s.name, json.dumps(s.args), greedy=True, outcome=label)
    p, real = foretold.prediction, dict(leaves(s.value))
    asked = [path for path in gaps(p, c) if path in real]
    asked = [path for path in asked if kind_of(real[path]) == kind_of(dict(leaves(p.value))[path])]
    if not asked:
        return
    messages = view(c, p, asked, earlier_calls(world, c))
    answer: Message = {
        "role": "assistant",
        "content": json.dumps({path: real[path] for path in asked}, ensure_ascii=False),
    }
    for again in range(1 + (s.failed or bool(world.models[s.name].effects))):
        request = Request(tuple(messages), ModelRef("world"))
        done = Completion(f"{name}-{again}", request, "ok", answer, finish_reason="stop")
        yield Episode(f"{name}-{again}", (done,), scenario_id=f"{name}-{again}")
