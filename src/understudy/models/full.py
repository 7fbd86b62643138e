"""A fine-tuned model as a whole: a folder in Hugging Face format, which serves as a base again."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from understudy.models.adapters import METADATA, replace_directory


def save_model(
    path: str | Path,
    model: Any,
    tokenizer: Any,
    metadata: Mapping[str, Any] | None = None,
    beside: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Path:
    """Write a model with its tokenizer. The folder appears whole or not at all; an old one is
    replaced. `understudy.json` in it holds the metadata; `beside` are further files of tensors."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for name, own in (beside or {}).items():
            save_file(dict(own), temporary / name)
        (temporary / METADATA).write_text(json.dumps(dict(metadata or {}), indent=2) + "\n")
        os.chmod(temporary, 0o755)
        replace_directory(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
