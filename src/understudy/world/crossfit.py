"""A world whose doubt was checked on episodes that it had not seen."""

from collections.abc import Iterator, Sequence

from understudy.core.types import Episode, parted
from understudy.world.calibration import Doubts, Evidence, row_of
from understudy.world.compare import failed, label_of
from understudy.world.config import WorldConfig
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.scoring import walk, world_values
from understudy.world.transitions import transitions


def calibrated(episodes: Sequence[Episode], config: WorldConfig | None = None) -> World:
    """The world of `learn` with doubt that was fitted on cross-fitted predictions: it costs as
    much again as learning. Raises ValueError where no call has a result."""
    world = learn(episodes, config)
    config = (config or WorldConfig()).model_copy(update={"lasting": world.memory.lasts})
    world.doubts = Doubts.fit(cross_fit(episodes, config))
    return world


def cross_fit(episodes: Sequence[Episode], config: WorldConfig | None = None) -> list[Evidence]:
    """How right each half of the episodes is predicted by a world of the other half; nothing
    where a half has no call with a result."""
    found: list[Evidence] = []
    for rest, apart in folds(episodes):
        if not any(transitions(e) for e in rest):
            return []
        world = learn(rest, config)
        world.moments.place(world.episode_ids, episodes)
        found += evidence(world, apart)
    return found


def folds(episodes: Sequence[Episode]) -> Iterator[tuple[list[Episode], list[Episode]]]:
    """(to learn from, to predict), twice: each half of the scenarios is predicted once."""
    one, other = parted(episodes, salt="fold:")
    yield one, other
    yield other, one


def evidence(world: World, episodes: Sequence[Episode]) -> list[Evidence]:
    """How right a world is on episodes that it has not learned from. Its doubt must not have been
    corrected yet."""
    assert world.doubts is None
    traffic = world_values(world)
    found = []
    for n, episode in enumerate(episodes):
        for m in walk(world, episode, n, traffic):
            name, p = m.truth.step.name, m.prediction
            fails = failed(world.failures, name, m.text, p.flag)
            same = label_of(m.truth.step.read(m.text), fails) == m.truth.label
            wrong = m.truth.scores(m.text, p.flag)["known_f1"] != 1.0
            found.append(Evidence(row_of(name, p), wrong, same, p.outside))
    return found
