"""Streamed text against the parse of all that was sampled, in every chat format; and its work."""

import functools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from families import tokenizer_of
from understudy.core.chatml import ChatMLRenderer
from understudy.core.turns import TurnRenderer
from understudy.core.types import text_of
from understudy.engine.text_stream import TextStream
from understudy.models.rendering import RENDERERS, over

# the chat formats, each with a tokenizer that has its tokens
FORMATS = {"chatml": "qwen2_5", "qwen2.5": "qwen2_5", "qwen3": "qwen3", "qwen3-nothink": "qwen3",
           "qwen3-instruct-2507": "qwen3_instruct_2507", "llama3": "llama3_1"}  # fmt: skip
STOP = "STOP"
CALL = '\n{"name": "f", "arguments": {"a": "</tool_call>"}}\n'
PIECES = ("a", "is here", " ", "\n", "\n\n", "é", "🙂🙂", "\ufffd", "<", "<tool", "_call>", "ST",
          "OP", "STOP", "<tool_call>", "</tool_call>", CALL, "{", ";",
          '{"name": "f", "parameters": {}}', "<|im_", "end|>", "<|python_tag|>")  # fmt: skip
THOUGHTS = ("", "<think>\n\n</think>\n\n", "\n<think>why é</think>", "<think>on and on",
            "<think>a<tool_call></think>\n{", "<think>a</think><think>c</think>\n\n")  # fmt: skip


@functools.cache
def renderer_for(name: str) -> TurnRenderer:
    return over(tokenizer_of(FORMATS[name]), RENDERERS[name])


@functools.cache
def parts_of_characters(name: str) -> list[int]:
    """Ids of single bytes that are no character alone."""
    renderer = renderer_for(name)
    return [i for i in range(300) if renderer.decode([i]) == "\ufffd"]


def final(renderer: TurnRenderer, ids: Sequence[int], stop: Sequence[str], calls: bool) -> str:
    """The whole answer's content, up to a stop string (as engine.chat has it)."""
    text = text_of(renderer.parse(ids, calls).get("content"))
    return text[: min([len(text), *(at for s in stop if (at := text.find(s)) >= 0)])]


def certain(renderer: TurnRenderer, ids: Sequence[int], stop: Sequence[str], calls: bool) -> str:
    """What a parse of all that came so far says for certain: no mark, and no beginning of one."""
    message = renderer.parse(ids, calls)
    if message.get("tool_calls"):
        return ""
    text = text_of(message.get("content")).rstrip("\ufffd")
    marks = [*(renderer.call_marks if calls else ()), *stop]
    marks += [] if renderer.thought_ids is None else [renderer.decode(renderer.thought_ids[:1])]
    ends = [at for m in marks if (at := text.find(m)) >= 0]
    ends += [len(text) - n for m in marks for n in range(1, len(m) + 1) if text.endswith(m[:n])]
    return text[: min([len(text), *ends])].rstrip()


@pytest.mark.parametrize("name", FORMATS)
@given(st.data())
def test_a_stream_is_what_a_parse_of_all_gives(name: str, data: st.DataObject) -> None:
    renderer = renderer_for(name)
    encoded = st.sampled_from(PIECES).map(renderer.encode)
    broken = st.sampled_from(parts_of_characters(name)).map(lambda i: [i])
    pieces = data.draw(st.lists(encoded | broken, max_size=25))
    thought = renderer.encode(data.draw(st.sampled_from(THOUGHTS)))
    ids = [*thought, *(i for p in pieces for i in p if i not in renderer.stop_ids)]
    ids += data.draw(st.sampled_from([[], [renderer.stop_ids[0]]]))
    calls = data.draw(st.booleans())
    stop = data.draw(st.sampled_from([(), (STOP,), (STOP, "a é")]))

    stream, given_out, at = TextStream(renderer, stop, calls), "", 0
    whole = final(renderer, ids, stop, calls)
    while at < len(ids):
        size = data.draw(st.integers(1, 4))
        given_out += stream.add(ids[at : at + size])
        at += size
        assert whole.startswith(given_out)
        assert given_out.startswith(certain(renderer, ids[:at], stop, calls))
    assert given_out + stream.rest({"role": "assistant", "content": whole}) == whole


def test_spaces_between_words_stay_where_a_decoder_drops_the_first() -> None:
    words = {"▁so": 0, "▁it": 1, "▁is": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="▁so"))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    made = over(PreTrainedTokenizerFast(tokenizer_object=tokenizer), ChatMLRenderer)
    stream = TextStream(made, ())
    assert [stream.add([i]) for i in (0, 1, 2)] == ["so", " it", " is"]
    assert made.decode([0, 1, 2]) == "so it is"


def decoded(name: str, ids: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many characters are decoded or parsed for a stream of single ids."""
    renderer = over(tokenizer_of(FORMATS[name]), RENDERERS[name])
    count = 0
    decode = renderer.decode

    def counted(given: Sequence[int]) -> str:
        nonlocal count
        text = decode(given)
        count += len(text)
        return text

    monkeypatch.setattr(renderer, "decode", counted)
    stream = TextStream(renderer, (STOP,))
    for i in ids:
        stream.add([i])
    return count


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["words", "newlines", "thoughts", "call", "emoji", "broken"])
def test_the_work_of_a_stream_grows_with_its_length_alone(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = renderer_for(name)
    first, again = {
        "words": ("", "it is here "), "newlines": ("", "\n"), "thoughts": ("<think>\n", "so it "),
        "call": ("<tool_call>\n{", '"a": 1, '), "emoji": ("", "🙂é"), "broken": ("é", ""),
    }[kind]  # fmt: skip
    repeated = renderer.encode(again) or parts_of_characters(name)[:1]

    def work(times: int) -> int:
        return decoded(name, [*renderer.encode(first), *repeated * times], monkeypatch)

    assert work(800) < 4.5 * work(200)
