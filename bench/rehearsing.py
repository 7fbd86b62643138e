"""The demo's recipe in a place: what passes is distilled, and reinforced."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.incumbents import run_at


async def rehearsed(
    folder: Path,
    name: str,
    place: Any,
    episodes: Any,
    check: Any,
    seed: int,
    rft_settings: Sequence[str],
    grpo_settings: Sequence[str],
) -> Path:
    """The adapter that the demo's recipe trains in a place, with more settings."""
    from understudy.demo.size import FULL
    from understudy.recipes.rft import RftConfig, rft
    from understudy.runs.config import load_config

    settings = [*FULL.sft, *FULL.rft, *rft_settings, f"seed={seed}"]
    sampling = load_config(RftConfig, None, settings)
    with run_at(folder / f"{name}-sampled", sampling, seed) as begun:
        start = begun.path / "adapter"
        if not start.exists():
            await rft(begun, place, episodes, check, sampling, quiet=True)
    settings = [*FULL.grpo, *grpo_settings]
    return await reinforced(folder, f"{name}-rehearsed", place, check, seed, start, settings)


async def reinforced(
    folder: Path, name: str, place: Any, check: Any, seed: int, start: Path, settings: Sequence[str]
) -> Path:
    """The adapter of GRPO from another one, in a place."""
    from understudy.recipes.grpo import GrpoConfig, grpo
    from understudy.runs.config import load_config

    config = load_config(GrpoConfig, None, [*settings, f"seed={seed}", f"start={start}"])
    with run_at(folder / name, config, seed) as begun:
        adapter = begun.path / "adapter"
        if not adapter.exists():
            await grpo(begun, place, check, config, quiet=True)
    return Path(adapter)
