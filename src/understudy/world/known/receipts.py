"""Results that say how a call went, not how the thing is that it names: `{"ok": true, "price": 9}`.

Such a tool is known by what it does to the thing: the tool that shows the thing's record shows
another one after it, and little of the result stands in that record. Of what a tool answers that
changes things, a field belongs to a thing only where a tool that does not change any shows it, or
no such tool shows things of that kind.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.world.known.memory import Key
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Step

_LEAST = 2  # changes that show that a tool makes them
_SURE = 0.3  # the share of calls that change something: others find nothing to do
_RESTLESS = 0.1  # how often a field may differ with nothing done in between
_RECORD = 0.5  # the share of a record's fields with which a result is one


@dataclass(slots=True)
class _Between:
    """What one tool's calls on a thing were followed by, where no other tool's came between."""

    changes: list[tuple[str, set[str]]] = field(default_factory=list)
    """(reader, fields that differ)."""
    same: Counter[str] = field(default_factory=Counter)
    """field -> how often the record has the result's value."""
    both: Counter[str] = field(default_factory=Counter)
    """field -> how often record and result have it."""
    records: list[int] = field(default_factory=list)
    """How many fields the records have."""


def mine_receipts(all_steps: Sequence[Step], ids: Ids) -> dict[str, list[str]]:
    """The tools whose results are no records of the thing that their calls name, each with the
    fields of its results that are fields of the thing all the same."""
    between: dict[str, _Between] = defaultdict(_Between)
    times: Counter[tuple[str, str]] = Counter()  # reader, field: shown twice in a row
    moved: Counter[tuple[str, str]] = Counter()
    last: dict[tuple[Key, str], tuple[dict[str, Any], dict[str, Any]]] = {}
    episode = -1
    for s in all_steps:
        if s.episode != episode:
            episode, last = s.episode, {}
        if s.failed or not isinstance(s.value, (dict, list)):
            continue
        named = [(d, v) for _, d, v in ids.alone(s.name, s.args)]
        for key, record in _records(s, ids):
            before, calls = last.get((key, s.name), (None, {}))
            if before is not None:
                shared = before.keys() & record.keys()
                differing = {n for n in shared if before[n] != record[n]}
                if not calls:
                    times.update((s.name, n) for n in shared)
                    moved.update((s.name, n) for n in differing)
                elif len(calls) == 1:
                    ((tool, result),) = calls.items()
                    _note(between[tool], s.name, differing, result, record)
            last[key, s.name] = record, {}
        for (key, reader), (_, calls) in last.items():
            if key in named and reader != s.name:
                calls[s.name] = s.value if isinstance(s.value, dict) else {}
    restless = {at for at, n in moved.items() if n > _RESTLESS * times[at]}
    found = {}
    for tool, seen in between.items():
        changes = sum(any((r, n) not in restless for n in names) for r, names in seen.changes)
        kept = sorted(n for n, k in seen.both.items() if seen.same[n] >= 0.5 * k)
        usual = sum(seen.records) / len(seen.records)
        if changes >= max(_LEAST, _SURE * len(seen.changes)) and len(kept) < _RECORD * usual:
            found[tool] = kept
    return found


def of_acting(
    all_steps: Sequence[Step], ids: Ids, acting: Collection[str], moving: Mapping[str, set[str]]
) -> dict[str, list[str]]:
    """The tools of `acting`, which change things, whose results have fields of no thing, each with
    those that are fields of the things that its calls name. Tools whose results have fields that
    are `moving`, other than before, are such where what they show is a small part of a record."""
    shows: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for s in all_steps:
        for domain, record in () if s.failed else _named(s, ids):
            shows[s.name][domain] |= record.keys()
    narrow = {t for t, own in moving.items() if own} - set(acting)
    found = {}
    for tool in sorted({*acting, *narrow} & shows.keys()):
        others = [own for t, own in shows.items() if t not in acting and t != tool]
        said: set[str] = set()
        kept: set[str] = set()
        widest = 0
        for domain, names in shows[tool].items():
            records = [own[domain] for own in others if domain in own]
            said |= names
            kept |= names & set().union(*records) if records else names
            widest = max(widest, *map(len, records)) if records else widest
        if kept < said and (tool in acting or len(said) < _RECORD * widest):
            found[tool] = sorted(kept)
    return found


def _named(s: Step, ids: Ids) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a result as a whole says of things that the call names, and, if it changes none, what it
    lists."""
    if not isinstance(s.value, (dict, list)):
        return
    named = [(d, v) for _, d, v in ids.alone(s.name, s.args)]
    shown = list(ids.shown(s.name, s.args, s.value))
    yield from ((domain, record) for domain, _, record in shown)
    if isinstance(s.value, dict) and not any(r is s.value for _, _, r in shown) and len(named) == 1:
        yield named[0][0], s.value


def _note(
    own: _Between,
    reader: str,
    differing: set[str],
    result: dict[str, Any],
    record: dict[str, Any],
) -> None:
    own.changes.append((reader, differing))
    own.both.update(result.keys() & record.keys())
    own.same.update(n for n in result.keys() & record.keys() if result[n] == record[n])
    own.records.append(len(record))


def _records(s: Step, ids: Ids) -> Iterator[tuple[Key, dict[str, Any]]]:
    for domain, item, record in ids.of_result(s.name, s.value):
        yield (domain, item), record
