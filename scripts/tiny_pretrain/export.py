"""The package's files: config, weights, tokenizer, generation config."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from .net import Shape
from .tokenizer import END_OF_TEXT, IM_END


def write_model(
    run: Path,
    target: Path,
    raw: bool = False,
    dtype: torch.dtype | None = None,
    other: Path | None = None,
) -> None:
    """A Hugging Face folder of the run's weights (their running average unless `raw`), or of the
    mean of its weights and those of the `other` run that it went on from (arXiv 2203.05482)."""
    from tokenizers import Tokenizer
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    saved = load_file(str(run / ("checkpoint" if raw else "average")) + ".safetensors")
    weights = {
        k.removeprefix("model/"): v
        for k, v in saved.items()
        if not k.startswith(("first/", "second/"))
    }
    if other is not None:
        more = load_file(str(other / "average.safetensors"))
        weights = {k: (v + more[k]) / 2 for k, v in weights.items()}
    s = Shape(**json.loads((run / "options.json").read_text())["shape"])
    tok = Tokenizer.from_file(str(run / "tokenizer.json"))
    stop, pad = tok.token_to_id(IM_END), tok.token_to_id(END_OF_TEXT)
    config = Qwen3Config(
        vocab_size=s.vocab,
        hidden_size=s.dim,
        intermediate_size=s.ff,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        num_key_value_heads=s.kv_heads,
        head_dim=s.head_dim,
        max_position_embeddings=s.max_positions,
        rms_norm_eps=s.eps,
        rope_parameters={"rope_type": "default", "rope_theta": s.theta},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=stop,
        pad_token_id=pad,
    )
    model = Qwen3ForCausalLM(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or missing:
        raise SystemExit(f"weights do not fit: missing {missing}, unexpected {unexpected}")
    model.to(dtype or torch.float32)
    model.generation_config = GenerationConfig(
        eos_token_id=stop, pad_token_id=pad, do_sample=False, max_new_tokens=256
    )
    target.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(target))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(run / name, target / name)


def export(run: Path, package: Path, raw: bool = False, other: Path | None = None) -> None:
    """Replace the package's model files one by one, each atomically."""
    package.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=package.parent) as folder:
        write_model(run, Path(folder), raw, other=other)
        for path in sorted(Path(folder).iterdir()):
            path.chmod(0o644)
            os.replace(path, package / path.name)
    size = sum(p.stat().st_size for p in package.iterdir() if p.is_file())
    print(f"{package}: {size / 1e6:.2f} MB")
