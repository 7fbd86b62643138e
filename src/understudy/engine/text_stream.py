"""The content of a message that is still being sampled."""

from collections.abc import Sequence

from understudy.core.protocols import Renderer
from understudy.core.types import Message, text_of

_BROKEN = "\ufffd"  # what a decoder makes of bytes that are no character, or not yet one
_LONGEST = 4  # bytes of a character, and so the most ids that it is spread over
_MANY = 16  # ids that are decoded again and again before they are parted within


class TextStream:
    """The content of a message that is still being sampled, piece by piece.

    Held back: what may still turn out to be a tool call, an unfinished character, a stop string,
    white space before any of them, thoughts, or text behind a call. What was given out is always a
    beginning of the final text. Without `calls` nothing is taken for a call.

    However long the message is, an id is decoded a bounded number of times: whole characters are
    kept as text, and the next ids are decoded behind those of the last of them alone, for what a
    token says may depend on its neighbour. Nothing is parsed: text is content up to the first mark
    of something else, and begins anew behind the token that ends thoughts.
    """

    def __init__(self, renderer: Renderer, stop: Sequence[str], calls: bool = True) -> None:
        self.renderer = renderer
        thoughts = renderer.thought_ids
        self._thought_end = None if thoughts is None else thoughts[1]
        thought = () if thoughts is None else (renderer.decode(thoughts[:1]),)
        self.marks = {*(renderer.call_marks if calls else ()), *thought, *stop}
        self._pieces: list[str] = []
        self._begin()

    def _begin(self, behind_thoughts: bool = False) -> None:
        """Content begins here. Where there was some before, none of this is certain."""
        self._over = bool(self._pieces)
        self._leading = behind_thoughts  # newlines are left out until something else comes
        self._before: list[int] = []  # ids of whole characters, those that were taken last
        self._context = ""  # their text
        self._ids: list[int] = []  # those behind them
        self._text = ""  # what was said before `_ids` and was not given out
        self._given = 0  # characters that were given out, of `_text` and what `_ids` say

    def add(self, ids: Sequence[int]) -> str:
        """The text that is certain now and was not before."""
        new = [i for i in ids if i not in self.renderer.stop_ids]
        if self._thought_end is not None and self._thought_end in new:
            new = new[len(new) - new[::-1].index(self._thought_end) :]
            self._begin(behind_thoughts=True)
        if self._over or not new:
            return ""
        self._ids += new
        said = self._said(self._ids)
        text = self._behind(said)
        end = max(self._given, self._certain(text))
        piece, self._given = text[self._given : end], end
        self._take(said)
        if piece:
            self._pieces.append(piece)
        return piece

    def rest(self, message: Message) -> str:
        """What the finished message has beyond the pieces."""
        text, given = text_of(message.get("content")), "".join(self._pieces)
        return text[len(given) :] if text.startswith(given) else ""

    def _said(self, ids: list[int]) -> str:
        """What ids say behind `_before`."""
        return self.renderer.decode([*self._before, *ids])[len(self._context) :]

    def _behind(self, said: str) -> str:
        text = self._text + said
        return text.lstrip("\n") if self._leading else text

    def _take(self, said: str) -> None:
        """Takes ids for whole characters. Of many that end in none, all that cannot be a part of
        the next one, if there the text can be parted."""
        whole = len(self._ids)
        if said.endswith(_BROKEN):
            whole = whole - _LONGEST if whole > _MANY else 0
            part = self._said(self._ids[:whole])
            if not whole or not said.startswith(part):
                return
            said = part
        text = self._behind(said)
        dropped = min(self._given, len(text))
        self._text, self._given = text[dropped:], self._given - dropped
        self._leading = self._leading and not text
        self._before, self._ids = self._ids[:whole], self._ids[whole:]
        self._context = self.renderer.decode(self._before)

    def _certain(self, text: str) -> int:
        """How many characters stay what they are."""
        text = text.rstrip(_BROKEN)
        found = [at for mark in self.marks if (at := text.find(mark)) >= 0]
        self._over = bool(found)
        begun = max((_begun(mark, text) for mark in self.marks), default=0)
        return len(text[: min([*found, len(text) - begun])].rstrip())


def _begun(mark: str, text: str) -> int:
    """How many characters at the end of a text are the beginning of a mark."""
    longest = min(len(mark), len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(mark[:n])), 0)
