"""Ids and adapters of another base, chat template or tokenizer are noticed."""

from dataclasses import replace

import pytest

from understudy.core.openai_stream import ChunkAssembler
from understudy.core.openai_wire import parse_response
from understudy.core.origin import ORIGIN, Origin, OriginError
from understudy.core.rows import policy_rows
from understudy.core.types import Completion, Episode, ModelRef, Request
from understudy.engine.wire import chat_response

HERE = Origin("some/base", "qwen3", "1a", "2b")


def completion(origin, ids=(3,)):
    return Completion(
        "c1", Request((), ModelRef("m")), "ok", prompt_ids=(1, 2), output_ids=ids,
        logprobs=(-1.0,) * len(ids), extra={} if origin is None else {ORIGIN: str(origin)},
    )  # fmt: skip


def test_an_origin_is_read_as_it_was_written():
    assert Origin.read(str(HERE)) == HERE
    with pytest.raises(OriginError, match="is no origin"):
        Origin.read("qwen3")


@pytest.mark.parametrize(
    ("field", "word"),
    [("base", "base"), ("renderer", "chat format"), ("template", "chat template"),
     ("tokenizer", "tokenizer")],
)  # fmt: skip
def test_rows_of_another_origin_are_refused_in_one_line(field, word):
    other = replace(HERE, **{field: "other"})
    with pytest.raises(
        OriginError, match=f"c1 was made with the {word} other, and here it is"
    ) as e:
        policy_rows(Episode("e", (completion(other),)), 1.0, origin=HERE)
    assert "\n" not in str(e.value)


def test_the_same_origin_an_unknown_one_and_nothing_sampled_are_taken():
    silent = completion(replace(HERE, base="other"), ids=())
    same = Episode("e", (completion(HERE), completion(None), silent))
    rows, _ = policy_rows(same, 1.0, origin=HERE)
    assert [len(r.entries) for r in rows] == [1, 1]


def test_an_origin_crosses_the_wire_with_its_ids():
    message = {"role": "assistant", "content": "x"}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "token_ids": [3]}
    body = {"choices": [choice], "prompt_token_ids": [1], ORIGIN: str(HERE)}
    assert parse_response(body).origin == str(HERE)
    assert parse_response({**body, ORIGIN: 7}).origin is None
    stream = ChunkAssembler()
    stream.add(b'{"choices": [{"index": 0, "delta": {"content": "x"}, "token_ids": [3]}]}')
    stream.add(b'{"choices": [], "prompt_token_ids": [1], "%s": "a/b/c/d"}' % ORIGIN.encode())
    assert stream.answer().origin == "a/b/c/d"


def test_the_server_names_the_origin_beside_the_ids():
    done = replace(completion(HERE), message={"role": "assistant", "content": "x"})
    body = {"model": "m", "return_token_ids": True}
    assert parse_response(chat_response([done], body, str)).origin == str(HERE)
    assert ORIGIN not in chat_response([done], {"model": "m"}, str)
