"""Policies that a vLLM server plays in the place of the embedded engine: the base's weights are
there, and its tokenizer and chat format here.

The server has the base under the name that it has here (its folder's), and sees the folders of
adapters under the same paths.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from understudy.core.ids import uuid7
from understudy.core.origin import ORIGIN, Origin
from understudy.core.types import ModelRef, Policy, Sampling
from understudy.engine.chat import LocalChat
from understudy.engine.errors import EngineError
from understudy.engine.vllm import VllmEngine
from understudy.models.adapters import check_origin, load_adapter
from understudy.models.loading import folder_of, load_renderer
from understudy.models.rendering import origin_of
from understudy.recipes.agents import Agent, agent_of
from understudy.recipes.learner import Learner


@asynccontextmanager
async def agent_over_vllm(folder: Path, temperature: float, url: str) -> AsyncIterator[Agent]:
    """The agent that an adapter is on its base at `url`, under a name of its own there while it
    plays. Raises ValueError where the folder holds a whole model, or an adapter of another base."""
    if (folder / "config.json").exists():
        raise ValueError(f"{folder} is a whole model: a vLLM serves it as a base of its own")
    file = load_adapter(folder)
    source, recorded = file.base or "tiny", file.metadata.get(ORIGIN)
    tokenizer, renderer = load_renderer(
        source, Origin.read(recorded).renderer if recorded else None
    )
    name = source if source == "tiny" else folder_of(source).resolve().name
    origin = origin_of(name, renderer, tokenizer)
    check_origin(file, origin, folder)
    model = ModelRef(name, f"played-{uuid7()}", 1)
    async with VllmEngine(url, name, renderer.stop_ids) as engine:
        await engine.load(model, str(folder))
        try:
            chat = LocalChat(engine, renderer, name, origin=origin)
            yield agent_of(f"the adapter in {folder}", chat, model, temperature)
        finally:
            with suppress(EngineError, ValueError):  # gone already
                await engine.unload(model)


class VllmActor:
    """`recipes.actor.Actor` where a vLLM samples: each version is a folder that it loads, and is
    gone when its turn is over."""

    def __init__(
        self, learner: Learner, engine: VllmEngine, sampling: Sampling, folder: Path
    ) -> None:
        self.learner, self.engine, self.folder = learner, engine, folder
        model = ModelRef(learner.base.name, f"rehearsed-{uuid7()}")
        self.policy = Policy("rehearsed", model, None, sampling)
        self._folders: list[Path] = []

    async def deliver(self, version: int) -> None:
        """The learner as it is now, under this version's number. Not while the trainer steps."""
        model = replace(self.policy.model, version=version)
        self._folders.append(self.learner.save(self.folder / str(version), {"version": version}))
        await self.engine.load(model, str(self._folders[-1]))
        self.policy = replace(self.policy, model=model)
        for gone in self._folders[: -self.engine.keep_versions]:
            shutil.rmtree(gone, ignore_errors=True)
        del self._folders[: -self.engine.keep_versions]

    async def aclose(self) -> None:
        """Unload what was delivered, where the server is still there, and remove its folders."""
        if self._folders:
            with suppress(EngineError, ValueError):
                await self.engine.unload(replace(self.policy.model, version=None))
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def greedy(self) -> Policy:
        return replace(self.policy, sampling=replace(self.policy.sampling, temperature=0.0))
