"""How many parameters a base has, from its configuration alone: no weights are read, no torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TINY = Path(__file__).parent / "tiny"
FAMILIES = ("llama", "qwen2", "qwen3")


def folder_of(name_or_path: str) -> Path:
    """The folder of a base: the shipped one for "tiny"."""
    return TINY if name_or_path == "tiny" else Path(name_or_path)


def parameters_of(name_or_path: str) -> int:
    """The number of a base's parameters, "tiny" or a folder in Hugging Face format.

    Raises FileNotFoundError where there is no such folder, ValueError where its config.json cannot
    be read or is of a family that is not known.
    """
    file = folder_of(name_or_path) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"there is no model in {file.parent}: name its folder")
    try:
        return parameter_count(json.loads(file.read_text()))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} does not say the model's sizes: {error!r}") from error


def parameter_count(config: Mapping[str, Any]) -> int:
    """The number of parameters that a Hugging Face configuration describes, tied ones once.

    Raises ValueError for a family that is not one of FAMILIES, KeyError for a size that is missing.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"sizes are known of {', '.join(FAMILIES)} models, not of {family!r}")
    width, mlp, heads = (config[k] for k in ("hidden_size", "intermediate_size",
                                             "num_attention_heads"))  # fmt: skip
    head = config.get("head_dim") or width // heads
    q, kv = heads * head, (config.get("num_key_value_heads") or heads) * head
    attention = width * (q + 2 * kv) + q * width
    if family == "qwen2" or config.get("attention_bias"):
        attention += q + 2 * kv
    if family != "qwen2" and config.get("attention_bias"):
        attention += width  # Qwen2 has biases on queries, keys and values alone
    if family == "qwen3":
        attention += 2 * head  # norms of queries and keys
    feed_forward = 3 * width * mlp
    if family == "llama" and config.get("mlp_bias"):
        feed_forward += 2 * mlp + width
    layer = attention + feed_forward + 2 * width
    tables = config["vocab_size"] * width * (1 if config.get("tie_word_embeddings") else 2)
    return int(config["num_hidden_layers"] * layer + tables + width)
