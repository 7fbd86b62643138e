"""A base model with its tokenizer and chat format, from the package or a Hugging Face folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy.core.chatml import ChatMLRenderer

TINY = Path(__file__).parent / "tiny"


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """`model` is a Hugging Face causal LM in eval mode; `renderer` works on its tokenizer."""

    model: nn.Module
    tokenizer: Any
    renderer: ChatMLRenderer
    name: str


def folder_of(name_or_path: str) -> Path:
    """The folder of a base: the shipped one for "tiny"."""
    return TINY if name_or_path == "tiny" else Path(name_or_path)


def load_base(
    name_or_path: str = "tiny",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> LoadedBase:
    """Load a causal LM. "tiny" is the model shipped with the package; anything else a folder in
    Hugging Face format. `name` is the folder's name.

    Raises FileNotFoundError when there is no such folder: nothing is downloaded.
    """
    from transformers import AutoModelForCausalLM

    folder = folder_of(name_or_path)
    if not (folder / "config.json").is_file():
        hint = "run scripts/pretrain_tiny.py" if name_or_path == "tiny" else "download it first"
        raise FileNotFoundError(f"there is no model in {folder}: {hint}")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    tokenizer, renderer = load_renderer(name_or_path)
    name = "tiny" if name_or_path == "tiny" else folder.resolve().name
    return LoadedBase(model.to(device).eval(), tokenizer, renderer, name)


def load_renderer(name_or_path: str = "tiny") -> tuple[Any, ChatMLRenderer]:
    """The tokenizer and the renderer alone."""
    from transformers import AutoTokenizer

    folder = folder_of(name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, chatml_renderer(tokenizer)


def chatml_renderer(tokenizer: Any) -> ChatMLRenderer:
    """A renderer over a fast tokenizer: special tokens in text become their ids, none are added,
    and decoding keeps every token.

    Raises ValueError when <|im_end|> is not one token of it.
    """

    backend = tokenizer.backend_tokenizer
    same: dict[int, int] = {}  # one object for each id: rows of thousands of episodes are kept

    def encode(text: str) -> list[int]:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return [same.setdefault(i, i) for i in ids]

    def decode(ids: Sequence[int]) -> str:
        text: str = backend.decode(list(ids), skip_special_tokens=False)
        return text

    if len(encode("<|im_end|>")) != 1:
        raise ValueError("the tokenizer has no <|im_end|> token: not a ChatML model")
    return ChatMLRenderer(encode, decode)
