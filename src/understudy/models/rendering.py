"""Which chat format a tokenizer's model speaks, found out from its chat template.

A template is recognised by what it writes: on a few conversations that touch each of its branches
(system prompts, tools, calls, results, thoughts), its text must be the renderer's to the letter. No
name is looked at; a template that says something else is refused.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from understudy.core.chatml import ChatMLRenderer
from understudy.core.llama import DATE, Llama3Renderer
from understudy.core.origin import Origin
from understudy.core.qwen import (
    Qwen3InstructRenderer,
    Qwen3NoThinkRenderer,
    Qwen3Renderer,
    Qwen25Renderer,
)
from understudy.core.turns import FormatError, TurnRenderer, for_template
from understudy.core.types import Message, Tool, ToolCall

RENDERERS: dict[str, type[TurnRenderer]] = {
    r.name: r
    for r in (
        ChatMLRenderer,
        Qwen25Renderer,
        Qwen3InstructRenderer,
        Qwen3Renderer,
        Qwen3NoThinkRenderer,
        Llama3Renderer,
    )
}


def renderer_of(tokenizer: Any, forced: str | None = None) -> TurnRenderer:
    """The renderer of a fast tokenizer, or the one named.

    A template that thinks unless it is told not to gives the renderer that thinks. Raises
    ValueError where no renderer speaks the template, or the tokenizer lacks a token of the one
    named.
    """
    known = ", ".join(RENDERERS)
    if forced is not None:
        if forced not in RENDERERS:
            raise ValueError(f"there is no renderer {forced!r}; there are: {known}")
        return over(tokenizer, RENDERERS[forced])
    if not tokenizer.chat_template:
        raise ValueError(f"the tokenizer has no chat template; name a renderer of: {known}")
    written = [_written(tokenizer, messages, tools) for messages, tools in PROBES]
    for made in RENDERERS.values():
        try:
            renderer = over(tokenizer, made)
        except ValueError:  # it lacks a token of this format
            continue
        if all(_said(renderer, *p) == w for p, w in zip(PROBES, written, strict=True)):
            return renderer
    raise ValueError(
        f"no renderer writes what the tokenizer's chat template does; there are: {known}. "
        "Name one to use it all the same"
    )


def over(tokenizer: Any, made: type[TurnRenderer]) -> TurnRenderer:
    """A renderer over a fast tokenizer: special tokens in text become their ids, none are added,
    and decoding keeps every token.

    Raises ValueError when the tokenizer lacks a token of the format.
    """
    backend = tokenizer.backend_tokenizer
    same: dict[int, int] = {}  # one object for each id: rows of thousands of episodes are kept

    def encode(text: str) -> list[int]:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return [same.setdefault(i, i) for i in ids]

    def decode(ids: Sequence[int]) -> str:
        text: str = backend.decode(list(ids), skip_special_tokens=False)
        return text

    added = tokenizer.added_tokens_decoder.values()
    return made(encode, decode, [t.content for t in added if t.special])


def origin_of(base: str, renderer: TurnRenderer, tokenizer: Any) -> Origin:
    """What is recorded with the ids of this base."""
    template = json.dumps(tokenizer.chat_template, sort_keys=True)
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    return Origin(base, renderer.name, _hash(template), _hash(vocabulary))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]


def _written(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Tool]) -> str | None:
    """What the template writes; None where it refuses."""
    try:
        text: str = tokenizer.apply_chat_template(
            for_template(messages),
            tools=list(tools) or None,
            add_generation_prompt=True,
            tokenize=False,
            date_string=DATE,
        )
    except (TemplateError, TypeError, ValueError, KeyError):
        return None
    return text


def _said(renderer: TurnRenderer, messages: Sequence[Message], tools: Sequence[Tool]) -> str | None:
    try:
        return renderer.text(messages, tools) + renderer.opening
    except FormatError:
        return None


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _calls(text: str, *given: str) -> Message:
    calls: list[ToolCall] = [
        {"id": f"c{i}", "type": "function", "function": {"name": "look_up", "arguments": a}}
        for i, a in enumerate(given)
    ]
    return {"role": "assistant", "content": text, "tool_calls": calls}


_SYSTEM: Message = {"role": "system", "content": "Be brief.\n"}
_RESULT: Message = {"role": "tool", "tool_call_id": "c0", "content": '{"found": ["é", 1.0]}'}
_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks up <a> & é.",
        "parameters": {
            "type": "object",
            "properties": {
                "key": {"type": "string"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "order": {"type": "string", "enum": ["up", "down"]},
            },
            "required": ["key"],
        },
    },
}
_THOUGHT: Message = {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nso"}
_REASONED: Message = {"role": "assistant", "content": "so", "reasoning_content": "why"}
PROBES: tuple[tuple[tuple[Message, ...], tuple[Tool, ...]], ...] = (
    ((_user(" hello "),), ()),
    ((_SYSTEM, _user("hello")), (_TOOL,)),
    ((_user("hello"),), (_TOOL, _TOOL)),
    (
        (_SYSTEM, _user("a"), _calls("", '{"key": "é", "n": [1, null]}'), _RESULT, _RESULT),
        (_TOOL,),
    ),
    ((_user("a"), _calls("well\n", '{"key": 1}'), _RESULT, {"role": "assistant", "content": "b "},
      _user("c")), ()),
    ((_user("a"), _calls("", "{}", '{"key": 2}'), _RESULT, _RESULT), ()),
    ((_SYSTEM, _user("a"), _THOUGHT, _SYSTEM, _user("b"), _THOUGHT), ()),
    ((_user("a"), _REASONED, _user("b"), {**_calls("", "{}"), "reasoning_content": "hm"},
      _RESULT), (_TOOL,)),
)  # fmt: skip
