"""Looking ahead from where an agent stands: what a call would return, which of several plans ends
well. Nothing is trained; the real calls and results so far are the world's history.

A plan is a list of calls. A text argument `$N/PATH` is the value at a JSON pointer (RFC 6901) of
the result of the plan's own N-th call, counted from 1: `$1/parts/0/sku`. A text that shall begin
with a dollar sign is written with two. A plan stops at its first failure; a failure that passes
when a call is repeated (world.describing.facts_of_failures) may be retried.
"""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.core.background import straight
from understudy.core.types import (
    Completion,
    Episode,
    Feedback,
    JudgeFailed,
    Message,
    ModelRef,
    Request,
    ToolCall,
    ToolResult,
)
from understudy.runs.progress import Progress
from understudy.runs.statistics import Interval, wilson
from understudy.world.data.values import at, parse
from understudy.world.describing.facts import Bar, case_of
from understudy.world.describing.facts_of_failures import passing_failures
from understudy.world.describing.phrases import outcome_text
from understudy.world.language.filler import Answering, LanguageWorld
from understudy.world.model import World, WorldSession
from understudy.world.results.changes import of_call
from understudy.world.traffic.transitions import steps, transitions

Judge = Callable[[Episode], Feedback | JudgeFailed]
_AT_ONCE = 16  # rollouts that a model is asked about
_REFERENCE = re.compile(r"\$(\d+)(/.*)")


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One call of a plan; its arguments may hold references."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """A field of a thing before and after a call (world.results.changes). None before: the call
    makes the thing."""

    thing: str
    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a call would return. `chances`: the probability of each outcome class, which is told
    in words; the rest is the likeliest result, with what the call would change and listings would
    no longer show."""

    chances: Mapping[str, float]
    result: ToolResult
    changes: tuple[Change, ...]
    unlisted: tuple[str, ...]


@dataclass(slots=True)
class PlanReport:
    """A plan's rollouts. `success` counts those that end well on no invented value. `invented` are
    those with invented values in their results, however they end: the interval (95%, Wilson) runs
    from all of them ending badly in reality to all of them ending well. `doubt`: the mean chance
    that a result of a rollout is not the real one. `failures`: (number of the call, its tool, what
    it said) with how often."""

    name: str
    success: Interval
    invented: int
    calls: float
    doubt: float
    failures: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    unjudged: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Ahead:
    """The plans, best first, what can be said of them, and what of the history was left out."""

    plans: tuple[PlanReport, ...]
    verdict: str
    left_out: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        return {
            "plans": [
                {
                    "name": r.name,
                    "success": r.success.as_dict(),
                    "invented": r.invented,
                    "calls": r.calls,
                    "doubt": r.doubt,
                    "failures": [
                        {"call": call, "tool": tool, "said": said, "times": times}
                        for (call, tool, said), times in r.failures.most_common()
                    ],
                    "unjudged": dict(r.unjudged),
                }
                for r in self.plans
            ],
            "verdict": self.verdict,
            "left_out": dict(self.left_out),
        }


def read_plans(data: Any) -> dict[str, list[PlannedCall]]:
    """Plans by name: {"plan": [{"name": TOOL, "arguments": {...}}, ...]}.

    Raises ValueError with the plan and the call that is wrong.
    """
    if not isinstance(data, dict) or not data:
        raise ValueError('plans are one JSON object: {"plan": [{"name": ..., "arguments": ...}]}')
    return {name: _read_plan(name, calls) for name, calls in data.items()}


def _read_plan(plan: str, calls: Any) -> list[PlannedCall]:
    if not isinstance(calls, list) or not calls:
        raise ValueError(f"plan {plan} is not a list of calls")
    found = []
    for n, call in enumerate(calls, 1):
        given = call.get("arguments", {}) if isinstance(call, dict) else None
        args = parse(given) if isinstance(given, str) else given
        if not isinstance(args, dict) or not isinstance(call.get("name"), str):
            raise ValueError(f'plan {plan}, call {n} is not {{"name": ..., "arguments": {{...}}}}')
        for number, path in _references(args):
            if not 0 < number < n:
                raise ValueError(
                    f"plan {plan}, call {n}: ${number}{path} is of no earlier call "
                    "(write $$ for a dollar sign)"
                )
        found.append(PlannedCall(call["name"], args))
    return found


