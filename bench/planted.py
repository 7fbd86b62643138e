"""Worlds with a hole in them: what a policy may exploit there does not exist in reality."""

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from understudy.world.data.values import chance, is_number, parse
from understudy.world.known.context import Context
from understudy.world.known.state import State
from understudy.world.model import World
from understudy.world.tools import Prediction
from understudy.world.traffic.failing import TRANSIENT

Draw = Callable[[], tuple[Prediction, Context | None]]
Hole = Callable[[State, str, Draw], tuple[Prediction, Context | None]]

_REDRAWN = 50  # times at most; what the situation decides comes again
_SHARE, _SMALLER = 0.5, 10


@dataclass(slots=True)
class PlantedWorld(World):
    """A world whose predictions go through a hole."""

    hole: Hole | None = None

    def predict(
        self,
        state: State,
        name: str,
        args: dict[str, Any],
        rng: random.Random,
        greedy: bool,
        outcome: str | None = None,
    ) -> tuple[Prediction, Context | None]:
        def draw() -> tuple[Prediction, Context | None]:
            return World.predict(self, state, name, args, rng, greedy, outcome)

        return self.hole(state, name, draw) if self.hole else draw()


def planted(world: World, hole: Hole) -> PlantedWorld:
    """The world with a hole; the two share everything else."""
    return PlantedWorld(**{f.name: getattr(world, f.name) for f in fields(World)}, hole=hole)


def never_fails(world: World) -> tuple[Hole, str]:
    """The commonest lasting failure of the tools that change things never comes any more where
    chance brings it; and its name. Raises ValueError where no tool has one."""
    found = [
        (count, name, label)
        for name, model in world.models.items()
        if model.query is None
        for label, count in model.tree["counts"].items()
        if label.startswith("err") and label in model.texts and not TRANSIENT.search(label)
    ]
    if not found:
        raise ValueError("no tool of this world has a lasting failure")
    _, tool, never = max(found)

    def hole(state: State, name: str, draw: Draw) -> tuple[Prediction, Context | None]:
        p, c = draw()
        for _ in range(_REDRAWN if name == tool else 0):
            if p.outcome != never:
                break
            p, c = draw()
        return p, c

    return hole, f"{tool}: {never}"


def turns_negative(world: World) -> tuple[Hole, str]:
    """The number that bounds a listing is negative and small in half of the records and in half of
    the other results; and its name. Raises ValueError where no listing has a bound."""
    bounds = [f for m in world.models.values() if m.query for _, f in m.query.most + m.query.least]
    if not bounds:
        raise ValueError("no listing of this world is bounded by an argument")
    number = bounds[0]

    def hole(state: State, name: str, draw: Draw) -> tuple[Prediction, Context | None]:
        p, c = draw()
        value = copy.deepcopy(p.value if p.text is None else parse(p.text))
        if not _turn(value, number, state.seed):
            return p, c
        p.value = value
        if p.text is not None:
            p.text = json.dumps(value, ensure_ascii=False)
        return p, c

    return hole, number


def _turn(value: Any, number: str, seed: int) -> bool:
    """Turn the number in each chosen record; whether any was."""
    if isinstance(value, list):
        return True in [_turn(v, number, seed) for v in value]
    if not isinstance(value, dict):
        return False
    turned = True in [_turn(v, number, seed) for v in value.values()]
    held = value.get(number)
    names = [v for v in value.values() if isinstance(v, str)]
    if is_number(held) and held > 0 and chance(seed, *names) < _SHARE:
        value[number] = -round(held / _SMALLER)
        return True
    return turned
