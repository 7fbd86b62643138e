"""An agent and users in a world against the real ones: learned from one half of a traffic's
scenarios, held against the other half, again and again (see world.likeness.conversations).

Two kinds of figures. Replayed: the real calls of the other half are made in the world, and the
real agent's words are said to the simulated users. Played: an agent plays scenarios that the world
draws, as many as the conversations that it learned from, with the world's users.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from understudy.core.protocols import Environment
from understudy.core.types import Episode, ModelRef, Policy
from understudy.envs.rollout import rollout
from understudy.recipes.agents import Agent
from understudy.recipes.user_width import goal_of, measure_users, mined_speakers
from understudy.recipes.world_language import Language, filling
from understudy.runs.progress import Progress
from understudy.world.fidelity.freerun import AT, free_runs
from understudy.world.known.order import in_time
from understudy.world.language.filler import counts_of
from understudy.world.learn import learn
from understudy.world.likeness.conversations import (
    Figures,
    Likeness,
    Line,
    Seen,
    Values,
    bounds,
    halves,
    line,
    see,
    unit_of,
)
from understudy.world.likeness.replayed import (
    Replayed,
    agreement,
    answers_of,
    bound_of_agreement,
    key_of,
    replay,
)
from understudy.world.likeness.stand_in import StandIn
from understudy.world.model import World
from understudy.world.traffic.transitions import Failures, transitions
from understudy.world.users import width
from understudy.world.users.wording import flat

REPLAYED, ALONE = "calls replayed, true history", "calls replayed, own results"
USERS, PLAYED = "users, agent's words replayed", "played"
STAND_IN = "a stand-in by retrieval, mined from the fit half"
EXACT, TWICE = "next result exact", "exact, calls of both halves"
_AT_ONCE = 16  # episodes that are played at a time
_TAUGHT = "real conversations that the model was taught"
_SILENT = "conversations not played, for users say nothing in the traffic"
_EVERY = 3  # calls between the starts of free-running rollouts


@dataclass(slots=True)
class _Found:
    """What the splits gave: by group and figure the values of the fit half, and of simulated."""

    real: dict[tuple[str, str], list[Values]] = field(default_factory=lambda: defaultdict(list))
    simulated: dict[tuple[str, str], list[Values]] = field(
        default_factory=lambda: defaultdict(list)
    )
    users: dict[str, list[width.Line]] = field(default_factory=lambda: defaultdict(list))
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    language: Counter[str] = field(default_factory=Counter)

    def add(self, group: str, real: dict[str, Values], simulated: dict[str, Values]) -> None:
        for name, values in real.items():
            if name in simulated:
                self.real[group, name].append(values)
                self.simulated[group, name].append(simulated[name])


async def measure_likeness(
    episodes: Sequence[Episode],
    fit: float = 0.5,
    splits: int = 5,
    agent: Agent | None = None,
    seed: int = 0,
    quiet: bool = False,
    language: Language | None = None,
) -> Likeness:
    """All figures over random splits that learn from the share `fit` of the scenarios.

    With a model for the world's gaps (`language`), it answers what is played, which is held against
    those of the other half's conversations that it was not taught. An episode in which the agent
    does not answer is left out and counted. Raises ValueError where there are fewer than four
    scenarios, a half has no call with a result, or the model was taught all conversations."""
    taught = language.episodes if language is not None else frozenset()
    if taught and all(e.id in taught for e in episodes):
        raise ValueError(
            "the model was taught all of these conversations: `understudy train world` without "
            "split=all leaves those held out to compare with"
        )
    episodes = in_time(episodes)
    failures = Failures.learn([t for e in episodes for t in transitions(e)])
    real = {e.id: see(e, failures, flat(goal_of(e))) for e in episodes}
    figures, answers = Figures(list(real.values())), answers_of(episodes)
    found = _Found()
    total = splits * len(episodes) * 2
    async with AsyncExitStack() as stack:
        filled = await stack.enter_async_context(
            filling(language, None, agent.chat if agent else None)
        )
        progress = stack.enter_context(
            Progress("compare", total=total, unit="episodes", quiet=quiet)
        )
        for n, (known, others) in enumerate(_splits(episodes, fit, splits, seed)):
            world = learn(known)
            world.moments.place(world.episode_ids, episodes)
            found.left_out.update(world.left_out)
            a, b = [real[e.id] for e in known], [real[e.id] for e in others]
            same = agreement(answers, {e.id for e in known})
            _replay(found, world, others, figures, (a, b), same, n, progress.advance)
            if _speak(a) and _speak(b):
                await _talks(found, world, others, seed + n)
                answering = filled(world)
                played = await _play(
                    world, answering, known, agent, found.left_out, n, progress.advance
                )
                found.language.update(counts_of(answering))
                size = min(sum(len(s.words) for s in side) for side in (a, played))
                b = [real[e.id] for e in others if e.id not in taught]
                found.left_out[_TAUGHT] += len(others) - len(b)
                if played and b:
                    found.add(PLAYED, figures.all(b, a, size, n), figures.all(b, played, size, n))
            else:
                found.left_out[_SILENT] += len(known)
            found.rollouts.append(free_runs(world, known, others, _EVERY))
    limits = bounds(list(real.values()), figures, seed)
    limits[TWICE] = bound_of_agreement(answers, {k: s.scenario for k, s in real.items()}, seed)
    return Likeness(
        len(episodes),
        len({s.scenario for s in real.values()}),
        splits,
        agent.name if agent is not None else STAND_IN,
        _lines(found, limits),
        _survival(found.rollouts),
        dict(+found.left_out),
        dict(found.language),
    )


def _speak(sample: Sequence[Seen]) -> bool:
    """Whether users say something in enough scenarios to measure them."""
    return len({s.scenario for s in sample if s.lengths}) >= 4


async def _talks(found: _Found, world: World, others: Sequence[Episode], seed: int) -> None:
    report = await measure_users(mined_speakers(world.book), others, seed)
    for own in report.lines:
        found.users[own.name].append(own)
    found.left_out.update(report.left_out)


def _splits(
    episodes: Sequence[Episode], fit: float, n: int, seed: int
) -> list[tuple[list[Episode], list[Episode]]]:
    """Random splits by scenario: those to learn from, and the others."""
    names = sorted({e.scenario_id or e.id for e in episodes})
    next(halves(names, 1))  # refuses too few
    count = min(max(2, round(fit * len(names))), len(names) - 2)
    rng, found = random.Random(f"fit:{seed}"), []
    for _ in range(n):
        rng.shuffle(names)
        known = set(names[:count])
        sides: tuple[list[Episode], list[Episode]] = ([], [])
        for e in episodes:
            sides[(e.scenario_id or e.id) not in known].append(e)
        if not all(any(transitions(e) for e in side) for side in sides):
            raise ValueError("a half has no tool call with a result: give more episodes")
        found.append(sides)
    return found


def _replay(
    found: _Found,
    world: World,
    others: Sequence[Episode],
    figures: Figures,
    real: tuple[Sequence[Seen], Sequence[Seen]],
    same: Mapping[tuple[str, str], float],
    seed: int,
    each: Callable[[], object],
) -> None:
    """The other half's calls in the world; `same` is how often known episodes had that answer."""
    told, both = list[Replayed](), list[tuple[float, float]]()
    for n, e in enumerate(others):
        told.append(replay(world, e, seed * 100_003 + n))
        keys = [(key_of(t), t.content) for t in transitions(e)]
        exact = zip(keys, told[-1].exact, strict=True)
        both += [(float(right), same[key]) for key, right in exact if key in same]
        each()
    fit = figures.errors(real[1], real[0])
    found.add(REPLAYED, fit, figures.errors(real[1], [r.true_history for r in told]))
    found.add(ALONE, fit, figures.errors(real[1], [r.own_results for r in told]))
    share = fmean(float(x) for r in told for x in r.exact)
    found.simulated[REPLAYED, EXACT].append((1.0, share, 1 - share))
    if both:
        own, twice = fmean(r for r, _ in both), fmean(a for _, a in both)
        found.add(REPLAYED, {TWICE: (1.0, twice, 1 - twice)}, {TWICE: (1.0, own, 1 - own)})


