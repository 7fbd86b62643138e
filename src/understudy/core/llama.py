"""The chat format of Llama 3.1, 3.2 and 3.3 Instruct as the published templates write it.

Each turn has a header with its role and ends with `<|eot_id|>`. A call is a turn of its own, one
JSON object with `name` and `parameters`; results of tools are turns of the role `ipython`. The
first message after the system prompt also holds the tools. What the template does is done here:
content beside a call is left out, text is stripped, a tool's text is written as a JSON string, and
several calls in one message cannot be said. The date is the template's default, never today's:
a prompt is the same tomorrow.

Source: `chat_template` in tokenizer_config.json of meta-llama/Llama-3.1-8B-Instruct and
meta-llama/Llama-3.2-3B-Instruct on huggingface.co, which differ only where built-in tools are
named; https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from understudy.core import strict_json
from understudy.core.lark import arguments_rule
from understudy.core.turns import (
    FormatError,
    TurnRenderer,
    arguments_of,
    offered,
    role_of,
    written_arguments,
)
from understudy.core.types import FunctionCall, Message, Tool, ToolCall, call_parts, text_of

BEGIN, EOT, EOM, END = "<|begin_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"
HEADER, HEADER_END = "<|start_header_id|>", "<|end_header_id|>"
CODE = "<|python_tag|>"
DATE = "26 Jul 2024"  # the template's `date_string`
_GUIDE = (
    "Given the following functions, please respond with a JSON for a function call "
    "with its proper arguments that best answers the given prompt.\n\n"
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and '
    "its value}.Do not use variables.\n\n"
)
_BEGUN = re.compile(r'\{\s*"name"\s*:\s*"([^"]*)')


class Llama3Renderer(TurnRenderer):
    """Llama 3.1 and later, tools in the first message: see the module."""

    name = "llama3"
    ends = (EOT, EOM, END)
    opening = f"{HEADER}assistant{HEADER_END}\n\n"
    call_marks = (CODE, "{")
    marks = (BEGIN, HEADER, HEADER_END)
    free = r"/\s*([^{\s](.|\n)*)?/"
    text_before_calls = False
    between_calls = None

    def text(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        given = offered(tools)
        first = bool(messages) and role_of(messages[0]) == "system"
        system = self.said(messages[0]).strip() if first else ""
        rest = list(messages[first:])
        about = "Environment: ipython\n" if given else ""
        about += f"Cutting Knowledge Date: December 2023\nToday Date: {DATE}\n\n"
        text = BEGIN + self._turn("system", about + system)
        if not given:
            return text + self.following(rest)
        if not rest:
            raise FormatError(
                "the chat format offers tools in the first message, and there is none"
            )
        offer = "".join(f"{self.json(tool, indent=4)}\n\n" for tool in given)
        text += self._turn("user", _GUIDE + offer + self.said(rest[0]).strip())
        return text + self.following(rest[1:])

    def following(self, messages: Sequence[Message]) -> str:
        return "".join(map(self._message, messages))

    def assistant_text(self, message: Message) -> str:
        calls = message.get("tool_calls") or []
        if not calls:
            return self.said(message).strip()
        if len(calls) > 1:
            raise FormatError("the chat format says one tool call a message, not several")
        name, given = self.apart(call_parts(calls[0])[0]), self.json(arguments_of(calls[0]))
        return f'{{"name": "{name}", "parameters": {given}}}'

    def read(self, text: str) -> Message:
        calls = _calls(text)
        if not calls:
            return {"role": "assistant", "content": text}
        made: list[ToolCall] = [
            {"id": f"call_{i}", "type": "function", "function": call}
            for i, call in enumerate(calls)
        ]
        return {"role": "assistant", "content": None, "tool_calls": made}

    def call_rule(self, tool: Tool) -> str:
        return arguments_rule(tool, ("name", "parameters"))

    def _message(self, message: Message) -> str:
        role = role_of(message)
        if role == "assistant":
            return self._turn(role, self.assistant_text(message))
        if role == "tool":
            return self._turn("ipython", self.json(text_of(message.get("content"))))
        return self._turn(role, self.said(message).strip())

    def _turn(self, role: str, text: str) -> str:
        return f"{HEADER}{role}{HEADER_END}\n\n{text}{EOT}"


def _calls(text: str) -> list[FunctionCall]:
    """The calls in sampled text, several where objects follow each other with `;` between. One
    that cannot be read holds the raw text; none where the text is no call."""
    left = text.removeprefix(CODE).strip()
    calls: list[FunctionCall] = []
    while left.startswith("{"):
        call, end = _first(left)
        if call is None:
            break
        calls.append(call)
        left = left[end:].lstrip(" \n;")
    if not left:
        return calls
    begun = _BEGUN.match(left)
    return [*calls, {"name": begun.group(1), "arguments": left}] if begun else []


def _first(text: str) -> tuple[FunctionCall | None, int]:
    """The call that a text begins with, and where it ends."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
        name, given = value.get("name"), _given(value)
    except (ValueError, RecursionError):
        return None, 0
    try:
        strict_json.loads(text[:end])
    except ValueError:  # a number that is none: the arguments stay what they are
        given = given and written_arguments(text[:end], "parameters")
    if not isinstance(name, str) or given is None:
        return None, 0
    return {"name": name, "arguments": given}, end


def _given(value: dict[str, Any]) -> str | None:
    """The arguments of an object that is a call, as JSON text; models also say `arguments`."""
    if value.keys() - {"type", "name", "parameters", "arguments"}:
        return None
    found = [value[k] for k in ("parameters", "arguments") if k in value]
    if len(found) != 1:
        return None
    return found[0] if isinstance(found[0], str) else json.dumps(found[0], ensure_ascii=False)
