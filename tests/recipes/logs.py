"""Logged episodes for tests: three customers, three answers, a thumb for the right one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from understudy.core.types import Completion, Episode, Feedback, ModelRef, Policy, Request, Sampling
from understudy.engine.chat import LocalChat
from understudy.engine.torch_engine import TorchEngine
from understudy.envs.rollout import rollout
from understudy.models.loading import load_base
from understudy.recipes.learner import Lora, make_engine, make_learner
from understudy.recipes.rehearsal import gather
from understudy.recipes.sft import SftConfig, sft
from understudy.runs.directory import Run
from understudy.world.model import World

LORA = Lora(rank=8, alpha=16)
LIKED = {"ann": "red", "bob": "green", "cat": "blue"}
COLOURS = sorted(LIKED.values())


def asked(name: str) -> tuple[Any, ...]:
    return ({"role": "user", "content": f"A colour for {name}?"},)


def distilled(folder: Path) -> Path:
    """An adapter that answers any customer with any colour, all equally likely."""
    episodes = [
        Episode(
            f"{name}-{colour}",
            (Completion("c", Request(asked(name), ModelRef("x")), "ok",
                        {"role": "assistant", "content": colour}),),
            name,
        )
        for name in LIKED for colour in COLOURS
    ]  # fmt: skip
    config = SftConfig(
        lora=LORA, epochs=40, batch_episodes=9, lr=3e-3, split="all", precision="fp32"
    )
    with Run.create(folder, config) as run:
        return sft(run, episodes, config, quiet=True).adapter


async def talk(adapter: Path, n: int, seed: int = 0, version: int = 1) -> list[Episode]:
    """`n` customers served by the adapter at temperature 1, each with a thumb."""
    base = load_base("tiny")
    engine, chat = make_engine(base, threads=1)
    try:
        return await _talk(engine, chat, adapter, n, seed, version)
    finally:
        await engine.aclose()


async def _talk(
    engine: TorchEngine, chat: LocalChat, adapter: Path, n: int, seed: int, version: int
) -> list[Episode]:
    policy = Policy("served", ModelRef("tiny", "served", version))
    await engine.load(policy.model, str(adapter))
    names = [sorted(LIKED)[i % len(LIKED)] for i in range(n)]
    ids = [f"e{version}-{seed}-{i}" for i in range(n)]
    sampling = [Sampling(max_tokens=8, seed=1000 * seed + i) for i in range(n)]
    said = await gather(
        [
            chat.complete(Request(asked(name), policy.model, sampling=s, episode_id=e))
            for e, name, s in zip(ids, names, sampling, strict=True)
        ]
    )
    return [
        Episode(
            e,
            (completion,),
            scenario_id=f"{name}-{e}",
            feedback=(thumb(e, is_right(name, completion)),),
        )
        for e, name, completion in zip(ids, names, said, strict=True)
    ]


def is_right(name: str, completion: Completion) -> bool:
    assert completion.message is not None
    return completion.message.get("content") == LIKED[name]


def thumb(episode: str, up: bool, name: str = "thumb") -> Feedback:
    return Feedback(f"f-{episode}", episode, name, up, "user")


def liked(episodes: Sequence[Episode]) -> float:
    """The share with a thumb up."""
    return sum(bool(e.feedback[0].value) for e in episodes) / len(episodes)


async def play(world: World, n: int) -> list[Episode]:
    """Episodes of the bare base with ids and logprobs."""
    learner = make_learner("tiny", LORA, 0)
    engine, chat = make_engine(learner.base, threads=1)
    policy = Policy("logged", ModelRef("tiny"), sampling=Sampling(max_tokens=24))
    found = []
    for number, scenario in enumerate(world.scenarios(n, seed=3)):
        session = await world.start(scenario, number)
        user = world.user(scenario, number)
        found.append(await rollout(chat, policy, session, scenario, user, max_turns=3, seed=number))
    await engine.aclose()
    return found


async def thumbed(world: World, n: int) -> list[Episode]:
    """Episodes of `play`, of which every second has a thumb up and the others one down."""
    found = await play(world, n)
    return [replace(e, feedback=(thumb(e.id, bool(k % 2)),)) for k, e in enumerate(found)]
