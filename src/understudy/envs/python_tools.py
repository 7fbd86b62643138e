"""An environment of plain Python functions over one state object."""

import copy
import inspect
import json
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from understudy.core.chatml import call_error
from understudy.core.types import Feedback, Scenario, Tool, ToolCall, ToolResult, call_parts

_TYPES: dict[Any, str] = {
    str: "string", int: "integer", float: "number", bool: "boolean", dict: "object",
    list: "array", type(None): "null",
}  # fmt: skip


class ToolFailed(Exception):
    """Raise it in a tool: its text is the tool's answer, flagged as an error."""


class PythonTools:
    """Environment of functions `f(state, **arguments)`.

    `make_state(scenario, seed)` makes the state of a session; a session's snapshot is a deep
    copy of it. A tool's description is its docstring, its schema its type hints. A string
    result is the answer itself, anything else is answered as JSON; ToolFailed, TypeError and
    ValueError are answered as errors. `check(state, scenario)` gives the outcome's feedback.
    """

    def __init__(
        self,
        functions: Sequence[Callable[..., Any]],
        make_state: Callable[[Scenario, int], Any],
        check: Callable[[Any, Scenario], list[Feedback]] | None = None,
    ) -> None:
        self.functions = {f.__name__: f for f in functions}
        self.make_state, self.check = make_state, check
        self.specs = tuple(tool_of(f) for f in functions)

    async def start(
        self, scenario: Scenario, seed: int, snapshot: Any | None = None
    ) -> "PythonToolsSession":
        fresh = snapshot is None
        state = self.make_state(scenario, seed) if fresh else copy.deepcopy(snapshot)
        return PythonToolsSession(self, scenario, state)


class PythonToolsSession:
    """One life of the state."""

    def __init__(self, environment: PythonTools, scenario: Scenario, state: Any) -> None:
        self.environment, self.scenario, self.state = environment, scenario, state

    def tools(self, role: str = "agent") -> tuple[Tool, ...]:
        return self.environment.specs

    async def call(self, role: str, tool_call: ToolCall) -> ToolResult:
        name, text = call_parts(tool_call)
        problem = call_error(tool_call, self.tools(role))
        if problem is not None:
            return _failed(problem)
        function = self.environment.functions[name]
        try:
            arguments = json.loads(text or "{}")
            inspect.signature(function).bind(self.state, **arguments)
            result = function(self.state, **arguments)
            if inspect.isawaitable(result):
                result = await result
        except (ToolFailed, TypeError, ValueError) as error:
            return _failed(str(error))
        said = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
        return ToolResult(said)

    async def snapshot(self) -> Any:
        return copy.deepcopy(self.state)

    async def outcome(self) -> list[Feedback]:
        check = self.environment.check
        return check(self.state, self.scenario) if check else []

    async def aclose(self) -> None:
        return None


def _failed(text: str) -> ToolResult:
    return ToolResult(f"Error: {text}", is_error=True)


def tool_of(function: Callable[..., Any]) -> Tool:
    """The tool schema of a function; its first parameter is the state."""
    hints = get_type_hints(function)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {p.name: schema_of(hints.get(p.name, str)) for p in parameters},
        "required": [p.name for p in parameters if p.default is inspect.Parameter.empty],
    }
    description = inspect.getdoc(function) or ""
    return {
        "type": "function",
        "function": {
            "name": function.__name__,
            "description": description,
            "parameters": schema,
        },
    }


def schema_of(hint: Any) -> dict[str, Any]:
    """JSON Schema of a type hint: scalars, lists, dicts, Literal, Optional and unions."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint in _TYPES:
        return {"type": _TYPES[hint]}
    if origin is Literal:
        return {"type": _TYPES.get(type(inside[0]), "string"), "enum": list(inside)}
    if origin in (Union, types.UnionType):
        some = [a for a in inside if a is not type(None)]
        return schema_of(some[0]) if len(some) == 1 else {"anyOf": [schema_of(a) for a in some]}
    if origin in (list, tuple, set) or origin is typing.Sequence:
        return {"type": "array", "items": schema_of(inside[0]) if inside else {}}
    return {"type": "object"} if origin is dict else {}
