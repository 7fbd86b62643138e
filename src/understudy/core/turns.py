"""What the renderers of chat formats have in common: turns that end with a token of their own.

A prompt is one text, and its ids are those of the whole text, as a tokenizer with the published
template gives them. Turns after a sampled one are appended to the ids that were fed and sampled.
Both give the same ids, because turns begin or end with special tokens, and there a tokenizer parts
its text.

Special tokens that somebody spells in a message are taken apart by a space (`< |im_end|>`), so
that nobody can end a turn or begin one. To encode them as plain text instead would mean to encode
each message by itself, and tokens that reach over its edges would not be the template's.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from understudy.core import strict_json
from understudy.core.answer_form import AnswerForm
from understudy.core.lark import literal, message_grammar
from understudy.core.types import Message, Tool, call_parts, is_function, text_of

ROLES = ("system", "user", "assistant", "tool")


class FormatError(ValueError):
    """What a chat format cannot say; the message says what, in one line."""


class TurnRenderer:
    """Messages to token ids and back through a tokenizer's `encode` and `decode`.

    `encode(text) -> ids` must map the special tokens to their ids and add none of its own;
    `decode(ids) -> text` must keep every token. `special` are the tokenizer's special tokens, to
    be taken apart in messages; the format's own are always among them.

    A subclass says the rest: `text` (a conversation without the generation prompt), `following`
    (turns behind an assistant's), `assistant_text` (what the model should have sampled, without
    the stop token), `read` (the message in sampled text) and `call_rule` (what a call is in a
    grammar). Raises ValueError where the tokenizer lacks a token of the format.
    """

    name = ""
    ends: tuple[str, ...] = ()  # what ends a sample; the first is the one that the format writes
    opening = ""  # the generation prompt
    between = ""  # what the format writes after the end of a turn
    call_marks: tuple[str, ...] = ()  # what a tool call, or what is no content, begins with
    thought_ids: tuple[int, int] | None = None  # what begins and ends thoughts, where it thinks
    marks: tuple[str, ...] = ()  # further tokens of the format
    free = r"/(.|\n)*/"  # in grammars: text that is no call (core.lark.message_grammar)
    text_before_calls = True
    between_calls: str | None = "\n"  # None: a message has one call

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        decode: Callable[[Sequence[int]], str],
        special: Sequence[str] = (),
    ) -> None:
        self.encode, self.decode = encode, decode
        self.stop_ids = tuple(self.token(text) for text in self.ends)
        for text in self.marks:
            self.token(text)
        self.opening_ids = tuple(encode(self.opening))
        names = sorted({*special, *self.ends, *self.marks}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names)))

    # -- a format's own --------------------------------------------------------------------

    def text(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        raise NotImplementedError

    def following(self, messages: Sequence[Message]) -> str:
        raise NotImplementedError

    def assistant_text(self, message: Message) -> str:
        raise NotImplementedError

    def read(self, text: str) -> Message:
        raise NotImplementedError

    def call_rule(self, tool: Tool) -> str:
        """A call of a function in a grammar."""
        raise NotImplementedError

    def thought_rule(self) -> str | None:
        """The rule `thought` of what the model may think before it speaks, where it does."""
        return None

    # -- ids -------------------------------------------------------------------------------

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """The conversation with the generation prompt. Raises FormatError."""
        return self.encode(self.text(messages, tools) + self.opening)

    def next_prompt_ids(
        self, fed_ids: Sequence[int], new: Sequence[Message], finish_reason: str | None
    ) -> list[int]:
        """`fed_ids` (prompt and sample of the turn before) continued by the `new` messages."""
        return [*self.ended(fed_ids), *self.following_ids(new), *self.opening_ids]

    def following_ids(self, new: Sequence[Message]) -> list[int]:
        """What `new` messages add behind the end of an assistant's turn."""
        return self.encode(self.between + self.following(new))

    def assistant_ids(self, message: Message) -> list[int]:
        """What the model should have sampled for this message, its stop token included."""
        return [*self.encode(self.assistant_text(message)), self.stop_ids[0]]

    def grammar(self, form: AnswerForm) -> str:
        """The grammar of a message of this form. Raises FormError for what cannot be held."""
        return message_grammar(
            form, [self.call_rule(tool) for tool in form.tools], free=self.free,
            before=self.text_before_calls, between=self.between_calls, thought=self.thought_rule(),
        )  # fmt: skip

    def parse(self, output_ids: Sequence[int], calls: bool = True) -> Message:
        """The message in sampled ids, with or without a stop token. Without `calls`, what looks
        like a call is text."""
        text = self.decode(self.unstopped(output_ids))
        return self.read(text) if calls else {"role": "assistant", "content": text}

    def unstopped(self, output_ids: Sequence[int]) -> Sequence[int]:
        """The ids without a stop token at their end."""
        return output_ids[:-1] if output_ids and output_ids[-1] in self.stop_ids else output_ids

    def ended(self, fed_ids: Sequence[int]) -> list[int]:
        """The ids with the end of the last turn as the format writes it: added where the sample
        was cut, put in the place of another stop token."""
        fed, end = list(fed_ids), self.stop_ids[0]
        if fed and fed[-1] in self.stop_ids:
            fed.pop()
        return [*fed, end]

    def token(self, text: str) -> int:
        """The one token that a text is. Raises ValueError."""
        ids = self.encode(text)
        if len(ids) != 1:
            raise ValueError(f"the tokenizer has no {text} token: not a {self.name} model")
        return ids[0]

    def mark(self, text: str) -> str:
        """A text of the format in a grammar: its token where it has one."""
        ids = self.encode(text)
        return f"<[{ids[0]}]>" if len(ids) == 1 else literal(text)

    # -- text ------------------------------------------------------------------------------

    def said(self, message: Message) -> str:
        """A message's text as it may stand in a prompt."""
        return self.apart(text_of(message.get("content")))

    def apart(self, text: str) -> str:
        """A text with the special tokens in it taken apart."""
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    def json(self, value: Any, indent: int | None = None) -> str:
        """A value as Hugging Face's `tojson` writes it, special tokens taken apart."""
        return self.apart(json.dumps(value, ensure_ascii=False, indent=indent))


