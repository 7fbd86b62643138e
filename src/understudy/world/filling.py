"""Values of a recorded conversation, and what stands in their places in another one: where each
came from, and what this conversation has shown there."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from understudy.core.types import Message, call_parts, is_function, text_of
from understudy.world.values import WORD, columns, escape, is_number, leaves, parse, pattern

Source = tuple[str, str]  # ("", format of a user's word), or (tool, column of its results)
Place = tuple[str, str]  # tool, argument
_SMALL = 10  # whole numbers below it come from anywhere


@dataclass(frozen=True, slots=True)
class Slot:
    """A value's origin: the `number`-th of the source's different values, counted among those that
    this place has not had where it was new there (`fresh`)."""

    source: Source
    number: int
    fresh: bool


@dataclass(slots=True)
class Shown:
    """What a conversation has shown so far, in the order that it came."""

    values: dict[Source, dict[Any, None]] = field(default_factory=lambda: defaultdict(dict))
    origins: dict[Any, dict[Source, None]] = field(default_factory=lambda: defaultdict(dict))
    used: dict[Place, dict[Any, None]] = field(default_factory=lambda: defaultdict(dict))

    def say(self, text: str) -> None:
        """Note what a user wrote: the words that hold a digit."""
        for word in WORD.findall(text):
            if any(c.isdigit() for c in word):
                self._note(("", pattern(word)), word)

    def answer(self, tool: str, value: Any) -> None:
        """Note a tool's result."""
        for column, leaf in columns(value):
            if telling(leaf):
                self._note((tool, column), leaf)

    def call(self, tool: str, args: Any) -> None:
        """Note the arguments of a call."""
        for path, leaf in columns(args):
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
        fresh = value not in self.used[place]
        return Slot(source, self._open(source, place, fresh).index(value), fresh)

    def fill(self, place: Place, slot: Slot) -> Any:
        """The value for a slot here; None where the conversation has none."""
        able = self._open(slot.source, place, slot.fresh)
        return able[min(slot.number, len(able) - 1)] if able else None

    def _open(self, source: Source, place: Place, fresh: bool) -> list[Any]:
        """A source's values that a place has had, or has not."""
        had = self.used[place]
        return [v for v in self.values[source] if (v not in had) == fresh]


def telling(value: Any) -> bool:
    """Whether a value is of some conversation rather than of any."""
    if isinstance(value, str):
        return 1 < len(value) < 200
    return is_number(value) and not (value == int(value) and abs(value) < _SMALL)


def slots_of(shown: Shown, tool: str, args: Any) -> dict[str, Slot]:
    """The slots of a call's arguments, by their JSON pointers."""
    both = zip(leaves(args), columns(args), strict=True)
    found = {path: shown.slot((tool, column), leaf) for (path, leaf), (column, _) in both}
    return {path: slot for path, slot in found.items() if slot is not None}


def filled(shown: Shown, tool: str, args: Any, slots: dict[str, Slot]) -> Any:
    """A call's arguments with this conversation's values in the slots. Raises LookupError where
    it has none for one of them."""
    return _filled(shown, tool, args, slots, "", "")


def _filled(
    shown: Shown, tool: str, value: Any, slots: dict[str, Slot], path: str, column: str
) -> Any:
    if isinstance(value, dict):
        return {
            k: _filled(shown, tool, v, slots, f"{path}/{escape(k)}", f"{column}/{escape(k)}")
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [
            _filled(shown, tool, v, slots, f"{path}/{i}", f"{column}/#")
            for i, v in enumerate(value)
        ]
    if path not in slots:
        return value
    found = shown.fill((tool, column), slots[path])
    if found is None:
        raise LookupError(f"nothing here for {tool}{path}")
    return found


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
