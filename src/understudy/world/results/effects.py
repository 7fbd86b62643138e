"""Effects on other things than the one that a result shows: a payment that takes from a card, an
order that its owner's record lists.

A record that a reading tool shows again, different from before, was changed in between; where one
call named it, or a thing that refers to it, the difference is that call's. What a difference is
made of is looked for in the call's arguments and result.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.world.data.amounts import Value, call_values, moved_by, part_values
from understudy.world.data.values import escape, is_number
from understudy.world.known import steps
from understudy.world.known.context import Context
from understudy.world.known.memory import Key
from understudy.world.known.state import State, Thing
from understudy.world.known.walk import Walk
from understudy.world.results import logs, settings
from understudy.world.results.rules import Effect, Role, Rule, addressed, makes, shifted
from understudy.world.results.settings import Held
from understudy.world.traffic import joint
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Step

Touched = dict[tuple[int, Key], dict[str, int]]
_LEAST = 2  # changes that show a rule
Record = dict[str, Any]
_NEW = object()  # what a field of a thing was before a call made it
_SURE = 0.8


_Named = tuple[int, Step, Role, Held]  # a call by its number, and how it names a thing


@dataclass(slots=True)
class Sample:
    """A thing before and after a call: fields that both sights have."""

    role: Role
    args: dict[str, Any]
    result: Any
    before: dict[str, Any]
    after: dict[str, Any]
    held: Held  # what was known of the things that the call names
    origin: int  # the call's scenario
    domain: str  # of what the argument names
    item: Any  # the thing's identifier


def mine(
    episodes: Sequence[Sequence[Step]],
    ids: Ids,
    walk: Walk,
) -> dict[str, list[Effect]]:
    """The effects of each tool."""
    named = {t for t, argument in ids.joint.items() if argument != joint.AND}
    silent = {t for t, own in ids.args.items() if joint.AND in own and t not in ids.joint}
    readers = (_readers(episodes, ids) | named) - silent
    samples: dict[str, dict[Role, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    mirrors = steps.Mirrors()
    for episode in episodes:
        waiting: dict[Key, list[_Named]] = defaultdict(list)
        seen: dict[Key, int] = defaultdict(lambda: -1)  # the last call that showed a thing
        for s, c in walk.through(episode):
            state, n = c.state, len(c.state.calls)
            if not s.failed and s.name in readers:
                for key, record in _shown(s, ids):
                    thing = state.things.get(key, Thing())
                    since = {call.args.get(role[0]) for _, call, role, _ in waiting[key] if role[1]}
                    mirrors.note(state, key, record, since)
                    for call, sample in _changes(thing, record, waiting[key], seen[key]):
                        sample.domain = ids.args.get(call.name, {}).get(sample.role[0], "")
                        sample.item = key[1]
                        samples[call.name][sample.role].append(sample)
                    seen[key] = n
            new = [k for k, _ in settings.made(ids, s.name, s.args, s.value)]
            new = [] if s.failed else [k for k in new if k not in state.things]
            held = settings.held(c)
            if not s.failed and s.name not in readers:
                for role, key in addressed(c):
                    waiting[key].append((n, s, role, held))
                for key in new:
                    waiting[key].append((n, s, ("", key[0]), held))
    effects: dict[str, list[Effect]] = {}
    for tool, roles in samples.items():
        found = [
            Effect(role, rules)
            for role, own in roles.items()
            if (rules := _rules(own, role) | _leaving(own, role, mirrors))
        ]
        if found:
            effects[tool] = found
    return effects


def _changes(
    thing: Thing, record: Record, named: Sequence[_Named], seen: int
) -> Iterator[tuple[Step, Sample]]:
    """What one call each did to a thing that is shown again: of the calls that named it, the only
    one since its field was last told. Fields that were not are seen as what they are `after` a call
    that made the thing, or that came before all that is known of it. `seen`: the last sight."""
    told = {n: v[0] for n, v in thing.fields.items() if n in record}
    alone: dict[tuple[int, Role], Sample] = {}
    calls: dict[int, Step] = {}
    for name, after in record.items():
        known = name in told
        since = int(thing.fields[name][2].removeprefix("call ")) if known else seen
        later = [call for call in named if call[0] > since]
        if len({n for n, _, _, _ in later}) != 1:
            continue
        for n, call, role, held in later:
            if not known and told and role[0]:
                continue
            calls[n] = call
            blank = Sample(role, call.args, call.value, {}, {}, held, call.origin, "", None)
            sample = alone.setdefault((n, role), blank)
            sample.before[name] = told[name] if known and role[0] else _NEW
            sample.after[name] = after
    yield from ((calls[n], sample) for (n, _), sample in alone.items())


def touched(
    episodes: Sequence[Sequence[Step]],
    start: Callable[[Step], State],
    context: Callable[[Step, State], Context],
    effects: dict[str, list[Effect]],
) -> Touched:
    """The fields that the effects changed, by episode and thing, with the index of the first call
    that did: what a later result shows of them is not how the thing was."""
    found: Touched = {}

    def note(s: Step, c: Context) -> None:
        own = effects.get(s.name, [])
        roles = dict(addressed(c)) | makes(c, s.value) if own else {}
        for effect in own:
            for name in effect.rules if effect.role in roles else ():
                fields = found.setdefault((s.episode, roles[effect.role]), {})
                fields.setdefault(name, s.index)

    for episode in episodes:
        for _ in Walk(start, context, note).through(episode):
            pass
    return found


def _shown(s: Step, ids: Ids) -> Iterator[tuple[Key, dict[str, Any]]]:
    if isinstance(s.value, (dict, list, str)):
        for domain, item, record in ids.shown(s.name, s.args, s.value):
            yield (domain, item), record


def _readers(episodes: Sequence[Sequence[Step]], ids: Ids) -> set[str]:
    """Tools that show a record as the call just before did."""
    same: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for episode in episodes:
        before: dict[Key, dict[str, Any]] = {}
        for s in episode:
            if s.failed:
                continue
            shown = list(_shown(s, ids))
            now = dict([own for own in shown if own[1] == s.value] or shown)
            for key, record in now.items():
                both = before[key].keys() & record.keys() if key in before else ()
                if both:
                    seen[s.name] += 1
                    same[s.name] += all(before[key][n] == record[n] for n in both)
            before = now
    return {t for t, n in seen.items() if n >= 2 and same[t] >= 0.9 * n}


Pair = tuple[Sample, Any, Any]  # a field before and after a call


def _rules(seen: Sequence[Sample], role: Role) -> dict[str, Rule]:
    """The rules of the fields that change, or of all fields of a thing that is made."""
    found: dict[str, Rule] = {}
    for name in dict.fromkeys(n for s in seen for n in s.before):
        pairs = [(s, s.before[name], s.after[name]) for s in seen if name in s.before]
        told = [pair for pair in pairs if pair[1] is not _NEW]
        rule = _moving(told) or _setting(pairs, role, name, len(told)) or _joining(told)
        if rule is not None:
            found[name] = rule
    return found


def _moving(told: Sequence[Pair]) -> Rule | None:
    """How a number, a list or records by key become others out of what they were."""
    if sum(a != b for _, a, b in told) < _LEAST:
        return None
    if all(is_number(a) and is_number(b) for _, a, b in told):
        return _stepping([(s, call_values(s.args, s.result), b - a) for s, a, b in told])
    if all(isinstance(a, list) and isinstance(b, list) for _, a, b in told):
        return _list([(call_values(s.args, s.result), a, b) for s, a, b in told])
    if all(isinstance(a, dict) and isinstance(b, dict) for _, a, b in told):
        return _parts(told)
    return None


def _stepping(told: Sequence[tuple[Sample, dict[Value, Any], float]]) -> Rule | None:
    """By what a number moves: a number of the call, or always as much where that is right more
    often."""
    said = _number([(values, delta) for _, values, delta in told])
    always = steps.constant([(s.origin, delta) for s, _, delta in told])
    if always is None:
        return said
    step = Rule(*always)
    right = [
        sum(r is not None and shifted(0, r, values) == round(delta, 2) for _, values, delta in told)
        for r in (said, step)
    ]
    return step if right[1] > right[0] else said


def _leaving(seen: Sequence[Sample], role: Role, mirrors: steps.Mirrors) -> dict[str, Rule]:
    """The lists of what a thing refers to that it is in no longer."""
    p, through = role
    names = dict.fromkeys(n for s in seen for n, v in s.after.items() if isinstance(v, list))
    return {
        name: Rule("remove", ("arg", f"/{escape(p)}"))
        for name in (names if through and p else ())
        if mirrors.hold(seen[0].domain, through, name)
        and steps.left([(s.args.get(p), s.after[name]) for s in seen if name in s.after])
    }


def _setting(pairs: Sequence[Pair], role: Role, name: str, told: int) -> Rule | None:
    """What a field is afterwards, whatever it was; nothing where that is what it was, or which
    thing it is."""
    own = [(settings.said(s.args, s.result, s.held), a, b) for s, a, b in pairs]
    to = settings.setting(own, not role[0], told=told)
    p, through = (escape(part) for part in role)
    idle = to == ("of", f"/{p}/{escape(name)}") and not through
    if p and (idle or all(b == s.item for s, _, b in pairs)):
        return None
    return Rule("set", to) if to else None


def _joining(told: Sequence[Pair]) -> Rule | None:
    """What is written after a text."""
    if not told or not all(isinstance(a, str) for _, a, _ in told):
        return None
    joined = settings.joined([(s.args, a, b) for s, a, b in told])
    return Rule("join", joined[0], joined[1]) if joined else None


def _number(pairs: Sequence[tuple[dict[Value, Any], float]]) -> Rule | None:
    found = moved_by(pairs)
    return None if found is None else Rule(*found)


def _list(pairs: Sequence[tuple[dict[Value, Any], list[Any], list[Any]]]) -> Rule | None:
    """The item that is added at the end, or taken out."""
    hits: Counter[tuple[str, Value]] = Counter()
    for values, before, after in pairs:
        for source, value in values.items():
            if isinstance(value, (str, int)):
                hits["append", source] += after == [*before, value]
                hits["insert", source] += after == settings.inserted(before, value)
                hits["remove", source] += value in before and after == [
                    x for x in before if x != value
                ]
    best = max(
        hits, key=lambda k: (hits[k], k[0] != "insert", k[1][0] == "arg", str(k)), default=None
    )
    if best is None or hits[best] < _LEAST or hits[best] < _SURE * len(pairs):
        return None
    kind, source = best
    once = kind != "remove" and not any(_repeats(after) for _, _, after in pairs)
    return Rule(kind, source, "once" if once else "")


def _repeats(items: list[Any]) -> bool:
    return any(x in items[:i] for i, x in enumerate(items))


def _parts(pairs: Sequence[tuple[Sample, dict[str, Any], dict[str, Any]]]) -> Rule | None:
    """Records by key: those that the call names vanish, or their numbers change."""
    rows = [
        (part, after.get(key), values)
        for s, before, after in pairs
        for key, part in before.items()
        if isinstance(part, dict) and (values := part_values(key, s.args, s.result)) is not None
    ]
    if not rows:
        return None
    rule = Rule("parts", by=_kinds([r[0] for r in rows]))
    kinds: dict[Any, list[bool]] = defaultdict(list)
    for part, after_part, _ in rows:
        kinds[part.get(rule.by)].append(after_part is None)
    rule.gone = [k for k, seen in kinds.items() if len(seen) >= _LEAST and all(seen)]
    for kind in kinds:
        left = [(p, a, v) for p, a, v in rows if p.get(rule.by) == kind and isinstance(a, dict)]
        for name in dict.fromkeys(n for part, _, _ in left for n in part if is_number(part[n])):
            own = [(v, a[name] - p[name]) for p, a, v in left if is_number(a.get(name))]
            inner = _number(own) if any(abs(d) > 0.006 for _, d in own) else None
            if inner is not None:
                rule.inner.append((kind, name, inner))
    return rule if rule.gone or rule.inner else None


def _kinds(parts: Sequence[dict[str, Any]]) -> str:
    """The field that tells kinds of records apart: all have it, with the fewest texts above one."""
    usable = {}
    for name in parts[0]:
        texts = [part[name] for part in parts if isinstance(part.get(name), str)]
        if len(texts) == len(parts) and 2 <= len(set(texts)) <= 8:
            usable[name] = len(set(texts))
    return min(usable, key=lambda n: (usable[n], n), default="")


def apply(effects: Sequence[Effect], c: Context, result: Any) -> None:
    """Write what a successful call did to other things into the state, which has seen the call."""
    if not effects:
        return
    state, n, held = c.state, len(c.state.calls) - 1, settings.held(c)
    roles = dict(addressed(c)) | makes(c, result)
    for effect in effects:
        key = roles.get(effect.role)
        if key is None:
            continue
        known = state.fields(key) if effect.role[0] else {}
        for name, rule in effect.rules.items():
            thing = state.things.get(key)
            told = thing is not None and name in thing.fields and thing.fields[name][2]
            begun = rule.kind == "set" or (rule.kind == "log" and rule.value == logs.EMPTY)
            if (name not in known and not begun) or told == f"call {n}":
                continue  # unknown, or the call's own result told it
            if rule.kind == "log":
                made = logs.Made(c.args, result, held, state.fields(key))
                after = logs.grown(known.get(name, []), rule, made)
            else:
                after = _changed(known.get(name, _NEW), rule, c.args, result, held)
            if after is not None and after[0] != known.get(name, _NEW):
                thing = state.things.setdefault(key, Thing(first=n))
                thing.fields[name] = (after[0], "inferred", f"call {n}")
                state.changed = n


def _changed(
    before: Any, rule: Rule, args: dict[str, Any], result: Any, held: Held
) -> tuple[Any] | None:
    """A field after a call; None where the rule says nothing."""
    if rule.kind == "set":
        return settings.value_of((rule.value[0], rule.value[1]), settings.said(args, result, held))
    if rule.kind == "join":
        more = settings.said(args, result, held).get((rule.value[0], rule.value[1]))
        both = isinstance(before, str) and isinstance(more, str)
        return (before + rule.by + more,) if both else None
    if rule.kind == "parts":
        if not isinstance(before, dict):
            return None
        after: dict[str, Any] = {}
        for key, part in before.items():
            values = part_values(key, args, result) if isinstance(part, dict) else None
            if values is None:
                after[key] = part
            elif part.get(rule.by) not in rule.gone:
                after[key] = dict(part)
                for kind, name, inner in rule.inner:
                    number = shifted(part.get(name), inner, values)
                    if kind == part.get(rule.by) and number is not None:
                        after[key][name] = number
        return (after,)
    values = call_values(args, result)
    if rule.kind in "+-":
        moved = shifted(before, rule, values)
        return None if moved is None else (moved,)
    item = values.get(rule.value)
    if item is None or not isinstance(before, list) or (rule.by and item in before):
        return None
    if rule.kind == "insert":
        inserted = settings.inserted(before, item)
        return None if inserted is None else (inserted,)
    return ([*before, item] if rule.kind == "append" else [x for x in before if x != item],)
