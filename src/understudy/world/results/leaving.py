"""What the episodes of a traffic left behind, where its state lasts (world.known.order)."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from understudy.world.data.values import same
from understudy.world.known import course
from understudy.world.known.context import Context
from understudy.world.known.course import Later
from understudy.world.known.memory import Key, Memory, two
from understudy.world.known.state import State
from understudy.world.known.walk import Walk
from understudy.world.results import settings
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Step

Ending = tuple[str, str]  # tool, the argument that names what it ends
_LEAST, _SURE = 5, 0.9


def leave(
    memory: Memory,
    episodes: Sequence[Sequence[Step]],
    ids: Ids,
    context: Callable[[Step, State], Context],
    follow: Callable[[Step, Context], None],
) -> None:
    """Write into a memory what each episode left of every thing that it showed, in the place of
    what it first saw: the last that was told of it, and what later calls did to it."""
    memory.restart()
    steps = [s for own in episodes for s in own]
    memory.lives.endings = endings(steps, ids)
    steady, listed = _Steady(), _Listed(memory)

    def start(first: Step) -> State:
        return State(ids, memory, first.episode, without=Later(first.episode))

    walk = Walk(start, context, follow)
    for own in filter(None, episodes):
        number, origin = own[0].episode, own[0].origin
        for s, c in walk.through(own):
            state = c.state
            shown = [] if s.failed else list(ids.of_result(s.name, s.value))
            for domain, item, record in shown:
                steady.note((domain, item), record, origin)
                listed.note((domain, item), record, state)
            new = [] if s.failed else settings.made(ids, s.name, s.args, s.value)
            for key, _ in new:
                if key not in state.things and state.remembered(key) is None:
                    memory.lives.born.setdefault(key[0], {})[key[1]] = number
        for key, thing in state.things.items():
            fields = {n: v for n, (v, _, _) in thing.fields.items()}
            steady.note(key, fields, origin)
            if key in state.ended:
                memory.end(key, number)
            elif fields:
                memory.leave(key, number, fields)
    memory.lives.fixed, memory.lives.lists = steady.fixed(), listed.lists()
    memory.lives.course = course.mine(memory.lives.born, memory.versions, steps)


class _Steady:
    """Which fields no thing of a kind changes."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[Any, dict[str, tuple[Any, list[int]]]]] = {}
        self.moved: set[tuple[str, str]] = set()

    def note(self, key: Key, fields: dict[str, Any], origin: int) -> None:
        """What is told of a thing."""
        held = self.seen.setdefault(key[0], {}).setdefault(key[1], {})
        for name, value in fields.items():
            first, origins = held.setdefault(name, (value, []))
            if not same(first, value):
                self.moved.add((key[0], name))
            two(origins, origin)

    def fixed(self) -> dict[str, dict[Any, dict[str, tuple[Any, list[int]]]]]:
        """By kind and thing, the fields that never changed, where several episodes looked."""
        again = Counter(
            (domain, name)
            for domain, things in self.seen.items()
            for fields in things.values()
            for name, (_, origins) in fields.items()
            if len(origins) > 1
        )
        sure = {f for f, n in again.items() if n >= _LEAST and f not in self.moved}
        return {
            domain: {
                item: {n: told for n, told in fields.items() if (domain, n) in sure}
                for item, fields in things.items()
            }
            for domain, things in self.seen.items()
        }


class _Listed:
    """Which fields list things of a kind as long as there are such."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.dropped: Counter[tuple[str, str, str]] = Counter()
        self.kept: Counter[tuple[str, str, str]] = Counter()

    def note(self, key: Key, record: dict[str, Any], state: State) -> None:
        """What is told of a thing, in the state before: of what it listed when it was seen last,
        and is no more, what it lists still."""
        held = state.remembered(key)
        for name, value in record.items() if held is not None else ():
            before = held.fields.get(name) if held is not None else None
            if not isinstance(value, list) or not isinstance(before, list):
                continue
            for item in (v for v in before if isinstance(v, (str, int))):
                for domain in self.memory.lives.gone:
                    if self.memory.ended((domain, item), state.without):
                        counts = self.kept if item in value else self.dropped
                        counts[key[0], name, domain] += 1

    def lists(self) -> dict[str, dict[str, str]]:
        """By kind of thing and field, the kind of what it lists."""
        found: dict[str, dict[str, str]] = {}
        for (own, name, domain), n in self.dropped.items():
            if n >= _LEAST and n >= _SURE * (n + self.kept[own, name, domain]):
                found.setdefault(own, {})[name] = domain
        return found


def endings(steps: Sequence[Step], ids: Ids) -> list[Ending]:
    """The tools after whose success on a thing all calls that name it fail, those of other tools
    among them, until a result shows it again. `steps` are in the order of time."""
    last: dict[Key, set[Ending]] = defaultdict(set)
    tally: dict[Ending, Counter[bool]] = defaultdict(Counter)
    others: Counter[Ending] = Counter()
    for s in steps:
        for p, domain, value in ids.of_args(s.name, s.args):
            for ending in last[domain, value]:
                tally[ending][s.failed] += 1
                others[ending] += s.failed and s.name != ending[0]
            if not s.failed:
                last[domain, value] = {(s.name, p)}
        for domain, value, _ in () if s.failed else ids.of_result(s.name, s.value):
            if (domain, value) not in {(d, v) for _, d, v in ids.of_args(s.name, s.args)}:
                last[domain, value] = set()
    return sorted(
        e for e, n in tally.items()
        if others[e] and n[True] >= _LEAST and n[True] >= _SURE * n.total()
    )  # fmt: skip