def _references(value: Any) -> list[tuple[int, str]]:
    if isinstance(value, dict):
        return [r for v in value.values() for r in _references(v)]
    if isinstance(value, list):
        return [r for v in value for r in _references(v)]
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return [(int(match[1]), match[2])] if match else []


def filled(value: Any, results: Sequence[Any]) -> Any:
    """Arguments with their references replaced. KeyError where a result has no such value."""
    if isinstance(value, dict):
        return {k: filled(v, results) for k, v in value.items()}
    if isinstance(value, list):
        return [filled(v, results) for v in value]
    if not isinstance(value, str):
        return value
    match = _REFERENCE.fullmatch(value)
    if match is None:
        return value[1:] if value.startswith("$$") else value
    try:
        return at(results[int(match[1]) - 1], match[2])
    except KeyError:
        raise KeyError(value) from None


def standing(
    played: Answering, messages: Sequence[Message], seed: int = 0
) -> tuple[WorldSession, Counter[str]]:
    """A session that has seen a conversation's calls and results, and what it could not take."""
    request = Request(messages=tuple(messages), model=ModelRef("history"))
    episode = Episode("ahead", (Completion("ahead", request, "ok"),))
    session = played.session(seed)
    world = session.world
    left_out: Counter[str] = Counter()
    made = sum(len(m.get("tool_calls") or ()) for m in messages)
    seen = steps(transitions(episode), 0, world.failures)
    left_out["no result, or no function"] += made - len(seen)
    for s in seen:
        if s.bad_json:
            left_out["arguments that are no JSON object"] += 1
        elif s.name not in world.models:
            left_out["a tool that the world does not know"] += 1
        else:
            session.observe(s.name, s.args, s.content, s.flag)
    return session, +left_out


def foresee(
    played: Answering, messages: Sequence[Message], name: str, arguments: Mapping[str, Any]
) -> Foreseen:
    """What a call would return after a conversation. Raises ValueError for an unknown tool."""
    session, _ = standing(played, messages)
    _known(session.world, [name])
    before = session.state.copy()
    chances = _chances(session.world, session, name, dict(arguments))
    result = session.step(name, json.dumps(arguments), greedy=True)
    found = of_call(before, session.state)
    changes = [Change(str(c.key[1]), c.field, c.before, c.after) for c in found.fields]
    return Foreseen(chances, result, tuple(changes), tuple(str(item) for _, item in found.gone))


def _chances(
    world: World, session: WorldSession, name: str, args: dict[str, Any]
) -> dict[str, float]:
    prediction, _ = world.predict(session.state, name, args, random.Random(0), greedy=True)
    found: Counter[str] = Counter()
    for label, chance in prediction.chances.items():
        found[outcome_text(world.models[name], label)] += chance  # type: ignore[assignment]
    return dict(found.most_common())


def _known(world: World, names: Sequence[str]) -> None:
    for name in names:
        if name not in world.models:
            raise ValueError(f"no tool {name} in this world; there are {', '.join(world.models)}")


