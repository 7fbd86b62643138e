"""What of a user's words stands for an argument: a value that the argument had elsewhere, or a
number, in surroundings that are usual for it."""

import re
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from typing import Any

from understudy.world.data.values import columns, escape, is_number
from understudy.world.users.wording import NUMBERS, Votes, occurrences

_NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?!\w)|[^\W\d_]+")
_KNOWN = 200  # values of an argument that are looked for
Place = tuple[str, str]  # tool, column of its arguments


def occurs(texts: Sequence[str], value: Any) -> bool:
    """Whether users said a value, in any form."""
    return any(occurrences(text, {"": value}) for text in texts)


class Said:
    """Learned from calls and what users had said before them."""

    def __init__(self) -> None:
        self.votes = Votes()
        self.known: dict[Place, dict[Any, None]] = defaultdict(dict)

    def learn(self, texts: Sequence[str], tool: str, args: Any) -> None:
        """Learn from a call."""
        own = {_path((tool, column)): leaf for column, leaf in columns(args)}
        for column, leaf in columns(args):
            if len(self.known[tool, column]) < _KNOWN:
                self.known[tool, column][leaf] = None
        for text in texts:
            self.votes.learn(text, own)

    def find(self, texts: Sequence[str], place: Place, like: Any, had: Container[Any] = ()) -> Any:
        """What users said for an argument, of the kind of a value, without those it has had; of
        equally likely ones one written like the value, then the latest. None where nothing that
        they said stands in its surroundings, or half as much as what it has had."""
        path = _path(place)
        scored = [
            (self.votes.score(path, text, start, end), _alike(value, like), n, value)
            for n, text in enumerate(texts)
            for start, end, value in self._able(text, place, like)
        ]
        top = max((score for score, _, _, _ in scored), default=0.0)
        able = [s for s in scored if s[0] > 0 and 2 * s[0] >= top and s[3] not in had]
        return max(able, key=lambda s: s[:3])[3] if able else None

    def _able(self, text: str, place: Place, like: Any) -> Iterator[tuple[int, int, Any]]:
        if is_number(like):
            for m in _NUMBER.finditer(text):
                value = _number(m.group())
                if value is not None:
                    yield m.start(), m.end(), value
            return
        for known in self.known[place]:
            if isinstance(known, str):
                yield from ((a, b, known) for a, b, _ in occurrences(text, {"": known}))


def _alike(value: Any, like: Any) -> bool:
    return str(value)[:1].isupper() == str(like)[:1].isupper()


def _number(text: str) -> int | float | None:
    if text[0].isdigit():
        plain = text.replace(",", "")
        return float(plain) if "." in plain else int(plain)
    return NUMBERS.index(text.lower()) + 1 if text.lower() in NUMBERS else None


def _path(place: Place) -> str:
    """A field's path, as votes count it."""
    return f"/{escape(place[0])}{place[1]}"
