"""The retrieval floor: who answers a call with what the traffic answered to the most alike one.

The nearest call is the training call of the same tool with the most equal arguments, failures among
them; the floor says first what the episode itself answered to this very call.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.core.types import Episode, canonical_json
from understudy.world.data.values import call_key
from understudy.world.traffic.transitions import Failures, Step, steps, transitions

Said = tuple[str, bool]  # a result's text and its error flag


@dataclass(frozen=True, slots=True)
class Told:
    """A call of the traffic and its result."""

    args: dict[str, Any]
    said: Said
    pairs: frozenset[tuple[str, str]]


@dataclass(slots=True)
class Floor:
    """The calls of a train split, by tool."""

    calls: dict[str, list[Told]] = field(default_factory=lambda: defaultdict(list))
    _nearest: dict[str, Told] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, episodes: Sequence[Episode], failures: Failures) -> "Floor":
        """The split of these episodes."""
        read = (steps(transitions(e), n, failures) for n, e in enumerate(episodes))
        return cls.of_steps(s for own in read for s in own)

    @classmethod
    def of_steps(cls, made: Iterable[Step]) -> "Floor":
        floor = cls()
        for s in made:
            floor.calls[s.name].append(Told(s.args, (s.content, s.flag), _pairs(s.args)))
        return floor

    def nearest(self, name: str, args: dict[str, Any]) -> Told:
        """The training call of a tool with the most equal arguments, of several the one with the
        most names in common; without any, an empty text with an error flag."""
        key = call_key(name, args)
        if key not in self._nearest:
            own, names = _pairs(args), frozenset(args)
            self._nearest[key] = max(
                self.calls.get(name, ()),
                key=lambda t: (_overlap(own, t.pairs), _overlap(names, frozenset(t.args))),
                default=Told({}, ("", True), frozenset()),
            )
        return self._nearest[key]


def _pairs(args: dict[str, Any]) -> frozenset[tuple[str, str]]:
    return frozenset((k, canonical_json(v)) for k, v in args.items())


def _overlap(a: frozenset[Any], b: frozenset[Any]) -> float:
    return len(a & b) / max(1, len(a | b))
