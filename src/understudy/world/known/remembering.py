"""What a traffic remembers of things: each episode's first sight of every one of them."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from understudy.world.data.values import leaves, texts_in
from understudy.world.known.memory import Key, Memory
from understudy.world.known.receipts import mine_receipts, of_acting
from understudy.world.traffic import joint
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Step


def remember(
    all_steps: Iterable[Step],
    ids: Ids,
    told: dict[int, str],
    limit: int = 8,
    touched: dict[tuple[int, Key], dict[str, int]] | None = None,
    acting: Collection[str] = (),
) -> Memory:
    """The memory of a traffic: each episode's first sight of every thing, without the fields that
    calls before it changed (`touched`: by episode and thing, each with the first call's index).
    `acting`: the tools that are known to change things.

    Things that a call of the episode brought into being are left out: their ids appear first
    in the result of a call, neither listed nor named before by the user or an argument.
    """
    all_steps = list(all_steps)
    changing = _changing(all_steps, ids)
    receipts = of_acting(all_steps, ids, acting, changing) | mine_receipts(all_steps, ids)
    memory = Memory(limit=limit, receipts=receipts)
    mentioned: dict[int, set[Any]] = defaultdict(set)
    made: dict[int, set[Key]] = defaultdict(set)
    lost: dict[tuple[int, Key], set[str]] = defaultdict(set)  # fields that a call has changed
    for s in all_steps:
        known = mentioned[s.episode]
        known.update(v for _, v in leaves(s.args))
        read = None if s.failed else ids.read(s.name, s.args)
        if read is not None and isinstance(s.value, str):
            told_ = _kept(ids.record(s.name, s.value), _late(touched, s, read))
            memory.add(read, s.episode, told_)
        if s.failed or not isinstance(s.value, (dict, list)):
            continue
        for item in texts_in(s.value):
            if item not in known:
                memory.mention(item, s.origin)
        named = [(d, v) for _, d, v in ids.alone(s.name, s.args)]
        found = False
        for domain, item, record in ids.of_result(s.name, s.value):
            found = True
            key = (domain, item)
            if record is s.value and item not in known and str(item) not in told[s.episode]:
                made[s.episode].add(key)
            known.add(item)
            if key not in made[s.episode]:
                lost[s.episode, key] |= changing[s.name]
                late = _late(touched, s, key)
                own = record
                if record is s.value and key in named:
                    own = memory.of_thing(s.name, record)
                memory.add(key, s.episode, _kept(own, lost[s.episode, key] | late))
        if read is not None and joint.AND in ids.joint[s.name]:
            if ids.joint[s.name] == joint.AND:
                lost[s.episode, read] |= changing[s.name]
            gone = lost[s.episode, read] | _late(touched, s, read)
            memory.add(read, s.episode, _kept(ids.record(s.name, s.value), gone))
            continue
        if found or not isinstance(s.value, dict) or len(named) != 1:
            continue
        if named[0] not in made[s.episode]:
            own = memory.of_thing(s.name, s.value)
            memory.add(named[0], s.episode, _kept(own, changing[s.name]))
    return memory


def _late(touched: dict[tuple[int, Key], dict[str, int]] | None, s: Step, key: Key) -> set[str]:
    """The fields of a thing that earlier calls of the episode changed."""
    own = (touched or {}).get((s.episode, key), {})
    return {n for n, first in own.items() if first < s.index}


def _kept(record: dict[str, Any], changed: set[str]) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k not in changed} if changed else record


def _changing(all_steps: Sequence[Step], ids: Ids) -> dict[str, set[str]]:
    """The fields that each tool changes before it shows a record, so that they do not say how the
    thing was: they often differ from what the episode showed before, or do so at all and always
    are as an argument says. Where a call in between named the thing and did not show it, the
    difference may be that call's, and counts for nothing."""
    known: dict[Key, dict[str, Any]] = {}
    unclear: set[Key] = set()
    differs: dict[str, Counter[str]] = defaultdict(Counter)
    times: dict[str, Counter[str]] = defaultdict(Counter)
    given: dict[str, Counter[str]] = defaultdict(Counter)
    episode = -1
    for s in all_steps:
        if s.episode != episode:
            episode, known, unclear = s.episode, {}, set()
        if s.failed:
            continue
        shown = list(ids.of_result(s.name, s.value))
        if ids.joint.get(s.name) == joint.AND:
            shown = list(ids.shown(s.name, s.args, s.value))
        unclear |= {(d, v) for _, d, v in ids.alone(s.name, s.args)} - {k[:2] for k in shown}
        for domain, item, record in shown:
            before = known.setdefault((domain, item), {})
            clear = (domain, item) not in unclear
            unclear.discard((domain, item))
            for name in before.keys() & record.keys() if clear else ():
                times[s.name][name] += 1
                differs[s.name][name] += before[name] != record[name]
                given[s.name][name] += record[name] in s.args.values()
            before.update(record)
    return defaultdict(
        set,
        {
            tool: {
                n
                for n, k in own.items()
                if (k >= 3 and k > 0.3 * times[tool][n]) or (k and given[tool][n] == times[tool][n])
            }
            for tool, own in differs.items()
        },
    )
