"""Adapter directories that are alike are read in a few operations, to the same numbers."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.core.origin import ORIGIN, Origin, OriginError
from understudy.core.types import ModelRef
from understudy.engine import reading
from understudy.engine.adapters import Narrow, lora_sites, matrices
from understudy.engine.reading import AdapterReader
from understudy.engine.weights import shape_of
from understudy.models.adapters import CONFIG, METADATA, WEIGHTS, load_adapter, save_adapter
from understudy.models.lora import LoraConfig, adapter_tensors, inject_lora

SHAPE = shape_of(make_model().config)
LIKE = torch.empty(0)


def saved(folder: Path, seed: int, config: LoraConfig, layers: str = "", spoil: Any = None) -> str:
    """An adapter of random numbers on all layers, or on those whose names hold `layers`."""
    model = make_model()
    inject_lora(model, config)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(t.shape, generator=generator)
        for name, t in adapter_tensors(model).items()
        if layers in name
    }
    if spoil is not None:
        next(iter(tensors.values()))[0, 0] = spoil
    return str(save_adapter(folder / f"a{seed}", tensors, config, "base", {"seed": seed}))


def read(reader: AdapterReader, path: str) -> list[torch.Tensor]:
    model = reader.read(ModelRef("base", "a"), path)
    assert model.metadata == json.loads((Path(path) / "understudy.json").read_text())
    return matrices(model.lora)


def expected(path: str, narrow: Narrow = "never") -> list[torch.Tensor]:
    file = load_adapter(path)
    return matrices(lora_sites(file.tensors, file.config, SHAPE, LIKE, narrow))


@given(
    st.integers(1, 20),
    st.sampled_from([0.5, 7.0, 32.0]),
    st.sampled_from(["", "q_proj", "mlp", "layers.1."]),
    st.sampled_from(["never", "exact", "always"]),
)
@settings(max_examples=15, deadline=None)
def test_those_that_are_alike_hold_the_same_numbers(
    rank: int, alpha: float, layers: str, narrow: Narrow
) -> None:
    config = LoraConfig(rank=rank, alpha=alpha)
    reader = AdapterReader(SHAPE, LIKE, narrow, None)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(3):
            path = saved(Path(folder), seed, config, layers)
            pairs = list(zip(read(reader, path), expected(path, narrow), strict=True))
            assert all(torch.equal(got, want) for got, want in pairs)
            assert all(got.dtype == want.dtype for got, want in pairs)
    assert len(reader.layouts) == 1


def test_only_the_first_of_a_kind_takes_the_long_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: list[str | Path] = []
    monkeypatch.setattr(reading, "load_adapter", lambda p: (ways.append(p), load_adapter(p))[1])
    reader, config = AdapterReader(SHAPE, LIKE, "exact", None), LoraConfig(rank=4)
    paths = [saved(tmp_path, seed, config) for seed in range(3)]
    for path in paths:
        read(reader, path)
    assert ways == paths[:1]


def test_one_of_another_origin_is_refused_whichever_way_it_is_read(tmp_path: Path) -> None:
    here, config = Origin("base", "qwen3", "1a", "2b"), LoraConfig(rank=4)
    reader = AdapterReader(SHAPE, LIKE, "exact", here)
    foreign = {ORIGIN: str(replace(here, tokenizer="ff"))}
    own, other = saved(tmp_path, 1, config), saved(tmp_path, 2, config)
    (Path(other) / METADATA).write_text(json.dumps(foreign))
    read(reader, own)
    assert len(reader.layouts) == 1
    with pytest.raises(OriginError, match="ff"):
        reader.read(ModelRef("base", "a"), other)


@pytest.mark.parametrize("late", [False, True])
def test_a_folder_that_changes_while_it_is_read_teaches_nothing_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Of two scales with the same header the wrong one would be learned for good."""
    path = saved(tmp_path, 1, LoraConfig(rank=4, alpha=8))
    (tmp_path / "other").mkdir()
    other = saved(tmp_path / "other", 2, LoraConfig(rank=4, alpha=16))

    def replaced_meanwhile(folder: str) -> Any:
        file = load_adapter(folder)
        shutil.copytree(other, folder, dirs_exist_ok=True)
        return file if late else load_adapter(folder)

    reader = AdapterReader(SHAPE, LIKE, "exact", None)
    with monkeypatch.context() as patch:
        patch.setattr(reading, "load_adapter", replaced_meanwhile)
        reader.read(ModelRef("base", "a"), path)
    for folder in (saved(tmp_path, 3, LoraConfig(rank=4, alpha=8)), other, path):
        for got, want in zip(read(reader, folder), expected(folder), strict=True):
            assert torch.equal(got, want)


def test_other_kinds_are_told_apart(tmp_path: Path) -> None:
    """The same header under another scale, other layers, another rank."""
    reader = AdapterReader(SHAPE, LIKE, "never", None)
    kinds = [LoraConfig(rank=4, alpha=8), LoraConfig(rank=4, alpha=16), LoraConfig(rank=2)]
    for round_ in range(2):
        for i, config in enumerate(kinds):
            path = saved(tmp_path, 10 * round_ + i, config, "mlp" if i == 2 else "")
            for got, want in zip(read(reader, path), expected(path), strict=True):
                assert torch.equal(got, want)
    assert len(reader.layouts) == 3


def test_what_is_broken_is_named_as_ever(tmp_path: Path) -> None:
    reader, config = AdapterReader(SHAPE, LIKE, "never", None), LoraConfig(rank=4)
    read(reader, saved(tmp_path, 1, config))
    assert len(reader.layouts) == 1
    with pytest.raises(ValueError, match="not finite"):
        read(reader, saved(tmp_path, 2, config, spoil=float("nan")))
    short = saved(tmp_path, 3, config)
    whole = (Path(short) / WEIGHTS).read_bytes()
    (Path(short) / WEIGHTS).write_bytes(whole[:-40])
    with pytest.raises(ValueError, match="corrupt"):
        read(reader, short)
    (Path(short) / WEIGHTS).write_bytes(whole[:5])
    with pytest.raises(ValueError, match="corrupt"):
        read(reader, short)
    odd = saved(tmp_path, 4, config)
    (Path(odd) / "understudy.json").write_text("[]")
    with pytest.raises(ValueError, match="corrupt"):
        reader.read(ModelRef("base", "a"), odd)
    (Path(odd) / CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match="not an adapter directory"):
        reader.read(ModelRef("base", "a"), odd)
