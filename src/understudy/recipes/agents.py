"""Who plays, where a command may name it: an adapter over an engine of its own, or a remote model;
and who plays the users, where that is not the world itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from understudy.core.protocols import Chat
from understudy.core.types import ModelRef, Policy, Sampling, Scenario
from understudy.recipes.rehearsal import MakeUser
from understudy.world.likeness.played import PlayedUser
from understudy.world.model import World


@dataclass(frozen=True, slots=True)
class Agent:
    """A policy and the chat that answers for it."""

    name: str
    chat: Chat
    policy: Policy


def agent_of(name: str, chat: Chat, model: ModelRef, temperature: float) -> Agent:
    """An agent over a chat, with the prompt that the recorded agents had."""
    return Agent(name, chat, Policy(name, model, sampling=Sampling(temperature=temperature)))


@asynccontextmanager
async def trained_agent(
    folder: Path, temperature: float, threads: int | None = None, device: str = "cpu"
) -> AsyncIterator[Agent]:
    """The agent that an adapter of a base is, or a whole model in Hugging Face format, over an
    engine of its own on a device (models.devices). Raises ValueError for one that is not there."""
    from understudy.models.adapters import load_adapter
    from understudy.models.devices import device_of, dtype_of
    from understudy.models.loading import base_of, load_base
    from understudy.recipes.learner import make_engine

    whole = (folder / "config.json").exists()
    place = device_of(device)
    kind = dtype_of("auto", place)
    if whole:
        base = load_base(str(folder), kind, place)
    else:
        base = base_of(load_adapter(folder), kind, place)
    engine, chat = make_engine(base, threads)
    model = ModelRef(base.name) if whole else ModelRef(base.name, "played", 1)
    try:
        if not whole:
            await engine.load(model, str(folder))
        yield agent_of(
            f"the {'model' if whole else 'adapter'} in {folder}", chat, model, temperature
        )
    finally:
        await engine.aclose()


def users_by(agent: Agent, world: World) -> MakeUser:
    """Users that a model plays, each with a mined goal and profile. Where the model's drafts do
    not hold what that user can know, the mined user answers."""

    def user(scenario: Scenario, seed: int) -> PlayedUser:
        mined = world.user(scenario, seed)
        return PlayedUser(agent.chat, agent.policy.model, world, scenario, seed, mined)

    return user
