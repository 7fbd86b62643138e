"""The shipped tiny model: it loads, speaks the format, copies, and knows nothing of the demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

import understudy.models
from understudy.core.chatml import parse_assistant, render_text
from understudy.demo.agent import TOOLS
from understudy.demo.catalogue import CITIES, METHODS

FOLDER = Path(understudy.models.__file__).parent / "tiny"
MARKERS = (
    "<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
)  # fmt: skip


@pytest.fixture(scope="module")
def tok() -> Any:
    return AutoTokenizer.from_pretrained(str(FOLDER))


@pytest.fixture(scope="module")
def model() -> Any:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(str(FOLDER), dtype=torch.float32).eval()


def test_is_a_small_qwen3(model: Any, tok: Any) -> None:
    assert model.config.model_type == "qwen3"
    assert 1e6 <= sum(p.numel() for p in model.parameters()) <= 1.7e6
    assert (FOLDER / "model.safetensors").stat().st_size <= 7e6
    assert sum(p.stat().st_size for p in FOLDER.iterdir() if p.is_file()) <= 12e6
    assert len(tok) == model.config.vocab_size
    assert tok.eos_token == "<|im_end|>"
    assert tok.pad_token == "<|endoftext|>"
    assert model.generation_config.eos_token_id == tok.eos_token_id
    assert not list(FOLDER.rglob("*.py"))


@given(st.text())
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_text_round_trips(tok: Any, text: str) -> None:
    assert tok.decode(tok.encode(text), skip_special_tokens=False) == text


@given(st.lists(st.sampled_from([*MARKERS, "<|im_end|>", " ", "\n", "k7f3q", "1250", '{"a": 1}'])))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_markers_survive_decoding(tok: Any, parts: list[str]) -> None:
    ids = tok.encode("".join(parts))
    assert tok.decode(ids, skip_special_tokens=False) == "".join(parts)
    kept = tok.decode(ids, skip_special_tokens=True)
    assert kept == "".join(p for p in parts if p != "<|im_end|>")


def test_numbers_are_their_digits(tok: Any) -> None:
    for text in ("0", "7", "007", "1250", "1234567", "905"):
        assert tok.convert_ids_to_tokens(tok.encode(text)) == list(text)
    assert tok.convert_ids_to_tokens(tok.encode("a12.5"))[-4:] == ["1", "2", ".", "5"]


def test_a_word_is_the_same_tokens_in_prose_and_json(tok: Any) -> None:
    word = tok.encode("zebra")
    for text in ("a zebra here", '{"zebra": 1}', '["zebra"]', "find_zebra", "zebra"):
        ids = tok.encode(text)
        assert any(ids[i : i + len(word)] == word for i in range(len(ids))), text


KINDS = st.sampled_from(["string", "integer", "number", "boolean", "object"])
NAMES = st.from_regex(r"[a-z]{1,8}(_[a-z]{1,8})?", fullmatch=True)
MARKED = st.sampled_from(["<|im_end|>", "a<|im_start|>user", "<|endoftext|><|im_end|>"])
TEXT = st.one_of(st.text(max_size=30), MARKED)
SPEC = st.one_of(
    st.builds(lambda k: {"type": k}, KINDS),
    st.builds(lambda k: {"type": "array", "items": {"type": k}}, KINDS),
    st.builds(lambda v: {"type": "string", "enum": v}, st.lists(NAMES, min_size=1, max_size=3)),
    st.builds(lambda k: {"type": [k, "null"]}, KINDS),
    st.just({}),
)


@st.composite
def tools(draw: Any) -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, SPEC, max_size=3))
    function: dict[str, Any] = {"name": draw(NAMES)}
    if draw(st.booleans()):
        function["description"] = draw(TEXT)
    required = [p for p in properties if draw(st.booleans())]
    function["parameters"] = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": function}


@st.composite
def calls(draw: Any) -> dict[str, Any]:
    values = st.one_of(TEXT, st.integers(), st.booleans(), st.none(), st.lists(st.integers()))
    arguments = draw(st.dictionaries(NAMES, values, max_size=3))
    text = json.dumps(arguments, ensure_ascii=False)
    return {"id": "c", "type": "function", "function": {"name": draw(NAMES), "arguments": text}}


PARTS = st.builds(lambda t: [{"type": "text", "text": t}, {"type": "image_url"}], TEXT)
MESSAGE = st.one_of(
    st.builds(lambda r, c: {"role": r, "content": c}, st.sampled_from(["user", "system"]), TEXT),
    st.builds(lambda c: {"role": "user", "content": c}, PARTS),
    st.builds(lambda c: {"role": "tool", "tool_call_id": "c", "content": c}, TEXT),
    st.builds(
        lambda c, t: {"role": "assistant", "content": c, "tool_calls": t},
        st.one_of(st.none(), TEXT),
        st.lists(calls(), max_size=2),
    ),
)


@given(st.lists(MESSAGE, min_size=1, max_size=6), st.lists(tools(), max_size=3), st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_chat_template_is_the_core_renderer(
    tok: Any, messages: list[Any], offered: list[Any], prompt: bool
) -> None:
    text = tok.apply_chat_template(
        messages, tools=offered or None, add_generation_prompt=prompt, tokenize=False
    )
    assert text == render_text(messages, offered, add_generation_prompt=prompt)


def _tool(name: str, **parameters: str) -> Any:
    properties = {k: {"type": v} for k, v in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def _greedy(model: Any, tok: Any, messages: list[Any], offered: list[Any]) -> Any:
    prompt = tok.encode(render_text(messages, offered, add_generation_prompt=True))
    out = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=60, do_sample=False)[
        0, len(prompt) :
    ]
    assert out[-1] == tok.eos_token_id
    return parse_assistant(tok.decode(out[:-1], skip_special_tokens=False))


@pytest.mark.parametrize("code", ["k7f3q", "ZB22", "9035", "tr_081b"])
def test_copies_an_id_into_a_call_greedily(model: Any, tok: Any, code: str) -> None:
    offered = [_tool("find_lots", town="string"), _tool("reserve_lot", lot_id="string")]
    first = {"name": "find_lots", "arguments": '{"town": "Vanto"}'}
    found = json.dumps({"lots": [{"id": code, "price": 12}]})
    messages: list[Any] = [
        {"role": "user", "content": "Reserve a lot in Vanto, the cheapest."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_0", "type": "function", "function": first}],
        },
        {"role": "tool", "tool_call_id": "call_0", "content": found},
    ]
    (call,) = _greedy(model, tok, messages, offered)["tool_calls"]
    assert call["function"]["name"] == "reserve_lot"
    assert json.loads(call["function"]["arguments"]) == {"lot_id": code}


def test_no_name_of_the_demo_is_one_token(tok: Any) -> None:
    """What the tokenizer has often seen is a token; the demo's words are none."""
    names = {t["function"]["name"] for t in TOOLS} | {c.lower() for c in (*CITIES, *METHODS)}
    names |= {"stay", "stays", "night", "nights", "guest", "guests"}
    assert not names & {token.lower() for token in tok.get_vocab()}
