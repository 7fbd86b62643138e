"""Who asks the server, for what, and how much: keys, purposes, the meter and its JSON route."""

import time
from collections.abc import Mapping
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler

from understudy.core.binding import Binding, said_of
from understudy.core.keys import bearer, key_hash, key_id
from understudy.core.meter import (
    MODEL_HEADER,
    NOBODY,
    PARAMETERS_HEADER,
    Meter,
    purpose_of,
)
from understudy.core.prices import DEFAULT_SIZE_PRICES, SIZE_PRICES
from understudy.core.types import ModelRef, Request, Usage
from understudy.engine.wire import BadRequest, error_body


class Caller(NamedTuple):
    """What a request is counted by."""

    model: str
    key: str
    purpose: str


class Metering:
    """The meter of a server over `base` with so many parameters (None: not known). With `keys`,
    hashes of keys (core.keys), all routes but /health need one of them."""

    def __init__(self, base: str, parameters: int | None, keys: frozenset[bytes]) -> None:
        self.base, self.keys = base, keys
        self.meter, self.since = Meter(parameters), time.time()

    def caller(self, http: web.Request, model: ModelRef) -> Caller:
        """Who asks, a model by its version. Raises BadRequest for a purpose that there is not."""
        key = bearer(http.headers.get("Authorization")) if self.keys else None
        try:
            purpose = purpose_of(http.headers)
        except ValueError as error:
            raise BadRequest(str(error), "purpose") from error
        return Caller(str(model), NOBODY if key is None else key_id(key_hash(key)), purpose)

    def headers(self, who: Caller) -> dict[str, str]:
        """What an answer says of the model that gave it."""
        size = self.meter.parameters
        return {MODEL_HEADER: who.model} | ({} if size is None else {PARAMETERS_HEADER: str(size)})

    def ended(self, who: Caller, usage: Usage | None, sent: int = 0) -> None:
        """A request was answered, or (usage None) it ended after so many tokens were sent: those
        alone are counted then."""
        if usage is None:
            self.meter.cut(*who, sent)
        else:
            self.meter.answered(*who, usage)

    async def route(self, http: web.Request) -> web.Response:
        """What each model was used for since the start, with US dollars at the list's price."""
        prices = SIZE_PRICES[DEFAULT_SIZE_PRICES]
        uses = [u.as_dict() | {"dollars": u.dollars(prices, {})} for u in self.meter.uses()]
        about = {"since": self.since, "base": self.base, "parameters": self.meter.parameters}
        return web.json_response(about | {"prices": DEFAULT_SIZE_PRICES, "uses": uses})

    @web.middleware
    async def keyed(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuses who has no key, where one is needed."""
        key = bearer(request.headers.get("Authorization"))
        known = key is not None and key_hash(key) in self.keys
        if self.keys and not known and request.path != "/health":
            body = error_body("this engine needs a valid key", "invalid_api_key")
            return web.json_response(body, status=401)
        return await handler(request)


def differs(metadata: Mapping[str, object], request: Request) -> str | None:
    """The header of a request that is none that the model with this metadata was trained with."""
    binding = Binding.read(metadata)
    tools = () if request.tool_choice == "none" else request.tools
    parts = () if binding is None else binding.differs(request.messages, tools)
    return said_of(parts) if parts else None
