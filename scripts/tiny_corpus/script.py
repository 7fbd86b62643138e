"""Writing a dialogue down: messages, tool schemas, probes."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from .types import Dialogue, Probe, ProbeKind, Split

Json = dict[str, Any]


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def param(kind: str, enum: list[str] | None = None) -> Json:
    return {"type": kind, "enum": enum} if enum else {"type": kind}


def tool(name: str, params: Json, required: list[str], description: str = "") -> Json:
    function: Json = {"name": name}
    if description:
        function["description"] = description
    function["parameters"] = {"type": "object", "properties": params, "required": required}
    return {"type": "function", "function": function}


class Script:
    """A dialogue being written."""

    def __init__(self, rng: Random, split: Split, family: str) -> None:
        self.rng = rng
        self.split = split
        self.family = family
        self.messages: list[Json] = []
        self.tools: list[Json] = []
        self.probes: list[Probe] = []
        self._calls = 0
        self._pending: list[str] = []

    def system(self, text: str) -> None:
        if text:
            self.messages.append({"role": "system", "content": text})

    def user(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def _mark(self, kind: ProbeKind | None, expected: Json | str) -> None:
        if kind is not None:
            self.probes.append(Probe(len(self.messages) - 1, kind, expected))

    def say(self, text: str, kind: ProbeKind | None = None) -> None:
        self.messages.append({"role": "assistant", "content": text})
        self._mark(kind, text)

    def call(
        self, name: str, arguments: Json, kind: ProbeKind | None = None, thought: str = ""
    ) -> None:
        self._calls += 1
        call_id = f"call_{self._calls}"
        function = {"name": name, "arguments": dumps(arguments)}
        self.messages.append(
            {
                "role": "assistant",
                "content": thought or None,
                "tool_calls": [{"id": call_id, "type": "function", "function": function}],
            }
        )
        self._pending.append(call_id)
        self._mark(kind, {"name": name, "arguments": dict(arguments)})

    def result(self, value: Any) -> None:
        content = value if isinstance(value, str) else dumps(value)
        call_id = self._pending.pop(0)
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})

    def done(self) -> Dialogue:
        assert not self._pending
        return Dialogue(self.family, self.messages, self.tools, self.probes)
