"""What a value is made of, in words."""

import json
from collections.abc import Iterable
from typing import Any

from understudy.world.data.values import unescape
from understudy.world.traffic.joint import AND

_OPERATORS = {"*": "times", "+": "plus", "-": "minus", "~": "times"}


def quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)


def value_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def forms_text(forms: Iterable[str]) -> str:
    """Forms of texts (world.data.formats), with 0 for a digit, A for a capital, a for a small
    letter."""
    return " or ".join(f.replace("a+", "a..a").replace("0+", "0..0") for f in forms)


def path_text(path: str) -> str:
    """A path in a result, list positions left open: the field, and what it is in."""
    *outer, last = [unescape(part) for part in path.split("/")[1:] if part != "#"] or [""]
    return f"`{last}` in {quoted(reversed(outer))}" if outer else f"`{last}`"


def source_text(source: tuple[Any, ...]) -> str | None:
    """What a value is made of, as a statement of the tool; None where that is more than a line
    can say, or is no more than that it was shown before."""
    head = source[0]
    if head == "arg":
        return path_text(source[1])
    if head == "out":
        return f"{path_text(source[1])} of the result"
    if head == "const":
        return value_text(source[1])
    if head in ("own", "ref") and source[1] == AND:
        return f"`{source[2]}` as it was before" if len(source) == 3 else None
    if head == "ref" and len(source) == 3:
        return f"`{source[2]}` of the record that `{source[1]}` names"
    if head in ("sum", "count", "op", "total"):
        parts = [source_text(x) for x in source[1:] if isinstance(x, tuple)]
        if not parts or any(p is None for p in parts):
            return None
        if head == "sum":
            return f"the sum of `{source[2]}` over {parts[0]}"
        if head == "count":
            return f"the number of items of {parts[0]}"
        if source[:2] == ("op", "~"):
            return f"{parts[0]} times {parts[1]}, in whole numbers"
        word = _OPERATORS[source[1]] if head == "op" else "times"
        return f"{parts[0]} {word} {parts[1]}"
    return None


def unnamed(text: str) -> str:
    """A statement on what no argument names (world.traffic.nameless), without the sign for it."""
    sign = f"`{AND}`"
    for named, plain in (
        (f"the record that {sign} names", "the session's record"),
        (f"the {sign} given", "the session's record"),
        (f"this {sign}", "the session's record"),
        (sign, "the session's record"),
    ):
        text = text.replace(named, plain)
    return text


def operation_text(operator: str, one: tuple[Any, ...], other: tuple[Any, ...]) -> str:
    """Arithmetic of two sources."""
    return f"{_part(one)} {_OPERATORS[operator]} {_part(other)}"


def _part(source: tuple[Any, ...]) -> str:
    """A source inside another one, whatever its kind."""
    told = source_text(source)
    if told is not None:
        return told
    head = source[0]
    if head in ("own", "ref"):
        inside = f"{path_text(source[3])} in " if len(source) > 3 and source[3] else ""
        return f"{inside}`{source[2]}` of the record that `{source[1]}` names"
    if head == "ref2":
        return f"`{source[3]}` of the record that `{source[2]}` of `{source[1]}` names"
    if head in ("last", "other"):
        whose = ", of another thing" if head == "other" else ""
        return f"{path_text(source[2])} of the last result of `{source[1]}`{whose}"
    if head in ("repeat", "still", "recall"):
        return f"{path_text(source[1])} of the same call before"
    if head == "op":
        return f"({operation_text(*source[1:4])})"
    if head in ("sum", "count", "total"):
        of = _part(source[1])
        if head == "total":
            return f"{of} times {_part(source[2])}"
        return f"the sum of `{source[2]}` over {of}" if head == "sum" else f"the number of {of}"
    return "another value"
