"""Training on a GPU: larger models of random weights, against TRL and the GPU's own matrix rate.

Groups that share a prompt, a base in bf16, LoRA of rank 16 in float32 on every linear layer,
autocast to bf16 on both sides; steps alternate as in `bench train`. Our layers and head are
compiled, and a micro-batch of ours holds two groups, one of TRL's `micro` rows. `matrix_share` is
the step's counted operations a second over those of a product of two large bf16 matrices. Memory is
the peak of a step, weights included.
"""

import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.bench_train import operations
from bench.figures import CannotRun, Figure, figure
from bench.gpu import wait
from bench.training_rollouts import groups, rows_of
from bench.trl_peer import trl_steps
from understudy.models.loading import TINY, load_base
from understudy.models.lora import inject_lora
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer

_WIDE = {"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
         "head_dim": 128, "vocab_size": 151_936}  # fmt: skip
# config.json of Qwen/Qwen3-0.6B and Qwen/Qwen3-1.7B
SHAPES: Mapping[str, Mapping[str, int]] = {
    "qwen3_0_6b": {**_WIDE, "hidden_size": 1024, "intermediate_size": 3072},
    "qwen3_1_7b": {**_WIDE, "hidden_size": 2048, "intermediate_size": 6144},
}
SIDE = 8192  # of the matrices whose product is the measure


def run(
    shapes: Mapping[str, Mapping[str, int]] = SHAPES,
    prompts: int = 4,
    prompt: int = 2048,
    size: int = 16,
    rest: int = 256,
    pairs: int = 5,
    micro: int = 4,
    side: int = SIDE,
    device: str = "cuda",
) -> dict[str, Figure]:
    if device == "cuda" and not torch.cuda.is_available():
        raise CannotRun("there is no CUDA device")
    found: dict[str, Figure] = {}
    rate = _matrix_rate(side, device)
    found["matrix_rate"] = figure([rate / 1e12], "10^12 operations/s")
    for name, shape in shapes.items():
        with tempfile.TemporaryDirectory() as folder:
            _save_random(Path(folder), shape)
            sizes = (prompts, prompt, size, rest)
            found |= _against_trl(name, folder, sizes, pairs, micro, rate, device)
    return found


def _against_trl(
    name: str,
    base: str,
    sizes: tuple[int, int, int, int],
    pairs: int,
    micro: int,
    rate: float,
    device: str,
) -> dict[str, Figure]:
    prompts, prompt, size, rest = sizes
    model: Any = load_base(base, torch.bfloat16, device).model
    inject_lora(model)
    rollouts = groups(int(model.config.vocab_size), prompts, size, prompt, rest)
    rows = rows_of(rollouts)
    multiplications = operations(model, rows)
    config = TrainerConfig(
        lr=1e-5,
        precision="bf16",
        max_tokens_per_microbatch=2 * (prompt + size * rest),
        compile=device == "cuda",
    )
    ours: list[float] = []
    peaks: dict[str, list[float]] = {"ours": [], "trl": []}
    with Trainer(model, config) as trainer:

        def own_step() -> None:
            wait()
            peaks["trl"].append(_peak_gb(device))
            begun = time.perf_counter()
            trainer.step(rows)
            wait()
            ours.append(time.perf_counter() - begun)
            peaks["ours"].append(_peak_gb(device))

        own_step()  # compiles
        ours.clear()
        theirs = trl_steps(
            base,
            rollouts,
            "bf16",
            size,
            pairs + 1,
            own_step,
            micro=min(micro, size),
            dtype=torch.bfloat16,
        )
    seconds = list(zip([s.training for s in theirs[1:]], ours[1:], strict=True))
    tokens = sum(len(row.ids) for row in rows)
    found = {
        f"{name}_step_ratio_trl": figure([t / o for t, o in seconds], "x TRL's speed"),
        f"{name}_tokens_per_s": figure([tokens / o for _, o in seconds], "row tokens/s"),
        f"{name}_matrix_share": figure(
            [100 * 2 * multiplications / o / rate for _, o in seconds], "% of the matrix rate"
        ),
    }
    if device == "cuda":
        found[f"{name}_peak_memory"] = figure([max(peaks["ours"][1:])], "GB, both models loaded")
        found[f"{name}_peak_memory_trl"] = figure([max(peaks["trl"][2:])], "GB, both models loaded")
    return found


def _save_random(folder: Path, shape: Mapping[str, int]) -> None:
    """A Hugging Face folder of the shipped model's class and tokenizer, in another shape."""
    shipped: Any = load_base("tiny").model
    config = type(shipped.config)(**{**shipped.config.to_dict(), **shape, "layer_types": None})
    torch.manual_seed(0)
    type(shipped)(config).save_pretrained(folder)
    for file in TINY.iterdir():
        if file.suffix in (".json", ".jinja") and not (folder / file.name).exists():
            shutil.copy(file, folder)


def _matrix_rate(side: int, device: str) -> float:
    """Operations (a multiplication and an addition are two) a second of a product in bf16."""
    a, b = (torch.randn(side, side, dtype=torch.bfloat16, device=device) for _ in range(2))
    best = 0.0
    for _ in range(5):
        begun = time.perf_counter()
        a @ b
        wait()
        best = max(best, 2 * side**3 / (time.perf_counter() - begun))
    return best


def _peak_gb(device: str) -> float:
    """The peak since the last call."""
    if device != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return peak
