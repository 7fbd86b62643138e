"""The official OpenAI client, pointed at the gateway, that says which episode a call belongs to.

    from understudy import OpenAI

    client = OpenAI()
    with client.episode(workload="support", metadata={"ticket": 7}) as episode:
        reply = client.chat.completions.create(model="prod", messages=[...])
        episode.feedback("thumb", True)

Everything else is the official client, unchanged.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import openai
from openai._models import FinalRequestOptions

from understudy.core.ids import uuid7
from understudy.core.strict_json import is_finite

DEFAULT_BASE_URL = "http://127.0.0.1:8400/v1"
MAX_METADATA = 64 << 10  # bytes of an episode's metadata as JSON: it travels with each call
_HEADER = "x-understudy-"
_Client = TypeVar("_Client")
_current: ContextVar["_Scope[Any] | None"] = ContextVar("understudy_episode", default=None)


@dataclass(frozen=True, slots=True)
class _Scope(Generic[_Client]):
    client: _Client
    id: str
    workload: str | None = None
    scenario: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    caused_by: str | None = None  # the completion whose tool call started this sub-agent

    def headers(self) -> dict[str, str]:
        """The headers that tell the gateway of this episode."""
        said = {
            "episode": self.id,
            "workload": self.workload,
            "scenario": self.scenario,
            "metadata": _encoded(self.metadata) if self.metadata else None,
            "caused-by": self.caused_by,
        }
        return {_HEADER + k: v for k, v in said.items() if v is not None}

    def _feedback_body(
        self, name: str, value: Any, comment: str | None, source: str, completion: str | None
    ) -> dict[str, Any]:
        if not is_finite(value):
            raise ValueError(f"the feedback {name} is {value}: say a finite number, or nothing")
        said = {"comment": comment, "completion_id": completion}
        given = {k: v for k, v in said.items() if v is not None}
        # made here, so that a retried request counts once
        return {"id": uuid7(), "episode_id": self.id, "name": name, "value": value,
                "source": source, **given}  # fmt: skip


class Episode(_Scope["OpenAI"]):
    """An episode under way."""

    def feedback(
        self,
        name: str,
        value: bool | float | str | dict[str, Any] | None,
        comment: str | None = None,
        *,
        source: str = "user",
        completion_id: str | None = None,
    ) -> str:
        """Say something of this episode, or of one completion in it; returns the feedback's id.
        May be called after the episode. Raises ValueError for a number that is not finite, and the
        official client's errors."""
        body = self._feedback_body(name, value, comment, source, completion_id)
        answer: Any = self.client.post("/feedback", body=body, cast_to=object)
        return str(answer["id"])


class AsyncEpisode(_Scope["AsyncOpenAI"]):
    """An episode under way."""

    async def feedback(
        self,
        name: str,
        value: bool | float | str | dict[str, Any] | None,
        comment: str | None = None,
        *,
        source: str = "user",
        completion_id: str | None = None,
    ) -> str:
        """As `Episode.feedback`."""
        body = self._feedback_body(name, value, comment, source, completion_id)
        answer: Any = await self.client.post("/feedback", body=body, cast_to=object)
        return str(answer["id"])


def _encoded(metadata: Mapping[str, Any]) -> str:
    """One header's worth of ASCII. Raises ValueError where it is too much for one."""
    text = json.dumps(dict(metadata))
    if len(text) > MAX_METADATA:
        raise ValueError(
            f"metadata is {len(text)} bytes as JSON, more than {MAX_METADATA}: "
            "keep what is large elsewhere and name it here"
        )
    return text


@contextmanager
def _entered(scope: Any) -> Iterator[Any]:
    _encoded(scope.metadata)  # refused here, before a call of the agent's fails for it
    token = _current.set(scope)
    try:
        yield scope
    finally:
        _current.reset(token)


def _with_episode(options: FinalRequestOptions) -> FinalRequestOptions:
    scope = _current.get()
    if scope is not None:
        given = options.headers if isinstance(options.headers, Mapping) else {}
        options.headers = {**scope.headers(), **given}
    return options


def _defaults(base_url: Any, api_key: Any) -> dict[str, Any]:
    """The gateway's address and key, where the caller and the environment do not say."""
    url = base_url or os.environ.get("UNDERSTUDY_BASE_URL") or DEFAULT_BASE_URL
    key = api_key or os.environ.get("UNDERSTUDY_API_KEY") or os.environ.get("OPENAI_API_KEY")
    return {"base_url": url, "api_key": key or "none"}


class OpenAI(openai.OpenAI):
    """`openai.OpenAI` with episodes. The base URL is the gateway's: the argument, else
    UNDERSTUDY_BASE_URL, else port 8400 here; the key UNDERSTUDY_API_KEY or OPENAI_API_KEY."""

    def __init__(self, *, base_url: Any = None, api_key: Any = None, **kwargs: Any) -> None:
        super().__init__(**_defaults(base_url, api_key), **kwargs)

    @contextmanager
    def episode(
        self,
        *,
        workload: str | None = None,
        scenario: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        id: str | None = None,
        caused_by: str | None = None,
    ) -> Iterator[Episode]:
        """Every call of this package's clients within belongs to one episode.

        Raises ValueError for metadata of more than MAX_METADATA bytes as JSON.
        """
        scope = Episode(self, id or uuid7(), workload, scenario, metadata or {}, caused_by)
        with _entered(scope):
            yield scope

    def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
        return _with_episode(super()._prepare_options(options))


class AsyncOpenAI(openai.AsyncOpenAI):
    """`openai.AsyncOpenAI` with episodes; see `OpenAI`."""

    def __init__(self, *, base_url: Any = None, api_key: Any = None, **kwargs: Any) -> None:
        super().__init__(**_defaults(base_url, api_key), **kwargs)

    @contextmanager
    def episode(
        self,
        *,
        workload: str | None = None,
        scenario: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        id: str | None = None,
        caused_by: str | None = None,
    ) -> Iterator[AsyncEpisode]:
        """As `OpenAI.episode`; a plain `with`, since entering waits for nothing."""
        scope = AsyncEpisode(self, id or uuid7(), workload, scenario, metadata or {}, caused_by)
        with _entered(scope):
            yield scope

    async def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
        return _with_episode(await super()._prepare_options(options))
