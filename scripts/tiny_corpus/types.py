"""What the corpus generator returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

ProbeKind = Literal["valid", "copy", "choice", "rule", "correction", "compare"]
Split = Literal["train", "heldout", "new"]
"""`heldout`: every word is unseen. `new`: the service is about an unseen thing, and all proper
names are unseen; verbs, fields and parameters are of the whole vocabulary."""


@dataclass(frozen=True)
class Probe:
    """A point where one right continuation is known.

    `message` indexes an assistant message of the dialogue. `expected` is the tool call
    (`{"name": ..., "arguments": {...}}`) or a string that the message's text must contain.
    """

    message: int
    kind: ProbeKind
    expected: dict[str, Any] | str


@dataclass(frozen=True)
class Dialogue:
    """One synthetic dialogue in OpenAI's chat schema.

    `skip` lists assistant messages that show a mistake (the attempt before a correction):
    they belong to the context but should carry no loss.
    """

    family: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    probes: list[Probe]
    skip: tuple[int, ...] = field(default=())
