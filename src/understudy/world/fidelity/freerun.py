"""Free-running rollouts: several real calls in a row made in the world, whose own results are the
history of the later ones. How long it stays right, and whether it ends in the right state.

A rollout starts after the true history before a call. Right so far means that all results up to a
step were: `exact` on all leaves, `known` on the leaves that could be known (their value is in the
call's arguments, earlier in the real episode or in the train split; a failing result as a whole),
both with the error flag, and `flag` on the error flag alone.

A field of a thing has changed where its value after the rollout is not the first one that the
session held of it: what is seen for the first time is no change, and neither is a new thing, whose
id nobody could foresee; where a field names it, the order in which it was made stands for it. Only
things that some result shows as a whole count: records that are parts
of results alone (a price as of one day) differ by what was asked. What really changed is read off
a session that observed the real results, the effects that the world knows among it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.core.types import Episode, canonical_json
from understudy.runs.statistics import clustered_mean
from understudy.world.data.values import call_key, columns
from understudy.world.fidelity.floor import Floor, Said
from understudy.world.known.memory import Key
from understudy.world.known.state import State
from understudy.world.model import World, WorldSession
from understudy.world.results.changes import changed, new_things, shown
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Step, steps, transitions

LENGTH = 5  # calls of a rollout
AT = (1, 3, 5)  # steps at which survival is reported
KINDS = ("exact", "known", "flag")
Change = tuple[Key, str, str]  # thing, field, its new value as JSON


@dataclass(slots=True)
class Train:
    """What a train split showed: all its values as texts, the kinds of things (domains) that
    results show as a whole, and its calls."""

    whole: set[str]
    values: set[str]
    floor: Floor

    @classmethod
    def of(cls, world: World, episodes: Sequence[Episode]) -> "Train":
        """The split of these episodes."""
        read = [steps(transitions(e), n, world.failures) for n, e in enumerate(episodes)]
        made = [s for own in read for s in own]
        whole = {domain for s in made if not s.failed for domain in _whole(s, world.ids)}
        return cls(whole, {text for s in made for text in _texts(s)}, Floor.of_steps(made))


@dataclass(slots=True)
class Rollout:
    """One rollout of one who answers: whether it was right so far after each step, by kind, and
    the F1 of the fields that changed against `changes` that really did."""

    scenario: str
    right: dict[str, list[bool]]
    changes: int
    f1: float


def free_runs(
    world: World, train: Sequence[Episode], test: Sequence[Episode], every: int = 1
) -> dict[str, Any]:
    """Rollouts from every `every`-th call of the test episodes that has enough calls after it.

    Figures are a value with a 95% interval that resamples whole scenarios (None where there is one
    alone) and their number: `survival` by step and kind, and `state_diff` by how many fields
    really changed (`changed`: all rollouts in which one did), of the world and of the `floor`
    (world.fidelity.floor).
    """
    split = Train.of(world, train)
    found: dict[str, list[Rollout]] = {"world": [], "floor": []}
    for n, episode in enumerate(test):
        for who, rollout in _rollouts(world, split, episode, n, every):
            found[who].append(rollout)
    result: dict[str, Any] = {"n": len(found["world"]), "length": LENGTH, "every": every}
    return result | {who: _figures(rollouts) for who, rollouts in found.items()}


def _rollouts(
    world: World, train: Train, episode: Episode, seed: int, every: int
) -> Iterator[tuple[str, Rollout]]:
    made = transitions(episode)
    real = steps(made, seed, world.failures)
    history = world.session(seed, at=world.moment(episode))
    shown: dict[str, Said] = {}
    seen: set[str] = set()
    for i, s in enumerate(real):
        if i % every == 0 and i + LENGTH <= len(real):
            ahead = real[i : i + LENGTH]
            known = _knowable(ahead, seen, train.values)
            truth = world.session(seed, history.state)
            changed = _follow(truth, ahead, [(x.content, x.flag) for x in ahead], train.whole)
            own = world.session(seed, history.state)
            first = _Firsts(train.whole, own.state)
            said: list[Said] = []
            for t in made[i : i + LENGTH]:
                result = own.step(t.name, t.arguments, greedy=True)
                said.append((result.content, result.is_error))
                first.note(own.state)
            scenario = episode.scenario_id or episode.id
            yield "world", _score(scenario, ahead, said, known, first.changes(own.state), changed)
            said = _repeated(ahead, dict(shown), train.floor)
            floor = _follow(world.session(seed, history.state), ahead, said, train.whole)
            yield "floor", _score(scenario, ahead, said, known, floor, changed)
        shown[call_key(s.name, s.args)] = s.content, s.flag
        seen |= _texts(s)
        history.observe(s.name, s.args, s.content, s.flag)


def _repeated(ahead: Sequence[Step], shown: dict[str, Said], floor: Floor) -> list[Said]:
    """What the floor says, with its own results as history."""
    said = []
    for s in ahead:
        nearest = floor.nearest(s.name, s.args).said
        said.append(shown.setdefault(call_key(s.name, s.args), nearest))
    return said


def _whole(s: Step, ids: Ids) -> Iterator[str]:
    """The domain of the thing that a result is a record of."""
    if isinstance(s.value, dict):
        found = [(domain, record) for domain, _, record in ids.of_result(s.name, s.value)]
        yield from (domain for domain, record in found if record is s.value)
        named = [domain for _, domain, _ in ids.alone(s.name, s.args)]
        if not found and len(named) == 1:
            yield named[0]


def _follow(
    session: WorldSession, calls: Sequence[Step], said: Sequence[Said], whole: set[str]
) -> set[Change]:
    """What changes in a session that observes these results."""
    first = _Firsts(whole, session.state)
    for s, (content, flag) in zip(calls, said, strict=True):
        session.observe(s.name, s.args, content, flag)
        first.note(session.state)
    return first.changes(session.state)


class _Firsts:
    """The first value that a session held of each field of its things of these domains."""

    def __init__(self, whole: set[str], begun: State) -> None:
        self.whole, self.begun = whole, begun.copy()
        self.records: dict[Key, dict[str, Any]] = {}
        self.note(begun)

    def _shown(self, state: State) -> Iterator[tuple[Key, dict[str, Any]]]:
        return (item for item in shown(state).items() if item[0][0] in self.whole)

    def note(self, state: State) -> None:
        for key, record in self._shown(state):
            self.records[key] = record | self.records.get(key, {})

    def changes(self, state: State) -> set[Change]:
        """What differs from the first values; of things that calls made, the order stands for the
        id, and they are no changes themselves."""
        names = {key[1]: f"made {n}" for n, key in enumerate(new_things(self.begun, state))}
        now = {key: record for key, record in self._shown(state) if key[1] not in names}
        return {
            (c.key, c.field, canonical_json(_named(c.after, names)))
            for c in changed(self.records, now)
        }


def _named(value: Any, names: dict[Any, str]) -> Any:
    """A value with names in the places of ids."""
    if isinstance(value, dict):
        return {k: _named(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [_named(v, names) for v in value]
    return names.get(value, value) if isinstance(value, str) else value


def _score(
    scenario: str,
    real: Sequence[Step],
    said: Sequence[Said],
    known: Sequence[set[str]],
    got: set[Change],
    changed: set[Change],
) -> Rollout:
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for s, (content, flag), values in zip(real, said, known, strict=True):
        exact = content == s.content or s.read(content) == s.value
        also = exact if s.flag else exact or _knows(s.read(content), s.value, values)
        now = {"exact": exact, "known": also, "flag": True}
        for kind, so_far in right.items():
            so_far.append(now[kind] and flag == s.flag and (not so_far or so_far[-1]))
    total = len(got) + len(changed)
    return Rollout(scenario, right, len(changed), 2 * len(got & changed) / total if total else 1.0)


def _knowable(ahead: Sequence[Step], seen: set[str], train: set[str]) -> list[set[str]]:
    """For each call the texts of its real leaves that could be known."""
    seen = set(seen)
    found = []
    for s in ahead:
        told = seen | {str(v) for _, v in columns(s.args)}
        texts = {str(v) for _, v in columns(s.value)}
        found.append({t for t in texts if t in told or t in train})
        seen |= _texts(s)
    return found


def _knows(guess: Any, real: Any, known: set[str]) -> bool:
    """Whether a result has all leaves that could be known, and no other at their paths."""
    free = {p for p, v in columns(real) if v is not None and str(v) not in known}
    wanted = Counter((p, canonical_json(v)) for p, v in columns(real) if p not in free)
    got = Counter((p, canonical_json(v)) for p, v in columns(guess) if p not in free)
    return wanted == got


def _texts(s: Step) -> set[str]:
    return {str(v) for part in (s.args, s.value) for _, v in columns(part)}


def _figures(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    survival = {
        str(n): {kind: _mean([(r.scenario, r.right[kind][n - 1]) for r in rollouts])
                 for kind in KINDS}
        for n in AT
    }  # fmt: skip
    bounds = {"0": (0, 0), "1": (1, 1), "2-4": (2, 4), "5+": (5, None), "changed": (1, None)}
    diff = {
        name: _mean([
            (r.scenario, r.f1) for r in rollouts
            if r.changes >= low and (high is None or r.changes <= high)
        ])
        for name, (low, high) in bounds.items()
    }  # fmt: skip
    return {"survival": survival, "state_diff": diff}


def _mean(values: Sequence[tuple[str, float]]) -> dict[str, float | None]:
    if not values:
        return {"value": None, "low": None, "high": None, "n": 0}
    found = clustered_mean([float(v) for _, v in values], [s for s, _ in values], resamples=2000)
    sure = len({s for s, _ in values}) > 1
    low, high = (found.low, found.high) if sure else (None, None)
    return {"value": found.mean, "low": low, "high": high, "n": found.n}
