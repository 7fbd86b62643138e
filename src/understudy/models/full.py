"""A fine-tuned model as a whole: a folder in Hugging Face format, which serves as a base again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from understudy.models.adapters import METADATA, whole_or_not


def save_model(
    path: str | Path,
    model: Any,
    tokenizer: Any,
    metadata: Mapping[str, Any] | None = None,
    beside: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Path:
    """Write a model with its tokenizer. The folder appears whole or not at all; an old one is
    replaced. `understudy.json` in it holds the metadata; `beside` are further files of tensors.

    Raises SaveError where the disk does not take it; the old one is then as it was.
    """
    target = Path(path)
    with whole_or_not(target) as new:
        _save_tokenizer(new, tokenizer)
        model.save_pretrained(new)
        for name, own in (beside or {}).items():
            save_file(dict(own), new / name)
        (new / METADATA).write_text(json.dumps(dict(metadata or {}), indent=2) + "\n")
    return target


def metadata_of(path: str | Path) -> dict[str, Any]:
    """What was said of the model in a folder when it was saved; nothing where we did not save it.
    Raises ValueError where that is damaged."""
    file = Path(path) / METADATA
    try:
        found = json.loads(file.read_text()) if file.exists() else {}
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): train the model again") from None
    return found if isinstance(found, dict) else {}


def _save_tokenizer(folder: Path, tokenizer: Any) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise OSError(str(error)) from error  # all that the tokenizers library says of a full disk
