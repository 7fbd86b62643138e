"""Identifiers mined from traffic: which fields and arguments name the same kind of thing, and
which field is the key of a record."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.world.data.values import columns, escape, is_date, records
from understudy.world.traffic import counters, joint, nameless, numbering
from understudy.world.traffic.numbering import Column
from understudy.world.traffic.transitions import Step

_STRUCTURED = re.compile(r"[/\\]?[\w-]+([/\\.:#]+[\w-]+)+|[/\\][\w-]+")


@dataclass(slots=True)
class Ids:
    """Identifier domains of a traffic.

    `args` maps tool -> argument path -> domain; `keys` maps tool -> record path -> the record's
    fields that identify it, each with its domain; `refs` maps tool -> column path -> domain for
    every result column of a domain; `joint` maps tools that read what several arguments name
    together, or texts, to these arguments (world.traffic.joint; world.traffic.nameless).
    """

    args: dict[str, dict[str, str]] = field(default_factory=dict)
    keys: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    refs: dict[str, dict[str, str]] = field(default_factory=dict)
    joint: dict[str, str] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)  # tools that read texts of no few forms
    counters: dict[str, dict[str, tuple[str, int]]] = field(default_factory=dict)
    """Tool -> column of numbers that count up -> (counter, what the next number is more)."""

    def of_args(self, tool: str, args: dict[str, Any]) -> list[tuple[str, str, Any]]:
        """(argument, domain, value) of a call's identifiers, joint ones among them."""
        known = self.args.get(tool)
        if not known:
            return []
        found = [(p, d, joint.value_of(p, args)) for p, d in known.items()]
        return [item for item in found if item[2] is not None]

    def alone(self, tool: str, args: dict[str, Any]) -> list[tuple[str, str, Any]]:
        """The identifiers of a call that are one argument each."""
        return [item for item in self.of_args(tool, args) if joint.AND not in item[0]]

    def read(self, tool: str, args: dict[str, Any]) -> tuple[str, Any] | None:
        """The thing that a tool reads, where its arguments name it together."""
        argument = self.joint.get(tool)
        value = None if argument is None else joint.value_of(argument, args)
        return None if value is None or argument is None else (self.args[tool][argument], value)

    def shown(
        self, tool: str, args: dict[str, Any], value: Any
    ) -> Iterable[tuple[str, Any, dict[str, Any]]]:
        """(domain, id, record) of every record in a result, by its own or its joint identifier."""
        yield from self.of_result(tool, value)
        own = self.read(tool, args)
        if own is not None and isinstance(value, (dict, str)):
            yield *own, self.record(tool, value)

    def record(self, tool: str, value: Any) -> dict[str, Any]:
        """What a tool reads, as a record: a text is a field named after the tool."""
        if tool in self.written:
            return {tool: value}
        return joint.record(tool, value) if isinstance(value, str) else dict(value)

    def of_result(self, tool: str, value: Any) -> Iterable[tuple[str, Any, dict[str, Any]]]:
        """(domain, id, record) of every identified record in a result."""
        known = self.keys.get(tool)
        if known:
            for path, record in records(value):
                for name, domain in known.get(path, {}).items():
                    key = record.get(name)
                    if isinstance(key, (str, int)):
                        yield domain, key, record


def mine(all_steps: Sequence[Step]) -> Ids:
    """Identifiers of a traffic, from successful calls."""
    values: dict[Column, Counter[Any]] = defaultdict(Counter)
    good = [s for s in all_steps if not s.failed]
    for s in good:
        for name, item in s.args.items():
            if isinstance(item, (str, int)):
                values["a", s.name, name][item] += 1
        if isinstance(s.value, (dict, list)):
            for path, item in columns(s.value):
                values["r", s.name, path][item] += 1
    listed = _unique_in_lists(good)
    idish = {c for c, seen in values.items() if _idish(c, seen, listed)}
    idish |= numbering.numbers(values, listed, good)
    domains = _components(idish, values)
    domains |= _seldom(domains, values)
    ids = Ids()
    for (side, tool, path), domain in domains.items():
        (ids.args if side == "a" else ids.refs).setdefault(tool, {})[path] = domain
    _find_keys(ids, good)
    ids.joint, named = joint.mine(all_steps, ids.args)
    for tool, own in named.items():
        ids.args.setdefault(tool, {}).update(own)
    ids.written = [t for t in joint.free(all_steps) if t in ids.joint]
    ids.counters = counters.mine(good)
    for tool in (t for t, label in ids.joint.items() if joint.AND in label):
        ids.keys.get(tool, {}).pop("", None)
    _add_nameless(ids, good)
    return ids


def _add_nameless(ids: Ids, good: Sequence[Step]) -> None:
    """Give what no argument names an identifier all the same."""
    shows, changes = nameless.mine([s for s in good if s.name not in ids.joint], ids.keys)
    ids.joint |= dict.fromkeys(shows, joint.AND)
    for tool, domain in {**shows, **changes}.items():
        ids.args.setdefault(tool, {})[joint.AND] = domain


def _unique_in_lists(good: Sequence[Step]) -> dict[Column, float]:
    """Share of lists (of two records and more) whose values in a column differ."""
    unique: dict[Column, list[bool]] = defaultdict(list)
    for s in good:
        if not isinstance(s.value, (dict, list)):
            continue
        lists: dict[str, list[Any]] = defaultdict(list)
        for path, item in columns(s.value):
            if path.rpartition("/")[0].endswith("/#"):
                lists[path].append(item)
        for path, items in lists.items():
            if len(items) > 1:
                unique["r", s.name, path].append(len(set(map(repr, items))) == len(items))
    return {c: sum(u) / len(u) for c, u in unique.items()}


