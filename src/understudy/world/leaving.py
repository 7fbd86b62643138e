"""What the episodes of a traffic left behind, where its state lasts (world.order)."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence

from understudy.world.context import Context
from understudy.world.ids import Ids
from understudy.world.memory import Key, Later, Memory
from understudy.world.state import State
from understudy.world.transitions import Step

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
    what it first saw: the last that was told of it, and what later calls did to it. `follow` writes
    what a successful call does to other things than its result shows."""
    memory.restart()
    ending = endings([s for own in episodes for s in own], ids)
    for own in episodes:
        if not own:
            continue
        number = own[0].episode
        state = State(ids, memory, number, without=Later(number))
        ended: set[Key] = set()
        for s in own:
            c = context(s, state)
            state.observe(s.name, s.args, "err:" if s.failed else "ok:", s.value)
            if s.failed:
                continue
            follow(s, c)
            ended -= {key[:2] for key in ids.of_result(s.name, s.value)}
            ended |= {(d, v) for p, d, v in c.ids if (s.name, p) in ending}
        for key, thing in state.things.items():
            if key in ended:
                memory.end(key, number)
            elif thing.fields:
                memory.leave(key, number, {n: v for n, (v, _, _) in thing.fields.items()})


def endings(steps: Sequence[Step], ids: Ids) -> Collection[Ending]:
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
    return {
        e for e, n in tally.items()
        if others[e] and n[True] >= _LEAST and n[True] >= _SURE * n.total()
    }  # fmt: skip
