"""One life of a learned world, for one test of an agent."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from understudy.core.background import background, straight
from understudy.core.types import Message, Scenario, Split, Tool, ToolResult, call_parts
from understudy.envs.users import ScriptedUser
from understudy.testing.session import Call, Change, RecordedSession, Snapshot
from understudy.world.language.filler import Answering, LanguageWorld
from understudy.world.serving.entities import type_names
from understudy.world.tools import ToolModel
from understudy.world.users.user import MinedUser

DOUBT = 0.5  # an answer of more doubt is likelier wrong than right


class User:
    """A user of the agent: says lines of a script, or what real users said in such a place."""

    def __init__(self, user: ScriptedUser | MinedUser) -> None:
        self._user = user

    def says(self, messages: Sequence[Message]) -> str | None:
        """The next thing that the user says to a conversation; None: the user has left."""
        message = straight(self._user.reply(messages))
        return None if message is None else str(message.get("content"))

    async def reply(self, seen: Sequence[Message]) -> Message | None:
        """The same as a message: what `understudy.envs.rollout` asks of a user."""
        return await self._user.reply(seen)


class WorldFixture:
    """One life of a world, for one test. Calls may come from any thread, by `call` and over `url`
    alike: all of them meet the same things."""

    def __init__(self, played: Answering, seed: int, folder: Path) -> None:
        self.world = played.world if isinstance(played, LanguageWorld) else played
        self.seed, self.folder = seed, folder
        self._names = type_names(self.world.ids)
        self.session = RecordedSession(played, seed, self._names)
        self._served, self._url = ExitStack(), ""

    # -- the agent's side

    @property
    def tools(self) -> list[Tool]:
        """The tools in OpenAI's format."""
        return self.world.tools()

    def call(self, name: str, arguments: Mapping[str, Any] | str = "{}") -> ToolResult:
        """Call a tool, with a mapping or with the JSON text that a model wrote. Never raises for
        what an agent may do wrong: the world answers as the real tools do."""
        text = arguments if isinstance(arguments, str) else json.dumps(dict(arguments))
        return self.session.step(name, text)

    async def acall(self, name: str, arguments: Mapping[str, Any] | str = "{}") -> ToolResult:
        """`call` for agents whose tools are awaited."""
        return self.call(name, arguments)

    def answer(self, tool_call: Any) -> Message:
        """The tool message to a model's tool call: a mapping, or an object of the OpenAI client."""
        call = tool_call if isinstance(tool_call, Mapping) else tool_call.model_dump()
        result = self.call(*call_parts(call))
        return {"role": "tool", "tool_call_id": call["id"], "content": result.content}

    @property
    def url(self) -> str:
        """Where the world is an MCP server on this machine until the test ends, for an agent that
        is to be tested as it is. It needs `pip install 'understudy[mcp]'`."""
        if not self._url:
            from understudy.world.serving.mcp_server import serve_http  # MCP is an extra

            served = serve_http(self.world, "127.0.0.1", 0, begin=lambda seed: self.session)
            self._url, _ = self._served.enter_context(background(served))
        return self._url

    # -- the user's side

    def scenario(self, split: Split = "train", n: int = 0) -> Scenario:
        """One that the traffic's episodes were recombined to: first messages, hidden goal. `n`
        counts different ones; raises ValueError where there are no more."""
        found = self.world.scenarios(n + 1, self.seed, split)
        if len(found) <= n:
            raise ValueError(f"the traffic makes {len(found)} scenarios of split {split!r}")
        return found[n]

    def user(self, *lines: str, scenario: Scenario | None = None) -> User:
        """A user who says these lines and leaves, or one learned from the traffic, who wants what
        the scenario's goal holds."""
        if (scenario is None) == (not lines):
            raise ValueError("a user needs lines to say, or scenario=world.scenario()")
        if scenario is None:
            return User(ScriptedUser(lines))
        return User(self.world.user(scenario, self.seed))

    # -- what the test arranges

    def observe(
        self, name: str, arguments: Mapping[str, Any], result: Any, *, failed: bool = False
    ) -> None:
        """Take a call and its result as having happened before: facts for this test. The result is
        a text or a JSON value; it is none of the agent's `calls`."""
        text = result if isinstance(result, str) else json.dumps(result)
        self._model(name)
        with self.session.lock:
            self.session.observe(name, dict(arguments), text, failed)

    def ways_to_fail(self, name: str) -> list[str]:
        """How a tool failed in the traffic, the most frequent first: its words, `{}` for what
        varies. Raises ValueError for a tool that the traffic does not know."""
        return list(self._failures(name).values())

    def fail_next(self, name: str, like: str = "", times: int = 1) -> None:
        """Let the tool's next calls fail as they did in the traffic: in the most frequent of
        `ways_to_fail`, or in the first that has the text `like`, another tool's where this one
        never failed so. A failure that lasted there lasts here. Raises ValueError where the traffic
        shows none like it."""
        own = self._failures(name)
        others = [self._failures(other) for other in self.world.models] if like else []
        ways = [way for those in (own, *others) for way in those.items()]
        found = next((outcome for outcome, w in ways if like.lower() in w.lower()), None)
        if found is None:
            shown = "; ".join(own.values()) or "none"
            raise ValueError(f"{name} never failed like {like!r}; ways in the traffic: {shown}")
        with self.session.lock:
            self.session.failing += [(name, found)] * times

    def _failures(self, name: str) -> dict[str, str]:
        """The classes of a tool's failures, each with its words."""
        model = self._model(name)
        seen = Counter({k: t.count for k, t in model.texts.items() if k.startswith("err:")})
        forms = {outcome: model.texts[outcome].form for outcome, _ in seen.most_common()}
        return {k: form.replace("{{", "{").replace("}}", "}") for k, form in forms.items()}

    def _model(self, name: str) -> ToolModel:
        if name not in self.world.models:
            raise ValueError(f"no tool {name}; there are {', '.join(self.world.models)}")
        return self.world.models[name]

    def snapshot(self) -> Snapshot:
        """This point of the test, to `rewind` to."""
        return self.session.snapshot_now()

    def rewind(self, to: Snapshot, seed: int | None = None) -> None:
        """Go back. The same calls then have the same answers; with another seed what the snapshot
        has settled stays, and what chance brings is drawn anew."""
        self.session.rewind(to, self.seed if seed is None else seed)

    # -- what the test asks

    def things(self, type_name: str) -> dict[Any, dict[str, Any]]:
        """By id, what the test's calls showed and changed of a type's things, as it is now. Raises
        ValueError for a type that the world does not have."""
        domain = next((d for d, n in self._names.items() if n == type_name), None)
        if domain is None:
            known = ", ".join(sorted(self._names.values())) or "none"
            raise ValueError(f"no type {type_name}; there are: {known}")
        return {
            item: {n: value for n, (value, _, _) in thing.fields.items()}
            for (d, item), thing in self.session.state.things.items()
            if d == domain and thing.fields
        }

    @property
    def calls(self) -> list[Call]:
        """All calls of the test so far."""
        return self.session.calls

    @property
    def changes(self) -> list[Change]:
        """What the calls changed, in order."""
        return [change for call in self.calls for change in call.changes]

    def doubtful(self, above: float = DOUBT) -> list[Call]:
        """The calls whose answers are wrong with a higher probability than this; those that the
        test forced are meant to be as they are."""
        return [c for c in self.calls if c.result.doubt > above and not c.forced]

    def assert_supported(self, doubt: float = DOUBT) -> None:
        """Fail the test where it rests on answers that the traffic hardly supports."""
        found = self.doubtful(doubt)
        assert not found, "the traffic hardly supports:\n" + "\n".join(map(str, found))

    def close(self) -> None:
        """End what serves the world. The fixture does it."""
        self._served.close()
        self._url = ""

    def __repr__(self) -> str:
        return f"<world {self.folder}, seed {self.seed}, {len(self.calls)} calls>"
