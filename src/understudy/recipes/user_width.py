"""Simulated users against real ones whose conversations nobody learned from: see
world.users.width."""

import copy
from collections.abc import Sequence
from typing import Any

from understudy.core.types import Episode
from understudy.runs.progress import Progress
from understudy.world.data.values import put
from understudy.world.model import World
from understudy.world.traffic.transitions import transitions
from understudy.world.users.scenarios import Book, mine_book, ticket_of
from understudy.world.users.user import Known, MinedUser
from understudy.world.users.width import (
    MakeSpeaker,
    WidthReport,
    compare,
    real_talk,
    simulated_talk,
)
from understudy.world.users.wording import flat


def unknown_to(world: World, episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes of scenarios that a world did not learn from."""
    known = set(world.episode_ids)
    origins = {o.origin for o in world.book.openings}
    return [e for e in episodes if e.id not in known and (e.scenario_id or e.id) not in origins]


def mine_users(episodes: Sequence[Episode]) -> Book:
    """What users are made of, without the rest of a world."""
    return mine_book(episodes, [transitions(e) for e in episodes])


def goal_of(episode: Episode) -> dict[str, Any]:
    """What the user of a captured episode wanted: its ticket, and what it said beside that."""
    known = flat(dict(episode.metadata))
    goal = copy.deepcopy(dict(episode.metadata))
    for path, value in ticket_of(episode, transitions(episode)).items():
        if path not in known:
            put(goal, path, value)
    return goal


def mined_speakers(book: Book) -> MakeSpeaker:
    """The users of a book, for the tickets of episodes."""
    known, goals = Known(book), dict[str, dict[str, Any]]()

    def make(episode: Episode, seed: int) -> MinedUser:
        goal = goals.setdefault(episode.id, goal_of(episode))
        return MinedUser(known, goal, seed)

    return make


async def measure_users(
    make: MakeSpeaker, heldout: Sequence[Episode], seed: int = 0, quiet: bool = True
) -> WidthReport:
    """The width of simulated users against the users of held-out episodes.

    Raises ValueError where these are of fewer than four scenarios. An episode without a user
    message is left out and counted."""
    real, simulated, left_out = [], [], 0
    with Progress("users", len(heldout), unit="episodes", quiet=quiet) as progress:
        for n, e in enumerate(heldout):
            talk, before = real_talk(e, flat(goal_of(e)))
            progress.advance()
            if not talk.points:
                left_out += 1
                continue
            real.append(talk)
            simulated.append(await simulated_talk(e, talk, before, make, 104_729 * seed + n))
    lines = compare(real, simulated, seed)
    why = {"without a user message": left_out} if left_out else {}
    return WidthReport(len(real), len({t.scenario for t in real}), lines, why)
