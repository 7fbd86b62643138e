"""Free-running rollouts: how long a world stays right when its own results are its history."""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from understudy.core.types import Episode
from understudy.world.data.values import columns, leaves
from understudy.world.fidelity.compare import Truth
from understudy.world.fidelity.figures import Figure, mean
from understudy.world.fidelity.scoring import text_of_prediction
from understudy.world.model import World
from understudy.world.traffic.transitions import steps, transitions

AT = (1, 5, 10, 20)
Scalar = Any


def survival(
    world: World,
    episodes: Sequence[Episode],
    traffic: set[str],
    at: Sequence[int] = AT,
    seed: int = 0,
) -> dict[str, Figure]:
    """For each number of steps, the share of episodes of at least that many calls whose results
    were all right so far, on leaves that could be known.

    The calls are the real ones from the episode's first; results are the most probable. A value
    that nobody could know (a new identifier) that the world made up otherwise stands for the real
    one in later calls. Episodes that are shorter do not count.
    """
    lived = [(_steps(world, e, traffic, seed + n), e) for n, e in enumerate(episodes)]
    found = {}
    for k in at:
        long = [(right, e) for (right, total), e in lived if total >= k]
        found[str(k)] = mean(
            [float(right >= k) for right, _ in long],
            [e.scenario_id or e.id for _, e in long],
            seed,
        )
    return found


def _steps(world: World, episode: Episode, traffic: set[str], seed: int) -> tuple[int, int]:
    """How many results of an episode are right before the first that is wrong, of how many."""
    session = world.session(seed, at=world.moment(episode))
    own: dict[Scalar, Scalar] = {}  # real -> what the world made up in its place
    seen: set[str] = set()
    found = steps(transitions(episode), 0, world.failures)
    for s in found:
        args = renamed(s.args, own)
        rng = random.Random(f"survival:{seed}:{s.index}")
        p, _ = world.predict(session.state, s.name, args, rng, greedy=True)
        text = text_of_prediction(world, s.name, p)
        session.observe(s.name, args, text, p.flag)
        value = renamed(s.read(text), {v: k for k, v in own.items()})
        truth = Truth.of(s, seen, traffic, False)
        told = text if isinstance(value, str) else json.dumps(value)
        scores = truth.scores(told, p.flag)
        if scores["known_f1"] != 1.0 or not scores["flag"]:
            return s.index, len(found)
        free = {str(v) for _, v in truth.free}
        made = dict(leaves(s.read(text)))
        for path, real in leaves(s.value):
            if str(real) in free and isinstance(made.get(path), type(real)):
                own.setdefault(real, made[path])
        seen |= {str(v) for part in (s.args, s.value) for _, v in columns(part)}
    return len(found), len(found)


def renamed(value: Any, names: Mapping[Scalar, Scalar]) -> Any:
    """A JSON value with other scalars in the place of some."""
    if isinstance(value, dict):
        return {k: renamed(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [renamed(v, names) for v in value]
    return names.get(value, value) if isinstance(value, str) else value
