"""Values of a recorded conversation, and what stands in their places in another one: where each
came from, and what this conversation has shown there."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

from understudy.core.types import Message, call_parts, is_function, text_of
from understudy.world.data.values import WORD, columns, escape, is_number, leaves, parse, pattern
from understudy.world.users.said import Place, Said, occurs

Source = tuple[str, str]  # ("", format of a user's word), or (tool, column of its results)
SAID: Source = ("", "")  # a choice or number in a user's words: see world.users.said
_SMALL = 10  # whole numbers below it come from anywhere
Turn = Literal["first", "again", "other"]  # of a place's values: its first, one it had, a new one


@dataclass(frozen=True, slots=True)
class Slot:
    """A value's origin: the `number`-th of the source's different values, counted among those that
    its place had had before (`again`) or had not."""

    source: Source
    number: int
    turn: Turn


@dataclass(slots=True)
class Shown:
    """What a conversation has shown so far, in the order that it came."""

    values: dict[Source, dict[Any, None]] = field(default_factory=lambda: defaultdict(dict))
    origins: dict[Any, dict[Source, None]] = field(default_factory=lambda: defaultdict(dict))
    used: dict[Place, dict[Any, None]] = field(default_factory=lambda: defaultdict(dict))
    texts: list[str] = field(default_factory=list)  # what the user wrote

    def say(self, text: str) -> None:
        """Note what a user wrote: its words that hold a digit may be names of things."""
        self.texts.append(text)
        for word in WORD.findall(text):
            if any(c.isdigit() for c in word) and not word.isdigit():
                self._note(("", pattern(word)), word)

    def answer(self, tool: str, value: Any) -> None:
        """Note a tool's result."""
        for column, leaf in columns(value):
            if telling(leaf):
                self._note((tool, column), leaf)

    def call(self, tool: str, args: Any) -> None:
        """Note the arguments of a call."""
        for path, leaf in columns(args):
            self.used[tool, path].pop(leaf, None)
            self.used[tool, path][leaf] = None

    def _note(self, source: Source, value: Any) -> None:
        self.values[source][value] = None
        self.origins[value].pop(source, None)
        self.origins[value][source] = None

    def slot(self, place: Place, value: Any) -> Slot | None:
        """Where a value came from: a column of the argument's name before others, the latest of
        these; None where nothing showed it. A word without digits is no value of one conversation
        alone but under its own name."""
        if not telling(value) or value not in self.origins:
            return None
        name = place[1].rpartition("/")[2]
        found = list(self.origins[value])
        named = [s for s in found if name and s[1].rpartition("/")[2] == name]
        if not named and isinstance(value, str) and not any(c.isdigit() for c in value):
            return None
        source = (named or found)[-1]
        turn = self.turn(place, value)
        return Slot(source, self._open(source, place, turn).index(value), turn)

    def fill(self, place: Place, slot: Slot) -> Any:
        """The value for a slot here; None where the conversation has none."""
        able = self._open(slot.source, place, slot.turn)
        if not able and slot.turn == "first":
            able = list(self.values[slot.source])
        return able[min(slot.number, len(able) - 1)] if able else None

    def turn(self, place: Place, value: Any) -> Turn:
        """What a value is to a place that gets it now."""
        had = self.used[place]
        return "first" if not had else "again" if value in had else "other"

    def _open(self, source: Source, place: Place, turn: Turn) -> list[Any]:
        """A source's values that a place has had, or has not."""
        had = self.used[place]
        return [v for v in self.values[source] if (v in had) == (turn == "again")]


def telling(value: Any) -> bool:
    """Whether a value is of some conversation rather than of any."""
    if isinstance(value, str):
        return 1 < len(value) < 200
    return is_number(value) and not (value == int(value) and abs(value) < _SMALL)


def slots_of(shown: Shown, tool: str, args: Any) -> dict[str, Slot]:
    """The slots of a call's arguments, by their JSON pointers."""
    found: dict[str, Slot] = {}
    for (path, leaf), (column, _) in zip(leaves(args), columns(args), strict=True):
        slot = shown.slot((tool, column), leaf)
        if slot is not None:
            found[path] = slot
        elif not isinstance(leaf, bool) and leaf is not None and occurs(shown.texts, leaf):
            found[path] = Slot(SAID, 0, shown.turn((tool, column), leaf))
    return found


def filled(shown: Shown, said: Said, tool: str, args: Any, slots: dict[str, Slot]) -> Any:
    """A call's arguments with this conversation's values in the slots; what its user did not say
    stays. Raises LookupError where a result should have shown a value and none has."""
    return _filled(shown, said, tool, args, slots, "", "")


def _filled(
    shown: Shown,
    said: Said,
    tool: str,
    value: Any,
    slots: dict[str, Slot],
    path: str,
    column: str,
) -> Any:
    if isinstance(value, dict):
        return {
            k: _filled(shown, said, tool, v, slots, f"{path}/{escape(k)}", f"{column}/{escape(k)}")
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [
            _filled(shown, said, tool, v, slots, f"{path}/{i}", f"{column}/#")
            for i, v in enumerate(value)
        ]
    if path not in slots:
        return value
    if slots[path].source == SAID:
        return _chosen(shown, said, (tool, column), value, slots[path].turn)
    found = shown.fill((tool, column), slots[path])
    if found is None:
        raise LookupError(f"nothing here for {tool}{path}")
    return found


def _chosen(shown: Shown, said: Said, place: Place, value: Any, turn: Turn) -> Any:
    """What the user said for an argument: what it had last, or what it has not had."""
    had = shown.used[place]
    if had and turn != "other":
        return list(had)[-1]
    own = said.find(shown.texts, place, value, had)
    if own is None and had:
        raise LookupError(f"the user said no other value for {place[0]}{place[1]}")
    return value if own is None else own


def read(message: Message, names: dict[str, str]) -> list[tuple[str, Any]]:
    """The calls of a message as (tool, arguments); `names` learns the tools of their ids."""
    found = []
    for call in message.get("tool_calls") or []:
        if is_function(call):
            name, arguments = call_parts(call)
            names[call["id"]] = name
            found.append((name, parse(arguments or "{}")))
    return found


def note(shown: Shown, message: Message, names: dict[str, str]) -> None:
    """Add a message to what its conversation has shown."""
    text = text_of(message.get("content"))
    if message["role"] == "user":
        shown.say(text)
    elif message["role"] == "tool":
        shown.answer(names.get(message.get("tool_call_id", ""), ""), parse(text))
    elif message["role"] == "assistant":
        for tool, args in read(message, names):
            shown.call(tool, args)