def look_ahead(
    played: Answering,
    messages: Sequence[Message],
    plans: Mapping[str, Sequence[PlannedCall]],
    judge: Judge | None = None,
    *,
    n: int = 50,
    seed: int = 0,
    retries: int = 0,
    metadata: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Ahead:
    """Roll each plan out n times after a conversation, with a seed each; plans share the seeds.
    Where a model fills the world's gaps, it is asked about some rollouts at a time.

    A rollout ends well where the judge's value is at least 1 (true), or, without a judge, where no
    call failed. `metadata` goes with the episodes that are judged (a ticket). Raises ValueError for
    tools that the world does not know, and where no rollout of a plan could be judged.
    """
    world = played.world if isinstance(played, LanguageWorld) else played
    _known(world, [call.name for calls in plans.values() for call in calls])
    passing = {
        name: passing_failures(case_of(world, model, Bar())) for name, model in world.models.items()
    }
    left_out: Counter[str] = Counter()
    gate = asyncio.Semaphore(_AT_ONCE)

    async def rolled_out(number: int) -> list[_Rollout]:
        nonlocal left_out
        found = []
        async with gate:
            begun, left_out = standing(played, messages, seed + number)
            for calls in plans.values():
                rollout = _Rollout(list(messages))
                session = played.session(seed + number, begun.state)
                await rollout.play(session, calls, passing, retries)
                found.append(rollout)
                if progress is not None:
                    progress.advance()
        return found

    async def together() -> list[list[_Rollout]]:
        async with asyncio.TaskGroup() as tasks:
            work = [tasks.create_task(rolled_out(number)) for number in range(n)]
        return [task.result() for task in work]

    if isinstance(played, LanguageWorld):
        found = played.waited(together())
    else:
        found = [straight(rolled_out(number)) for number in range(n)]
    rollouts = dict(zip(plans, zip(*found, strict=True), strict=True))
    reports = [_report(name, own, judge, metadata or {}) for name, own in rollouts.items()]
    reports.sort(key=lambda r: -r.success.mean)
    return Ahead(tuple(reports), verdict(reports), left_out)


@dataclass(slots=True)
class _Rollout:
    messages: list[Message]
    results: list[Any] = field(default_factory=list)
    calls: int = 0
    right: float = 1.0  # the chance that every result is the real one
    invented: bool = False
    failed: tuple[int, str, str] | None = None

    async def play(
        self,
        session: WorldSession,
        calls: Sequence[PlannedCall],
        passing: Mapping[str, set[str]],
        retries: int,
    ) -> None:
        """Make the calls until one fails."""
        for n, call in enumerate(calls, 1):
            try:
                args = json.dumps(filled(dict(call.arguments), self.results), ensure_ascii=False)
            except KeyError as missing:
                self.failed = n, call.name, f"nothing at {missing.args[0]}"
                return
            for left in range(retries, -1, -1):
                result = await self._call(session, call.name, args)
                outcome = session.state.calls[-1].outcome
                if not (left and outcome in passing[call.name]):
                    break
            if outcome.startswith("err"):
                self.failed = n, call.name, result.content
                return
            self.results.append(parse(result.content))

    async def _call(self, session: WorldSession, name: str, args: str) -> ToolResult:
        self.calls += 1
        function: Any = {"name": name, "arguments": args}
        call: ToolCall = {"id": f"ahead-{self.calls}", "type": "function", "function": function}
        result = await session.call("agent", call)
        self.right *= 1 - result.doubt
        self.invented |= any(p.kind == "invented" for p in result.provenance)
        self.messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": result.content},
        ]
        return result


def _report(
    name: str, played: Sequence[_Rollout], judge: Judge | None, metadata: Mapping[str, Any]
) -> PlanReport:
    solid = invented = judged = 0
    unjudged: Counter[str] = Counter()
    for rollout in played:
        verdict_ = _well(rollout, judge, metadata)
        if isinstance(verdict_, str):
            unjudged[verdict_] += 1
            continue
        judged += 1
        solid += verdict_ and not rollout.invented
        invented += rollout.invented
    if not judged:
        raise ValueError(f"plan {name} could not be judged: {unjudged.most_common(1)[0][0]}")
    low, high = wilson(solid, judged), wilson(solid + invented, judged)
    return PlanReport(
        name,
        Interval(solid / judged, low.low, high.high, judged),
        invented,
        sum(r.calls for r in played) / len(played),
        sum(1 - r.right for r in played) / len(played),
        Counter(r.failed for r in played if r.failed is not None),
        unjudged,
    )


def _well(rollout: _Rollout, judge: Judge | None, metadata: Mapping[str, Any]) -> bool | str:
    """Whether a rollout ends well; why it could not be judged."""
    if judge is None:
        return rollout.failed is None
    request = Request(messages=tuple(rollout.messages), model=ModelRef("plan"))
    done: Message = {"role": "assistant", "content": ""}
    completion = Completion("ahead", request, "ok", message=done)
    said = judge(Episode("ahead", (completion,), metadata=metadata))
    if isinstance(said, JudgeFailed):
        return said.reason
    return isinstance(said.value, (bool, int, float)) and said.value >= 1


def verdict(reports: Sequence[PlanReport]) -> str:
    """Which plan ends well most often, as far as the intervals tell them apart."""
    best = max(reports, key=lambda r: r.success.mean)
    near = [r for r in reports if r is not best and r.success.high >= best.success.low]
    if near:
        return "too close to tell: " + ", ".join([best.name, *(r.name for r in near)])
    return f"{best.name} ends well most often" if len(reports) > 1 else f"one plan, {best.name}"
