"""Teach an adapter to fill what a learned world leaves open (see world_language)."""

import asyncio
from collections.abc import Sequence

from understudy.core.types import Episode
from understudy.recipes.resuming import begun_with_all
from understudy.recipes.sft import SftConfig, SftResult, ViewConfig, sft
from understudy.recipes.world_language import Language, apart, of_split, open_calls, tried_on
from understudy.runs.directory import Run
from understudy.world.language.trial import Trial


class LanguageConfig(ViewConfig):
    """More steps than distillation takes: a small base learns the answer's form first."""

    epochs: int = 8
    batch_episodes: int = 8


def train_language(
    run: Run, episodes: Sequence[Episode], config: SftConfig, quiet: bool = False
) -> tuple[SftResult, Trial]:
    """Distil the true values of gaps into an adapter, and try it on the scenarios kept apart.

    Episodes of the held-out split are left out, unless `split` is "all". Raises ValueError where
    nothing is open.
    """
    given = begun_with_all(run, of_split(episodes, config.split))
    found = open_calls(given)
    taught = [one for t in found for le in t.lessons if not apart(le) for one in le.conversations()]
    whole = config.model_copy(update={"split": "all", "keep": "all"})
    result = sft(run, taught, whole, None, quiet)
    language = Language(None, result.adapter, config.base, computing=config)
    trial = asyncio.run(tried_on(language, found, quiet))
    seen = frozenset(e.id for e in given)
    Language(trial, result.adapter, config.base, episodes=seen).save(run)
    return result, trial
