"""Writing a drill down."""

from __future__ import annotations

import json
from typing import Any

from tiny_corpus.types import Probe


class Writer:
    """Messages in their order, a probe for each call."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.probes: list[Probe] = []

    def call(self, name: str, arguments: dict[str, Any]) -> None:
        function = {"name": name, "arguments": json.dumps(arguments)}
        entry = {"id": f"call_{len(self.messages)}", "type": "function", "function": function}
        self.messages.append({"role": "assistant", "content": None, "tool_calls": [entry]})
        self.probes.append(
            Probe(len(self.messages) - 1, "copy", {"name": name, "arguments": arguments})
        )

    def result(self, text: str) -> None:
        entry = self.messages[-1]["tool_calls"][0]
        self.messages.append({"role": "tool", "tool_call_id": entry["id"], "content": text})

    def user(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def say(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": text})
