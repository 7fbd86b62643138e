"""Calls in sampled text: several in one message, cut off anywhere, with text around them."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from families import RENDERER, tokenizer_of
from understudy.core.turns import TurnRenderer
from understudy.engine.text_stream import TextStream
from understudy.models.rendering import RENDERERS, over

FORMATS = {"chatml": "qwen2_5", **{name: template for template, name in RENDERER.items()}}
HERMES = [name for name in FORMATS if name != "llama3"]
PLAIN = st.text(st.sampled_from("ab \né"), max_size=6).map(str.strip)
MARKS = ["<tool_call>", "</tool_call>", "</think>", "\n", '"}', "é"]
VALUES = st.dictionaries(
    st.sampled_from(["key", "é"]),
    st.integers() | st.none() | st.lists(st.sampled_from(MARKS), max_size=4).map("".join),
    max_size=2,
)
GIVEN = st.lists(st.tuples(st.sampled_from(["look_up", "größe"]), VALUES), min_size=1, max_size=3)


def speaker(name: str) -> TurnRenderer:
    return over(tokenizer_of(FORMATS[name]), RENDERERS[name])


def written(name: str, function: str, given: Any) -> str:
    arguments = json.dumps(given, ensure_ascii=False)
    if name == "llama3":
        return f'{{"name": "{function}", "parameters": {arguments}}}'
    return f'<tool_call>\n{{"name": "{function}", "arguments": {arguments}}}\n</tool_call>'


def read(message: Any) -> list[tuple[str, Any]]:
    functions = [c["function"] for c in message.get("tool_calls") or ()]
    return [(f["name"], json.loads(f["arguments"])) for f in functions]


@pytest.mark.parametrize("name", FORMATS)
@given(calls=GIVEN)
@settings(max_examples=40)
def test_several_calls_in_one_message_are_read(name: str, calls: Any) -> None:
    between = "; " if name == "llama3" else "\n"
    text = between.join(written(name, *c) for c in calls)
    renderer = speaker(name)
    ids = [i for part in _spelt(renderer, text) for i in part]
    message = renderer.parse([*ids, renderer.stop_ids[0]])
    assert read(message) == calls
    assert message.get("content") is None


def _spelt(renderer: TurnRenderer, text: str) -> list[list[int]]:
    """The ids of a text in which thoughts' marks are spelt: as a token one would end a thought."""
    parts = text.split("</think>")
    spelt = [renderer.encode(piece) for piece in ("</", "think", ">")]
    return [
        renderer.encode(parts[0]),
        *(i for p in parts[1:] for i in [*spelt, renderer.encode(p)]),
    ]


@pytest.mark.parametrize("name", HERMES)
@given(before=PLAIN, between=PLAIN, after=PLAIN, calls=GIVEN)
@settings(max_examples=40)
def test_text_around_calls_is_kept(
    name: str, before: str, between: str, after: str, calls: Any
) -> None:
    renderer = speaker(name)
    blocks = [written(name, *c) for c in calls]
    text = "\n".join([before, f"\n{between}\n".join(blocks), after])
    message = renderer.parse([i for part in _spelt(renderer, text) for i in part])
    assert read(message) == calls
    said = [before, *[between] * (len(calls) - 1), after]
    assert message.get("content") == ("\n".join(s for s in said if s) or None)


@pytest.mark.parametrize("name", FORMATS)
@given(before=PLAIN, calls=GIVEN)
@settings(max_examples=15)
def test_a_message_that_is_cut_anywhere_keeps_what_it_has(
    name: str, before: str, calls: Any
) -> None:
    """Whole calls stay calls, the last one holds what was written of it, the text stays."""
    renderer = speaker(name)
    if name == "llama3":
        before, calls = "", calls[:1]
    blocks = [written(name, *c) for c in calls]
    begun = f"{before}\n" if before else ""
    ids = [i for part in _spelt(renderer, begun + "\n".join(blocks)) for i in part]
    starts = [len(begun) + len("\n".join([*blocks[:n], ""])) for n in range(len(blocks))]
    for n in range(len(ids) + 1):
        text = renderer.decode(ids[:n])
        message = renderer.parse(ids[:n])
        made = message.get("tool_calls") or []
        whole = sum(len(text) >= at + len(b) for at, b in zip(starts, blocks, strict=True))
        assert [json.loads(c["function"]["arguments"]) for c in made[:whole]] == [
            given for _, given in calls[:whole]
        ]
        assert len(made) in (whole, whole + 1)
        if len(made) > whole:
            assert made[-1]["function"]["arguments"] in text
        if made:
            assert (message.get("content") or "") == before


@pytest.mark.parametrize("name", FORMATS)
def test_numbers_that_are_none_stay_in_the_arguments(name: str) -> None:
    renderer = speaker(name)
    text = written(name, "look_up", {"n": 7}).replace("7", "1e999")
    (call,) = renderer.parse(renderer.encode(text))["tool_calls"]
    assert call["function"] == {"name": "look_up", "arguments": '{"n": 1e999}'}


@pytest.mark.parametrize("name", FORMATS)
def test_without_calls_everything_is_text(name: str) -> None:
    renderer = speaker(name)
    text = written(name, "look_up", {"key": "a"})
    message = renderer.parse([*renderer.encode(text), renderer.stop_ids[0]], calls=False)
    assert message == {"role": "assistant", "content": text}


def test_a_thought_is_none_of_the_content() -> None:
    renderer = speaker("qwen3")
    text = "<think>\nhm\n</think>\n\n"
    for behind in ("so", '{"a": 1}'):
        message = renderer.parse(renderer.encode(text + behind), calls=False)
        assert (message["content"], message["reasoning_content"]) == (behind, "hm")
    cut = renderer.parse(renderer.encode("<think>\nhm"))
    assert (cut["content"], cut["reasoning_content"]) == ("", "hm")


@pytest.mark.parametrize("name", FORMATS)
@given(before=PLAIN, after=PLAIN, calls=GIVEN, whole=st.booleans())
@settings(max_examples=25)
def test_what_streams_is_a_beginning_of_the_final_text(
    name: str, before: str, after: str, calls: Any, whole: bool
) -> None:
    renderer = speaker(name)
    text = "\n".join([before, *(written(name, *c) for c in calls), after])
    for takes_calls in (True, False):
        stream = TextStream(renderer, (), takes_calls)
        ids = [i for part in _spelt(renderer, text) for i in part]
        ids = ids if whole else ids[: len(ids) // 2]
        given = "".join(stream.add([i]) for i in ids)
        message = renderer.parse(ids, takes_calls)
        assert given + stream.rest(message) == (message.get("content") or "")
