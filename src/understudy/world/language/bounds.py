"""What values may stand at a place of a tool's results, as the traffic shows them.

A place is a tool and a path with list positions collapsed. A few values that came again and again
are all there are; so are a few formats (letters, digits and signs in their places); dates are
dates; numbers are whole, or have as many decimals as any, and are near those that were seen.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from understudy.world.data.values import (
    CUT,
    is_date,
    is_number,
    kind_of,
    leaves,
    pattern,
    writable,
)
from understudy.world.model import World

_FEW = 24  # different values, or formats, of a closed set at most
_TIMES = 3  # how often each came at least, in the mean
_LONGER = 2  # times the longest text that was seen
_EXACT = 2**53  # up to which whole numbers are floats, too
_FINE = 4  # decimals that a schema holds numbers to
_SIGN = re.compile(r"[\\^$.*+?()\[\]{}|/]")  # of regular expressions; JSON Schema's escape no more
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
Place = tuple[str, str]


@dataclass(slots=True)
class Bound:
    """What was seen at a place. `texts` and `forms`: the episodes that each came in."""

    kinds: set[str] = field(default_factory=set)
    texts: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    forms: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    numbers: list[float] = field(default_factory=list)
    seen: int = 0  # texts
    longest: int = 0
    signs: set[str] = field(default_factory=set)  # that cannot be printed
    ascii: bool = True
    dates: bool = True

    def see(self, value: Any, episode: int) -> None:
        """Note a value of an episode."""
        self.kinds.add(kind_of(value))
        if isinstance(value, str):
            self.seen += 1
            self.texts[value].add(episode)
            self.forms[pattern(value)].add(episode)
            self.longest = max(self.longest, len(value))
            self.signs |= {ch for ch in value if not ch.isprintable()}
            self.ascii &= value.isascii()
            self.dates &= _day(value)
        elif is_number(value):
            self.numbers.append(value)

    def fits(self, value: Any) -> bool:
        """Whether a value may stand here."""
        kind = kind_of(value)
        if kind not in self.kinds or kind in ("array", "object"):
            return False
        if kind == "number":
            return self._near(value)
        return not isinstance(value, str) or self._reads(value)

    def _reads(self, text: str) -> bool:
        if self.dates and not _day(text):
            return False
        if not all(ch.isprintable() or ch in self.signs for ch in text):
            return False
        if len(text) > _LONGER * self.longest or (self.ascii and not text.isascii()):
            return False
        if self._closed(self.texts):
            return text in self.texts
        return not self._closed(self.forms) or pattern(text) in self.forms

    def _closed(self, kinds: dict[str, set[int]]) -> bool:
        """Whether these are all there are: few, and each came in more than one episode."""
        often = self.seen >= _TIMES * len(kinds)
        return len(kinds) <= _FEW and often and all(len(e) > 1 for e in kinds.values())

    def _near(self, value: Any) -> bool:
        if not (self.numbers and is_number(value)):
            return False
        low, high = self._ends()
        if not low <= value <= high:
            return False
        if all(isinstance(n, int) for n in self.numbers):
            return isinstance(value, int)
        return bool(round(value, max(map(_decimals, self.numbers))) == value)

    def _ends(self) -> tuple[float, float]:
        """The least and the largest number that are near those that were seen."""
        low, high = min(self.numbers), max(self.numbers)
        wide = max(high - low, abs(low), abs(high), 1)
        return 0 if low >= 0 else low - wide, high + wide

    def schema(self, kind: str, whole: bool = True) -> dict[str, Any]:
        """The bound for values of a kind as a JSON Schema, their type alone where not `whole`; what
        a schema does not say is checked by `fits`."""
        whole_numbers = kind == "number" and {type(n) for n in self.numbers} == {int}
        named = "integer" if whole_numbers else type_of(kind)
        found: dict[str, Any] = {"type": named}
        if not whole or kind not in self.kinds:
            return found
        if kind == "number":
            return found | (self._range() if self.numbers else {})
        return found | (self._texts(kind) if named == "string" else {})

    def _range(self) -> dict[str, Any]:
        low, high = self._ends()
        if not -_EXACT <= low <= high <= _EXACT:
            return {}
        decimals = max(_decimals(n) for n in self.numbers)
        finest = {"multipleOf": 10**-decimals} if 0 < decimals <= _FINE else {}
        return {"minimum": low, "maximum": high, **finest}

    def _texts(self, kind: str) -> dict[str, Any]:
        if kind == "empty" or self._closed(self.texts):
            each = (t for t in self.texts if kind_of(t) == kind and writable(t) == t)
            return {"enum": found} if (found := sorted(each)) else {}
        if self.dates and all(_DAY.fullmatch(text) for text in self.texts):
            return {"format": "date"}
        longest = _LONGER * self.longest
        # a format is of a text's beginning, and a plus sign in it is also that of a cut run
        told = self.ascii and not self.signs and self.longest <= CUT
        told = told and not any("+" in text for text in self.texts)
        if told and self._closed(self.forms):
            most = min(longest, CUT)
            ways = "|".join(_expression(form, most) for form in sorted(self.forms) if form.strip())
            return {"pattern": f"^(?:{ways})$", "maxLength": most}
        return {"minLength": 1, "maxLength": longest}


class Bounds:
    """The bounds of a world's results, by place."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._tools: dict[str, dict[str, Bound]] = {}

    def at(self, tool: str, path: str) -> Bound | None:
        """The bound at a path of a tool's results; None where the traffic shows no value there."""
        if tool not in self._tools:
            self._tools[tool] = self._mine(tool)
        return self._tools[tool].get(collapsed(path))

    def fits(self, tool: str, path: str, value: Any) -> bool:
        """Whether a value may stand at a path of a tool's results."""
        bound = self.at(tool, path)
        return bound is not None and bound.fits(value)

    def _mine(self, tool: str) -> dict[str, Bound]:
        """Of the remembered results; of a failure's words, of those that its class keeps."""
        found: dict[str, Bound] = defaultdict(Bound)
        model = self.world.models[tool]
        for held in model.recall.values():
            for episode, value in held:
                for path, leaf in _leaves(value):
                    found[path].see(leaf, episode)
        for label, shape in model.shapes.items():
            donors = shape.donors if label.startswith("err") or not model.recall else ()
            for n, value in enumerate(donors):
                for path, leaf in _leaves(value):
                    found[path].see(leaf, n)
        return dict(found)


