"""Train a small model to fill what a world leaves open: `world.language`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from understudy.core.types import Episode, ModelRef
from understudy.models.loading import load_base
from understudy.recipes.learner import make_engine
from understudy.recipes.sft import SftConfig, SftResult, sft
from understudy.runs.directory import Run
from understudy.world.crossfit import folds
from understudy.world.language import LanguageWorld, lessons
from understudy.world.learn import learn
from understudy.world.model import World


def train_language(
    run: Run, episodes: Sequence[Episode], config: SftConfig, quiet: bool = False
) -> SftResult:
    """Distil the true values of gaps into an adapter: each half of the episodes, by scenario, is
    foretold by a world that learned from the other. Raises ValueError where nothing is open."""
    taught: list[Episode] = []
    for rest, apart in folds(sorted(episodes, key=lambda e: (e.scenario_id or e.id, e.id))):
        taught += lessons(learn(rest), apart)
    if not taught:
        raise ValueError("the world leaves no value of these episodes open: nothing to teach")
    whole = config.model_copy(update={"split": "all", "keep": "all"})
    return sft(run, taught, whole, None, quiet)


@asynccontextmanager
async def with_adapter(
    world: World, adapter: Path, base: str = "tiny", threads: int | None = None
) -> AsyncIterator[LanguageWorld]:
    """A world whose gaps an adapter of the base fills."""
    loaded = load_base(base)
    engine, chat = make_engine(loaded, threads)
    model = ModelRef(loaded.name, "world", 1)
    try:
        await engine.load(model, str(adapter))
        yield LanguageWorld(world, chat, model)
    finally:
        await engine.aclose()
