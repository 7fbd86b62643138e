"""Tools that no schema declares, as the traffic used them."""

from collections.abc import Iterable
from typing import Any

from understudy.core.types import Tool
from understudy.world.tools import ToolModel


def schema(model: ToolModel) -> Tool:
    """A tool's schema as its calls show it; an argument has the types that good calls gave it."""
    properties = {p: _argument(model.facts.kinds.get(p, ())) for p in model.facts.known}
    parameters = {"type": "object", "properties": properties, "required": model.facts.required}
    return {"type": "function", "function": {"name": model.facts.name, "parameters": parameters}}


def _argument(kinds: Iterable[str]) -> dict[str, Any]:
    types = sorted({"string" if k == "empty" else k for k in kinds})
    if not types:
        return {}
    schema: dict[str, Any] = {"type": types[0] if len(types) == 1 else types}
    return schema | ({"items": {}} if "array" in types else {})
