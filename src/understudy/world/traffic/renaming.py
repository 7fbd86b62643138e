"""Recorded episodes with every tool, argument and field under a random name, and the way back.

A world that reads meaning out of names loses it here; one that learns from values does not.
"""

import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
_WORD = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z_][A-Za-z0-9_-]*")


class Renaming:
    """New names for the tools, arguments and fields of rows as `world.fidelity.bench` reads them.

    A key that also occurs as a value, or holds two digits in a row, is data and keeps its text. A
    tool's name that differs from another's by hyphens or by a letter more at the end still does.
    In text that is not JSON names are replaced where they could be nothing else: where they hold
    an underscore or a hyphen, stand in single quotes, or are called.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], seed: int) -> None:
        tools: set[str] = set()
        keys: set[str] = set()
        values: set[str] = set()
        for row in rows:
            for function, content in _exchanges(row):
                if function is not None:
                    tools.add(function["name"])
                _collect(_parsed(function["arguments"] if function else content), keys, values)
        fields = {k for k in keys - values if not re.search(r"\d\d", k)}
        rng, taken = random.Random(seed), tools | keys | values
        self.new: dict[str, str] = {}
        for name in sorted(tools | fields, key=lambda n: (len(n), n.replace("-", "~"))):
            self.new[name] = self._variant(name) or _fresh(rng, taken)
            taken.add(self.new[name])
        self.old = {new: old for old, new in self.new.items()}

    def _variant(self, name: str) -> str | None:
        """The new name of one that was written a little differently, changed in the same way."""
        if (plain := name.replace("-", "_")) != name and plain in self.new:
            return self.new[plain].replace("_", "-")
        return self.new[name[:-1]] + name[-1] if name[:-1] in self.new else None

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of a benchmark folder, renamed."""
        messages = []
        for message in row["messages"]:
            changed = dict(message)
            if changed.get("content"):
                changed["content"] = self.text(changed["content"])
            if "name" in changed:
                changed["name"] = self.new.get(changed["name"], changed["name"])
            if changed.get("tool_calls"):
                changed["tool_calls"] = [self._call(c) for c in changed["tool_calls"]]
            messages.append(changed)
        return {**row, "messages": messages}

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call["function"]
        arguments = self.text(function["arguments"])
        return {**call, "function": {"name": self.new[function["name"]], "arguments": arguments}}

    def text(self, text: str) -> str:
        """A result or an object of arguments, renamed."""
        return _renamed(text, self.new)

    def back(self, text: str) -> str:
        """What was predicted for renamed calls, under the names of before."""
        return _renamed(text, self.old)


def _exchanges(row: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any] | None, str]]:
    for message in row["messages"]:
        for call in message.get("tool_calls") or ():
            yield call["function"], ""
        if message["role"] == "tool":
            yield None, message["content"] or ""


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _collect(value: Any, keys: set[str], values: set[str]) -> None:
    if isinstance(value, dict):
        keys.update(value)
        for item in value.values():
            _collect(item, keys, values)
    elif isinstance(value, list):
        for item in value:
            _collect(item, keys, values)
    elif isinstance(value, str):
        values.add(value)


def _fresh(rng: random.Random, taken: set[str]) -> str:
    while True:
        word = "_".join("".join(rng.choices(_SYLLABLES, k=rng.randrange(2, 4))) for _ in range(2))
        if word not in taken:
            return word


def _renamed(text: str, names: Mapping[str, str]) -> str:
    value = _parsed(text)
    if isinstance(value, dict | list):
        return json.dumps(_keys(value, names), ensure_ascii=False)
    return _WORD.sub(lambda m: _word(m, text, names), text)


def _keys(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(k, k): _keys(v, names) for k, v in value.items()}
    return [_keys(v, names) for v in value] if isinstance(value, list) else value


def _word(match: re.Match[str], text: str, names: Mapping[str, str]) -> str:
    word = match[0]
    quoted = text[match.start() - 1 : match.start()] == text[match.end() : match.end() + 1] == "'"
    called = text[match.end() : match.end() + 1] == "("
    return names.get(word, word) if quoted or called or re.search("[_-]", word) else word