async def _play(
    world: World,
    answering: Environment,
    known: Sequence[Episode],
    agent: Agent | None,
    left_out: Counter[str],
    seed: int,
    each: Callable[[], object],
) -> list[Seen]:
    """Scenarios of the world, each played once, where `answering` answers the calls."""
    drawn = world.scenarios(len(known), seed)
    stand_in = StandIn(known, world.failures, seed) if agent is None else None
    chat = agent.chat if agent is not None else stand_in
    policy = agent.policy if agent is not None else Policy("stand-in", ModelRef("stand-in"))
    longest = max(sum(m["role"] == "assistant" for m in e.messages) for e in known)
    free = asyncio.Semaphore(_AT_ONCE)
    assert chat is not None

    async def one(number: int) -> Seen | None:
        async with free:
            scenario, life = drawn[number], seed * 100_003 + number
            session = await answering.start(scenario, life)
            user = world.user(scenario, life)
            episode = await rollout(
                chat, policy, session, scenario, user, max_turns=longest, seed=life,
                purpose="evaluation",
            )  # fmt: skip
            each()
            if episode.ended == "error":
                left_out[f"played: {episode.completions[-1].error}"] += 1
                return None
            if episode.ended == "max_turns":
                left_out["played: cut after as many turns as the longest real one has"] += 1
            own = see(episode, world.failures, flat(dict(scenario.goal)))
            return replace(own, scenario=scenario.origin)

    seen = await asyncio.gather(*(one(n) for n in range(len(drawn))))
    if len(drawn) < len(known):
        left_out["scenarios that the world has no more combinations for"] += len(known) - len(drawn)
        for _ in range(len(known) - len(drawn)):
            each()
    if stand_in is not None and stand_in.stuck:
        left_out["turns of the stand-in without a move that fits"] += stand_in.stuck
    if stand_in is not None and stand_in.left_out:
        left_out["moves beyond what the stand-in remembers"] += stand_in.left_out
    return [s for s in seen if s is not None]


