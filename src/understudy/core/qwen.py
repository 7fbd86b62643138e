"""The chat formats of the Qwen family as their published templates write them.

`qwen2.5`              Qwen2.5-Instruct: ChatML, tools as JSON in the system turn, Hermes calls
`qwen3-instruct-2507`  Qwen3-Instruct-2507: the same without a system prompt of its own
`qwen3`                Qwen3: with reasoning in `<think>` blocks, which history drops
`qwen3-nothink`        Qwen3 with `enable_thinking=False`: the prompt ends with an empty block

A `developer` message is a system one here; roles that a template would pass over are refused.
Sources: `chat_template` in tokenizer_config.json of Qwen/Qwen2.5-7B-Instruct, Qwen/Qwen3-8B and
Qwen/Qwen3-4B-Instruct-2507 on huggingface.co.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from understudy.core.chatml import (
    CALL,
    GENERATION_PROMPT,
    IM_END,
    IM_START,
    NO_CALL,
    hermes_call,
    parse_assistant,
)
from understudy.core.turns import TurnRenderer, arguments_of, offered, role_of
from understudy.core.types import Message, Tool, call_parts, text_of

_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_CALLS = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
_NO_THOUGHT = "<think>\n\n</think>\n\n"


class Qwen25Renderer(TurnRenderer):
    """Qwen2.5: a system turn always, of the model's own where the conversation has none."""

    name = "qwen2.5"
    ends = (IM_END, "<|endoftext|>")
    opening = GENERATION_PROMPT
    between = "\n"
    call_marks: tuple[str, ...] = (CALL, IM_END)
    free = NO_CALL
    marks = (IM_START,)

    def text(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        first = bool(messages) and role_of(messages[0]) == "system"
        system = self.said(messages[0]) if first else None
        return self._head(system, offered(tools)) + self._history(messages[first:])

    def following(self, messages: Sequence[Message]) -> str:
        return self._turns(messages)

    def assistant_text(self, message: Message) -> str:
        content = self.said(message)
        return "\n".join([*([content] if content else []), *self._calls(message)])

    def read(self, text: str) -> Message:
        return parse_assistant(text)

    def call_rule(self, tool: Tool) -> str:
        return hermes_call(self, tool)

    def _head(self, system: str | None, tools: Sequence[Tool]) -> str:
        if system is None:
            system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        return self._turn("system", system + ("\n\n" + self._offer(tools) if tools else ""))

    def _history(self, messages: Sequence[Message]) -> str:
        """The turns of a prompt after the system turn."""
        return self._turns(messages)

    def _turns(self, messages: Sequence[Message], thinks_from: int = 0) -> str:
        """Turns one after another, results of tools together in one. Assistants' reasoning is
        kept from index `thinks_from` on, in formats that have it."""
        parts: list[str] = []
        roles = [role_of(m) for m in messages]
        for i, message in enumerate(messages):
            if roles[i] == "tool":
                response = f"<tool_response>\n{self.said(message)}\n</tool_response>"
                begins = i == 0 or roles[i - 1] != "tool"
                ends = i + 1 == len(roles) or roles[i + 1] != "tool"
                parts.append(f"{IM_START}user\n" if begins else "\n")
                parts.append(response + (f"{IM_END}\n" if ends else ""))
            elif roles[i] == "assistant":
                last = i + 1 == len(roles)
                parts.append(self._turn("assistant", self._spoken(message, i >= thinks_from, last)))
            else:
                parts.append(self._turn(roles[i], self.said(message)))
        return "".join(parts)

    def _spoken(self, message: Message, thinks: bool, last: bool) -> str:
        """An assistant's turn in a prompt."""
        return self.assistant_text(message)

    def _turn(self, role: str, text: str) -> str:
        return f"{IM_START}{role}\n{text}{IM_END}\n"

    def _offer(self, tools: Sequence[Tool]) -> str:
        return _TOOLS + "".join("\n" + self.json(tool) for tool in tools) + _CALLS

    def _calls(self, message: Message) -> list[str]:
        calls = message.get("tool_calls") or []
        named = [(self.apart(call_parts(c)[0]), self._given(arguments_of(c))) for c in calls]
        return [f'<tool_call>\n{{"name": "{n}", "arguments": {a}}}\n</tool_call>' for n, a in named]

    def _given(self, arguments: Any) -> str:
        return self.json(arguments)


class Qwen3InstructRenderer(Qwen25Renderer):
    """Qwen3-Instruct-2507: no system prompt of its own, and broken arguments stay what they are."""

    name = "qwen3-instruct-2507"

    def _head(self, system: str | None, tools: Sequence[Tool]) -> str:
        if not tools:
            return "" if system is None else self._turn("system", system)
        said = "" if system is None else system + "\n\n"
        return self._turn("system", said + self._offer(tools))

    def _given(self, arguments: Any) -> str:
        return self.apart(arguments) if isinstance(arguments, str) else self.json(arguments)


class Qwen3Renderer(Qwen3InstructRenderer):
    """Qwen3: `reasoning_content` is what the model thought before it spoke.

    The template shows reasoning in turns after the user's last message alone, and no empty blocks
    in history at all. So the prompt after a new message of the user is not the ids that were fed
    and sampled continued: thoughts are taken out of them, what was sampled beside is kept as it
    is, and a new row begins. Results of tools continue a turn with its thoughts.
    """

    name = "qwen3"
    call_marks = (CALL, "<think>", IM_END)
    thinking = True

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        decode: Callable[[Sequence[int]], str],
        special: Sequence[str] = (),
    ) -> None:
        super().__init__(encode, decode, special)
        marks = (IM_START, "<think>", "</think>")
        self._start, self._think, self._thought = (self.token(t) for t in marks)
        self.thought_ids = (self._think, self._thought)
        self._assistant = encode(GENERATION_PROMPT)

    def assistant_text(self, message: Message) -> str:
        content, reasoning = self._parted(message)
        block = f"<think>\n{reasoning.strip(chr(10))}\n</think>\n\n" if self.thinking else ""
        return block + self._with_calls(content.lstrip("\n"), bool(content), message)

    def next_prompt_ids(
        self, fed_ids: Sequence[int], new: Sequence[Message], finish_reason: str | None
    ) -> list[int]:
        """The template's prompt, from the ids that were fed and sampled: see the class."""
        fed = self.ended(fed_ids)
        query = _last_query(new)
        forgets = query is not None or not self._asked(fed)
        turns = self._parts(fed)
        latest = [] if new or forgets else turns.pop()  # nothing follows it: it is shown whole
        fed = [t for turn in turns for t in self._remembered(turn, forgets)] + latest
        thinks_from = query if query is not None else len(new) if forgets else 0
        glue = self.encode(self.between + self._turns(new, thinks_from))
        return [*fed, *glue, *self.opening_ids]

    def read(self, text: str) -> Message:
        return self._read(*_split(text))

    def thought_rule(self) -> str | None:
        if not self.thinking:
            return None
        inside = r"/(.|\n)*/ & ~/(?s:.*)<\/think>(?s:.*)/"
        return f'thought: <[{self._think}]> THOUGHT <[{self._thought}]> "\\n\\n"\nTHOUGHT: {inside}'

    def parse(self, output_ids: Sequence[int], calls: bool = True) -> Message:
        """The message in sampled ids. Thoughts end with the last token that ends one, not with
        text that reads like it."""
        ids = list(self.unstopped(output_ids))
        if self._thought not in ids:
            text = self.decode(ids)
            return self._read(*(_split(text) if self._think in ids else (text, "")), calls)
        end = len(ids) - ids[::-1].index(self._thought)
        _, reasoning = _split(self.decode(ids[:end]))
        return self._read(self.decode(ids[end:]).lstrip("\n"), reasoning, calls)

    def _read(self, content: str, reasoning: str, calls: bool = True) -> Message:
        message: Message = {"role": "assistant", "content": content}
        if calls:
            message = parse_assistant(content)
        if reasoning:
            message["reasoning_content"] = reasoning
        return message

    def _history(self, messages: Sequence[Message]) -> str:
        query = _last_query(messages)
        return self._turns(messages, len(messages) if query is None else query)

    def _spoken(self, message: Message, thinks: bool, last: bool) -> str:
        content, reasoning = self._parted(message)
        if not thinks or not (last or reasoning):
            return self._with_calls(content, bool(content), message)
        block = f"<think>\n{reasoning.strip(chr(10))}\n</think>\n\n"
        return block + self._with_calls(content.lstrip("\n"), bool(content), message)

    def _with_calls(self, content: str, spoke: bool, message: Message) -> str:
        calls = self._calls(message)
        return content + ("\n" if spoke and calls else "") + "\n".join(calls)

    def _parted(self, message: Message) -> tuple[str, str]:
        """Content and reasoning."""
        content, reasoning = self.said(message), message.get("reasoning_content")
        if isinstance(reasoning, str):
            return content, self.apart(reasoning)
        return _split(content) if "</think>" in content else (content, "")

    def _parts(self, ids: list[int]) -> list[list[int]]:
        """The ids of each turn."""
        starts = [i for i, t in enumerate(ids) if t == self._start]
        return [ids[a:b] for a, b in pairwise([0, *starts, len(ids)])]

    def _asked(self, ids: list[int]) -> bool:
        """Whether a user's message is among these turns."""
        for turn in self._parts(ids):
            role, _, text = self.decode(turn).partition("\n")
            if role == f"{IM_START}user" and _is_query(text.rstrip("\n").removesuffix(IM_END)):
                return True
        return False

    def _remembered(self, turn: list[int], forgets: bool) -> list[int]:
        """A turn as history holds it: without its thoughts where it `forgets`, without an empty
        block in any case."""
        head, body = turn[: len(self._assistant)], turn[len(self._assistant) :]
        if head != self._assistant:
            return turn
        if self._thought not in body:
            cut = forgets and body[:1] == [self._think]  # a sample that ended while it thought
            return [*head, *body[body.index(self.stop_ids[0]) :]] if cut else turn
        _, reasoning = _split(self.decode(body))
        if reasoning and not forgets:
            return turn
        rest = body[len(body) - body[::-1].index(self._thought) :]
        return [*head, *self._stripped(rest)]

    def _stripped(self, ids: list[int]) -> list[int]:
        """The ids without newlines at their beginning."""
        while ids and (text := self.decode(ids[:1])).startswith("\n"):
            left = text.lstrip("\n")
            if left:
                return [*self.encode(left), *ids[1:]]
            ids = ids[1:]
        return ids


class Qwen3NoThinkRenderer(Qwen3Renderer):
    """Qwen3 told not to think. Reasoning in what it should have said is left off."""

    name = "qwen3-nothink"
    opening = GENERATION_PROMPT + _NO_THOUGHT
    thinking = False


def _last_query(messages: Sequence[Message]) -> int | None:
    """The index of the last message of a user that is no tool's result in disguise."""
    users = [i for i, m in enumerate(messages) if m["role"] == "user"]
    asked = [i for i in users if _is_query(text_of(messages[i].get("content")))]
    return asked[-1] if asked else None


def _is_query(text: str) -> bool:
    return not (text.startswith("<tool_response>") and text.endswith("</tool_response>"))


def _split(text: str) -> tuple[str, str]:
    """Content and reasoning in an assistant's text; a block that never ended is all reasoning."""
    if "</think>" not in text:
        begun = text.lstrip("\n").startswith("<think>")
        return ("", text.split("<think>", 1)[1].strip("\n")) if begun else (text, "")
    before = text.split("</think>")[0].rstrip("\n")
    return text.split("</think>")[-1].lstrip("\n"), before.split("<think>")[-1].lstrip("\n")
