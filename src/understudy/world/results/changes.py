"""What calls changed: the one definition, for those who look ahead, test, try by hand and measure.

A store of records holds for each thing the fields that are known of it. Two stores are compared,
one from before the calls and one from after them; which ones is the caller's: for the calls of a
world what the session and the traffic showed (`of_call`), for real ones, of which the traffic's
other episodes know nothing, what the session alone showed (world.fidelity.freerun).
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from understudy.world.data.values import same
from understudy.world.known.memory import Key
from understudy.world.known.state import State
from understudy.world.results import settings

Records = Mapping[Key, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Change:
    """A field of a thing before and after. `made`: it came into being with its thing, and `before`
    is None."""

    key: Key
    field: str
    before: Any
    after: Any
    made: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What one call changed: fields, those of a thing together, and the things that listings show
    no longer."""

    fields: tuple[Change, ...]
    gone: tuple[Key, ...]


def changed(before: Records, after: Records, made: Container[Key] = ()) -> list[Change]:
    """The fields that differ between two stores of records, in the order of the second.

    A field has changed where both stores have it with values that are not equal as JSON (2 is 2.0,
    true is not 1). What `after` alone has was seen for the first time, which is no change; but of
    the things in `made`, which came into being between the stores, it is one from None. What
    `before` alone has is not seen any more, and no change either.
    """
    found = []
    for key, record in after.items():
        old, new = before.get(key, {}), key in made
        for name, value in record.items():
            if name in old:
                if not equal(old[name], value):
                    found.append(Change(key, name, old[name], value))
            elif new:
                found.append(Change(key, name, None, value, made=True))
    return found


def of_call(before: State, after: State) -> Changes:
    """What the call did that `after` has seen and `before` has not; nothing where there is none.

    Known before is what the session showed of a thing, else what the traffic did: from that, a
    value that is made up, or that another episode showed, is no change. Records that are parts of
    the call's result alone, as those of a listing, differ with what was asked for and are left out.
    """
    now = shown(after)
    for past in after.calls[len(before.calls) :]:
        records = list(after.ids.of_result(past.name, past.value)) if past.ok else []
        whole = {(domain, item) for domain, item, record in records if record is past.value}
        for domain, item, _ in records:
            if (domain, item) not in whole:
                now.pop((domain, item), None)
    known = {key: _known(key, before, after) for key in now}
    fields = changed(known, now, new_things(before, after))
    gone = sorted(after.unlisted.keys() - before.unlisted.keys(), key=str)
    return Changes(tuple(fields), tuple(gone))


def _known(key: Key, before: State, after: State) -> dict[str, Any]:
    """What was known of a thing. Of fields that the session shows for the first time, not those
    whose value is made up, or that some episode of the traffic first showed so."""
    held = before.things.get(key)
    told = held.fields if held is not None else {}
    known = before.fields(key)
    versions = before.memory.versions.get(key[0], {}).get(key[1], ())
    for name, (value, kind, _) in after.things[key].fields.items():
        if name in known and name not in told:
            shown_so = any(equal(fields.get(name), value) for _, fields in versions)
            if kind == "invented" or shown_so:
                del known[name]
    return known


def new_things(before: State, after: State) -> list[Key]:
    """The things that the calls since `before` brought into being, in order: a successful result is
    the record of one that its call did not name, and nothing was known of it."""
    found: dict[Key, None] = {}
    for past in after.calls[len(before.calls) :]:
        for key, _ in settings.made(after.ids, past.name, past.args, past.value) if past.ok else ():
            if not before.fields(key):
                found[key] = None
    return list(found)


def shown(state: State) -> dict[Key, dict[str, Any]]:
    """The records that the calls of a session showed and changed, as it knows them now."""
    return {
        key: {name: value for name, (value, _, _) in thing.fields.items()}
        for key, thing in state.things.items()
    }


def equal(a: Any, b: Any) -> bool:
    """Equality as JSON has it, of whole values."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return same(a, b)
