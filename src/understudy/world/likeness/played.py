"""A user played by a language model: the goal and the profile in its prompt, checks around it.

Over `RemoteChat` it is any OpenAI-compatible model; over `LocalChat` an adapter tuned on what real
users said (as UserLM does). What the model writes is held against what this user can know: models
that play users otherwise make up what they are asked for.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from understudy.core.protocols import Chat, User
from understudy.core.types import Message, ModelRef, Request, Sampling, Scenario, text_of
from understudy.world.data.values import WORD, chance
from understudy.world.model import World
from understudy.world.users.profiles import Profile
from understudy.world.users.scenarios import user_seed
from understudy.world.users.wording import flat, forms

END = "###END###"
_TRIES = 3
_LONGEST = 4.0  # times the words of the profile's turns, 40 at least


class PlayedUser:
    """core.protocols.User over a chat. Single use.

    `refused` counts the model's drafts that were not said, by reason. A draft that fails a check is
    asked for again; after three of them the `fallback` answers, or the user leaves where there is
    none. Raises ChatError where the model does not answer.
    """

    def __init__(
        self,
        chat: Chat,
        model: ModelRef,
        world: World,
        scenario: Scenario,
        seed: int = 0,
        fallback: User | None = None,
    ) -> None:
        mined = world.user(scenario, seed)
        self.chat, self.model, self.seed = chat, model, user_seed(scenario, seed)
        self.profile, self.fields = mined.profile, flat(dict(scenario.goal))
        self.goal, self.fallback = dict(scenario.goal), fallback
        self.patience = world.book.population.patience
        self._unsaid = mined.unsaid
        self.left = False
        self.refused: Counter[str] = Counter()

    async def reply(self, seen: Sequence[Message]) -> Message | None:
        """The user's next message after the agent's last one, or None: the user has left."""
        turns = sum(m["role"] == "user" for m in seen)
        if self.left or turns >= self.patience:
            self.left = True
            return None
        messages = user_view(self.goal, self._unsaid(seen), self.profile, seen)
        for attempt in range(_TRIES):
            key = (turns, attempt)
            sampling = Sampling(seed=int(chance(self.seed, *key) * 2**31), max_tokens=300)
            request = Request(tuple(messages), self.model, sampling=sampling, purpose="user")
            done = await self.chat.complete(request)
            said = text_of(done.message.get("content") if done.message else None).strip()
            text, end, _ = said.partition(END)
            why = None if end and not text.strip() else self._problem(text, seen)
            if why is None:
                self.left = bool(end)
                return {"role": "user", "content": text.strip()} if text.strip() else None
            self.refused[why.partition(":")[0]] += 1
            messages += [
                {"role": "assistant", "content": said},
                {"role": "user", "content": f"(Not sent: {why}. Write the message anew.)"},
            ]
        if self.fallback is not None:
            return await self.fallback.reply(seen)
        self.left = True
        return None

    def _problem(self, text: str, seen: Sequence[Message]) -> str | None:
        """What is wrong with a draft, in words for the model."""
        if not text.strip():
            return "empty: it says nothing"
        longest = max(40.0, _LONGEST * (self.profile.words or 0.0))
        if len(text.split()) > longest:
            return f"too long: at most {longest:.0f} words"
        made_up = unknown(text, self.fields, seen)
        if made_up:
            return f"made up: you do not know {', '.join(made_up)}"
        return None


def user_view(
    goal: Mapping[str, Any], unsaid: Collection[str], profile: Profile, seen: Sequence[Message]
) -> list[Message]:
    """What a user's model reads: the goal, what of it is not said yet, the manner, and the
    conversation from the user's side."""
    rules = [
        "You play a user who writes to an agent. Write only the user's next message.",
        f"All that you know: {json.dumps(goal, ensure_ascii=False)}",
        f"Not said yet: {json.dumps(sorted(unsaid))}. Tell it when you are asked, a little at a "
        "time.",
        *manner(profile),
        f"When you have what you want, or give up, end your message with {END}.",
    ]
    messages: list[Message] = [{"role": "system", "content": "\n".join(rules)}]
    for m in seen:
        text = text_of(m.get("content"))
        if m["role"] in ("user", "assistant") and text:
            role = "assistant" if m["role"] == "user" else "user"
            messages.append({"role": role, "content": text})  # type: ignore[typeddict-item]
    if messages[-1]["role"] != "user":
        messages.append({"role": "user", "content": "(The agent waits for your message.)"})
    return messages


def manner(profile: Profile) -> list[str]:
    """A profile as instructions."""
    told = []
    if profile.words is not None:
        told.append(f"You write about {profile.words:.0f} words a message.")
    if profile.reveal is not None and profile.reveal < 0.8:
        told.append(f"Your first message tells about {profile.reveal:.0%} of what you know.")
    does = {"more": "You tell more than you are asked for.", "asks": "You ask questions back.",
            "evades": "You often answer without telling what is asked."}  # fmt: skip
    total = sum(profile.ways.values())
    told += [does[w] for w, n in profile.ways.items() if w in does and 2 * n >= total]
    if profile.small:
        told.append("You write in small letters.")
    if profile.typos > 0:
        told.append("You misspell a word now and then.")
    if profile.gave_up:
        told.append(f"You leave at question {profile.asked} of the agent, without an answer.")
    if profile.parting is not None:
        told.append(f"You leave {'with a word of parting' if profile.parting else 'silently'}.")
    return told


def unknown(text: str, fields: Mapping[str, Any], seen: Sequence[Message]) -> list[str]:
    """Numbers and identifiers in a text that neither the user's goal nor what was said holds; the
    numbers of a list's items aside."""
    heard = "\n".join(text_of(m.get("content")) for m in seen if m["role"] in ("user", "assistant"))
    own = "\n".join(form for v in fields.values() if isinstance(v, str | int | float)
                    for _, form in forms(v))  # fmt: skip
    known = {w for t in (heard, own) for w in WORD.findall(t)}
    said = WORD.findall(re.sub(r"(?m)^\s*\d+[.)]\s", " ", text))
    return [w for w in dict.fromkeys(said) if any(c.isdigit() for c in w) and w not in known]
