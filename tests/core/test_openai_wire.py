import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabulary_strategies import json_values, tools

from understudy.core.openai_stream import DONE, ChunkAssembler, SSEParser, response_chunks, sse
from understudy.core.openai_wire import (
    WireError,
    parse_chat_request,
    parse_response,
    request_body,
    response_body,
)
from understudy.core.types import Completion, ModelRef, Request, Sampling, Usage

USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'}}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [USER], **fields}).encode()


def test_every_field_is_read() -> None:
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
    chat = parse_chat_request(
        body(
            tools=[tool], tool_choice="auto", temperature=0.5, top_p=0.9, max_completion_tokens=7,
            seed=3, stop="x", stream=True, metadata={"k": "v"}, response_format={"type": "text"},
            parallel_tool_calls=False, logit_bias={"7": -100, "12": 0.5}, top_logprobs=2, n=1,
        )
    )  # fmt: skip
    assert chat.stream
    assert chat.other == {"n": 1}
    assert chat.request == Request(
        messages=(USER,),  # type: ignore[arg-type]
        model=ModelRef("m"),
        tools=(tool,),  # type: ignore[arg-type]
        tool_choice="auto",
        parallel_tool_calls=False,
        response_format={"type": "text"},
        sampling=Sampling(
            0.5, 0.9, max_tokens=7, seed=3, stop=("x",),
            logit_bias=((7, -100.0), (12, 0.5)), top_logprobs=2,
        ),
        metadata={"k": "v"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("data", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b'{"model": "m", "messages": [], "x": NaN}', None),
        (b"[" * 100_000, None),
        (body(model=""), "model"),
        (body(messages=[]), "messages"),
        (body(messages="hi"), "messages"),
        (body(messages=[{"role": "robot", "content": "x"}]), "messages[0]"),
        (body(messages=[{"role": "user", "content": 3}]), "messages[0]"),
        (body(messages=[{"role": "user"}]), "messages[0]"),
        (body(messages=[USER, {"role": "tool", "content": "x"}]), "messages[1]"),
        (body(messages=[{"role": "assistant", "tool_calls": [{"id": "x"}]}]), "messages[0]"),
        (body(tools={}), "tools"),
        (body(tools=[{"type": "function"}]), "tools"),
        (body(temperature="hot"), "temperature"),
        (body(temperature=True), "temperature"),
        (body(temperature=3), "temperature"),
        (body(max_tokens=0), "max_tokens"),
        (body(max_tokens=1.5), "max_tokens"),
        (body(stop=[1]), "stop"),
        (body(seed="x"), "seed"),
        (body(stream="yes"), "stream"),
        (body(metadata=[]), "metadata"),
        (body(logit_bias=[]), "logit_bias"),
        (body(logit_bias={"a": 1}), "logit_bias"),
        (body(logit_bias={"-1": 1}), "logit_bias"),
        (body(logit_bias={"1": "x"}), "logit_bias"),
        (body(logit_bias={"1": True}), "logit_bias"),
        (body(logit_bias={"1": 101}), "logit_bias"),
        (body(top_logprobs=-1), "top_logprobs"),
        (body(parallel_tool_calls="no"), "parallel_tool_calls"),
        (body(response_format="json"), "response_format"),
    ],
)
def test_malformed_requests_name_the_field(data: bytes, param: str | None) -> None:
    with pytest.raises(WireError) as caught:
        parse_chat_request(data)
    error = caught.value.body()["error"]
    assert caught.value.status == 400
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]


@given(st.dictionaries(st.sampled_from(["model", "messages", "tools", "stop", "n"]), json_values))
def test_any_json_is_read_or_refused(value: Any) -> None:
    try:
        parse_chat_request(json.dumps(value))
    except WireError as error:
        assert error.status == 400  # noqa: PT017


@given(tools, st.floats(0, 2), st.integers(1, 99))
def test_request_body_round_trip(some: Any, temperature: float, longest: int) -> None:
    sampling = Sampling(
        temperature=temperature, max_tokens=longest, seed=5, top_k=4,
        logit_bias=((3, -1.5),), top_logprobs=4,
    )  # fmt: skip
    request = Request(
        (USER,), ModelRef("m"), some, sampling,  # type: ignore[arg-type]
        tool_choice="required", parallel_tool_calls=False, response_format={"type": "json_object"},
    )  # fmt: skip
    assert parse_chat_request(json.dumps(request_body(request))).request == request


