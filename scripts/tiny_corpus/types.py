"""What the corpus generator returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

ProbeKind = Literal[
    "copy", "bind", "lookup", "amount", "ranking", "choice", "rule", "correction", "compare", "talk"
]
Split = Literal["train", "heldout", "new"]
"""`new`: the service is about an unseen thing, and all proper names are unseen; verbs, fields and
parameters are as in `train`. `heldout`: every noun, verb, field and parameter is unseen too."""


@dataclass(frozen=True)
class Probe:
    """A point where one right continuation is known.

    `message` indexes an assistant message of the dialogue. `expected` is the tool call
    (`{"name": ..., "arguments": {...}}`) or the message's text. `copy`: values of the context in a
    call or an answer; `bind`: a call whose request holds several values; `talk`: a question for
    what is missing, or giving up.
    """

    message: int
    kind: ProbeKind
    expected: dict[str, Any] | str


@dataclass(frozen=True)
class Dialogue:
    """One synthetic dialogue in OpenAI's chat schema."""

    family: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    probes: list[Probe]
