"""What an adapter is bound to: the system prompts and tool schemas that it was trained with.

A prompt is cut into pieces: its lines, cut again after `.`, `!`, `?`, `:`, `;` and `,`. Dates and
times of day are masked first, for they change whatever was trained. Prompts with the same tools
that share half of their pieces are one template. The pieces that all of them have, in their order,
are what a request must have too; between two of those is a *place* where the prompts differed, a
customer's name, say. A place is closed where it took at most 8 values, each in four conversations
on the average or more: then a request has one of these. Else it is open, for as many pieces as were
ever there (twice as many where their number changed). Where nothing ever was, nothing may be added.

Pieces are kept as hashes, so that an adapter gives away no prompt. With more than 16 templates an
adapter is bound to nothing: what was trained with so many prompts is not wrong with one more.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any, Literal

from understudy.core.types import Message, Tool, canonical_json, text_of

BINDING = "binding"  # the key in an adapter's metadata
PROMPT_HEADER = "x-understudy-prompt"
MUST_MATCH = "must-match"  # the header of a request that is not to be answered where it differs
REFUSED = 412  # its status then
TEMPLATES = 16
FEW, EACH = 8, 4  # values of a closed place at most; conversations with each, on the average
KEPT = 256  # different prompts that are looked at whether they fit or not

Part = Literal["system", "tools"]
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_WEEKDAY = r"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:\s*[ap]\.?m\b\.?)?(?:\s*(?:Z|UTC|GMT)\b)?"
_DATE = (
    rf"\d{{4}}-\d{{2}}-\d{{2}}(?:[T ]{_CLOCK}(?:[+-]\d{{2}}:?\d{{2}})?)?"
    r"|\d{1,2}([./-])\d{1,2}\1\d{4}|\d{1,2}/\d{1,2}/\d{2}"
    rf"|{_DAY}(?:\s+of)?\s+{_MONTH}(?:,?\s+\d{{4}})?|{_MONTH}\s+{_DAY}\b(?:,?\s+\d{{4}})?"
)
_WHEN = re.compile(
    rf"\b(?:{_WEEKDAY},?\s+)?(?:{_DATE})(?!\d)(?:,?\s+\(?{_WEEKDAY}\)?)?|\b{_CLOCK}(?!\d)",
    re.IGNORECASE,
)
_CUT = re.compile(r"\s*\n\s*|(?<=[.!?:;,])\s+")


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def system_of(messages: Sequence[Message]) -> str:
    """The system prompt: the system and developer messages that a conversation begins with."""
    said = []
    for message in messages:
        if message["role"] not in ("system", "developer"):
            break
        said.append(text_of(message.get("content")))
    return "\n".join(said)


def tools_hash(tools: Sequence[Tool]) -> str:
    """A hash of tool schemas, in whatever order they and their keys are."""
    return _hash("\n".join(sorted(canonical_json(tool) for tool in tools)))


@lru_cache(maxsize=512)
def pieces(system: str) -> tuple[str, ...]:
    """The hashes of a prompt's pieces, dates masked, white space folded, empty ones left out."""
    masked = _WHEN.sub("<when>", system)
    return tuple(_hash(" ".join(p.split())) for p in _CUT.split(masked) if p.strip())


@dataclass(frozen=True, slots=True)
class Place:
    """Where prompts differed: at most so many pieces, and where it is closed one of these values
    (hashes of their pieces together)."""

    most: int
    values: frozenset[str] | None = None

    def takes(self, filling: Sequence[str]) -> bool:
        within = len(filling) <= self.most
        return within and (self.values is None or _hash(" ".join(filling)) in self.values)


@dataclass(frozen=True, slots=True)
class Template:
    """Pieces in their order, and the places before the n-th of them (after the last: n is their
    number). `tools` is the hash of the tools that it came with."""

    tools: str
    anchors: tuple[str, ...]
    places: Mapping[int, Place]

    def admits(self, found: Sequence[str]) -> bool:
        """Whether a prompt of these pieces is one of the template's."""
        reached = {0}  # how many pieces may be used up before the next anchor
        for n, anchor in enumerate((*self.anchors, None)):
            place = self.places.get(n)
            most = place.most if place is not None else 0
            after: set[int] = set()
            for start in reached:
                for at in range(start, min(start + most, len(found)) + 1):
                    end = at == len(found)
                    if (end if anchor is None else not end and found[at] == anchor) and (
                        place is None or place.takes(found[start:at])
                    ):
                        after.add(at + 1)
            if not after:
                return False
            reached = after
        return True

    @classmethod
    def learn(cls, tools: str, prompts: Mapping[tuple[str, ...], int]) -> "Template":
        """What prompts (pieces -> conversations) have in common, and where they differ."""
        anchors: list[str] = list(next(iter(prompts)))
        for other in prompts:
            anchors = _common(anchors, other)
        fillings: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(len(anchors) + 1)]
        for found, times in prompts.items():
            at = 0
            for n, anchor in enumerate(anchors):
                end = found.index(anchor, at)
                fillings[n][found[at:end]] += times
                at = end + 1
            fillings[-1][found[at:]] += times
        places = {n: _place(seen) for n, seen in enumerate(fillings) if set(seen) != {()}}
        return cls(tools, tuple(anchors), places)


def _common(one: Sequence[str], other: Sequence[str]) -> list[str]:
    blocks = SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    return [piece for b in blocks for piece in one[b.a : b.a + b.size]]


