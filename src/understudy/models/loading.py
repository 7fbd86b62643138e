"""A base model with its tokenizer and chat format, from the package or a Hugging Face folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy.core.origin import ORIGIN, Origin
from understudy.core.turns import TurnRenderer
from understudy.models.adapters import AdapterFile, check_origin
from understudy.models.rendering import origin_of, renderer_of
from understudy.models.size import TINY, folder_of

__all__ = ["TINY", "LoadedBase", "base_of", "folder_of", "load_base", "load_renderer"]


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """`model` is a Hugging Face causal LM in eval mode; `renderer` works on its tokenizer, and
    `origin` is recorded with what comes of them."""

    model: nn.Module
    tokenizer: Any
    renderer: TurnRenderer
    name: str
    origin: Origin
    source: str = "tiny"  # what `load_base` takes to load it again

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the base's weights, whatever an adapter's is."""
        model: Any = self.model
        weight: torch.Tensor = model.get_output_embeddings().weight
        return weight.dtype


def load_base(
    name_or_path: str = "tiny",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    renderer: str | None = None,
) -> LoadedBase:
    """Load a causal LM. "tiny" is the model shipped with the package; anything else a folder in
    Hugging Face format. `name` is the folder's name. `renderer` names a chat format in the place
    of the one that the tokenizer's chat template is.

    Raises FileNotFoundError when there is no such folder: nothing is downloaded; ValueError where
    it cannot be read or lacks weights, no renderer speaks its chat template, or the tokenizer has
    more tokens than the model.
    """
    from transformers import AutoModelForCausalLM

    folder = folder_of(name_or_path)
    if not (folder / "config.json").is_file():
        hint = "run scripts/pretrain_tiny.py" if name_or_path == "tiny" else "download it first"
        raise FileNotFoundError(f"there is no model in {folder}: {hint}")
    tokenizer, spoken = load_renderer(name_or_path, renderer)
    with _reading(folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    model, told = loaded
    wrong = sorted({*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])})
    if wrong:  # they would be random
        raise ValueError(
            f"{folder} lacks {len(wrong)} of its model's weights, or has them in another shape "
            f"({wrong[0]} is the first): download it again"
        )
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model "
            f"{model.config.vocab_size}: they do not belong together"
        )
    name = "tiny" if name_or_path == "tiny" else folder.resolve().name
    origin = origin_of(name, spoken, tokenizer)
    return LoadedBase(model.to(device).eval(), tokenizer, spoken, name, origin, name_or_path)


def base_of(
    adapter: AdapterFile,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> LoadedBase:
    """The base that an adapter was trained on, in the chat format that it was trained with.

    Raises what `load_base` does, and OriginError where the base is another by now.
    """
    recorded = adapter.metadata.get(ORIGIN)
    renderer = Origin.read(recorded).renderer if recorded else None
    base = load_base(adapter.base or "tiny", dtype, device, renderer)
    check_origin(adapter, base.origin, "the folder")
    return base


def load_renderer(
    name_or_path: str = "tiny", renderer: str | None = None
) -> tuple[Any, TurnRenderer]:
    """The tokenizer and the renderer alone: the one named, else the one that speaks its chat
    template. Raises ValueError, naming the folder, where there is none (models.rendering)."""
    from transformers import AutoTokenizer

    folder = folder_of(name_or_path)
    with _reading(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    try:
        return tokenizer, renderer_of(tokenizer, renderer)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Raises ValueError, one line with the folder's name, for whatever the libraries that read it
    find wrong: each of them has its own exceptions."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"the model in {folder} cannot be read: {why}") from error
