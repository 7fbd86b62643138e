"""Real calls made in a world: what it answers each with its true history, and on its own results;
and what another half of the traffic answers to the same calls."""

import json
import random
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from understudy.core.types import Episode, Transition
from understudy.world.data.values import call_key, columns, leaves, parse
from understudy.world.fidelity.compare import failed
from understudy.world.fidelity.scoring import text_of_prediction
from understudy.world.fidelity.survival import renamed
from understudy.world.likeness.conversations import HALVES, Seen, halves
from understudy.world.model import World
from understudy.world.traffic.transitions import Step, steps, transitions

Answers = dict[str, list[tuple[str, str]]]  # of a call, the same word for word: episode, content


@dataclass(frozen=True, slots=True)
class Replayed:
    """An episode's calls in a world: what failed with its true history, and on the world's own
    results, and whether each result was foretold exactly (the likeliest one, true history)."""

    true_history: Seen
    own_results: Seen
    exact: tuple[bool, ...]


def replay(world: World, e: Episode, seed: int) -> Replayed:
    """An episode's calls in a world that has not learned from it. Failures are drawn as they are
    in rehearsal."""
    found = steps(transitions(e), 0, world.failures)
    scenario = e.scenario_id or e.id
    at = world.moment(e)
    foretold = _foretold(world, found, seed, at)
    calls = tuple((s.name, bad) for s, (bad, _) in zip(found, foretold, strict=True))
    own = tuple(
        (s.name, bad) for s, bad in zip(found, _on_its_own(world, found, seed, at), strict=True)
    )
    return Replayed(Seen(scenario, calls), Seen(scenario, own), tuple(x for _, x in foretold))


def _foretold(
    world: World, found: Sequence[Step], seed: int, at: int | None
) -> list[tuple[bool, bool]]:
    """Of each call: whether it fails in a draw, and whether its likeliest result is the real."""
    session, rng, said = world.session(seed, at=at), random.Random(f"replay:{seed}"), []
    for s in found:
        p, _ = world.predict(session.state, s.name, s.args, rng, greedy=True)
        text = text_of_prediction(world, s.name, p)
        drawn, _ = world.predict(session.state, s.name, s.args, rng, greedy=False)
        told = text_of_prediction(world, s.name, drawn)
        bad = failed(world.failures, s.name, told, drawn.flag)
        said.append((bad, text == s.content or s.read(text) == s.value))
        session.observe(s.name, s.args, s.content, s.flag)
    return said


def _on_its_own(world: World, found: Sequence[Step], seed: int, at: int | None) -> list[bool]:
    """Which calls fail when results are the world's own: what it made up where the real result
    showed something new stands for that in later calls."""
    session = world.session(seed, at=at)
    names, known, bad = dict[Any, Any](), set[Any](), list[bool]()
    for s in found:
        result = session.step(s.name, json.dumps(renamed(s.args, names)))
        bad.append(failed(world.failures, s.name, result.content, result.is_error))
        made = dict(leaves(s.read(result.content)))
        known |= {v for _, v in columns(s.args)}
        for path, real in leaves(s.value):
            if isinstance(real, str) and real not in known and isinstance(made.get(path), str):
                names.setdefault(real, made[path])
        known |= {v for _, v in columns(s.value)}
    return bad


def answers_of(episodes: Sequence[Episode]) -> Answers:
    """What was answered to each call, in all episodes."""
    found: Answers = defaultdict(list)
    for e in episodes:
        for t in transitions(e):
            found[key_of(t)].append((e.id, t.content))
    return found


def key_of(t: Transition) -> str:
    return call_key(t.name, parse(t.arguments))


def agreement(answers: Answers, known: Container[str]) -> dict[tuple[str, str], float]:
    """For each call and its answer in an episode that is not known, the share of equal answers
    that known episodes had to the same call; none where they did not make it."""
    found: dict[tuple[str, str], float] = {}
    for key, said in answers.items():
        own = [content for name, content in said if name in known]
        if own:
            found |= {(key, content): own.count(content) / len(own)
                      for name, content in said if name not in known}  # fmt: skip
    return found


def bound_of_agreement(answers: Answers, scenarios: Mapping[str, str], seed: int) -> float:
    """How far the answers of 95 of 100 random halves are from the other half's to the same calls;
    1 where no call was made in both halves. `scenarios` are those of the episodes."""
    far = []
    for half in halves(list(scenarios.values()), HALVES, seed):
        known = {name for name, own in scenarios.items() if own in half}
        share = agreement(answers, known)
        apart = [
            1 - share[key, content]
            for key, said in answers.items()
            for name, content in said
            if name not in known and (key, content) in share
        ]
        far += [fmean(apart)] if apart else []
    return float(np.quantile(far, 0.95)) if far else 1.0
