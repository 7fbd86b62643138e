"""What the traffic showed in other episodes: versions of things, and what was mentioned."""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from understudy.world.data.values import chance, same
from understudy.world.known.course import Later
from understudy.world.known.lives import Lives

Key = tuple[str, Any]  # domain, id


def two(seen: list[int], origin: int) -> None:
    """Notes an origin where fewer than two are."""
    if len(seen) < 2 and origin not in seen:
        seen.append(origin)


def maskable(value: Any) -> bool:
    """Whether a value is a text that may be an identifier with a character wrong."""
    return isinstance(value, str) and 4 < len(value) < 48


def _masks_of(value: str) -> list[str]:
    """A text with each of its characters left open in turn."""
    return [f"{value[:i]}\0{value[i + 1 :]}" for i in range(len(value))]


def _own(without: Container[int]) -> Container[int]:
    """The episodes of which not even what never changes is known."""
    return without.own if isinstance(without, Later) else without


_MOMENTS = 512  # versions of a thing whose state lasts
_WORD, _WORDS = 32, 20_000  # characters of a word that is kept; how many words are


def idlike(value: Any) -> bool:
    """Whether a value may be an identifier that a result mentions."""
    return isinstance(value, str) and 2 < len(value) < 48 and any(map(str.isdigit, value))


class Remembered(NamedTuple):
    """An episode's version of a thing, completed by fields that `others` showed."""

    episode: int
    fields: dict[str, Any]
    others: dict[str, int]  # field -> its episode


