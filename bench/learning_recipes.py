"""What `bench learning` makes of the deployed agent: each recipe trains adapters, of which the best
counts."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.incumbents import run_at, traffic_of

EPOCHS = (1, 3, 6)  # of filtered SFT
RATES = {
    "lora": (1e-3, 4e-3, 1e-2),
    "full": (1e-4, 4e-4, 1e-3),
}  # an adapter's are 10 times as high
GROUPS, SIZE = 32, 4  # of a step of GRPO


@dataclass(frozen=True, slots=True)
class Setting:
    """What a recipe is given: the agent that was deployed, its episodes, a folder for its runs."""

    folder: Path
    seed: int
    level: int  # of the incumbent
    traffic: int  # episodes of it
    start: Path
    episodes: Sequence[Any]
    more: Sequence[str]  # settings, for small sizes

    @property
    def own(self) -> list[str]:
        """What every recipe is told."""
        return [f"seed={self.seed}", f"start={self.start}"]


def _filtered_sft(given: Setting) -> list[Path]:
    """Distillation of what has a thumb up, from the agent that was deployed."""
    from understudy.recipes.sft import SftConfig, sft
    from understudy.runs.config import load_config

    made = []
    for epochs in EPOCHS:
        own = ["keep=feedback", "batch_episodes=8", "lr=1e-3", "split=all", f"epochs={epochs}"]
        config = load_config(SftConfig, None, [*own, *given.own])
        with run_at(given.folder / f"filtered-{epochs}", config, given.seed) as begun:
            made.append(begun.path / "adapter")
            if not made[-1].exists():
                sft(begun, given.episodes, config, None, quiet=True)
    return made


def _ppo(given: Setting) -> list[Path]:
    from understudy.recipes.ppo import PpoConfig, ppo
    from understudy.runs.config import load_config

    config = load_config(PpoConfig, None, ["log.split=all", *given.own, *given.more])
    with run_at(given.folder / "ppo", config, given.seed) as begun:
        adapter = Path(begun.path / "adapter")
        if not adapter.exists():
            ppo(begun, given.episodes, config, None, quiet=True)
    return [adapter]


def _stream(given: Setting) -> list[Path]:
    from understudy.recipes.arrivals import Given
    from understudy.recipes.stream import StreamConfig, stream
    from understudy.runs.config import load_config

    config = load_config(StreamConfig, None, ["log.split=all", *given.own, *given.more])
    with run_at(given.folder / "stream", config, given.seed) as begun:
        adapter = Path(begun.path / "adapter")
        if not adapter.exists():
            stream(begun, Given(given.episodes), config, None, quiet=True)
    return [adapter]


def _kto(given: Setting) -> list[Path]:
    from understudy.recipes.kto import KtoConfig, kto
    from understudy.recipes.preference_data import thumbs_of
    from understudy.runs.config import load_config

    config = load_config(KtoConfig, None, ["split=all", *given.own])
    with run_at(given.folder / "kto", config, given.seed) as begun:
        adapter = Path(begun.path / "adapter")
        if not adapter.exists():
            thumbs, left_out = thumbs_of(
                given.episodes, config.feedback, config.split, config.threshold
            )
            kto(begun, thumbs, config, left_out, quiet=True)
    return [adapter]


def _grpo(given: Setting, name: str, *settings: str) -> list[Path]:
    """GRPO in the world, about as many episodes as were logged."""
    from understudy.recipes.grpo import GrpoConfig, grpo
    from understudy.runs.config import load_config

    steps = max(1, len(given.episodes) // (GROUPS * SIZE))
    size = [f"scenarios_per_step={GROUPS}", f"group_size={SIZE}", f"steps={steps}", "max_turns=12"]
    config = load_config(GrpoConfig, None, [*size, *given.own, *settings])
    with run_at(given.folder / name, config, given.seed) as begun:
        adapter = Path(begun.path / "adapter")
        if not adapter.exists():
            world, check = _world(given)
            asyncio.run(grpo(begun, world, check, config, quiet=True))
    return [adapter]


def _ppo_world(given: Setting) -> list[Path]:
    from understudy.recipes.ppo import PpoConfig
    from understudy.recipes.ppo_world import ppo_in_world
    from understudy.runs.config import load_config

    each = min(64, len(given.episodes))
    size = [f"play.scenarios_per_step={each}", f"play.steps={len(given.episodes) // each}"]
    config = load_config(PpoConfig, None, [*size, "play.max_turns=12", *given.own])
    with run_at(given.folder / "ppo-world", config, given.seed) as begun:
        adapter = Path(begun.path / "adapter")
        if not adapter.exists():
            world, check = _world(given)
            asyncio.run(ppo_in_world(begun, world, check, config, quiet=True))
    return [adapter]


def _sft(given: Setting, tune: str) -> list[Path]:
    """Distillation of the incumbent's episodes that pass the check, into the bare base."""
    from understudy.recipes.sft import SftConfig, sft
    from understudy.runs.config import load_config

    made = []
    episodes, check = _traffic(given), _check()
    for rate in RATES[tune]:
        own = ["keep=check", "batch_episodes=4", "epochs=3", f"tune={tune}", f"lr={rate}"]
        config = load_config(SftConfig, None, [*own, f"seed={given.seed}"])
        with run_at(given.folder / f"sft-{tune}-{rate}", config, given.seed) as begun:
            made.append(begun.path / ("model" if tune == "full" else "adapter"))
            if not made[-1].exists():
                sft(begun, episodes, config, check, quiet=True)
    return made


def _world(given: Setting) -> tuple[Any, Any]:
    """The world of the incumbent's traffic, and the owner's check."""
    from understudy.core.types import split_of
    from understudy.world.learn import learn

    train = [e for e in _traffic(given) if split_of(e.scenario_id or e.id) == "train"]
    return learn(train), _check()


def _traffic(given: Setting) -> list[Any]:
    return asyncio.run(traffic_of(given.folder, given.level, given.seed, given.traffic))


def _check() -> Any:
    from understudy.demo import owner_check
    from understudy.judges.check import Check

    return Check.from_file(str(owner_check.__file__))


RECIPES: dict[str, Callable[[Setting], list[Path]]] = {
    "filtered_sft": _filtered_sft,
    "ppo": _ppo,
    "stream": _stream,
    "kto": _kto,
    "grpo_mean": lambda given: _grpo(given, "grpo-mean"),
    "grpo_group": lambda given: _grpo(given, "grpo-group", "objective.advantage=std"),
    "grpo_global": lambda given: _grpo(given, "grpo-global", "objective.advantage=batch"),
    "ppo_world": _ppo_world,
    "sft_lora": lambda given: _sft(given, "lora"),
    "sft_full": lambda given: _sft(given, "full"),
}
