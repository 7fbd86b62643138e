"""Required, named, single and strict calls, and JSON answers, in every chat format."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from families import save_model
from understudy.core.types import Completion, Message, ModelRef, Request, Sampling, Tool
from understudy.engine.chat import ChatError, LocalChat
from understudy.engine.torch_engine import TorchEngine
from understudy.models.loading import LoadedBase, load_base

USER: Message = {"role": "user", "content": "Where is it?"}
KEYS = {"enum": ["up", "down"]}
FIND: Any = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": 6, "description": "what </tool_call> \"ø\""},
        "order": KEYS,
        "near": {"type": "array", "items": {"type": "number"}, "maxItems": 2},
    },
    "required": ["text"],
}  # fmt: skip
PLACE: Any = {"type": "object", "properties": {"at": {"$ref": "#/$defs/p"}}, "required": ["at"],
              "$defs": {"p": {"type": "object", "properties": {"x": {"type": "integer"}},
                              "required": ["x"]}}}  # fmt: skip


def tool(name: str, parameters: Any = None, **more: Any) -> Tool:
    given = {} if parameters is None else {"parameters": parameters}
    return {"type": "function", "function": {"name": name, **given, **more}}  # type: ignore[typeddict-item]


TOOLS = (tool("find", FIND), tool("now"), tool('gr"öße', {}), tool("place", PLACE))
PARAMETERS: dict[str, Any] = {
    "find": {**FIND, "additionalProperties": False}, "place": PLACE,
    "now": {"maxProperties": 0}, 'gr"öße': {"maxProperties": 0},
}  # fmt: skip
ANSWER = {"type": "object", "properties": {"why": {"type": "string", "maxLength": 9}, "way": KEYS},
          "required": ["way"]}  # fmt: skip
JSON_ANSWER = {"type": "json_schema", "json_schema": {"name": "a", "schema": ANSWER}}
# the chat formats, each with a tokenizer that has its tokens
FORMATS = {"chatml": "qwen2_5", "qwen2.5": "qwen2_5", "qwen3": "qwen3", "qwen3-nothink": "qwen3",
           "qwen3-instruct-2507": "qwen3_instruct_2507", "llama3": "llama3_1"}  # fmt: skip


class Speaker:
    """A random model that speaks a format; it thinks shortly, where it thinks."""

    def __init__(self, base: LoadedBase, name: str) -> None:
        self.renderer, self.ref, self.name = base.renderer, ModelRef(base.name), name
        self.engine = TorchEngine(
            base.model, base.name, base.renderer.stop_ids, threads=1, tokenizer=base.tokenizer,
            decode_text=base.renderer.decode,
        )  # fmt: skip
        self.chat = LocalChat(self.engine, base.renderer, base.name)
        self.bias = tuple((i, 7.0) for i in base.renderer.encode("</think>"))[:1]

    def request(self, **changes: Any) -> Request:
        sampling = Sampling(max_tokens=1500, logit_bias=self.bias if self.name == "qwen3" else ())
        return replace(Request((USER,), self.ref, TOOLS, sampling), **changes)

    async def ask(self, times: int = 12, **changes: Any) -> list[Completion]:
        request = self.request(**changes)
        seeded = [replace(request.sampling, seed=seed) for seed in range(times)]
        return await asyncio.gather(
            *(self.chat.complete(replace(request, sampling=s)) for s in seeded)
        )

    async def refused(self, **changes: Any) -> str:
        with pytest.raises(ChatError) as caught:
            await self.chat.complete(self.request(**changes))
        assert caught.value.completion.status == "invalid"
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture(scope="module", params=FORMATS)
def speaker(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Speaker]:
    folder = save_model(tmp_path_factory.mktemp("model"), FORMATS[request.param])
    made = Speaker(load_base(str(folder), renderer=request.param), request.param)
    yield made
    made.engine.close()


def calls_of(done: Completion) -> list[tuple[str, Any]]:
    assert done.message is not None
    calls = [c["function"] for c in done.message.get("tool_calls") or ()]
    return [(c["name"], json.loads(c["arguments"])) for c in calls]


def check_calls(done: Completion) -> list[str]:
    assert done.finish_reason == "tool_calls"
    assert done.message is not None
    assert not done.message.get("content")
    for name, arguments in calls_of(done):
        jsonschema.validate(arguments, PARAMETERS[name])
    return [name for name, _ in calls_of(done)]


async def test_a_required_call_is_made_and_valid(speaker: Speaker) -> None:
    done = await speaker.ask(40, tool_choice="required")
    names = [check_calls(d) for d in done]
    assert len({n for found in names for n in found}) > 2
    most = max(map(len, names))
    assert most == 1 if speaker.name == "llama3" else most > 1
    if speaker.name == "qwen3":
        assert {"reasoning_content" in (d.message or {}) for d in done} == {True, False}


async def test_one_call_at_most_where_calls_are_not_parallel(speaker: Speaker) -> None:
    done = await speaker.ask(20, tool_choice="required", parallel_tool_calls=False)
    assert [len(check_calls(d)) for d in done] == [1] * 20


async def test_a_named_function_is_called(speaker: Speaker) -> None:
    choice = {"type": "function", "function": {"name": "place"}}
    done = await speaker.ask(tool_choice=choice, response_format=JSON_ANSWER)
    assert [check_calls(d) for d in done] == [["place"]] * len(done)
    assert "'nobody'" in await speaker.refused(
        tool_choice={"type": "function", "function": {"name": "nobody"}}
    )


async def test_calls_that_may_be_made_are_valid_and_text_stays_text(speaker: Speaker) -> None:
    """With strict tools: what begins like a call is one, and no second follows where told."""
    begin = "{" if speaker.name == "llama3" else "<tool_call>"
    (token,) = speaker.renderer.encode(begin)
    stops = tuple((i, 3.0) for i in speaker.renderer.stop_ids)
    sampling = Sampling(max_tokens=1500, logit_bias=((token, 5.5), *stops, *speaker.bias))
    done = await speaker.ask(
        40, sampling=sampling, parallel_tool_calls=False, tools=(tool("find", FIND, strict=True),)
    )
    called = [d for d in done if d.finish_reason == "tool_calls"]
    for d in called:
        ((name, arguments),) = calls_of(d)
        assert name == "find"
        jsonschema.validate(arguments, PARAMETERS["find"])
    assert 0 < len(called) < len(done)
    if speaker.name != "llama3":
        assert any((d.message or {}).get("content") for d in called)


async def test_answers_are_json_of_the_schema(speaker: Speaker) -> None:
    for choice, tools in (("none", TOOLS), (None, ())):
        done = await speaker.ask(tool_choice=choice, tools=tools, response_format=JSON_ANSWER)
        for d in done:
            assert d.message is not None
            assert d.finish_reason == "stop"
            assert "tool_calls" not in d.message
            jsonschema.validate(json.loads(str(d.message["content"])), ANSWER)
    assert "'text'" in await speaker.refused(response_format={"type": "yaml"})


async def test_an_answer_may_be_json_or_a_call(speaker: Speaker) -> None:
    done = await speaker.ask(30, response_format=JSON_ANSWER)
    kinds = set()
    for d in done:
        kinds.add(d.finish_reason)
        if d.finish_reason == "tool_calls":
            check_calls(d)
        else:
            assert d.message is not None
            jsonschema.validate(json.loads(str(d.message["content"])), ANSWER)
    assert kinds == {"stop", "tool_calls"}


async def test_any_object_is_one(speaker: Speaker) -> None:
    (quote,) = speaker.renderer.encode('"')
    short = Sampling(max_tokens=1500, logit_bias=((quote, 4.0), *speaker.bias))
    asked = {"tools": (), "response_format": {"type": "json_object"}, "sampling": short}
    done = await speaker.ask(6, **asked)
    for d in done:
        assert d.message is not None
        if d.finish_reason == "stop":
            assert isinstance(json.loads(str(d.message["content"])), dict)
    assert any(d.finish_reason == "stop" for d in done)


async def test_json_that_looks_like_a_call_is_an_answer_where_no_such_tool_is(
    speaker: Speaker,
) -> None:
    alike = {"type": "object", "required": ["name", "parameters"], "properties": {
        "name": {"const": "find"}, "parameters": {"const": {"text": "<tool_call>"}}}}  # fmt: skip
    named = {"type": "json_schema", "json_schema": {"name": "a", "schema": alike, "strict": True}}
    for tools in ((), (tool("other"),)):
        done = await speaker.ask(8, tools=tools, response_format=named)
        answers = [d for d in done if d.finish_reason == "stop"]
        assert answers
        for d in answers:
            assert d.message is not None
            given = json.loads(str(d.message["content"]))
            assert given == {"name": "find", "parameters": {"text": "<tool_call>"}}


async def test_the_next_turn_is_fed_what_was_sampled(speaker: Speaker) -> None:
    (first,) = await speaker.ask(1, tool_choice="required", parallel_tool_calls=False)
    assert first.message is not None
    assert first.prompt_ids is not None
    assert first.output_ids is not None
    (call,) = first.message["tool_calls"]
    result: Message = {"role": "tool", "tool_call_id": call["id"], "content": "[]"}
    more = (USER, first.message, result)
    (second,) = await speaker.ask(1, messages=more, tool_choice="required")
    fed, said = str(second.prompt_ids)[1:-1], str(first.output_ids)[1:-1]
    assert said in fed
    if speaker.name != "qwen3-nothink":  # its history has no empty thoughts
        assert fed.startswith(f"{str(first.prompt_ids)[1:-1]}, {said}")
    check_calls(second)


async def test_features_that_cannot_be_held_are_refused_where_strict_else_left_out(
    speaker: Speaker,
) -> None:
    listed = {"type": "array", "items": {"enum": [1]}, "maxItems": 3, "uniqueItems": True}
    odd: Any = {"type": "object", "required": ["a"], "properties": {"a": listed}}
    (loose,) = await speaker.ask(1, tools=(tool("odd", odd),), tool_choice="required",
                                 parallel_tool_calls=False)  # fmt: skip
    assert [name for name, _ in calls_of(loose)] == ["odd"]
    strict = tool("odd", odd, strict=True)
    assert "uniqueItems" in await speaker.refused(tools=(strict,), tool_choice="required")
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": odd, "strict": True}}
    assert "uniqueItems" in await speaker.refused(response_format=schema)
    impossible = tool("no", {"properties": {"n": {"enum": []}}, "required": ["n"]})
    assert "nsatisfiable" in await speaker.refused(tools=(impossible,), tool_choice="required")
    text = await speaker.refused(tools=(tool("t", {"type": "string"}),), tool_choice="required")
    assert "'t'" in text


async def test_the_shipped_model_calls_what_it_has_to_and_answers_in_json() -> None:
    speaker = Speaker(load_base("tiny"), "tiny")
    for d in await speaker.ask(8, tool_choice="required", parallel_tool_calls=False):
        assert len(check_calls(d)) == 1
    for d in await speaker.ask(8, tools=(), response_format=JSON_ANSWER):
        assert d.message is not None
        jsonschema.validate(json.loads(str(d.message["content"])), ANSWER)
    free = await speaker.ask(2, sampling=Sampling(temperature=0.0, max_tokens=40))
    assert free[0].output_ids == free[1].output_ids
    speaker.engine.close()