def _idish(column: Column, seen: Counter[Any], listed: dict[Column, float]) -> bool:
    values = [v for v in seen if v is not None]
    if len(values) < 3:
        return False
    if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        return listed.get(column, 0) > 0.98 and min(values) > 999
    texts = [v for v in values if isinstance(v, str) and v]
    if len(texts) < 0.9 * len(values) or any(len(t) > 48 for t in texts[:200]):
        return False
    if sum(map(is_date, texts)) > 0.2 * len(texts):
        return False
    if column[0] == "a" and len(texts) >= 8:
        made_up = sum(_STRUCTURED.fullmatch(t) is not None for t in texts)
        if made_up > 0.9 * len(texts):
            return True
    digits = sum(any(c.isdigit() for c in t) and " " not in t for t in texts)
    if digits > 0.7 * len(texts) and "@" not in texts[0]:
        return True
    return listed.get(column, 0) > 0.98 and len(texts) >= 8


def _components(idish: set[Column], values: dict[Column, Counter[Any]]) -> dict[Column, str]:
    """Columns joined by shared values; those with an argument or a partner are a domain."""
    parent = {c: c for c in idish}

    def find(c: Column) -> Column:
        while parent[c] != c:
            parent[c] = parent[parent[c]]
            c = parent[c]
        return c

    ordered = sorted(idish)
    sets = {c: set(values[c]) for c in ordered}
    for i, a in enumerate(ordered):
        for b in ordered[i + 1 :]:
            shared = len(sets[a] & sets[b])
            if shared >= 3 and shared >= 0.25 * min(len(sets[a]), len(sets[b])):
                parent[find(a)] = find(b)
    groups: dict[Column, list[Column]] = defaultdict(list)
    for c in ordered:
        groups[find(c)].append(c)
    used = [g for g in groups.values() if any(c[0] == "a" for c in g) or len(g) > 1]
    return {c: f"d{n}" for n, g in enumerate(sorted(used)) for c in g}


def _seldom(domains: dict[Column, str], values: dict[Column, Counter[Any]]) -> dict[Column, str]:
    """Columns with too few values to say what they are, all of which one domain has."""
    known: dict[Any, set[str]] = defaultdict(set)
    for c, domain in domains.items():
        for v in values[c]:
            known[v].add(domain)
    found = {}
    for c, seen in values.items():
        texts = [v for v in seen if isinstance(v, str) and v]
        if c in domains or not texts or len(seen) > 3 or len(texts) < len(seen):
            continue
        if all(any(ch.isdigit() for ch in t) and len(t) > 3 and not is_date(t) for t in texts):
            common = set.intersection(*(known.get(t, set()) for t in texts))
            if len(common) == 1:
                found[c] = common.pop()
    return found


def _same_form(ids: Ids, good: Sequence[Step]) -> None:
    """Results of one form that several tools give are one kind of thing: its key is the
    identifier with the most values among them."""
    tools: dict[tuple[str, ...], set[str]] = defaultdict(set)
    values: dict[tuple[str, ...], dict[str, set[Any]]] = defaultdict(lambda: defaultdict(set))
    domains: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for s in good:
        if not isinstance(s.value, dict) or len(s.value) < 4:
            continue
        form = tuple(sorted(s.value))
        tools[form].add(s.name)
        refs = ids.refs.get(s.name, {})
        for name, item in s.value.items():
            domain = refs.get(f"/{escape(name)}")
            if domain is not None and isinstance(item, (str, int)):
                values[form][name].add(item)
                domains[form][name] = domain
    for form, own in tools.items():
        if len(own) > 1 and values[form]:
            key = max(values[form], key=lambda n: (len(values[form][n]), n))
            for tool in own:
                ids.keys.setdefault(tool, {})[""] = {key: domains[form][key]}
                ids.refs.setdefault(tool, {})[f"/{escape(key)}"] = domains[form][key]


def _find_keys(ids: Ids, good: Sequence[Step]) -> None:
    """Per tool and record path, the fields that tell records apart."""
    distinct: dict[tuple[str, str], dict[str, set[Any]]] = defaultdict(lambda: defaultdict(set))
    empty: Counter[tuple[str, str, str]] = Counter()  # a field that is there and holds nothing
    held: Counter[tuple[str, str, str]] = Counter()
    clash: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for s in good:
        refs = ids.refs.get(s.name)
        if not refs or not isinstance(s.value, (dict, list)):
            continue
        here: dict[tuple[str, str], Counter[Any]] = defaultdict(Counter)
        for path, record in records(s.value):
            for name, item in record.items():
                empty[s.name, path, name] += item is None
                if f"{path}/{escape(name)}" in refs and isinstance(item, (str, int)):
                    distinct[s.name, path][name].add(item)
                    held[s.name, path, name] += 1
                    here[path, name][item] += 1
        for (path, name), counts in here.items():
            clash[s.name, path][name] += max(counts.values()) > 1
    _same_form(ids, good)
    for (tool, path), fields in distinct.items():
        if "" in ids.keys.get(tool, {}) and not path:
            continue
        most = max(len(v) for v in fields.values())
        named = [n for n, v in fields.items() if len(v) >= 0.9 * most and clash[tool, path][n] == 0]
        named = [n for n in named if empty[tool, path, n] <= 0.1 * held[tool, path, n]]
        prefix = ids.refs[tool]
        found = {n: prefix[f"{path}/{escape(n)}"] for n in named}
        if found:
            ids.keys.setdefault(tool, {})[path] = found
