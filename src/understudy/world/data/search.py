"""Text searches: which texts of a record an argument is looked for in, and how."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_WORDS = re.compile(r"\w+")


def words(text: str) -> list[str]:
    return _WORDS.findall(text)


def _spaced(text: str) -> str:
    """The words of a text, a blank around each."""
    return f" {' '.join(words(text))} "


MODES: dict[str, Callable[[str, str], bool]] = {
    "is": lambda asked, text: asked == text,
    "in": lambda asked, text: asked in text,
    "starts": lambda asked, text: text.startswith(asked),
    "word starts": lambda asked, text: _spaced(asked).rstrip() in _spaced(text),
    "words": lambda asked, text: _spaced(asked) in _spaced(text),
    "cased": lambda asked, text: asked in text,
    "all": lambda asked, text: all(w in text for w in words(asked)),
    "all words": lambda asked, text: set(words(asked)) <= set(words(text)),
    "any": lambda asked, text: any(w in text for w in words(asked)),
}
"""How a text asks for another; between modes that the traffic does not tell apart the first counts.
Capitals matter in `cased` alone."""


@dataclass(slots=True)
class Search:
    """Records are listed whose `fields` have the argument's text: one of them, or where they are
    read `across` all of them one after another."""

    argument: str
    fields: list[str]
    mode: str = "in"
    across: bool = False

    def holds(self, fields: Mapping[str, Any], args: Mapping[str, Any]) -> bool:
        """Whether a record has what a call looks for; a call that looks for nothing has all."""
        asked = text_of(args.get(self.argument))
        return not asked or found(self.mode, asked, self.read(fields))

    def read(self, fields: Mapping[str, Any]) -> list[str]:
        """The texts that are looked at."""
        texts = [t for name in self.fields for t in texts_of(fields.get(name))]
        return [" ".join(texts)] if self.across else texts


def found(mode: str, asked: str, texts: Sequence[str]) -> bool:
    """Whether one of the texts has what is asked for."""
    test = MODES[mode]
    if mode == "cased":
        return any(test(asked, t) for t in texts)
    asked = asked.lower()
    return any(test(asked, t.lower()) for t in texts)


def text_of(value: Any) -> str:
    """An argument as the text that is looked for, "" where it is none."""
    if isinstance(value, str):
        return value
    return str(value) if type(value) is int else ""


def texts_of(value: Any) -> list[str]:
    """The texts of a record's field: it is one, or a list of them."""
    if isinstance(value, str):
        return [value]
    listed = value if isinstance(value, list) else []
    return [v for v in listed if isinstance(v, str)]