def type_of(kind: str) -> str:
    """The JSON Schema's type of a kind of values."""
    return "string" if kind == "empty" else kind


def collapsed(path: str) -> str:
    """A path with its list positions as `#`."""
    return "/".join("#" if part.isdecimal() else part for part in path.split("/"))


def _leaves(value: Any) -> list[tuple[str, Any]]:
    return [(collapsed(path), leaf) for path, leaf in leaves(value)]


def _expression(form: str, longest: int) -> str:
    """The texts of a format, as a regular expression."""
    classes = {"0": "[0-9]", "A": "[A-Z]", "a": "[a-z]"}
    parts = re.split(r"(a\+)", form)
    run = f"[a-z]{{3,{max(3, longest)}}}"
    return "".join(
        run if part == "a+" else "".join(classes.get(ch, _SIGN.sub(r"\\\g<0>", ch)) for ch in part)
        for part in parts
    )


def _decimals(number: float) -> int:
    return len(repr(number).partition(".")[2]) if "e" not in repr(number) else 12


def _day(text: str) -> bool:
    """Whether a text is a date or a time of day that there is."""
    if not is_date(text):
        return False
    try:
        datetime.fromisoformat(text if "-" in text[:5] else f"2000-01-01T{text}")
    except ValueError:
        return False
    return True