def _place(seen: Counter[tuple[str, ...]]) -> Place:
    lengths = [len(filling) for filling in seen]
    if len(seen) <= FEW and seen.total() >= EACH * len(seen):
        return Place(max(lengths), frozenset(_hash(" ".join(f)) for f in seen))
    return Place(max(lengths) * (1 if min(lengths) == max(lengths) else 2))


@dataclass(frozen=True, slots=True)
class Binding:
    """What an adapter was trained with. `too_many`: so many templates that it is bound to none."""

    templates: tuple[Template, ...] = ()
    too_many: int = 0

    @property
    def id(self) -> str:
        """The one hash of it all."""
        return _hash(canonical_json(self.as_json()))

    def differs(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Part, ...]:
        """Which parts of a request are none that the adapter was trained with."""
        if not self.templates:
            return ()
        found, given = pieces(system_of(messages)), tools_hash(tools)
        fitting = [t for t in self.templates if t.admits(found)]
        if any(t.tools == given for t in fitting):
            return ()
        if fitting:
            return ("tools",)
        known = any(t.tools == given for t in self.templates)
        return ("system",) if known else ("system", "tools")

    def as_json(self) -> dict[str, Any]:
        """What an adapter's metadata holds."""
        if self.too_many:
            return {"too_many": self.too_many}
        return {
            "templates": [
                {
                    "tools": t.tools,
                    "pieces": list(t.anchors),
                    "places": [
                        {"before": n, "most": p.most}
                        | ({} if p.values is None else {"values": sorted(p.values)})
                        for n, p in t.places.items()
                    ],
                }
                for t in self.templates
            ]
        }

    @classmethod
    def read(cls, metadata: Mapping[str, object]) -> "Binding | None":
        """That of an adapter, by its metadata; None where it has none (older ones, others').

        Raises ValueError where it cannot be read.
        """
        said: Any = metadata.get(BINDING)
        if said is None:
            return None
        try:
            if "too_many" in said:
                return cls((), int(said["too_many"]))
            return cls(tuple(_template(t) for t in said["templates"]))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"its {BINDING} cannot be read ({error!r})") from error


def _template(said: Mapping[str, Any]) -> Template:
    places = {
        int(p["before"]): Place(
            int(p["most"]), frozenset(map(str, p["values"])) if "values" in p else None
        )
        for p in said["places"]
    }
    return Template(str(said["tools"]), tuple(map(str, said["pieces"])), places)


@dataclass(slots=True)
class Prompts:
    """Collects the prompts of training conversations, and says what they bind to.

    Of the first 256 different ones all are kept, of later ones those that do not fit.
    """

    seen: dict[tuple[str, tuple[str, ...]], int] = field(default_factory=dict)
    _known: set[int] = field(default_factory=set)  # conversations with their prompts
    _tools: tuple[Sequence[Tool], str] | None = None  # those hashed last
    _made: Binding | None = None

    def add(self, conversation: str, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
        """A conversation's prompt, or one of several; the same one again changes nothing."""
        if self._tools is None or self._tools[0] != tools:
            self._tools = tools, tools_hash(tools)
        which = (self._tools[1], pieces(system_of(messages)))
        told = hash((conversation, which))
        if told in self._known:
            return
        self._known.add(told)
        if which not in self.seen and len(self.seen) >= KEPT:
            fits = any(t.tools == which[0] and t.admits(which[1]) for t in self.binding().templates)
            if fits:
                return
        self.seen[which] = self.seen.get(which, 0) + 1
        self._made = None

    def binding(self) -> Binding:
        """What all of it binds to."""
        if self._made is None:
            found = [
                Template.learn(tools, group)
                for tools in dict.fromkeys(tools for tools, _ in self.seen)
                for group in _alike({p: n for (t, p), n in self.seen.items() if t == tools})
            ]
            many = len(found) > TEMPLATES
            self._made = Binding((), len(found)) if many else Binding(tuple(found))
        return self._made

    def metadata(self) -> dict[str, Any]:
        """What an adapter that was trained with them carries."""
        return {BINDING: self.binding().as_json()}

    def state(self) -> list[Any]:
        """As JSON, for `restore`."""
        return [[tools, list(found), times] for (tools, found), times in self.seen.items()]

    @classmethod
    def restore(cls, state: Iterable[Any]) -> "Prompts":
        """What `state` told."""
        return cls({(tools, tuple(found)): int(times) for tools, found, times in state})


def _alike(prompts: Mapping[tuple[str, ...], int]) -> list[dict[tuple[str, ...], int]]:
    """Prompts in groups, each with the first one that half of its pieces are those of."""
    groups: list[dict[tuple[str, ...], int]] = []
    for found, times in prompts.items():
        for group in groups:
            first = next(iter(group))
            if SequenceMatcher(None, first, found, autojunk=False).ratio() >= 0.5:
                group[found] = times
                break
        else:
            groups.append({found: times})
    return groups


def said_of(differs: Sequence[Part]) -> str:
    """The header of an answer to a request that differs: `differs; system, tools`."""
    return f"differs; {', '.join(differs)}"


def parts_of(header: str | None) -> str | None:
    """The parts that the header of an answer names, as text; None where nothing differs."""
    if header is None or not header.startswith("differs; "):
        return None
    return header.removeprefix("differs; ")
