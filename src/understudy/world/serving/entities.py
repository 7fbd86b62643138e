"""The things that a world remembers, by types with names: one version of each, what differs between
versions, and which fields name things of other types."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from understudy.world.data.values import same, unescape
from understudy.world.model import World
from understudy.world.traffic.ids import Ids

NAME_LENGTH = 48  # characters of a type's name
_ID_WORD = re.compile(
    r"(?:^|[_-])(?i:ids?|nos?|nr|numbers?|keys?|codes?|refs?|uuids?)$|(?<=[a-z])(?:Ids?|IDs?)$"
)


@dataclass(slots=True)
class Reference:
    """A field whose values, or values inside it, are ids of the domain `to`.

    `paths` are where they stand below the field: "" the field itself, else `/`-separated steps of
    a JSON pointer (RFC 6901), `#` for each item of a list.
    """

    field: str
    to: str
    paths: list[str]

    def ids(self, value: Any) -> Iterator[Any]:
        """The ids in a value of the field, nulls left out."""
        for path in self.paths:
            yield from _at(value, path.split("/")[1:])


@dataclass(slots=True)
class Type:
    """One kind of thing. `things` holds by id the fields of the latest episode that showed it,
    completed by those that only earlier ones showed."""

    name: str
    domain: str
    key: str  # the field that holds the id, or a name for it that no field has
    things: dict[Any, dict[str, Any]]
    references: list[Reference] = field(default_factory=list)
    several: int = 0  # things that several episodes showed
    differing: dict[str, int] = field(default_factory=dict)  # field -> things whose versions differ

    def row(self, item: Any) -> dict[str, Any]:
        """A thing as one record, its id first."""
        return {self.key: item, **self.things[item]}


def entities(world: World) -> list[Type]:
    """The types of which the world remembers things, by name."""
    names = type_names(world.ids)
    found = [
        _type(world.ids, domain, names.get(domain, domain), held)
        for domain, held in world.memory.versions.items()
        if held
    ]
    return sorted(found, key=lambda t: t.name)


def type_names(ids: Ids) -> dict[str, str]:
    """A name for each domain of identifiers, out of the names that tools have for them: an argument
    `part_id` names parts. No two are equal, whatever their case; each may name a file."""
    said: dict[str, list[Counter[str]]] = defaultdict(lambda: [Counter() for _ in range(3)])
    for tool, args in ids.args.items():
        for name, domain in args.items():
            said[domain][0][_stem(name)] += 2
            said[domain][2][tool] += 1
    for tool, refs in ids.refs.items():
        told = {(d, p.split("/")[-1], _container(p)) for p, d in refs.items()}
        for domain, name, container in told:
            said[domain][0][_stem(unescape(name))] += 1
            said[domain][1][container] += 1
            said[domain][2][tool] += 1
    taken: set[str] = set()
    return {domain: unique(_best(said[domain], domain), taken) for domain in sorted(said)}


def _best(said: list[Counter[str]], domain: str) -> str:
    """The likeliest name: the fields' without what says that they are ids, else the list's that
    they stand in, else the tool's."""
    for counts in said:
        named = [(-n, w) for w, n in counts.items() if _safe(w)]
        if named:
            return _safe(min(named)[1])
    return domain


def _stem(name: str) -> str:
    return "" if name == "#" else _ID_WORD.sub("", name)


def _container(path: str) -> str:
    parts = [unescape(p) for p in path.split("/")[1:-1] if p != "#"]
    return parts[-1] if parts else ""


def _safe(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_")[:NAME_LENGTH]


def unique(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken in any case; it is taken then."""
    found, n = name, 1
    while found.lower() in taken:
        n += 1
        found = f"{name}_{n}"
    taken.add(found.lower())
    return found


def _type(
    ids: Ids, domain: str, name: str, held: dict[Any, list[tuple[int, dict[str, Any]]]]
) -> Type:
    things: dict[Any, dict[str, Any]] = {}
    several, differing = 0, Counter[str]()
    for item, versions in held.items():
        fields: dict[str, Any] = {}
        odd: set[str] = set()
        for _, version in reversed(versions):
            odd.update(n for n, v in version.items() if n in fields and not _equal(fields[n], v))
            fields = {**version, **fields}
        things[item] = fields
        several += len(versions) > 1
        differing.update(odd)
    found = Type(name, domain, _key(ids, domain, things), things, [], several)
    found.differing = dict(sorted(differing.items()))
    found.references = _references(ids, found)
    return found


def _equal(a: Any, b: Any) -> bool:
    return (
        bool(a == b) if isinstance(a, (dict, list)) or isinstance(b, (dict, list)) else same(a, b)
    )


def _key(ids: Ids, domain: str, things: dict[Any, dict[str, Any]]) -> str:
    """The field that holds the ids of most things and nothing else, else the argument's name."""
    fields = {n for keys in ids.keys.values() for own in keys.values() for n in own}
    held: Counter[str] = Counter()
    for item, own in things.items():
        for name in fields & own.keys():
            held[name] += 1 if same(own[name], item) else -len(things)
    best = min(((-n, name) for name, n in held.items() if n > 0), default=None)
    if best is not None:
        return best[1]
    args = Counter(p for own in ids.args.values() for p, d in own.items() if d == domain)
    name = min(args, key=lambda p: (-args[p], p), default="id")
    while any(name in own for own in things.values()):
        name += "_"
    return name


def _references(ids: Ids, own: Type) -> list[Reference]:
    """The fields of a type's records in which the traffic has ids of a type."""
    known = {name for fields in own.things.values() for name in fields}
    paths: dict[tuple[str, str], set[str]] = defaultdict(set)
    for tool, refs in ids.refs.items():
        for at in _records_of(ids, tool, own.domain):
            for column, domain in refs.items():
                if column.startswith(f"{at}/"):
                    first, slash, rest = column[len(at) + 1 :].partition("/")
                    paths[unescape(first), domain].add(slash + rest)
    found = [
        Reference(name, to, sorted(below))
        for (name, to), below in sorted(paths.items())
        if name in known and not (to == own.domain and name == own.key)
    ]
    return [r for r in found if not _is_own_id(r, own)]


def _records_of(ids: Ids, tool: str, domain: str) -> Collection[str]:
    """Where a tool's results hold records of a domain; a result without records of its own is one
    of what an argument names."""
    keys = ids.keys.get(tool)
    if keys:
        return [path for path, fields in keys.items() if domain in fields.values()]
    return [""] if domain in ids.args.get(tool, {}).values() else []


def _is_own_id(reference: Reference, own: Type) -> bool:
    """Whether a field is but another name of the thing's own id."""
    return reference.to == own.domain and all(
        v == item
        for item, fields in own.things.items()
        for v in reference.ids(fields.get(reference.field))
    )


def _at(value: Any, steps: list[str]) -> Iterable[Any]:
    if not steps:
        return [] if value is None else [value]
    if steps[0] == "#":
        inside = value if isinstance(value, list) else []
    else:
        name = unescape(steps[0])
        inside = [value[name]] if isinstance(value, dict) and name in value else []
    return (v for item in inside for v in _at(item, steps[1:]))
