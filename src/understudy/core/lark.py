"""Pieces of grammars for sampled messages, in llguidance's variant of Lark.

JSON is written as `json.dumps(value, ensure_ascii=False)` writes it, which is what chat formats
have in histories: one form for each value, and no white space without end. Properties come in the
schema's order.

An object that names its properties and does not speak of others has no others: callers mean that
whether they write `additionalProperties` or not. Schemas that are put together out of parts
(`allOf`, or a reference or choice beside properties) are taken as they are.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from understudy.core.answer_form import AnswerForm, FormError
from understudy.core.types import Tool

_CONTROL = re.compile(r"\\u00[01]")  # a character that JSON only has as \u00..
_REFERENCES = 100  # a schema with more of them is not looked at: max_tokens ends its samples
_PARTS = ("$ref", "anyOf", "oneOf", "if", "patternProperties", "unevaluatedProperties")


def literal(text: str) -> str:
    """A text as it is."""
    return json.dumps(text)


def json_rule(schema: Mapping[str, Any], strict: bool) -> str:
    """What a schema allows. Keywords that the library cannot hold are refused where `strict`, else
    left out. Raises FormError for a schema that no finite value satisfies."""
    try:
        endless, given = _never_ends(schema), json.dumps(closed(schema))
    except RecursionError:
        raise FormError("the schema is nested too deeply", "response_format") from None
    if endless:
        raise FormError("the schema refers to itself without end", "response_format")
    # without \u escapes there are no halves of surrogate pairs
    options = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ",
               "json_allowed_escapes": 'nrbtf\\"' + ("u" if _CONTROL.search(given) else ""),
               "lenient": not strict}  # fmt: skip
    return "%json " + json.dumps({**json.loads(given), "x-guidance": options})


def arguments_rule(tool: Tool, call: tuple[str, str] | None = None) -> str:
    """What a function's arguments may be; with `call`, what an object of two fields of these names
    may be, the function's name and its arguments. Raises FormError where the parameters are no
    object's schema."""
    function = tool["function"]
    given: Mapping[str, Any] = function.get("parameters") or {"properties": {}}
    kind = given.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise FormError(f"the parameters of {function['name']!r} are no object's schema", "tools")
    schema = {"type": "object", **{name: v for name, v in given.items() if name != "type"}}
    try:
        if call is not None:
            inner = _moved(closed(schema), f"#/properties/{call[1]}")
            fields = {call[0]: {"const": function["name"]}, call[1]: inner}
            schema = {"type": "object", "properties": fields, "required": list(call),
                      "additionalProperties": False}  # fmt: skip
        return json_rule(schema, bool(function.get("strict")))
    except (FormError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise FormError(f"the parameters of {function['name']!r}: {why}", "tools") from error


def _moved(schema: Any, root: str) -> Any:
    """The schema with its references to itself as they are where its root lies elsewhere."""
    if isinstance(schema, list):
        return [_moved(value, root) for value in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {name: _moved(value, root) for name, value in schema.items()}
    ref = moved.get("$ref")
    if isinstance(ref, str) and (ref == "#" or ref.startswith("#/")):
        moved["$ref"] = root + ref[1:]
    return moved


def closed(schema: Any) -> Any:
    """The schema with the objects closed that name their properties: see the module."""
    return schema if _is_joined(schema) else _closed(schema)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    out: dict[str, Any] = {}
    for name, value in schema.items():
        if name in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
            out[name] = {k: _closed(v) for k, v in value.items()}
        elif name in ("anyOf", "oneOf", "prefixItems") and isinstance(value, list):
            out[name] = [_closed(v) for v in value]
        else:
            out[name] = _closed(value) if name in ("items", "additionalProperties") else value
    if "properties" in out:
        out.setdefault("additionalProperties", False)
    return out


def _is_joined(value: Any) -> bool:
    """Whether objects in a schema are described in several places together."""
    if isinstance(value, list):
        return any(map(_is_joined, value))
    if not isinstance(value, Mapping):
        return False
    joined = "allOf" in value or ("properties" in value and any(p in value for p in _PARTS))
    return joined or any(map(_is_joined, value.values()))


def _never_ends(schema: Mapping[str, Any]) -> bool:
    """Whether a schema's references lead back to themselves whatever is chosen, so that no finite
    value satisfies it."""
    refs = set(_references(schema))
    if len(refs) > _REFERENCES:
        return False
    ending: set[str] = set()
    while new := {r for r in refs - ending if _ends(_referred(schema, r), ending)}:
        ending |= new
    return not _ends(schema, ending)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        yield from _references(inner)


def _ends(schema: Any, ending: Set[str]) -> bool:
    """Whether a finite value may satisfy a schema where the references in `ending` have one."""
    if not isinstance(schema, Mapping) or "enum" in schema or "const" in schema:
        return True
    if isinstance(schema.get("$ref"), str) and schema["$ref"] not in ending:
        return False
    for name, enough in (("anyOf", any), ("oneOf", any), ("allOf", all)):
        parts = schema.get(name)
        if isinstance(parts, list) and not enough(_ends(p, ending) for p in parts):
            return False
    needed: list[Any] = []
    if schema.get("type") == "object":
        properties, required = schema.get("properties"), schema.get("required")
        known = properties if isinstance(properties, Mapping) else {}
        listed = required if isinstance(required, list) else []
        needed = [known[p] for p in listed if isinstance(p, str) and p in known]
    elif schema.get("type") == "array" and "prefixItems" not in schema:
        least = schema.get("minItems")
        needed = [schema.get("items")] if isinstance(least, int) and least > 0 else []
    return all(_ends(p, ending) for p in needed)


def _referred(root: Mapping[str, Any], ref: str) -> Any:
    """What a reference within a schema names; nothing for one that names nothing in it, which the
    library refuses."""
    found: Any = root
    if ref != "#" and not ref.startswith("#/"):
        return None
    for part in ref.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def message_grammar(
    form: AnswerForm, calls: Sequence[str], *, free: str, before: bool, between: str | None,
    thought: str | None,
) -> str:  # fmt: skip
    """The grammar of a message of this form in a chat format's own terms.

    calls: the calls that may be made. free: the terminal of text that is no call; `before`: such
    text may stand before calls. between: what stands between calls, None where a message has one at
    most. thought: the rule of what may come first.
    """
    rules = [f"start: {'thought? ' if thought else ''}message"]
    ways: list[str] = []
    if calls:
        more = f" ({literal(between)} call)*" if between is not None and form.several else ""
        rules += [f"calls: call{more}", f"call: {' | '.join(calls)}"]
        ways.append("calls")
    if form.schema is not None:
        ways.append("answer")
        lead = f"{literal(form.lead)}? " if form.lead else ""
        rules.append(f"answer: {lead}{json_rule(form.schema, form.strict)}")
    elif not form.required:
        ways = ["TEXT", *(f"TEXT {way}" if before else way for way in ways)]
        rules.append(f"TEXT: {free}")
    rules.append(f"message: {' | '.join(ways)}")
    rules += [thought] if thought else []
    return "\n".join(rules) + "\n"
