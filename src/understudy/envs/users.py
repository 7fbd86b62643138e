"""Users that follow a script."""

from collections.abc import Sequence

from understudy.core.types import Message


class ScriptedUser:
    """Says its lines in order, then leaves."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = list(lines)

    async def reply(self, seen: Sequence[Message]) -> Message | None:
        """The next line, or None when there is none left."""
        if not self._lines:
            return None
        return {"role": "user", "content": self._lines.pop(0)}