@dataclass(slots=True)
class Memory:
    """Versions of every thing in the traffic: fields as an episode first showed them. Of each field
    the last `limit` versions are kept; `dropped` counts the values of others, by domain.

    Where the traffic's state `lasts` from one episode to the next (world.known.order), a version is
    what an episode left, of fields that differ from what those before it left."""

    versions: dict[str, dict[Any, list[tuple[int, dict[str, Any]]]]] = field(default_factory=dict)
    limit: int = 8
    dropped: dict[str, int] = field(default_factory=dict)
    receipts: dict[str, list[str]] = field(default_factory=dict)  # see world.known.receipts
    mentions: dict[str, list[int]] = field(default_factory=dict)  # id-like text -> two origins
    words: dict[str, list[int]] = field(default_factory=dict)  # other short texts and keys, alike
    lasts: bool = False
    lives: Lives = field(default_factory=Lives)
    _masks: dict[str, list[int]] | None = field(default=None, repr=False)
    _having: dict[tuple[str, str], dict[Any, list[Any]]] = field(default_factory=dict, repr=False)

    def having(self, domain: str, name: str, value: Any) -> list[Any]:
        """The identifiers of the traffic's things that a version of has this value of a field."""
        if (domain, name) not in self._having:
            found: dict[Any, list[Any]] = {}
            for key, held in self.versions.get(domain, {}).items():
                values = {f[name] for _, f in held if isinstance(f.get(name), (str, int))}
                for own in values:
                    found.setdefault(own, []).append(key)
            self._having[domain, name] = found
        return self._having[domain, name].get(value, []) if isinstance(value, (str, int)) else []

    _largest: dict[str, int | None] = field(default_factory=dict, repr=False)

    def of_thing(self, tool: str, result: dict[str, Any]) -> dict[str, Any]:
        """What a result says of the thing that its call names."""
        kept = self.receipts.get(tool)
        return result if kept is None else {n: result[n] for n in kept if n in result}

    def mention(self, value: Any, origin: int) -> None:
        """A text that a result of the traffic held."""
        if idlike(value):
            two(self.mentions.setdefault(value, []), origin)
        elif len(value) < _WORD and (value in self.words or len(self.words) < _WORDS):
            two(self.words.setdefault(value, []), origin)

    def says(self, value: str, without: Container[int]) -> bool:
        """Whether results of the traffic hold a text, as a value or as a key."""
        own = _own(without)
        return any(e not in own for e in self.words.get(value, ()))

    def mentioned(self, value: Any, without: Container[int]) -> bool:
        return any(e not in without for e in self.mentions.get(value, ()))

    def near(self, value: Any, without: Container[int]) -> bool:
        """Whether a text differs in one character from an identifier of the traffic."""
        if not maskable(value):
            return False
        if self._masks is None:
            self._masks = {}
            known = [(v, e) for v, seen in self.mentions.items() for e in seen]
            for things in self.versions.values():
                known += [(v, e) for v, held in things.items() for e, _ in held[:2]]
            for v, e in known:
                for mask in _masks_of(v) if maskable(v) else ():
                    two(self._masks.setdefault(mask, []), e)
        own = _own(without)
        return any(e not in own for mask in _masks_of(value) for e in self._masks.get(mask, ()))

    def largest(self, domain: str) -> int | None:
        """The largest number that a thing of a kind has, if it has one."""
        if domain not in self._largest:
            numbers = [v for v in self.versions.get(domain, ()) if type(v) is int]
            self._largest[domain] = max(numbers, default=None)
        return self._largest[domain]

    def add(self, key: Key, episode: int, fields: dict[str, Any]) -> None:
        """Take what an episode first showed of a thing."""
        held = self.versions.setdefault(key[0], {}).setdefault(key[1], [])
        if held and held[-1][0] == episode:
            new = [n for n in fields if n not in held[-1][1]]
            held[-1][1].update((n, fields[n]) for n in new)
        else:
            new = list(fields)
            held.append((episode, dict(fields)))
        if len(held) > self.limit:
            self._drop(key, new)

    def _drop(self, key: Key, names: Iterable[str]) -> None:
        """Forget the oldest values of fields that more than `limit` versions of a thing have, and
        versions of which nothing is left."""
        held = self.versions[key[0]][key[1]]
        for name in names:
            having = [fields for _, fields in held if name in fields]
            for fields in having[: -self.limit]:
                del fields[name]
                self.dropped[key[0]] = self.dropped.get(key[0], 0) + 1
        held[:] = [h for n, h in enumerate(held) if h[1] or n >= len(held) - self.limit]

    def restart(self) -> None:
        """Forget the versions of things, to remember what episodes leave of them."""
        self.lasts, self.lives, self.versions = True, Lives(), {}
        self._masks, self._having, self._largest = None, {}, {}

    def leave(self, key: Key, episode: int, fields: dict[str, Any]) -> None:
        """Take what an episode left of a thing, those before it being known."""
        held = self.versions.setdefault(key[0], {}).setdefault(key[1], [])
        known: dict[str, Any] = {}
        for _, own in held:
            known.update(own)
        new = {n: v for n, v in fields.items() if n not in known or not same(known[n], v)}
        if new or not held or self.ended(key, Later(episode)):
            held.append((episode, new or dict(fields)))
        if len(held) > _MOMENTS:
            held[:2] = [(held[1][0], held[0][1] | held[1][1])]

    def end(self, key: Key, episode: int) -> None:
        """A thing that there was no more after an episode."""
        self.lives.gone.setdefault(key[0], {}).setdefault(key[1], []).append(episode)

    def ended(self, key: Key, without: Container[int]) -> bool:
        """Whether there is no such thing any more, and no later episode showed it again."""
        ends = [e for e in self.lives.gone.get(key[0], {}).get(key[1], ()) if e not in without]
        held = self.versions.get(key[0], {}).get(key[1], ())
        return bool(ends) and not any(e > ends[-1] for e, _ in held if e not in without)

    def pick(self, key: Key, seed: int, without: Container[int]) -> Remembered | None:
        """One episode's version of a thing, completed by the others' fields; fixed by the seed."""
        held = self.versions.get(key[0], {}).get(key[1], [])
        held = [h for h in held if h[0] not in without] if without else held
        if self.lasts:
            return self._last(key, held, without)
        if not held:
            return None
        chosen = held[int(chance(seed, key) * len(held))] if len(held) > 1 else held[0]
        return self._completed(chosen, held)

    def _last(
        self, key: Key, held: list[tuple[int, dict[str, Any]]], without: Container[int]
    ) -> Remembered | None:
        """What was last left of a thing, with what never changes of it; None where it is gone, or
        not made yet."""
        if self.ended(key, without) or self.lives.born.get(key[0], {}).get(key[1], -1) in without:
            return None
        own = _own(without)
        fixed = {}
        for name, (value, origins) in self.lives.fixed.get(key[0], {}).get(key[1], {}).items():
            other = next((e for e in origins if e not in own), None)
            if other is not None:
                fixed[name] = other, value
        found = self._completed(held[-1], held) if held else Remembered(-1, {}, {})
        more = {n: v for n, (_, v) in fixed.items() if n not in found.fields}
        if not held and not more:
            return None
        others = found.others | {n: fixed[n][0] for n in more}
        fields = {**found.fields, **more}
        for name, domain in self.lives.lists.get(key[0], {}).items():
            if isinstance(fields.get(name), list):
                there = [v for v in fields[name] if not self.ended((domain, v), without)]
                fields[name] = there
        return Remembered(found.episode, fields, others)

    def _completed(
        self, chosen: tuple[int, dict[str, Any]], held: list[tuple[int, dict[str, Any]]]
    ) -> Remembered:
        """A version with the fields that others alone have, of the latest."""
        fields, others = chosen[1], dict[str, int]()
        for episode, other in reversed(held):
            if new := other.keys() - fields.keys():
                fields = {**other, **fields}
                others.update(dict.fromkeys(new, episode))
        return Remembered(chosen[0], fields, others)
