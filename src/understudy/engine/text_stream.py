"""The content of a message that is still being sampled."""

from collections.abc import Sequence

from understudy.core.protocols import Renderer
from understudy.core.types import Message, text_of


class TextStream:
    """The content of a message that is still being sampled, piece by piece.

    Held back: what may still turn out to be a tool call, an unfinished character, a stop string,
    white space before any of them, or text behind a call. What was given out is always a beginning
    of the final text. Without `calls` nothing is taken for a call.
    """

    def __init__(self, renderer: Renderer, stop: Sequence[str], calls: bool = True) -> None:
        self.renderer, self.stop, self.calls = renderer, stop, calls
        self.marks = (*(renderer.call_marks if calls else ()), *stop)
        self.ids: list[int] = []
        self.sent = ""

    def add(self, ids: Sequence[int]) -> str:
        """The text that is certain now and was not before."""
        self.ids += ids
        message = self.renderer.parse(self.ids, self.calls)
        if message.get("tool_calls"):
            return ""
        text = text_of(message.get("content")).rstrip("\ufffd")
        text = text[: len(text) - self._doubtful(text)]
        if not text.startswith(self.sent):
            return ""
        piece, self.sent = text[len(self.sent) :], max(text, self.sent, key=len)
        return piece

    def rest(self, message: Message) -> str:
        """What the finished message has beyond the pieces."""
        text = text_of(message.get("content"))
        return text[len(self.sent) :] if text.startswith(self.sent) else ""

    def _doubtful(self, text: str) -> int:
        held = 0
        for marker in self.marks:
            found = text.find(marker)
            if found >= 0:
                held = max(held, len(text) - found)
            for n in range(min(len(marker), len(text)), 0, -1):
                if text.endswith(marker[:n]):
                    held = max(held, n)
                    break
        return len(text) - len(text[: len(text) - held].rstrip())
