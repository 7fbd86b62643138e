"""A world whose answers and doubt were checked on episodes that it had not seen."""

from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from understudy.core.types import Episode, parted
from understudy.world.calibration import Doubts, Evidence, row_of
from understudy.world.config import WorldConfig
from understudy.world.fidelity.compare import failed, label_of
from understudy.world.fidelity.likelier import Compared, Comparison, as_done, choose, wins
from understudy.world.fidelity.scoring import walk, world_values
from understudy.world.known.course import Later
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.retrieval import Held, remembered_calls
from understudy.world.traffic.aside import set_aside
from understudy.world.traffic.transitions import steps, transitions

WHOLE = -1  # the number of the world of all episodes


@dataclass(frozen=True, slots=True)
class Checked:
    """A prediction of a call that the world had not seen: evidence on its doubt, and how right the
    call is answered in other ways."""

    evidence: Evidence
    compared: Compared | None


def calibrated(episodes: Sequence[Episode], config: WorldConfig | None = None) -> World:
    """The world of `learn`, corrected by cross-fitted predictions: it costs as much again as
    learning. Raises ValueError where no call has a result."""
    world = learn(episodes, config)
    config = (config or WorldConfig()).model_copy(update={"lasting": world.memory.lasts})
    correct(world, episodes, cross_fit(episodes, config))
    return world


def correct(world: World, episodes: Sequence[Episode], found: Sequence[Checked]) -> None:
    """Let a world of these episodes answer as was right most often (world.fidelity.likelier), and
    state the doubt that goes with it (world.calibration)."""
    ways = choose([f.compared for f in found if f.compared is not None])
    held = _held(world, episodes) if ways else {}
    again = list(_in_itself(world, episodes, set(ways))) if ways else []
    for tool, how in ways.items():
        model = world.models.get(tool)
        if model is not None and wins([c for c in again if c.tool == tool], how.way):
            how.held, model.retrieval = held[tool], how
    world.doubts = Doubts.fit([_as_done(world, f) for f in found])


def _in_itself(world: World, episodes: Sequence[Episode], tools: set[str]) -> Iterator[Compared]:
    """Calls as a world answers them that has learned from them too, with nothing remembered of
    their scenarios; where state lasts, of their episodes and of later ones."""
    held = {tool: own for tool, own in _held(world, episodes).items() if tool in tools}
    comparison, traffic = Comparison(world, WHOLE, held), world_values(world)
    for n, (e, without) in enumerate(unremembered(world, episodes)):
        for m in walk(world, e, n, traffic, 0, without, comparison.ways):
            compared = comparison.of(m, e.scenario_id or e.id)
            if compared is not None:
                yield compared


def unremembered(
    world: World, episodes: Sequence[Episode]
) -> Iterator[tuple[Episode, Container[int]]]:
    """Each of the episodes that a world has learned from, with what of them it must not remember to
    be asked about it: its scenario's, or where state lasts itself and later ones."""
    own: dict[str, set[int]] = defaultdict(set)
    for n, e in enumerate(episodes):
        own[e.scenario_id or e.id].add(n)
    for n, e in enumerate(episodes):
        yield e, Later(n) if world.memory.lasts else frozenset(own[e.scenario_id or e.id])


def _as_done(world: World, f: Checked) -> Evidence:
    model = world.models.get(f.compared.tool) if f.compared is not None else None
    return as_done(f.evidence, f.compared, model.retrieval if model is not None else None)


def cross_fit(episodes: Sequence[Episode], config: WorldConfig | None = None) -> list[Checked]:
    """How right each half of the episodes is predicted by a world of the other half; nothing
    where a half has no call with a result."""
    found: list[Checked] = []
    for number, (rest, apart) in enumerate(folds(episodes)):
        if not any(transitions(e) for e in rest):
            return []
        world = learn(rest, config)
        world.moments.place(world.episode_ids, episodes)
        found += check(world, number, rest, apart)
    return found


def folds(episodes: Sequence[Episode]) -> Iterator[tuple[list[Episode], list[Episode]]]:
    """(to learn from, to predict), twice: each half of the scenarios is predicted once."""
    one, other = parted(episodes, salt="fold:")
    yield one, other
    yield other, one


def check(
    world: World, number: int, rest: Sequence[Episode], episodes: Sequence[Episode]
) -> list[Checked]:
    """How right a world of `rest` is on episodes that it has not learned from. Nothing must have
    been corrected in it yet; the number tells it from other worlds."""
    assert world.doubts is None
    traffic, comparison = world_values(world), Comparison(world, number, _held(world, rest))
    found = []
    for n, episode in enumerate(episodes):
        for m in walk(world, episode, n, traffic):
            name, p = m.truth.step.name, m.prediction
            fails = failed(world.failures, name, m.text, p.flag)
            same = label_of(m.truth.step.read(m.text), fails) == m.truth.label
            wrong = m.truth.scores(m.text, p.flag)["known_f1"] != 1.0
            compared = comparison.of(m, episode.scenario_id or episode.id)
            found.append(Checked(Evidence(row_of(name, p), wrong, same, p.outside), compared))
    return found


def _held(world: World, episodes: Sequence[Episode]) -> dict[str, list[Held]]:
    """The calls that these episodes can be answered from."""
    first: dict[str, int] = {}
    origins = [first.setdefault(e.scenario_id or e.id, n) for n, e in enumerate(episodes)]
    read = [steps(transitions(e), n, world.failures, origins[n]) for n, e in enumerate(episodes)]
    return remembered_calls(set_aside(read)[0], world.memory.lasts)
