"""Chats that answer by the JSON Schema in a request's metadata (world.language.filler.SCHEMA)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from understudy.core.answer_form import AnswerForm
from understudy.core.types import Completion, Request
from understudy.engine.chat import ChatError, LocalChat, RemoteChat
from understudy.world.language.filler import LEAD, SCHEMA

_REFUSED = (400, 422)
_BARE = ("type", "enum", "properties", "required", "additionalProperties")


class Structured:
    """A remote chat that answers by the schema as far as the endpoint knows how: whole but for the
    lengths of texts, which strict endpoints do not know (OpenAI's among them); with types and
    enumerations alone; without. What was refused once is not asked for again."""

    def __init__(self, chat: RemoteChat) -> None:
        self.remote, self.refused = chat, 0

    async def complete(self, request: Request) -> Completion:
        """Answer a request. Raises ChatError."""
        refusal: ChatError | None = None
        for way, schema in enumerate((_without_lengths, bare, None)):
            if way < self.refused:
                continue
            try:
                done = await self.remote.complete(_with(request, schema))
            except ChatError as error:
                if error.http_status not in _REFUSED or SCHEMA not in request.metadata:
                    raise
                refusal = refusal or error
            else:
                self.refused = way if SCHEMA in request.metadata else self.refused
                return done
        assert refusal is not None
        raise refusal


def _with(request: Request, made: Callable[[Any], Any] | None) -> Request:
    """The request with something made of its schema, or without it."""
    rest = {k: v for k, v in request.metadata.items() if k != SCHEMA}
    schema = request.metadata.get(SCHEMA)
    held = {} if made is None or schema is None else {SCHEMA: made(schema)}
    return replace(request, metadata=rest | held)


def response_format(request: Request) -> dict[str, Any]:
    """The body's part that asks an OpenAI-compatible endpoint for the schema."""
    schema = request.metadata.get(SCHEMA)
    if schema is None:
        return {}
    named = {"name": "values", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def bare(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Types and enumerations alone."""
    return _kept(schema, _BARE)


def _without_lengths(schema: Mapping[str, Any]) -> dict[str, Any]:
    return _kept(schema, (*_BARE, "pattern", "format", "minimum", "maximum", "multipleOf"))


def _kept(schema: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """An object's schema whose places say no more than these words."""
    found = {word: value for word, value in schema.items() if word in words}
    places = {n: _kept(place, words) for n, place in schema.get("properties", {}).items()}
    return found | ({"properties": places} if places else {})


class Constrained:
    """A chat of an engine of ours whose answers follow their schema's grammar: what the schema does
    not allow is not sampled (engine.grammar). A schema that the engine refuses gives way to its
    types and enumerations, or to none."""

    def __init__(self, chat: LocalChat) -> None:
        self.local = chat

    async def complete(self, request: Request) -> Completion:
        """Answer a request. Raises ChatError."""
        schema = request.metadata.get(SCHEMA)
        for held in () if schema is None else (schema, bare(schema)):
            form = AnswerForm(schema=held, strict=True, lead=LEAD)
            try:
                return await self.local.complete(request, form=form)
            except ChatError as error:
                if error.completion.status != "invalid":
                    raise
        return await self.local.complete(request)
