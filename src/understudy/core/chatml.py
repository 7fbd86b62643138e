"""ChatML with Hermes-style tool calls: the format of the Qwen family, in the tiny model's dialect.

The format knows functions alone: custom tools are not offered in it, and where a history holds a
call of one, its free text stands in the place of the arguments.

The dialect differs from Qwen's published template in the tools block alone: one compact JSON line
per tool (name, description where there is one, parameter -> type) and no instructions around it.
The tokenizer's Jinja `chat_template` renders the same text; a test holds the two together.

Text form, one turn after another, each ended by `<|im_end|>` and a newline:

    <|im_start|>assistant
    optional text
    <tool_call>
    {"name": "find", "arguments": {"id": 7}}
    </tool_call><|im_end|>
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from understudy.core import strict_json
from understudy.core.lark import arguments_rule, literal
from understudy.core.turns import TurnRenderer, written_arguments
from understudy.core.types import Message, Tool, ToolCall, call_parts, is_function, text_of

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
GENERATION_PROMPT = f"{IM_START}assistant\n"
_TURN_MARKER = re.compile(r"<\|(?=(?:im_start|im_end|endoftext)\|>)")
CALL, CALL_END = "<tool_call>", "</tool_call>"
NO_CALL = r"/(.|\n)*/ & ~/(?s:.*)<tool_call>(?s:.*)/"  # text without the marker, in grammars


def render_text(
    messages: Sequence[Message], tools: Sequence[Tool] = (), add_generation_prompt: bool = False
) -> str:
    """The whole conversation as the model's text.

    Raises ValueError for a role that the format cannot express.
    """
    return "".join(_turns(messages, tools)) + (GENERATION_PROMPT if add_generation_prompt else "")


def render_following(messages: Sequence[Message]) -> str:
    """Turns that follow a finished assistant turn, without a system turn of their own."""
    return "".join(_body(messages))


def said(message: Message) -> str:
    """A message's text as it may stand in a prompt: markers of turns in it are taken apart, so
    that nobody can end a turn or begin one by writing a marker."""
    return _TURN_MARKER.sub("< |", text_of(message.get("content")))


def _turns(messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[str]:
    first_is_system = bool(messages) and messages[0]["role"] in ("system", "developer")
    system = said(messages[0]) if first_is_system else ""
    tools = [t for t in tools if is_function(t)]
    if tools:
        block = "\n".join(tool_line(t) for t in tools)
        system += ("\n" if system else "") + f"<tools>\n{block}\n</tools>"
    if first_is_system or tools:
        yield f"{IM_START}system\n{system}{IM_END}\n"
    yield from _body(messages[1:] if first_is_system else messages)


def _body(messages: Sequence[Message]) -> Iterator[str]:
    i = 0
    while i < len(messages):
        message = messages[i]
        role = message["role"]
        if role == "tool":
            blocks = []
            while i < len(messages) and messages[i]["role"] == "tool":
                text = said(messages[i])
                blocks.append(f"<tool_response>\n{text}\n</tool_response>")
                i += 1
            body = "\n".join(blocks)
            yield f"{IM_START}user\n{body}{IM_END}\n"
            continue
        if role == "assistant":
            yield f"{GENERATION_PROMPT}{assistant_text(message)}{IM_END}\n"
        elif role in ("system", "developer", "user"):
            name = "system" if role == "developer" else role
            yield f"{IM_START}{name}\n{said(message)}{IM_END}\n"
        else:
            raise ValueError(f"the chat format has no role {role!r}")
        i += 1


def assistant_text(message: Message) -> str:
    """What the model would have sampled for this message, without the stop token.

    A custom tool's call it could not have sampled so: see `is_function`.
    """
    parts = [text_of(message.get("content"))] if message.get("content") else []
    for call in message.get("tool_calls") or []:
        name, text = call_parts(call)
        given = _arguments(text) if is_function(call) else text
        name, arguments = (json.dumps(v, ensure_ascii=False) for v in (name, given))
        parts.append(f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>')
    return "\n".join(parts)


def _arguments(text: str) -> Any:
    try:
        return strict_json.loads(text) if text else {}
    except ValueError:
        return text  # broken JSON from a model stays what it was, as a string


def tool_line(tool: Tool) -> str:
    """One tool of the tools block: compact JSON."""
    function = tool["function"]
    schema = _mapping(function.get("parameters"))
    required = set(schema.get("required") or ())
    line: dict[str, Any] = {"name": function["name"]}
    if function.get("description"):
        line["description"] = function["description"]
    line["parameters"] = {
        name: type_name(spec) + ("" if name in required else "?")
        for name, spec in _mapping(schema.get("properties")).items()
    }
    return json.dumps(line, ensure_ascii=False)


def type_name(spec: Any) -> str:
    """A JSON Schema type in the block's shorthand: `string`, `T[]`, `a|b` for enums."""
    spec = _mapping(spec)
    if spec.get("enum"):
        return "|".join(str(v) for v in spec["enum"])
    kind = spec.get("type", "string")
    if isinstance(kind, list):
        return "|".join(str(k) for k in kind)
    if kind == "array":
        return type_name(spec.get("items")) + "[]"
    return str(kind)


def _mapping(value: Any) -> Mapping[str, Any]:
    """A schema that is an object; others (true and false are schemas too) say nothing."""
    return value if isinstance(value, Mapping) else {}


class ToolCallError(ValueError):
    """A tool call that the model wrote but that cannot be read; the message says why."""


