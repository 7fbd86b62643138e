"""A model for what a world leaves open (`world.language.filler`): a small one that is trained here,
or any behind an OpenAI-compatible endpoint; both tried on calls that they have not seen
(`world.language.trial`).

A run's `artefacts/language.json` says which model it is and where its values may stand.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from understudy.core.background import background
from understudy.core.origin import ORIGIN, Origin
from understudy.core.protocols import Chat
from understudy.core.types import Episode, ModelRef, Split, split_of
from understudy.recipes.rehearsal import gather
from understudy.runs.config import Config
from understudy.runs.directory import Run
from understudy.runs.progress import Progress
from understudy.world.config import WorldConfig
from understudy.world.fidelity.crossfit import folds
from understudy.world.known.order import arranged
from understudy.world.language.filler import Answering, LanguageWorld
from understudy.world.language.lessons import Lesson, left_open, lessons, tried
from understudy.world.language.trial import Case, Trial
from understudy.world.learn import learn
from understudy.world.model import World

if TYPE_CHECKING:  # what speaks HTTP takes half a second to import
    from understudy.engine.chat import LocalChat
    from understudy.recipes.computing import Computing

FILE = "language.json"
APART = 0.25  # of the scenarios: not taught, to try the model on
_MOST = 400  # calls that it is tried on
_AT_ONCE = 16


class Remote(Config):
    """A model behind an OpenAI-compatible endpoint."""

    url: str  # ".../v1"
    model: str
    key_env: str | None = None  # the environment variable that holds its key

    @property
    def key(self) -> str | None:
        """The key. Raises ValueError where its variable is not set."""
        if self.key_env is None:
            return None
        if not os.environ.get(self.key_env):
            raise ValueError(
                f"the environment variable {self.key_env} is not set: put the key there"
            )
        return os.environ[self.key_env]


@dataclass(frozen=True, slots=True)
class Language:
    """A model for a world's gaps: an adapter of a base, or a remote one. `episodes` are those that
    it was taught or tried on."""

    trial: Trial | None
    adapter: Path | None = None
    base: str = "tiny"
    remote: Remote | None = None
    episodes: frozenset[str] = frozenset()
    computing: "Computing | None" = None  # where the adapter's own engine is; None: on the CPU

    @classmethod
    def load(cls, run: Path, computing: "Computing | None" = None) -> "Language":
        """What `train_language` or `try_remote` left in a run. Raises ValueError where there is
        nothing."""
        file = run / "artefacts" / FILE
        if not file.exists():
            raise ValueError(f"{run} has no {FILE}; train one with `understudy train world`")
        data = json.loads(file.read_text())
        remote = Remote(**data["remote"]) if data["remote"] else None
        adapter = None if remote else run / "adapter"
        trial = Trial.from_json(data["trial"])
        seen = frozenset(data["episodes"])
        return cls(trial, adapter, data["base"], remote, seen, computing)

    def save(self, run: Run) -> None:
        """Write all but the adapter into a run."""
        assert self.trial is not None
        remote = self.remote.model_dump() if self.remote else None
        run.write_artefact(FILE, {"base": self.base, "remote": remote,
                                  "episodes": sorted(self.episodes),
                                  "trial": self.trial.to_json()})  # fmt: skip

    @asynccontextmanager
    async def opened(
        self, threads: int | None = None, beside: Chat | None = None
    ) -> AsyncIterator[Callable[[World], LanguageWorld]]:
        """The model, ready: what makes of a world one whose gaps it fills. `beside` is a chat that
        is there already: where it is of an engine of ours, of the model's own base, the actor's and
        the world's adapters are in one batch. Raises ValueError where its key is missing."""
        async with self._chat(threads, beside) as (chat, model):
            yield lambda world: LanguageWorld(world, chat, model, trial=self.trial)

    @asynccontextmanager
    async def _chat(
        self, threads: int | None, beside: Chat | None
    ) -> AsyncIterator[tuple[Chat, ModelRef]]:
        from understudy.engine.chat import LocalChat, RemoteChat
        from understudy.recipes.structured import Constrained, Structured, response_format

        if self.remote is not None:
            async with RemoteChat(
                self.remote.url, self.remote.key, extra_body=response_format
            ) as remote:
                yield Structured(remote), ModelRef(self.remote.model)
            return
        from understudy.models.adapters import load_adapter
        from understudy.recipes.computing import ON_CPU
        from understudy.recipes.learner import make_engine

        assert self.adapter is not None  # it is no remote one
        of = load_adapter(self.adapter).metadata.get(ORIGIN)  # its base's, and its chat format's
        fits = of is None or getattr(beside, "extra", {}).get(ORIGIN) == of
        if isinstance(beside, LocalChat) and beside.base == _name(self.base) and fits:
            yield Constrained(beside), await self._loaded(beside)
            return
        renderer = Origin.read(of).renderer if of else None
        engine, chat = make_engine((self.computing or ON_CPU).load(self.base, renderer), threads)
        try:
            yield Constrained(chat), await self._loaded(chat)
        finally:
            await engine.aclose()

    async def _loaded(self, chat: "LocalChat") -> ModelRef:
        """The adapter, loaded into a chat's engine, which is of its base."""
        model = ModelRef(chat.base, "world", 1)
        await chat.engine.load(model, str(self.adapter))
        return model


