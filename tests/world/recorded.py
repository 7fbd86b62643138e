"""Episodes of a service written in Python, as a gateway would have recorded them."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from understudy.core.types import Completion, Episode, ModelRef, Request, ToolResult

Call = tuple[str, dict[str, Any]]


def recorded(name: str, calls: Sequence[Call], answer: Callable[[str, Any], Any]) -> Episode:
    """One episode of these calls; an answer that is a text is an error."""
    messages: list[Any] = [{"role": "user", "content": "please"}]
    results: dict[str, ToolResult] = {}
    for n, (tool, args) in enumerate(calls):
        told = answer(tool, args)
        text = told if isinstance(told, str) else json.dumps(told)
        function = {"name": tool, "arguments": json.dumps(args)}
        call = {"id": f"c{n}", "type": "function", "function": function}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{n}", "content": text})
        results[f"c{n}"] = ToolResult(text, isinstance(told, str))
    request = Request(messages=tuple(messages), model=ModelRef("recorded"))
    completion = Completion(id=name, request=request, status="ok")
    return Episode(name, (completion,), None, results=results)


def talk(name: str, lines: Sequence[str], metadata: dict[str, Any]) -> Episode:
    """A conversation: the user's and the agent's lines in turn, the user's first."""
    roles = ("user", "assistant")
    messages: list[Any] = [{"role": roles[n % 2], "content": line} for n, line in enumerate(lines)]
    request = Request(messages=tuple(messages), model=ModelRef("recorded"))
    return Episode(name, (Completion(id=name, request=request, status="ok"),), metadata=metadata)
