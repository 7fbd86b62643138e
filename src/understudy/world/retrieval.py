"""What remembered calls of a tool were answered: the result for a tool whose rules are worse than
that on calls that they were not learned from (world.fidelity.likelier decides; world.nearest
answers).

The nearest call names the most things that this one names; of several it has the most equal
arguments, and of several the most names of arguments in common. Where state lasts from one episode
to the next it is then the latest; else a session has an order of its own of the episodes, so that
what it is told hangs together, and another one is told something else. Calls of the session come
before any of the traffic.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from understudy.core.types import canonical_json
from understudy.world.data.values import call_key, chance
from understudy.world.known.context import Context
from understudy.world.known.memory import Key
from understudy.world.traffic import joint
from understudy.world.traffic.aside import LARGEST
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Step

MOST = 1000  # calls of a tool that are remembered whole, the latest
VARIANTS = 8  # scenarios whose answer to one and the same call is remembered
LEVELS = ("the same call", "a call of the same things", "another call")
FEW = 10  # held-out calls of a level, below which its doubt stands whatever others showed
FAR = 2  # the level of a call that is not of the same things


class Held(NamedTuple):
    """A call of the traffic and its result as it was written."""

    episode: int
    step: int  # of the call in its episode
    args: dict[str, Any]
    content: str
    flag: bool
    failed: bool


class _About(NamedTuple):
    """What makes calls alike."""

    things: set[Key]
    pairs: frozenset[tuple[str, str]]
    names: frozenset[str]


@dataclass(slots=True)
class Tally:
    """What became of results at one level of nearness, on held-out calls."""

    calls: int = 0
    wrong: int = 0  # on leaves that could be known
    classes: int = 0  # whose outcome class was right

    @property
    def doubt(self) -> float:
        return (self.wrong + 1) / (self.calls + 2)

    @property
    def sure(self) -> float:
        """The probability that the outcome class is right."""
        return (self.classes + 1) / (self.calls + 2)


@dataclass(slots=True)
class Retrieval:
    """How a tool answers as its nearest call was answered. `whole`: failures too, else what the
    rules say will go well alone. `current`: records show what the session knows of their things.
    `far`: also where no call of the same things is remembered."""

    whole: bool
    current: bool
    far: bool
    levels: list[Tally]  # by LEVELS
    calls: int  # held-out calls on which it was decided
    rules: int  # of those exact by the rules
    nearest: int  # and as it is done now
    held: list[Held] = field(default_factory=list)
    _read: list[_About] = field(default_factory=list, repr=False)
    _found: dict[tuple[str, bool], list[Held]] = field(default_factory=dict, repr=False)

    @property
    def way(self) -> tuple[bool, bool, bool]:
        return self.whole, self.current, self.far

    def best(self, c: Context, good: bool) -> tuple[Held | int, int] | None:
        """The nearest call, of the traffic or by its number in the session, and its level;
        `good`: of those that went well. None where there is none."""
        asked = _about({(d, v) for _, d, v in c.ids}, c.args)
        held = self._remembered(c, asked, good)
        found: Held | int | None = held
        rank = (-1, -1.0, -1.0) if held is None else _rank(asked, self._of(c, held.args))
        for n, past in enumerate(c.state.calls):
            if past.name == c.tool.name and (past.ok or not good):
                own = _rank(asked, _about(set(past.ids), past.args))
                if own >= rank:
                    found, rank = n, own
        if found is None:
            return None
        key = c.state.calls[found].key if isinstance(found, int) else _key(c, found)
        return found, 0 if key == c.key else 1 if rank[0] == len(asked.things) > 0 else 2

    def _remembered(self, c: Context, asked: "_About", good: bool) -> Held | None:
        if c.state.without:
            found = self._nearest(c, asked, good)
        elif (c.key, good) in self._found:
            found = self._found[c.key, good]
        else:
            found = self._found[c.key, good] = self._nearest(c, asked, good)
        if c.state.memory.lasts:
            return found[-1] if found else None
        return max(found, key=lambda h: chance(c.state.seed, h.episode), default=None)

    def _nearest(self, c: Context, asked: "_About", good: bool) -> list[Held]:
        """The nearest calls, the latest last."""
        if len(self._read) != len(self.held):
            self._read = [self._of(c, h.args) for h in self.held]
        without = c.state.without
        ranks = [
            (_rank(asked, own), h)
            for h, own in zip(self.held, self._read, strict=True)
            if h.episode not in without and not (good and h.failed)
        ]
        best = max((rank for rank, _ in ranks), default=None)
        return [h for rank, h in ranks if rank == best]

    def _of(self, c: Context, args: dict[str, Any]) -> "_About":
        named = c.state.ids.of_args(c.tool.name, args)
        return _about({(d, v) for _, d, v in named}, args)

    def to_json(self) -> dict[str, Any]:
        plain = {n: getattr(self, n) for n in self.__slots__ if n not in ("_read", "_found")}
        return {**plain, "levels": [[t.calls, t.wrong, t.classes] for t in self.levels]}

    def told(self) -> str:
        """Why the tool answers so, in words."""
        exact = f"rules {self.rules}, nearest {self.nearest} of {self.calls} exact"
        return f"{exact} on held-out calls"


def _key(c: Context, held: Held) -> str:
    return call_key(c.tool.name, held.args)


def _about(things: set[Key], args: dict[str, Any]) -> _About:
    pairs = frozenset((k, canonical_json(v)) for k, v in args.items())
    return _About(things, pairs, frozenset(args))


def _rank(asked: _About, other: _About) -> tuple[int, float, float]:
    things = len(asked.things & other.things)
    return things, _overlap(asked.pairs, other.pairs), _overlap(asked.names, other.names)


def _overlap(a: frozenset[Any], b: frozenset[Any]) -> float:
    return len(a & b) / max(1, len(a | b))


def read(data: dict[str, Any] | None) -> Retrieval | None:
    """The retrieval of `to_json`."""
    if data is None:
        return None
    levels, held = [Tally(*t) for t in data["levels"]], [Held(*h) for h in data["held"]]
    return Retrieval(**{**data, "levels": levels, "held": held})


def remembered_calls(
    episodes: Iterable[Sequence[Step]], lasts: bool = False
) -> dict[str, list[Held]]:
    """The calls of each tool that can be answered from: of equal ones those of the last `VARIANTS`
    scenarios, one a scenario, as an episode first answered it, before what it changed itself; where
    state `lasts`, as each episode last answered it."""
    last: dict[str, dict[tuple[str, bool], dict[int, Held]]] = {}
    for own in episodes:
        for s in own:
            if s.bad_json or len(s.content) > LARGEST:
                continue
            key = call_key(s.name, s.args), s.failed
            held = last.setdefault(s.name, {}).setdefault(key, {})
            whose = s.episode if lasts else s.origin
            before = held.get(whose)
            if before is not None and before.episode == s.episode and not lasts:
                continue
            held.pop(whose, None)
            held[whose] = Held(s.episode, s.index, s.args, s.content, s.flag, s.failed)
            for old in list(held)[: -MOST if lasts else -VARIANTS]:
                del held[old]
    return {name: _latest(h for held in own.values() for h in held.values())
            for name, own in last.items()}  # fmt: skip


def _latest(held: Iterable[Held]) -> list[Held]:
    return sorted(held, key=lambda h: (h.episode, h.step))[-MOST:]


def things_of(
    ids: Ids, name: str, args: dict[str, Any], value: Any
) -> Iterator[tuple[Key, dict[str, Any]]]:
    """The records of a result, each with the thing that it is of; a result that says none is of
    the one that the call names."""
    found = False
    for domain, item, record in ids.of_result(name, value):
        found = True
        yield (domain, item), record
    read = ids.read(name, args) if joint.AND in ids.joint.get(name, "") else None
    named = [(domain, item) for _, domain, item in ids.alone(name, args)]
    if isinstance(value, dict) and read is not None:
        yield read, value
    elif isinstance(value, dict) and not found and len(named) == 1:
        yield named[0], value