def completion(message: Any) -> Completion:
    request = Request((USER,), ModelRef("m"))  # type: ignore[arg-type]
    reason = "tool_calls" if message.get("tool_calls") else "stop"
    return Completion("id", request, "ok", message, reason, usage=Usage(5, 0, 2))  # type: ignore[arg-type]


messages = st.one_of(
    st.text(min_size=1).map(lambda t: {"role": "assistant", "content": t}),
    st.lists(st.text(), min_size=1, max_size=3).map(
        lambda texts: {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": t}}
                for i, t in enumerate(texts)
            ],
        }
    ),
    st.tuples(st.text(min_size=1), st.text()).map(
        lambda said: {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c", "type": "custom", "custom": {"name": said[0], "input": said[1]}}
            ],
        }
    ),
)


@given(messages)
def test_response_round_trip(message: Any) -> None:
    answer = parse_response(json.loads(json.dumps(response_body(completion(message)))))
    assert answer.message == message
    assert answer.usage == Usage(5, 0, 2)


@settings(max_examples=60)
@given(messages, st.lists(st.integers(1, 40), min_size=1, max_size=8), st.booleans())
def test_a_stream_cut_anywhere_adds_up(message: Any, cuts: list[int], crlf: bool) -> None:
    whole = b": comment\n\n" + b"".join(map(sse, response_chunks(completion(message)))) + DONE
    if crlf:
        whole = whole.replace(b"\n", b"\r\n")
    parser, assembler = SSEParser(), ChunkAssembler()
    passed, at, i = b"", 0, 0
    while at < len(whole):
        step = cuts[i % len(cuts)]
        for raw, data in parser.feed(whole[at : at + step]):
            passed += raw
            assembler.add(data)
        at, i = at + step, i + 1
    assert passed + parser.rest == whole
    assert assembler.done
    assert assembler.answer().message == message
    assert assembler.finish_reason == completion(message).finish_reason


def test_tool_call_deltas_belong_together_by_index() -> None:
    assembler = ChunkAssembler()
    for delta in (
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": ""}},
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}},
        {"index": 1, "function": {"arguments": "[]"}},
        {"index": 0, "function": {"arguments": "}"}},
    ):
        chunk = {"choices": [{"index": 0, "delta": {"tool_calls": [delta]}}]}
        assembler.add(json.dumps(chunk).encode())
    message = assembler.answer().message
    assert message is not None
    said = [
        (c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]
    ]
    assert said == [("a", "f", "{}"), ("b", "g", "[]")]


def test_token_ids_are_kept_only_with_one_logprob_each() -> None:
    def choice(ids: list[int], logprobs: list[float]) -> dict[str, Any]:
        content = [{"logprob": x} for x in logprobs]
        message = {"role": "assistant", "content": "x"}
        return {"message": message, "token_ids": ids, "logprobs": {"content": content}}

    good = parse_response({"prompt_token_ids": [1], "choices": [choice([5, 6], [-1.0, -2.0])]})
    assert (good.prompt_ids, good.output_ids, good.logprobs) == ((1,), (5, 6), (-1.0, -2.0))
    bad = parse_response({"prompt_token_ids": [1], "choices": [choice([5, 6], [-1.0])]})
    assert (bad.prompt_ids, bad.output_ids, bad.logprobs) == (None, None, None)


@pytest.mark.parametrize(
    "data",
    [b"{broken", b'{"error": {"message": "no"}}', b'{"choices": [3]}', b"[1]",
     b'{"choices": [{"delta": {"tool_calls": [1]}}]}'],
)  # fmt: skip
def test_a_broken_stream_is_said_to_be(data: bytes) -> None:
    with pytest.raises(WireError) as caught:
        ChunkAssembler().add(data)
    assert caught.value.status == 502


@pytest.mark.parametrize("answer", [{}, [], None, {"choices": []}, {"choices": [{"text": "x"}]}])
def test_a_broken_answer_is_said_to_be(answer: Any) -> None:
    with pytest.raises(WireError) as caught:
        parse_response(answer)
    assert caught.value.status == 502
