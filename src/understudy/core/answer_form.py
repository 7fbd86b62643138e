"""What a request asks of the form of its answer: `tool_choice`, `parallel_tool_calls` and
`response_format`, as OpenAI's chat completions have them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from understudy.core.types import Request, Tool, is_function


class FormError(ValueError):
    """A form that cannot be asked for; `param` names the request's field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What an answer may be: text, or JSON of `schema` where there is one; or calls of `tools`,
    these alone where `required`, and one at most unless `several`. `strict`: what cannot be held of
    the schema is refused, otherwise left out. `lead`: what may stand before the JSON."""

    tools: tuple[Tool, ...] = ()
    required: bool = False
    several: bool = True
    schema: Mapping[str, Any] | None = None
    strict: bool = False
    lead: str = ""


def form_of(request: Request) -> AnswerForm | None:
    """The form that an answer is held to; None where it is free.

    It is free without a `response_format`, where tools may but need not be called, as many as the
    model likes, and none of them is `strict`. Raises FormError.
    """
    schema, strict = _schema(request.response_format)
    functions = tuple(t for t in request.tools if is_function(t))
    choice, several = request.tool_choice, request.parallel_tool_calls is not False
    if choice in (None, "auto"):
        held = not several or any(t["function"].get("strict") for t in functions)
        if schema is None and not (functions and held):
            return None
        return AnswerForm(functions, False, several, schema, strict)
    if choice == "none":
        return None if schema is None else AnswerForm(schema=schema, strict=strict)
    if choice == "required":
        if not functions:
            raise FormError("tool_choice 'required' needs tools that are functions", "tool_choice")
        return AnswerForm(functions, True, several)
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not isinstance(choice, Mapping) or not is_function(choice):
        raise FormError(
            "tool_choice must be 'auto', 'none', 'required' or a function that is named",
            "tool_choice",
        )
    named = tuple(t for t in functions if t["function"]["name"] == name)
    if not named:
        raise FormError(f"tool_choice names {name!r}, which is not among the tools", "tool_choice")
    return AnswerForm(named[:1], True, False)


def _schema(given: Mapping[str, Any] | None) -> tuple[Mapping[str, Any] | None, bool]:
    """The schema of a `response_format`, and whether it is strict."""
    where = "response_format"
    if given is None:
        return None, False
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind == "text":
        return None, False
    if kind == "json_object":
        return {"type": "object"}, False
    if kind != "json_schema":
        raise FormError(f"{where}.type must be 'text', 'json_object' or 'json_schema'", where)
    named = given.get("json_schema")
    schema = named.get("schema") if isinstance(named, Mapping) else None
    if not isinstance(named, Mapping) or not isinstance(schema, Mapping):
        raise FormError(f"{where}.json_schema must hold a schema that is an object", where)
    return schema, bool(named.get("strict"))
