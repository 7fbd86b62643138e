"""What a request asks of its answer's form, and the pieces of its grammar."""

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from understudy.core.answer_form import AnswerForm, FormError, form_of
from understudy.core.lark import arguments_rule, closed, json_rule
from understudy.core.types import ModelRef, Request


def tool(name: str, parameters: Any = None, **more: Any) -> Any:
    function = {"name": name, **({} if parameters is None else {"parameters": parameters}), **more}
    return {"type": "function", "function": function}


FIND, BOOK = tool("find"), tool("book", {"type": "object", "properties": {"n": {}}})
STRICT = tool("sure", strict=True)
CUSTOM: Any = {"type": "custom", "custom": {"name": "patch"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
ASKED = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
TOOLS = Request(({"role": "user", "content": "hi"},), ModelRef("m"), (FIND, BOOK, CUSTOM))
NAMED: Any = {"type": "function", "function": {"name": "book"}}


@pytest.mark.parametrize(
    ("changes", "form"),
    [
        ({}, None),
        ({"tool_choice": "auto", "parallel_tool_calls": True}, None),
        ({"tool_choice": "none", "parallel_tool_calls": False}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"tools": (), "parallel_tool_calls": False}, None),
        ({"parallel_tool_calls": False}, AnswerForm((FIND, BOOK), False, False)),
        ({"tools": (STRICT, FIND)}, AnswerForm((STRICT, FIND))),
        ({"tool_choice": "required"}, AnswerForm((FIND, BOOK), True)),
        ({"tool_choice": NAMED, "parallel_tool_calls": True}, AnswerForm((BOOK,), True, False)),
        (
            {"response_format": ASKED},
            AnswerForm((FIND, BOOK), schema=SCHEMA, strict=True),
        ),
        (
            {"response_format": {"type": "json_object"}, "tool_choice": "none"},
            AnswerForm(schema={"type": "object"}),
        ),
        ({"response_format": ASKED, "tool_choice": NAMED}, AnswerForm((BOOK,), True, False)),
    ],
)
def test_forms(changes: Any, form: AnswerForm | None) -> None:
    assert form_of(replace(TOOLS, **changes)) == form


@pytest.mark.parametrize(
    ("changes", "param", "why"),
    [
        ({"tool_choice": "required", "tools": (CUSTOM,)}, "tool_choice", "needs tools"),
        ({"tool_choice": "any"}, "tool_choice", "must be 'auto'"),
        ({"tool_choice": {"type": "custom"}}, "tool_choice", "must be 'auto'"),
        ({"tool_choice": {"type": "function", "function": 5}}, "tool_choice", "must be 'auto'"),
        ({"tool_choice": [1]}, "tool_choice", "must be 'auto'"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "patch"}}},
            "tool_choice",
            "names 'patch'",
        ),
        ({"response_format": {"type": "xml"}}, "response_format", "must be 'text'"),
        ({"response_format": "json"}, "response_format", "must be 'text'"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "hold a schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": True}}},
            "response_format",
            "hold a schema",
        ),
    ],
)
def test_what_cannot_be_asked_for_is_named(changes: Any, param: str, why: str) -> None:
    with pytest.raises(FormError, match=why) as caught:
        form_of(replace(TOOLS, **changes))
    assert caught.value.param == param
    assert "\n" not in str(caught.value)


def test_objects_that_name_their_properties_have_no_others() -> None:
    nested = {"type": "array", "items": SCHEMA}
    schema = {**SCHEMA, "properties": {"list": nested, "any": {"anyOf": [SCHEMA, {}]}, "o": {}},
              "$defs": {"x": SCHEMA}}  # fmt: skip
    for value in (
        {"b": 1}, {"list": [{"b": 1}]}, {"any": {"a": 1, "b": 1}, "list": [{"a": 1, "b": 2}]},
    ):  # fmt: skip
        jsonschema.validate(value, schema)
    jsonschema.validate({"list": [{"a": 1}], "o": {"any": 1}}, closed(schema))
    for value in ({"b": 1}, {"list": [{"b": 1}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value, closed(schema))
    assert closed(schema)["$defs"]["x"]["additionalProperties"] is False


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"$ref": "#/$defs/x"}, {"properties": {"b": {}}}], "$defs": {"x": SCHEMA}},
        {**SCHEMA, "anyOf": [{"properties": {"b": {}}}, {"required": ["a"]}]},
        {**SCHEMA, "additionalProperties": {"type": "string"}},
        {**SCHEMA, "patternProperties": {"^b": {}}},
        {"type": "object"},
    ],
)
def test_others_stay_what_they_are(schema: Any) -> None:
    assert closed(schema) == schema


NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}
MAYBE = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}
LIST = {"type": "object", "properties": {"next": MAYBE}, "required": ["next"]}


def test_schemas_without_end_are_refused_and_those_with_one_are_not() -> None:
    endless: list[Any] = [
        {"$ref": "#"},
        {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"anyOf": [{"$ref": "#/$defs/node"}, {"$ref": "#"}], "$defs": {"node": NODE}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    ]
    for schema in endless:
        with pytest.raises(FormError, match="without end"):
            json_rule(schema, True)
    finite: list[Any] = [
        {"$ref": "#/$defs/node", "$defs": {"node": LIST}},
        {"type": "array", "items": {"$ref": "#"}},
        {"$ref": "#/$defs/node", "$defs": {"node": {**NODE, "required": []}}},
        {"type": ["object", "null"], "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
    ]
    for schema in finite:
        assert json_rule(schema, True).startswith("%json {")
    deep: Any = {}
    for _ in range(3000):
        deep = {"items": deep}
    with pytest.raises(FormError, match="nested too deeply"):
        json_rule(deep, True)


def test_arguments_are_an_object() -> None:
    def given(parameters: Any) -> Any:
        read = json.loads(arguments_rule(tool("f", parameters)).removeprefix("%json "))
        read.pop("x-guidance")
        return read

    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    assert given(None) == given({}) == given({"properties": {}}) == nothing
    assert given({"type": "object"}) == {"type": "object"}
    assert given({"type": ["object", "null"], "required": []}) == {"type": "object", "required": []}
    with pytest.raises(FormError, match=r"parameters of 'f' are no object") as caught:
        given({"type": "string"})
    assert caught.value.param == "tools"
    with pytest.raises(FormError, match=r"parameters of 'f': the schema refers to itself"):
        given({"properties": {"x": {"$ref": "#"}}, "required": ["x"], "type": "object"})
