"""Whether a world keeps to what it made up: free-running episodes in which a value that nobody
could know, such as a new identifier, is shown or named again."""

import random
from collections.abc import Sequence

from understudy.core.types import Episode
from understudy.world.data.values import columns, leaves
from understudy.world.fidelity.compare import Truth
from understudy.world.fidelity.figures import Figure, mean
from understudy.world.fidelity.scoring import text_of_prediction
from understudy.world.fidelity.survival import Scalar, renamed
from understudy.world.model import World
from understudy.world.traffic.transitions import steps, transitions


def consistency(
    world: World, episodes: Sequence[Episode], traffic: set[str], seed: int = 0
) -> Figure:
    """Of the places of later results that really show again what nobody could know when it was
    first shown, the share that show what the world made up then. Calls are the real ones from the
    first to the last, in the world's own values; results are the most probable."""
    kept: list[float | None] = []
    scenarios: list[str] = []
    for n, episode in enumerate(episodes):
        own = _kept(world, episode, traffic, seed + n)
        kept += own
        scenarios += [episode.scenario_id or episode.id] * len(own)
    return mean(kept, scenarios, seed)


def _kept(world: World, episode: Episode, traffic: set[str], seed: int) -> list[float | None]:
    session = world.session(seed, at=world.moment(episode))
    made: dict[Scalar, Scalar] = {}  # real -> what the world made up in its place
    seen: set[str] = set()
    found: list[float | None] = []
    for s in steps(transitions(episode), 0, world.failures):
        args = renamed(s.args, made)
        rng = random.Random(f"consistency:{seed}:{s.index}")
        p, _ = world.predict(session.state, s.name, args, rng, greedy=True)
        text = text_of_prediction(world, s.name, p)
        session.observe(s.name, args, text, p.flag)
        told = dict(leaves(s.read(text)))
        free = {str(v) for _, v in Truth.of(s, seen, traffic, False).free}
        for path, real in () if s.failed else leaves(s.value):
            if isinstance(real, bool) or not isinstance(real, (str, int, float)):
                continue
            if real in made:
                found.append(float(told.get(path) == made[real]))
            elif str(real) in free and isinstance(told.get(path), type(real)):
                made[real] = told[path]
        seen |= {str(v) for part in (s.args, s.value) for _, v in columns(part)}
    return found
