"""LoRA layers and adapter files against PEFT."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from understudy.core.binding import Prompts
from understudy.models.adapters import load_adapter, save_adapter
from understudy.models.lora import (
    LoraConfig,
    LoRALinear,
    adapter_tensors,
    base_only,
    full_parameters,
    inject_lora,
    lora_parameters,
    set_adapter_tensors,
)

IDS = torch.tensor([[1, 5, 9, 3, 7, 7]])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_model() -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).float().eval()


def train_a_little(model: Any) -> None:
    with torch.no_grad():
        for i, p in enumerate(lora_parameters(model)):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.1)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


def test_fresh_adapter_changes_nothing_and_trains_only_itself() -> None:
    model = make_model()
    before = logits(model)
    keys = set(model.state_dict())
    names = inject_lora(model)
    assert len(names) == 2 * 7
    assert torch.equal(logits(model), before)
    assert keys <= set(model.state_dict())
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in lora_parameters(model)}
    model(IDS).logits.sum().backward()
    assert all(p.grad is not None for p in trained)
    train_a_little(model)
    assert not torch.allclose(logits(model), before)
    with base_only(model):
        assert torch.equal(logits(model), before)


@pytest.mark.parametrize("rank", [1, 2, 3, 16])
@pytest.mark.parametrize("bias", [False, True])
def test_low_and_high_ranks_compute_the_published_formula(rank: int, bias: bool) -> None:
    """Whether A and B are multiplied first or not (`LoRALinear`): outputs and all gradients."""
    torch.manual_seed(rank)
    base = torch.nn.Linear(12, 20, bias=bias).double()
    layer = LoRALinear(base, LoraConfig(rank=rank, alpha=3.0), torch.Generator())
    layer.lora_B.data.normal_()
    x = torch.randn(7, 12, dtype=torch.float64, requires_grad=True)
    inputs = (x, layer.lora_A, layer.lora_B)
    out = layer(x)
    expected = base(x) + 3.0 / rank * (x @ layer.lora_A.T) @ layer.lora_B.T
    upstream = torch.randn_like(out)
    assert torch.allclose(out, expected, rtol=1e-12, atol=1e-12)
    for got, wanted in zip(
        torch.autograd.grad(out, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-12)
    assert layer.merges == (rank >= 3)


def test_the_seed_fixes_the_start() -> None:
    a, b, c = make_model(), make_model(), make_model()
    for model, seed in ((a, 3), (b, 3), (c, 4)):
        inject_lora(model, LoraConfig(seed=seed))
    for x, y, z in zip(*(lora_parameters(m)[::2] for m in (a, b, c)), strict=True):
        assert torch.equal(x, y)
        assert not torch.equal(x, z)


def test_full_fine_tuning_has_no_adapters() -> None:
    model = make_model()
    assert len(full_parameters(model)) == len(list(model.parameters()))
    inject_lora(model)
    with pytest.raises(ValueError, match="without LoRA"):
        full_parameters(model)
    with pytest.raises(ValueError, match="already"):
        inject_lora(model)


def test_peft_loads_what_we_save_with_equal_logits(tmp_path: Path) -> None:
    from peft import PeftModel

    model = make_model()
    model.save_pretrained(tmp_path / "base")
    config = LoraConfig(rank=4, alpha=12)
    inject_lora(model, config)
    train_a_little(model)
    prompts = Prompts()
    prompts.add("e", [{"role": "system", "content": "be kind"}], ())
    meta = {**prompts.metadata(), "version": 3}
    save_adapter(tmp_path / "a", adapter_tensors(model), config, str(tmp_path / "base"), meta)
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = PeftModel.from_pretrained(fresh, str(tmp_path / "a")).eval()
    assert torch.allclose(logits(theirs), logits(model), atol=1e-6)
    assert not torch.allclose(logits(make_model()), logits(model), atol=1e-3)

    back = load_adapter(tmp_path / "a")
    assert (back.config.rank, back.config.alpha, back.metadata) == (4, 12.0, meta)
    other = make_model()
    inject_lora(other, config)
    set_adapter_tensors(other, back.tensors)
    assert torch.equal(logits(other), logits(model))


def test_we_load_what_peft_saves(tmp_path: Path) -> None:
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    theirs = get_peft_model(make_model(), PeftConfig(r=3, lora_alpha=6, target_modules=["q_proj"]))
    for p in theirs.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, 0, 0.1)
    theirs.save_pretrained(tmp_path)
    back = load_adapter(tmp_path)
    assert back.config.targets == ("q_proj",)
    ours = make_model()
    inject_lora(ours, back.config)
    set_adapter_tensors(ours, back.tensors)
    assert torch.allclose(logits(ours), logits(theirs.eval()), atol=1e-6)


def test_saving_replaces_whole_directories(tmp_path: Path) -> None:
    model = make_model()
    inject_lora(model)
    for version in (1, 2):
        save_adapter(
            tmp_path / "a", adapter_tensors(model), LoraConfig(), "b", {"version": version}
        )
        assert load_adapter(tmp_path / "a").metadata == {"version": version}
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_bad_adapters_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not an adapter directory"):
        load_adapter(tmp_path)
    model = make_model()
    inject_lora(model)
    folder = save_adapter(tmp_path / "a", adapter_tensors(model), LoraConfig(), "b")
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="corrupt"):
        load_adapter(folder)
    weights.write_bytes(whole)
    (folder / "understudy.json").write_text('{"binding": {"templates": [{}]}}')
    with pytest.raises(ValueError, match="is corrupt: its binding cannot be read"):
        load_adapter(folder)
    (folder / "understudy.json").write_text("{}")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(ValueError, match="not plain LoRA"):
        load_adapter(folder)
