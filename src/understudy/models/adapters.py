"""Adapter directories in PEFT's format: `adapter_model.safetensors`, `adapter_config.json`.

PEFT and vLLM load them as they are. `understudy.json` beside them carries what those have no
field for: the prompts and tool schemas that were trained with (core.binding), the origin of what it
was trained on (core.origin), and how many tokens which runs trained it on (core.trained).
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from understudy.core.binding import Binding
from understudy.core.origin import ORIGIN, Origin, OriginError
from understudy.core.types import is_number
from understudy.models.lora import PEFT_PREFIX, LoraConfig

WEIGHTS, CONFIG, METADATA = "adapter_model.safetensors", "adapter_config.json", "understudy.json"


class SaveError(RuntimeError):
    """An adapter or a model that could not be written; the message says what to do."""


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """What a directory holds: tensors under PEFT's names, the LoRA configuration, metadata."""

    tensors: dict[str, Tensor]
    config: LoraConfig
    base: str
    metadata: dict[str, Any]


def save_adapter(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    config: LoraConfig,
    base: str,
    metadata: Mapping[str, Any] | None = None,
    beside: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Path:
    """Write an adapter directory. It appears whole or not at all; an old one is replaced. `beside`
    are further safetensors files in it, by name, which PEFT and vLLM do not look at.

    Raises SaveError where the disk does not take it; the old one is then as it was.
    """
    target = Path(path)
    with whole_or_not(target) as new:
        contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(contiguous, new / WEIGHTS, metadata={"format": "pt"})
        for name, own in (beside or {}).items():
            save_file(dict(own), new / name)
        (new / CONFIG).write_text(json.dumps(_peft_config(config, base), indent=2) + "\n")
        (new / METADATA).write_text(json.dumps(dict(metadata or {}), indent=2) + "\n")
    return target


@contextmanager
def whole_or_not(target: Path) -> Iterator[Path]:
    """A new folder, which takes the place of `target` when the block has filled it. Raises
    SaveError where the disk does not take it; what was at `target` is then as it was."""
    new: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        yield new
        os.chmod(new, 0o755)
        _replace_directory(new, target)
    except (OSError, SafetensorError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        before = "; what was there before is as it was" if target.exists() else ""
        raise SaveError(
            f"{target} could not be written ({why}){before}: make room and run the command again"
        ) from error
    finally:
        if new is not None:
            shutil.rmtree(new, ignore_errors=True)


def load_adapter(path: str | Path) -> AdapterFile:
    """Read an adapter directory of ours or of PEFT's.

    Raises FileNotFoundError for a missing file, ValueError for one that is corrupt or not LoRA.
    """
    folder = Path(path)
    metadata = adapter_metadata(folder)
    try:
        raw = _object(folder / CONFIG)
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"the adapter in {folder} is corrupt: {error}") from error
    if raw.get("peft_type") != "LORA" or raw.get("use_dora") or raw.get("use_rslora"):
        raise ValueError(f"the adapter in {folder} is not plain LoRA")
    if raw.get("rank_pattern") or raw.get("alpha_pattern"):
        raise ValueError(f"the adapter in {folder} has a rank per layer, which is not supported")
    if not tensors or not all(k.startswith(PEFT_PREFIX) for k in tensors):
        raise ValueError(f"the adapter in {folder} has no tensors named {PEFT_PREFIX}*")
    rank, alpha = raw.get("r"), raw.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not is_number(alpha) or alpha <= 0:
        raise ValueError(
            f"the adapter in {folder} is corrupt: {CONFIG} has r={rank!r} and lora_alpha={alpha!r}"
        )
    for name, tensor in tensors.items():
        matrix = re.search(r"\.lora_([AB])\.", name)
        if matrix and (tensor.ndim != 2 or tensor.shape[matrix[1] == "B"] != rank):
            raise ValueError(f"the adapter in {folder} is corrupt: {name} is not of rank {rank}")
    if not torch.cat([t.reshape(-1) for t in tensors.values()]).isfinite().all():
        broken = next(k for k, t in tensors.items() if not t.isfinite().all())
        raise ValueError(f"the adapter in {folder} is corrupt: {broken} is not finite")
    targets = tuple(sorted({_leaf(k.split(".lora_")[0]) for k in tensors}))
    config = LoraConfig(rank=rank, alpha=float(alpha), targets=targets)
    return AdapterFile(tensors, config, str(raw.get("base_model_name_or_path") or ""), metadata)


def adapter_metadata(path: str | Path) -> dict[str, Any]:
    """What stands beside an adapter's weights, without reading those. Raises FileNotFoundError
    where there is no adapter, ValueError where the file is corrupt."""
    folder = Path(path)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} is not an adapter directory ({CONFIG} and {WEIGHTS})")
    try:
        found = _object(folder / METADATA) if (folder / METADATA).is_file() else {}
        Binding.read(found)
    except ValueError as error:
        raise ValueError(f"the adapter in {folder} is corrupt: {error}") from error
    return found


def _object(file: Path) -> dict[str, Any]:
    """A file's JSON object. Raises ValueError where it holds none."""
    value = json.loads(file.read_text())
    if not isinstance(value, dict):
        raise ValueError(f"{file.name} holds no JSON object")
    return value


def check_origin(file: AdapterFile, origin: Origin, path: str | Path) -> None:
    """Raises OriginError where an adapter was trained on another base, chat template or tokenizer.
    Of one that was trained elsewhere the base's name is all that is known."""
    recorded = file.metadata.get(ORIGIN)
    origin.check(recorded, f"the adapter in {path}")
    if recorded is None and file.base and Path(file.base).name != origin.base:
        raise OriginError(f"the adapter in {path} is of the base {file.base}, not {origin.base}")


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _peft_config(config: LoraConfig, base: str) -> dict[str, Any]:
    alpha = int(config.alpha) if config.alpha == int(config.alpha) else config.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(config.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "use_dora": False,
        "use_rslora": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "init_lora_weights": True,
    }


def _replace_directory(new: Path, target: Path) -> None:
    """Rename `new` to `target`; an old target is moved aside first, then removed."""
    if not target.exists():
        os.replace(new, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    os.replace(target, old)
    try:
        os.replace(new, target)
    except OSError:
        os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
