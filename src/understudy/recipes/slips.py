"""Slips: wrong calls put before the right ones of played episodes, with what the world says.

A small policy that samples says a wrong word once in a hundred calls; what it learned from never
errs, so it does not know how to go on, and says the same again. Episodes in which an error is
followed by its correction teach that (arXiv 2408.16293). Here the right call is known: it is the
one that the episode made. The slip itself is not learned: its message has weight 0, as in the
chat format for fine-tuning of OpenAI's API.
"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from understudy.core.chatml import call_error
from understudy.core.protocols import Environment, Session
from understudy.core.types import (
    Message,
    Scenario,
    ToolCall,
    ToolResult,
    call_parts,
    is_function,
    text_of,
)
from understudy.envs.around import AroundSession
from understudy.envs.rollout import carry_out
from understudy.world.data.values import parse
from understudy.world.traffic.failing import looks_failed

_NAME = 0.1  # of the slips: a wrong tool, not a wrong value


class Slips:
    """An environment whose sessions try wrong calls beside what is played, and keep those that
    fail. The session that is played never sees them."""

    def __init__(self, environment: Environment, rate: float, seed: int) -> None:
        self.environment, self.rate, self.rng = environment, rate, random.Random(seed)
        self.tried: dict[str, list[Message]] = {}  # id of the right call -> what goes before

    async def start(
        self, scenario: Scenario, seed: int, snapshot: Any | None = None
    ) -> "SlippingSession":
        session = await self.environment.start(scenario, seed, snapshot)
        return SlippingSession(session, self, scenario, seed)

    def into(self, messages: Sequence[Message]) -> list[Message]:
        """The messages of what was played, with the slips in their places."""
        out: list[Message] = []
        for message in messages:
            for call in message.get("tool_calls") or ():
                out += self.tried.get(call["id"], ())
            out.append(message)
        return out


class SlippingSession(AroundSession):
    """A session beside which wrong calls are tried."""

    def __init__(self, session: Session, slips: Slips, scenario: Scenario, seed: int) -> None:
        super().__init__(session)
        self.slips, self.scenario, self.seed = slips, scenario, seed
        said = " ".join(text_of(m.get("content")) for m in scenario.messages[1:])
        names = [t["function"] for t in session.tools() if is_function(t)]
        keys = [p for f in names for p in (f.get("parameters") or {}).get("properties") or ()]
        self.words = [*re.findall(r"\w+", said), *(f["name"] for f in names), *keys]

    async def call(self, role: str, tool_call: ToolCall) -> ToolResult:
        """The session's answer; before it, by chance, what it would say to slips of this call,
        unless it is wrong itself."""
        if call_error(tool_call, self.tools(role)) is not None:
            return await self.session.call(role, tool_call)
        tried = self.slips.tried.setdefault(tool_call["id"], [])
        while self.slips.rng.random() < self.slips.rate:
            slip = slipped(tool_call, self.words, self.slips.rng)
            if slip is None:
                break
            slip["id"] = f"slip_{sum(map(len, self.slips.tried.values()))}"
            known = await self.session.snapshot()
            beside = await self.slips.environment.start(self.scenario, self.seed, known)
            result = await carry_out(beside, slip, self.tools(role))
            await beside.aclose()
            if result.is_error or looks_failed(parse(result.content)):
                said: Message = {"role": "assistant", "content": None, "tool_calls": [slip]}
                told: Message = {"role": "tool", "tool_call_id": slip["id"]}
                tried += [said | {"weight": 0}, told | {"content": result.content}]
        return await self.session.call(role, tool_call)


def slipped(call: ToolCall, words: Sequence[str], rng: random.Random) -> ToolCall | None:
    """The call with one text of its arguments, or its tool's name, gone wrong as when one token
    of it is another: it begins right and ends like one of `words`, or a character is missing or
    twice. None where the call has no text, or comes out as it was."""
    name, arguments = call_parts(call)
    args = json.loads(arguments or "{}")
    texts = [p for p, v in args.items() if isinstance(v, str) and v]
    if rng.random() < _NAME:
        name = _garbled(name, words, rng)
    elif texts:
        p = rng.choice(texts)
        args[p] = _garbled(args[p], words, rng)
    text = json.dumps(args, ensure_ascii=False)
    if [name, args] == [call_parts(call)[0], json.loads(arguments or "{}")]:
        return None
    function: Mapping[str, Any] = {"name": name, "arguments": text}
    return cast(ToolCall, {"id": call["id"], "type": "function", "function": function})


def _garbled(text: str, words: Sequence[str], rng: random.Random) -> str:
    cut = rng.randrange(len(text))
    if rng.random() < 0.3:
        return text[:cut] + text[cut + 1 :] if rng.random() < 0.5 else text[: cut + 1] + text[cut:]
    word = rng.choice(words) if words else ""
    return text[:cut] + word[rng.randrange(len(word)) if word else 0 :]
