"""Which chat format a folder's model speaks, and what is refused."""

import copy
import json
from pathlib import Path

import pytest

from families import save_model, tokenizer_of
from understudy.core.origin import OriginError
from understudy.models.loading import load_base, load_renderer
from understudy.models.rendering import RENDERERS, renderer_of


def test_the_shipped_model_speaks_its_dialect() -> None:
    base = load_base("tiny")
    assert base.renderer.name == "chatml"
    assert (base.origin.base, base.origin.renderer) == ("tiny", "chatml")


@pytest.mark.parametrize(
    ("template", "old", "new"),
    [
        ("qwen2_5", "created by Alibaba Cloud", "created by somebody"),
        ("qwen3", "You may call one or more functions", "Call functions"),
        ("qwen3", "reasoning_content.strip", "reasoning_content.rstrip().strip"),
        ("qwen3", "loop.index0 > ns.last_query_index", "loop.index0 >= 0"),
        ("llama3_1", "ipython<|end_header_id|>", "tool<|end_header_id|>"),
        ("llama3_1", "tool_call.arguments | tojson", "tool_call.arguments"),
    ],
)
def test_a_template_that_says_something_else_is_refused(template: str, old: str, new: str) -> None:
    tokenizer = copy.copy(tokenizer_of(template))
    assert old in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(old, new)
    if old.startswith("reasoning_content"):  # it says the same
        assert renderer_of(tokenizer).name == "qwen3"
        return
    with pytest.raises(ValueError, match="no renderer writes") as refused:
        renderer_of(tokenizer)
    assert all(name in str(refused.value) for name in RENDERERS)
    assert "\n" not in str(refused.value)


def test_a_renderer_can_be_named() -> None:
    tokenizer = copy.copy(tokenizer_of("qwen3"))
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template; name a renderer of: chatml"):
        renderer_of(tokenizer)
    assert renderer_of(tokenizer, "qwen3-nothink").name == "qwen3-nothink"
    with pytest.raises(ValueError, match="there is no renderer 'alpaca'"):
        renderer_of(tokenizer, "alpaca")
    with pytest.raises(ValueError, match=r"eot_id.* token: not a llama3 model"):
        renderer_of(tokenizer, "llama3")


def test_a_template_changed_after_capture_is_noticed(tmp_path: Path) -> None:
    before = load_base(str(save_model(tmp_path / "m", "qwen3"))).origin
    saved = tmp_path / "m" / "chat_template.jinja"
    saved.write_text(saved.read_text() + "\n")
    after = load_base(str(tmp_path / "m")).origin
    assert (after.renderer, after.tokenizer) == (before.renderer, before.tokenizer)
    with pytest.raises(OriginError, match="chat template"):
        after.check(str(before), "completion c")


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", "qwen2_5")
    tokenizer, _ = load_renderer(str(folder))
    tokenizer.add_tokens([f"<extra_{i}>" for i in range(200)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="do not belong together"):
        load_base(str(folder))


def test_a_tokenizer_with_other_words_has_another_origin(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", "qwen2_5")
    before = load_base(str(folder)).origin
    file = folder / "tokenizer.json"
    data = json.loads(file.read_text())
    vocabulary = data["model"]["vocab"]
    first, second = list(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(data))
    with pytest.raises(OriginError, match="tokenizer"):
        load_base(str(folder)).origin.check(str(before), "completion c")
