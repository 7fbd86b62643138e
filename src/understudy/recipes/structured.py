"""Chats that answer by the JSON Schema in a request's metadata (world.language.filler.SCHEMA)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from understudy.core.lark import json_rule
from understudy.core.types import Completion, Request
from understudy.engine.chat import ChatError, LocalChat, RemoteChat
from understudy.world.language.filler import SCHEMA

_ANSWER = 'start: "\\n" answer\nanswer: '  # see world.language.filler.written_as


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
    named = {"name": "values", "strict": True, "schema": _without_lengths(schema)}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _without_lengths(schema: Any) -> Any:
    """Strict endpoints know no bounds of a text's length (OpenAI's among them)."""
    if not isinstance(schema, Mapping):
        return schema
    inner = {k: _without_lengths(v) for k, v in schema.items()}
    return {k: v for k, v in inner.items() if k not in ("minLength", "maxLength")}


class Constrained:
    """A chat of an engine of ours whose answers follow their schema's grammar, as `written_as`
    writes them: what the schema does not allow is not sampled (engine.grammar)."""

    def __init__(self, chat: LocalChat) -> None:
        self.local = chat

    async def complete(self, request: Request) -> Completion:
        """Answer a request. Raises ChatError."""
        schema = request.metadata.get(SCHEMA)
        grammar = None if schema is None else f"{_ANSWER}{json_rule(schema, strict=True)}\n"
        return await self.local.complete(request, grammar=grammar)
