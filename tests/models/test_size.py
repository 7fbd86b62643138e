"""A base's size, from its configuration, and what its tokens cost."""

import json
from pathlib import Path

import pytest
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from families import save_model
from understudy.core.prices import SIZE_PRICES, size_price, size_prices_from
from understudy.models.loading import load_base
from understudy.models.size import parameters_of


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("template", ["qwen2_5", "qwen3", "llama3_1"])
def test_the_count_is_that_of_the_weights(template: str, tmp_path: Path) -> None:
    save_model(tmp_path, template)
    assert parameters_of(str(tmp_path)) == count(load_base(str(tmp_path)).model)


def test_biases_and_separate_tables_count(tmp_path: Path) -> None:
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                    num_attention_heads=4, attention_bias=True, mlp_bias=True)
    )  # fmt: skip
    model.save_pretrained(tmp_path)
    assert parameters_of(str(tmp_path)) == count(model)
    assert parameters_of("tiny") == count(load_base("tiny").model)


def test_what_does_not_say_its_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no model in"):
        parameters_of(str(tmp_path))
    for config, said in (({"model_type": "gpt2"}, "sizes are known of llama"),
                         ({"model_type": "qwen3"}, "does not say the model's sizes")):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=said):
            parameters_of(str(tmp_path))


def test_a_price_is_that_of_the_smallest_size_that_holds_the_base() -> None:
    for prices in SIZE_PRICES.values():
        for entry in prices:
            assert size_price(entry.parameters, prices) is entry
            assert entry.source
            assert entry.date
        assert size_price(prices[-1].parameters + 1, prices) is None
        assert size_price(1, prices) is prices[0]


def test_a_price_list_is_read_in_order_and_refused_in_words() -> None:
    entry = {"parameters": 8e9, "trained": 1, "prompt": 2, "sampled": 3, "source": "s", "date": "d"}
    found = size_prices_from([entry, entry | {"parameters": 1e9, "cached": 0.5}])
    assert [(p.parameters, p.cached) for p in found] == [(1e9, 0.5), (8e9, None)]
    for wrong, said in (({}, "list of objects"), ([{"parameters": 1}], "list of objects"),
                        ([entry | {"source": ""}], "source and its date"),
                        ([entry | {"prompt": -1}], "none of them negative")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            size_prices_from(wrong)
