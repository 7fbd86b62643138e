"""A simulated user's adapter: what real users said next, learned from their side.

Each message that a user wrote, and each time one left, is one conversation: the prompt of
`world.likeness.played` with this user's own goal, what it had not said yet and its manner; then the
conversation so far, and what it said. Cross-entropy on the last alone, by `sft` (UserLM, arXiv
2510.06552, trains users so). `PlayedUser` plays the adapter over a chat.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from understudy.core.protocols import Chat
from understudy.core.types import Completion, Episode, Message, ModelRef, Request, Sampling, text_of
from understudy.recipes.agents import trained_agent
from understudy.recipes.rehearsal import gather
from understudy.recipes.resuming import begun_with_all
from understudy.recipes.sft import SftConfig, SftResult, ViewConfig, sft
from understudy.recipes.user_width import goal_of, mine_users
from understudy.recipes.world_language import of_split
from understudy.runs.directory import Run
from understudy.runs.progress import Progress
from understudy.world.likeness.played import END, user_view
from understudy.world.users.profiles import Profile
from understudy.world.users.scenarios import Book
from understudy.world.users.user import Known, MinedUser
from understudy.world.users.width import real_talk
from understudy.world.users.wording import flat, slots, split_text

FILE = "user.json"
_MOST = 400  # turns that it is tried on
_AT_ONCE = 32


class UserConfig(ViewConfig):
    """More steps than distillation takes: a small base learns to speak as the user first."""

    epochs: int = 4


@dataclass(frozen=True, slots=True)
class Turn:
    """A place where a user spoke or left (`said` None): what its model reads there, the fields of
    its goal by their paths, and those of them that it told."""

    id: str
    messages: tuple[Message, ...]
    said: str | None
    last: bool
    fields: dict[str, Any]
    told: frozenset[str]

    def conversation(self) -> Episode:
        """As it is taught. What the user had said before is read, not learned again."""
        read = tuple({**m, "weight": 0} if m["role"] == "assistant" else m for m in self.messages)
        words = [*([self.said] if self.said else []), *([END] if self.last else [])]
        answer: Message = {"role": "assistant", "content": " ".join(words)}
        request = Request(read, ModelRef("user"), purpose="user")  # type: ignore[arg-type]
        done = Completion(self.id, request, "ok", answer, finish_reason="stop")
        return Episode(self.id, (done,), scenario_id=self.id)


@dataclass(frozen=True, slots=True)
class FactsTold:
    """Of the facts that real users told at `turns`, the share that the models' replies tell."""

    turns: int
    facts: int
    base: float
    trained: float


@dataclass(frozen=True, slots=True)
class UserResult:
    distilled: SftResult
    told: FactsTold | None  # None: no turn is held out


def user_turns(episodes: Sequence[Episode], book: Book | None = None) -> list[Turn]:
    """The turns of the users of episodes. The manner is each one's own as it is mined from these;
    what they may tell is what `book`'s users tell, that of these episodes where there is none."""
    spoke = [e for e in episodes if any(m["role"] == "user" for m in e.messages)]
    own = mine_users(spoke)
    known = Known(book or own)
    found: list[Turn] = []
    for episode, profile in zip(spoke, own.population.profiles, strict=True):
        found += _turns(episode, profile, known)
    return found


def _turns(episode: Episode, profile: Profile, known: Known) -> list[Turn]:
    goal = goal_of(episode)
    fields, user = flat(goal), MinedUser(known, goal, 0, profile=profile)
    talk, before = real_talk(episode, fields)
    last = len(talk.points) - 1
    found = []
    for n, (point, seen) in enumerate(zip(talk.points, before, strict=True)):
        ends = point.said is None or (n == last and talk.parting is not None)
        told = _told(point.said or "", fields, known.book)
        view = tuple(user_view(goal, user.unsaid(seen), profile, seen))
        found.append(Turn(f"{episode.id}-{n}", view, point.said, ends, fields, told))
    return found


def train_user(
    run: Run, episodes: Sequence[Episode], config: SftConfig, quiet: bool = False
) -> UserResult:
    """Train an adapter on what users said, and try it at turns of the held-out split.

    Raises ValueError where no episode of the split has a user message.
    """
    given = begun_with_all(run, of_split(episodes, config.split))
    book = mine_users(given)
    taught = [turn.conversation() for turn in user_turns(given, book)]
    if not taught:
        raise ValueError(f"no user says anything in the {len(given)} episodes: nothing to teach")
    whole = config.model_copy(update={"split": "all", "keep": "all"})
    result = sft(run, taught, whole, None, quiet)
    aside = [] if config.split == "all" else of_split(episodes, _other(config.split))
    telling = [turn for turn in user_turns(aside, book) if turn.told]
    told = asyncio.run(_tried(result.adapter, telling, book, quiet, config.device))
    run.write_artefact(FILE, {"told": told and asdict(told)})
    return UserResult(result, told)


def _other(split: str) -> Any:
    return "train" if split == "heldout" else "heldout"


@asynccontextmanager
async def user_chat(run: Path, threads: int | None = None) -> AsyncIterator[tuple[Chat, ModelRef]]:
    """The user that a run of `train_user` left, ready for `PlayedUser`. Raises ValueError where
    there is none."""
    if not (run / "artefacts" / FILE).exists():
        raise ValueError(f"{run} has no {FILE}; train one with `understudy train user`")
    async with trained_agent(run / "adapter", 1.0, threads) as agent:
        yield agent.chat, agent.policy.model


async def _tried(
    adapter: Path, telling: Sequence[Turn], book: Book, quiet: bool, device: str
) -> FactsTold | None:
    """The adapter beside the base, greedily, on up to _MOST turns, evenly."""
    chosen = telling[:: max(1, -(-len(telling) // _MOST))]
    if not chosen:
        return None
    async with trained_agent(adapter, 0.0, device=device) as agent:
        chat, model = agent.chat, agent.policy.model
        with Progress("try the user", total=2 * len(chosen), unit="turns", quiet=quiet) as progress:
            gate = asyncio.Semaphore(_AT_ONCE)

            async def one(turn: Turn, who: ModelRef) -> int:
                async with gate:
                    said = await say(chat, who, turn)
                progress.advance()
                return len(turn.told & _told(said, turn.fields, book))

            shares = []
            facts = sum(len(turn.told) for turn in chosen)
            for who in (ModelRef(model.base), model):
                shares.append(sum(await gather([one(t, who) for t in chosen])) / facts)
    return FactsTold(len(chosen), facts, *shares)


async def say(chat: Chat, model: ModelRef, turn: Turn) -> str:
    """What a model says at a turn, greedily, without the mark of the end."""
    sampling = Sampling(temperature=0.0, max_tokens=100)
    request = Request(turn.messages, model, sampling=sampling, purpose="user")
    done = await chat.complete(request)
    said = text_of(done.message.get("content") if done.message else None)
    return said.partition(END)[0].strip()


def _told(text: str, fields: dict[str, Any], book: Book) -> frozenset[str]:
    """The fields that a text tells."""
    return frozenset(slots(split_text(text, fields, book.votes)))
