"""Chats that answer by the JSON Schema in a request's metadata (world.language.filler.SCHEMA)."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from understudy.core.types import Completion, Message, Request, text_of
from understudy.engine.chat import ChatError, LocalChat, RemoteChat
from understudy.engine.errors import chat_error
from understudy.world.language.filler import CHOSEN, SCHEMA, told, written_as

_ALL: dict[str, list[Any]] = {"boolean": [False, True], "null": [None]}  # the values of a type


class Structured:
    """A remote chat that answers by the schema, where the endpoint knows how; else without."""

    def __init__(self, chat: RemoteChat) -> None:
        self.remote, self.refused = chat, False

    async def complete(self, request: Request) -> Completion:
        """Answer a request. Raises ChatError."""
        plain = request if not self.refused else _plain(request)
        try:
            return await self.remote.complete(plain)
        except ChatError as error:
            if error.http_status not in (400, 422) or plain is not request:
                raise
            done = await self.remote.complete(_plain(request))
            self.refused = True
            return done


def _plain(request: Request) -> Request:
    return replace(request, metadata={k: v for k, v in request.metadata.items() if k != SCHEMA})


def response_format(request: Request) -> dict[str, Any]:
    """The body's part that asks an OpenAI-compatible endpoint for the schema."""
    schema = request.metadata.get(SCHEMA)
    if schema is None:
        return {}
    named = {"name": "values", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


class Constrained:
    """A chat of an engine of ours whose answers keep to the schema's enumerations.

    It is sampled freely; a value that is none of its place's, or is missing, gives way to the one
    that the model finds likeliest there (teacher-forced, after the values before it). The answer
    then has no ids: it was not sampled; `extra` counts such values. Nothing else of a schema is
    kept to.
    """

    def __init__(self, chat: LocalChat) -> None:
        self.local = chat

    async def complete(self, request: Request) -> Completion:
        """Answer a request. Raises ChatError."""
        done = await self.local.complete(request)
        places: dict[str, Any] = request.metadata.get(SCHEMA, {}).get("properties", {})
        listed = {n: found for n, place in places.items() if (found := _listed(place))}
        if not listed or done.message is None:
            return done
        written = text_of(done.message.get("content"))
        said = told(written, list(places), done.finish_reason == "length") or {}
        kept: dict[str, Any] = {}
        chosen = 0
        for n in places:
            known = [json.dumps(value) for value in listed.get(n, ())]
            if known and not (n in said and json.dumps(said[n]) in known):
                try:
                    kept[n] = await self._likeliest(request, kept, n, listed[n])
                except (ValueError, RuntimeError) as error:
                    raise chat_error(done, error, None) from error
                chosen += 1
            elif n in said:
                kept[n] = said[n]
        if not chosen:
            return done
        message: Message = {**done.message, "content": written_as(kept)}
        return replace(done, message=message, finish_reason="stop", prompt_ids=None,
                       output_ids=None, logprobs=None, extra={CHOSEN: chosen})  # fmt: skip

    async def _likeliest(
        self, request: Request, before: Mapping[str, Any], n: str, choices: Sequence[Any]
    ) -> Any:
        """The choice of the highest probability after the values before it, its closing quotation
        mark included; of equals the first."""
        if len(choices) == 1:
            return choices[0]
        renderer = self.local.renderer
        prompt = renderer.prompt_ids(request.messages, request.tools)

        async def likelihood(choice: Any) -> float:
            text = written_as({**before, n: choice}).removesuffix("}")
            answer = renderer.assistant_ids({"role": "assistant", "content": text})[:-1]
            scores = await self.local.engine.score([*prompt, *answer], request.model)
            return sum(scores.logprobs[-len(answer) :])

        found = await asyncio.gather(*map(likelihood, choices))
        return choices[max(range(len(choices)), key=found.__getitem__)]


def _listed(place: Mapping[str, Any]) -> list[Any]:
    """All values that a place may have, where its schema lists them."""
    return list(place.get("enum") or _ALL.get(str(place.get("type")), []))