def language_of(run: str | Path | None, computing: "Computing | None" = None) -> Language | None:
    """The model that a run holds; None where none is named. Raises ValueError where there is
    nothing."""
    return Language.load(Path(run), computing) if run else None


@asynccontextmanager
async def filling(
    language: Language | None, threads: int | None = None, beside: Chat | None = None
) -> AsyncIterator[Callable[[World], Answering]]:
    """What a world is played as: one whose gaps the model fills, itself where there is none. The
    model is opened once for all worlds (see Language.opened)."""
    if language is None:
        yield lambda world: world
        return
    async with language.opened(threads, beside) as filled:
        yield filled


@contextmanager
def filling_here(
    language: Language | None, threads: int | None = None
) -> Iterator[Callable[[World], Answering]]:
    """The same for code that does not await: the model lives in a thread beside it, and a session's
    `step` waits for it."""
    if language is None:
        yield lambda world: world
        return
    with background(language.opened(threads)) as (filled, wait):

        def waiting(world: World) -> LanguageWorld:
            owner = filled(world)
            owner.wait = wait
            return owner

        yield waiting


def _name(base: str) -> str:
    """What a loaded base is called."""
    from understudy.models.loading import folder_of

    return base if base == "tiny" else folder_of(base).resolve().name


@dataclass(frozen=True, slots=True)
class Taught:
    """The calls with gaps of a world's episodes, by the world of the other half."""

    world: World
    lessons: list[Lesson]


def open_calls(episodes: Sequence[Episode]) -> list[Taught]:
    """The calls with gaps: each half of the episodes, by scenario, is foretold by a world that
    learned from the other. Gaps that the world of them all does not leave are none. Raises
    ValueError where nothing is open."""
    ordered, lasts = arranged(episodes)
    within = left_open(learn(ordered, WorldConfig(lasting=lasts)), ordered)
    found = []
    for rest, apart in folds(ordered):
        world = learn(rest, WorldConfig(lasting=lasts))
        world.moments.place(world.episode_ids, ordered)
        found.append(Taught(world, list(lessons(world, apart, within))))
    if not any(t.lessons for t in found):
        raise ValueError("the world leaves no value of these episodes open: nothing to teach")
    return found


def try_remote(
    episodes: Sequence[Episode],
    remote: Remote,
    split: Split | Literal["all"] = "train",
    quiet: bool = False,
) -> Language:
    """A remote model, tried on the same calls; nothing is taught. Raises ValueError where nothing
    is open, ChatError (in an ExceptionGroup) where the endpoint does not answer."""
    given = of_split(episodes, split)
    trial = asyncio.run(tried_on(Language(None, remote=remote), open_calls(given), quiet))
    return Language(trial, remote=remote, episodes=frozenset(e.id for e in given))


def of_split(episodes: Sequence[Episode], split: Split | Literal["all"]) -> list[Episode]:
    """The episodes of a split."""
    return [e for e in episodes if split in ("all", split_of(e.scenario_id or e.id))]


def apart(lesson: Lesson) -> bool:
    """Whether a lesson's scenario is one of those that are not taught."""
    # independent of the split, which may have been parted before
    return split_of(f"tried:{lesson.origin}", APART) == "heldout"


async def tried_on(language: Language, found: Sequence[Taught], quiet: bool) -> Trial:
    """The model beside the drafts, on the lessons kept apart; on up to _MOST of them, evenly."""
    aside = [(t.world, le) for t in found for le in t.lessons if apart(le)]
    step = max(1, -(-len(aside) // _MOST))
    aside = aside[::step]
    cases: list[Case] = []
    counted: Counter[str] = Counter({"calls": len(aside)})
    gate = asyncio.Semaphore(_AT_ONCE)
    async with language.opened() as filled:
        owners = [filled(t.world) for t in found]
        by_world = {id(owner.world): owner for owner in owners}
        with Progress("try the model", total=len(aside), unit="calls", quiet=quiet) as progress:

            async def one(world: World, lesson: Lesson) -> None:
                async with gate:
                    cases.append(await tried(by_world[id(world)], lesson))
                progress.advance()

            await gather([one(world, lesson) for world, lesson in aside])
    for owner in owners:
        counted += owner.counted
    return Trial.of(cases, counted)
