"""The order of a traffic: which episodes came before others, and whether what they left lasts.

Where a service keeps its state, an episode finds what those before it left; where it is set up for
each episode, it finds what the first one found. Which of the two it is, is told by things that an
episode changed: the next one that shows them shows either what it left, or what it first saw.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from understudy.core.types import Episode
from understudy.world.known.memory import Key
from understudy.world.known.receipts import mine_receipts
from understudy.world.traffic.aside import set_aside
from understudy.world.traffic.ids import Ids, mine
from understudy.world.traffic.transitions import Failures, Step, transitions
from understudy.world.traffic.transitions import steps as steps_of

_LEAST = 5  # changed fields that a later episode shows
_SURE = 2.0  # standard errors by which one answer must be more frequent than the other


@dataclass(slots=True)
class Sights:
    """What the next episode that showed a changed field showed: what the one before `left` of it,
    what that one first saw (`anew`)."""

    left: int = 0
    anew: int = 0

    @property
    def lasts(self) -> bool | None:
        """Whether what an episode changes is there in the next; None where too little tells."""
        n, more = self.left + self.anew, self.left - self.anew
        return None if n < _LEAST or abs(more) <= _SURE * n**0.5 else more > 0


@dataclass(slots=True)
class Moments:
    """When the episodes of a traffic began (in Unix seconds; empty where it is not known), and how
    many of them came before other episodes, by their ids."""

    times: list[float] = field(default_factory=list)
    sights: tuple[int, int] = (0, 0)  # of changed fields: found as they were left, or anew
    places: dict[str, int] = field(default_factory=dict)

    def place(self, traffic: Iterable[str], episodes: Sequence[Episode]) -> None:
        """Take the order of episodes, among them those of the traffic (by their ids)."""
        own = set(traffic)
        numbers = accumulate((e.id in own for e in episodes), initial=0)
        self.places = {e.id: n for e, n in zip(episodes, numbers, strict=False)}

    def before(self, episode: Episode) -> int | None:
        """How many episodes of the traffic came before an episode, where it is known."""
        if episode.id in self.places:
            return self.places[episode.id]
        time = began(episode)
        return None if time is None or not self.times else bisect_left(self.times, time)


def moments(traffic: Sequence[Episode], found: Sights) -> Moments:
    """The moments of a traffic's episodes, which are in the order to learn from them."""
    times = [began(e) for e in traffic]
    known = [t for t in times if t is not None]
    ordered = len(known) == len(times) and known == sorted(known) and known[:1] < known[-1:]
    return Moments(known if ordered else [], (found.left, found.anew))


def began(episode: Episode) -> float | None:
    """When an episode's first call of a model was started, in Unix seconds, where it is known."""
    return min((c.started_at for c in episode.completions if c.started_at > 0), default=None)


def in_time(episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes in the order in which they began; as they are given where that is not known of
    all of them, or of several at once."""
    times = {id(e): began(e) for e in episodes}
    if None in times.values():
        return list(episodes)
    return sorted(episodes, key=lambda e: times[id(e)] or 0.0)


def sights(steps: Sequence[Step], ids: Ids) -> dict[str, Sights]:
    """By kind of thing, what episodes show first of what the episode before has changed. `steps`
    are in the order of time."""
    receipts = mine_receipts(steps, ids)
    found: dict[str, Sights] = defaultdict(Sights)
    before: dict[Key, dict[str, tuple[Any, Any]]] = defaultdict(dict)  # first, last of an episode
    now: dict[Key, dict[str, tuple[Any, Any]]] = {}
    named: set[Key] = set()
    episode = -1
    for s in steps:
        if s.episode != episode:
            for key, fields in now.items():
                before[key].update(fields)
            episode, now, named = s.episode, {}, set()
        if s.failed:
            continue
        for key, record in _records(s, ids, receipts):
            own = now.setdefault(key, {})
            for name, value in record.items():
                if name in own:
                    own[name] = own[name][0], value
                    continue
                own[name] = value, value
                first, last = before[key].get(name, (None, None))
                if key not in named and first != last:
                    found[key[0]].left += value == last
                    found[key[0]].anew += value == first
        named |= {(d, v) for _, d, v in ids.of_args(s.name, s.args)}
    return dict(found)


def _records(
    s: Step, ids: Ids, receipts: dict[str, list[str]]
) -> Iterator[tuple[Key, dict[str, Any]]]:
    """What a successful call shows of things, receipts of its own aside."""
    if not isinstance(s.value, (dict, list, str)):
        return
    named = [(d, v) for _, d, v in ids.alone(s.name, s.args)]
    kept = receipts.get(s.name)
    found = False
    for domain, item, record in ids.shown(s.name, s.args, s.value):
        found = True
        own = record is s.value and (domain, item) in named and kept is not None
        yield (domain, item), {n: v for n, v in record.items() if not own or n in (kept or ())}
    if not found and isinstance(s.value, dict) and len(named) == 1:
        yield named[0], {n: v for n, v in s.value.items() if kept is None or n in kept}


def lasting(steps: Sequence[Step], ids: Ids) -> Sights:
    """What tells whether a traffic's state lasts from one episode to the next."""
    found = sights(steps, ids).values()
    return Sights(sum(s.left for s in found), sum(s.anew for s in found))


def arranged(
    episodes: Sequence[Episode], evidence: Sequence[Episode] | None = None
) -> tuple[list[Episode], bool]:
    """The episodes in the order to learn from them, and whether their state lasts, as `evidence`
    (in its order; all of them without) says: in the order of time where it does, else by scenario,
    so that it does not matter which of many at once was recorded first."""
    timed = in_time(episodes)
    made = [transitions(e) for e in (timed if evidence is None else in_time(evidence))]
    failures = Failures.learn([t for own in made for t in own])
    by_episode, _ = set_aside([steps_of(own, n, failures) for n, own in enumerate(made)])
    read = [s for own in by_episode for s in own]
    if lasting(read, mine(read)).lasts:
        return timed, True
    return sorted(timed, key=lambda e: (e.scenario_id or e.id, e.id)), False