def parse_assistant(text: str, new_call_id: Callable[[int], str] | None = None) -> Message:
    """The assistant message in sampled text (stop token removed). Its content is the text before,
    between and after calls.

    Tool calls that cannot be read stay in the message as calls whose `arguments` hold the raw
    text, so that an agent loop can tell the model; `call_error` says what is wrong with one.
    """
    make_id = new_call_id or (lambda i: f"call_{i}")
    text = text.removesuffix(IM_END)
    calls: list[ToolCall] = []
    said, blocks = _parted(text)
    for i, block in enumerate(blocks):
        name, arguments = _read_call(block)
        function = {"name": name, "arguments": arguments}
        calls.append({"id": make_id(i), "type": "function", "function": function})  # type: ignore[typeddict-item]
    content = "\n".join(part for part in said if part) if calls else text
    message: Message = {"role": "assistant", "content": content or (None if calls else "")}
    if calls:
        message["tool_calls"] = calls
    return message


def _parted(text: str) -> tuple[list[str], list[str]]:
    """The texts around calls, and those of the calls; one that was never closed runs to the end."""
    said: list[str] = []
    blocks: list[str] = []
    at = 0
    while (start := text.find(CALL, at)) >= 0:
        said.append(text[at:start].strip("\n") if blocks else text[:start].rstrip("\n"))
        begin = start + len(CALL)
        end = _call_end(text, begin)
        blocks.append(text[begin:end])
        at = len(text) if end == len(text) else end + len(CALL_END)
    return [*said, text[at:].strip("\n")], blocks


def _call_end(text: str, begin: int) -> int:
    """Where the text of a call ends: at the first marker behind its JSON, as far as that can be
    read."""
    first = next((i for i in range(begin, len(text)) if not text[i].isspace()), begin)
    try:
        _, end = json.JSONDecoder().raw_decode(text, first)
    except json.JSONDecodeError as error:
        end = len(text) if error.msg.startswith("Unterminated string") else error.pos
    except (ValueError, RecursionError):
        end = begin
    found = text.find(CALL_END, end)
    return len(text) if found < 0 else found


def _read_call(block: str) -> tuple[str, str]:
    try:
        value = strict_json.loads(block)
    except ValueError:
        found = re.search(r'"name"\s*:\s*"([^"]*)"', block)
        given = written_arguments(block, "arguments")
        return (found.group(1) if found else ""), block.strip() if given is None else given
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return "", block.strip()
    arguments = value.get("arguments", {})
    if isinstance(arguments, str):
        return value["name"], arguments
    return value["name"], json.dumps(arguments, ensure_ascii=False)


def call_error(call: ToolCall, tools: Sequence[Tool]) -> str | None:
    """Why this call cannot be carried out, in one line for the model; None if it can be."""
    name, text = call_parts(call)
    functions = [t["function"] for t in tools if is_function(t)]
    known = {f["name"]: _mapping(f.get("parameters")) for f in functions}
    if not is_function(call):
        return f"{name or 'this'} is a custom call; call functions alone, with JSON arguments"
    if not name:
        return "the tool call is not valid JSON with a name and arguments"
    if name not in known:
        return f"unknown tool {name!r}; the tools are: {', '.join(sorted(known)) or 'none'}"
    try:
        arguments = strict_json.loads(text or "{}")
    except ValueError as error:
        return f"the arguments of {name} are not valid JSON: {strict_json.problem(error)}"
    if not isinstance(arguments, dict):
        return f"the arguments of {name} must be a JSON object"
    return _schema_error(name, arguments, known[name])


def _schema_error(name: str, arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> str | None:
    properties = _mapping(schema.get("properties"))
    missing = [p for p in schema.get("required") or () if p not in arguments]
    if missing:
        return f"{name} needs {', '.join(missing)}"
    if properties or schema.get("additionalProperties") is False:
        unknown = [p for p in arguments if p not in properties]
        if unknown:
            return f"{name} has no parameter {', '.join(unknown)}"
    for parameter, value in arguments.items():
        spec = _mapping(properties.get(parameter))
        if spec.get("enum") and value not in spec["enum"]:
            return f"{parameter} of {name} must be one of {', '.join(map(str, spec['enum']))}"
        if not _has_type(value, spec.get("type")):
            return f"{parameter} of {name} must be of type {spec['type']}"
    return None


def _has_type(value: Any, kind: Any) -> bool:
    if kind is None:
        return True
    if isinstance(kind, list):
        return any(_has_type(value, k) for k in kind)
    if isinstance(value, bool):
        return bool(kind == "boolean")
    accepted: dict[str, type | tuple[type, ...]] = {
        "string": str, "integer": int, "number": (int, float), "object": dict,
        "array": list, "boolean": bool, "null": type(None),
    }  # fmt: skip
    return kind not in accepted or isinstance(value, accepted[kind])


class ChatMLRenderer(TurnRenderer):
    """Token ids of this format."""

    name = "chatml"
    ends = (IM_END,)
    opening = GENERATION_PROMPT
    between = "\n"
    call_marks = (CALL, IM_END)
    free = NO_CALL

    def text(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        return render_text(messages, tools)

    def following(self, messages: Sequence[Message]) -> str:
        return render_following(messages)

    def assistant_text(self, message: Message) -> str:
        return assistant_text(message)

    def read(self, text: str) -> Message:
        return parse_assistant(text)

    def call_rule(self, tool: Tool) -> str:
        return hermes_call(self, tool)


def hermes_call(renderer: TurnRenderer, tool: Tool) -> str:
    """The call of a function in a grammar, as `assistant_text` writes it."""
    name = json.dumps(tool["function"]["name"], ensure_ascii=False)
    head, foot = literal(f'\n{{"name": {name}, "arguments": '), literal("}\n")
    return f"{renderer.mark(CALL)} {head} {arguments_rule(tool)} {foot} {renderer.mark(CALL_END)}"