def _lines(found: _Found, limits: dict[str, float]) -> list[Line]:
    """All lines. Nothing bounds the calls on the world's own results: the agent chose them by
    what came in reality."""
    order = (REPLAYED, ALONE, USERS, PLAYED)
    lines = [
        line(group, name, found.real.get((group, name), []), values,
             None if group == ALONE else limits.get(name))
        for (group, name), values in found.simulated.items()
    ]  # fmt: skip
    lines += [_of_users(name, own) for name, own in found.users.items()]

    def place(one: Line) -> tuple[int, bool, str]:
        by_tool = one.name.startswith("errors: ")
        return order.index(one.group), by_tool, one.name if by_tool else ""

    return sorted(lines, key=place)


def _of_users(name: str, lines: Sequence[width.Line]) -> Line:
    """A figure of the width report over all splits. Its own rule says what is within."""
    mean = {k: fmean(getattr(own, k) for own in lines)
            for k in ("real", "simulated", "real_distance", "distance", "bound")}  # fmt: skip
    kept = sum(own.within for own in lines)
    return Line(USERS, name, lines[0].unit or unit_of(name), None, **mean,
                within=2 * kept > len(lines), splits_within=kept, splits=len(lines))  # fmt: skip


def _survival(rollouts: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for who in ("world", "floor"):
        for k in map(str, AT):
            values = [r[who]["survival"][k]["exact"]["value"] for r in rollouts]
            known = [v for v in values if v is not None]
            if known:
                found.setdefault(who, {})[k] = fmean(known)
    return found