def role_of(message: Message) -> str:
    """The role in a template's words. Raises FormatError for one that formats do not have."""
    role = "system" if message["role"] == "developer" else message["role"]
    if role not in ROLES:
        raise FormatError(f"the chat format has no role {role!r}")
    return role


def offered(tools: Sequence[Tool]) -> list[Tool]:
    """The tools that a format can offer: functions."""
    return [t for t in tools if is_function(t)]


def arguments_of(call: Any) -> Any:
    """What a call gives: a JSON value where its arguments are one, else their text.

    A JSON string stays the text that it is: templates take it for arguments written already.
    """
    _, text = call_parts(call)
    if not is_function(call):
        return text
    try:
        value = strict_json.loads(text) if text else {}
    except ValueError:
        return text
    return text if isinstance(value, str) else value


def written_arguments(call: str, key: str) -> str | None:
    """The arguments in a call's JSON, as they are written; None unless they are its last field
    behind the name, and JSON but for numbers that are none."""
    found = re.match(rf'\s*\{{\s*"name"\s*:\s*"(?:[^"\\]|\\.)*"\s*,\s*"{key}"\s*:', call)
    body = call.rstrip()
    if found is None or not body.endswith("}"):
        return None
    text = body[found.end() : -1].strip()
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    return text


def for_template(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as Hugging Face's templates take them: text content, arguments as values."""
    shown: list[dict[str, Any]] = []
    for message in messages:
        one: dict[str, Any] = {**message, "role": role_of(message)}
        one["content"] = text_of(message.get("content"))
        calls = one.pop("tool_calls", None)
        if calls:
            functions = [(call_parts(c)[0], arguments_of(c)) for c in calls]
            one["tool_calls"] = [
                {"type": "function", "function": {"name": n, "arguments": a}} for n, a in functions
            ]
        shown.append(one)
    return shown
