"""The engine over HTTP, on vLLM's routes, so that the two are interchangeable for a client.

    python -m understudy.engine.server --base tiny --adapter NAME=DIRECTORY --port 0

prints one JSON line, {"url": ...}, once it serves (engine.serving). Ids come back as vLLM names
them: with `return_token_ids` a response has `prompt_token_ids` and each choice `token_ids`. Unlike
vLLM's default, logprobs are of the sampled distribution (its `processed_logprobs`).

Beyond vLLM's: answers say which version of which model they are of and how large its base is, and
`x-understudy-prompt: differs; system, tools` where the request is none that the adapter was trained
with (core.binding). `x-understudy-prompt: must-match` asks for 412 in that case. `/meter` is what
`/metrics` counts, as JSON with prices. An adapter that is loaded `pinned` keeps its slot.
"""

import asyncio
import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from understudy.core.answer_form import form_of
from understudy.core.binding import MUST_MATCH, PROMPT_HEADER, REFUSED, Binding
from understudy.core.ids import uuid7
from understudy.core.meter import metrics_lines
from understudy.core.origin import ORIGIN, Origin
from understudy.core.protocols import Renderer
from understudy.core.types import Completion, ModelRef, Request, Usage
from understudy.engine.chat import ChatError, LocalChat
from understudy.engine.choices import all_of, check_room
from understudy.engine.completions import Completions
from understudy.engine.errors import EngineBusyError, EngineError, UnknownModelError
from understudy.engine.metering import Caller, Metering, differs
from understudy.engine.registry import Listed
from understudy.engine.text_stream import TextStream
from understudy.engine.torch_engine import TorchEngine
from understudy.engine.wire import (
    BadRequest,
    chat_chunk,
    chat_response,
    choices_in,
    error_body,
    parse_chat,
    seeded,
    usage_body,
)

MAX_BODY = 64 << 20


class Server:
    """The routes over one engine. `decode` gives the text of ids, every token kept; `parameters`
    is how many the base has. With `keys`, hashes of keys (core.keys), all routes but /health need
    one of them."""

    def __init__(
        self,
        engine: TorchEngine,
        renderer: Renderer,
        decode: Any,
        encode: Any,
        origin: Origin | None = None,
        parameters: int | None = None,
        keys: frozenset[bytes] = frozenset(),
    ) -> None:
        self.engine, self.decode, self.encode = engine, decode, encode
        self.metering = Metering(engine.base, parameters, keys)
        self.chat = LocalChat(engine, renderer, engine.base, origin=origin)
        self.plain = Completions(engine, engine.stop_ids, decode, encode, engine.max_pending)
        self.renderer = renderer
        self.created = int(time.time())

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY, middlewares=[_errors, self.metering.keyed])
        app.add_routes(
            [
                web.post("/v1/chat/completions", self.chat_completions),
                web.post("/v1/completions", self.completions),
                web.get("/v1/models", self.models),
                web.post("/v1/load_lora_adapter", self.load_adapter),
                web.post("/v1/unload_lora_adapter", self.unload_adapter),
                web.get("/health", self.health),
                web.get("/metrics", self.metrics),
                web.get("/meter", self.metering.route),
            ]
        )
        return app

    def ref(self, name: Any) -> ModelRef:
        """The model named on the wire: base, adapter or adapter@version."""
        if not isinstance(name, str) or not name:
            raise BadRequest("model must be a string", "model")
        if name == self.engine.base:
            return ModelRef(name)
        adapter, _, version = name.rpartition("@")
        if adapter and version.isdecimal():
            return ModelRef(self.engine.base, adapter, int(version))
        return ModelRef(self.engine.base, name)

    # -- sampling --------------------------------------------------------------------------

    async def chat_completions(self, http: web.Request) -> web.StreamResponse:
        body = await _json(http)
        model = self.ref(body.get("model"))
        served = self.engine.registry.find(model)
        request = parse_chat(body, model)
        who = self.metering.caller(http, served.ref)
        headers, another = self.metering.headers(who), differs(served.metadata, request)
        if another is not None:
            self.metering.meter.differed(*who)
            headers[PROMPT_HEADER] = another
            if http.headers.get(PROMPT_HEADER) == MUST_MATCH:
                line = f"{who.model} was trained with another prompt than this one ({another})"
                refused = error_body(line, "prompt_differs", "messages")
                return web.json_response(refused, status=REFUSED, headers=headers)
        if body.get("stream"):
            return await self._stream(http, body, request, who, headers)
        each = seeded(request.sampling, choices_in(body))
        check_room(len(each), self.engine.max_pending, "n")
        done = await all_of(self._complete(replace(request, sampling=s), who) for s in each)
        answer = chat_response(done, body, self.decode)
        return web.json_response(answer, headers=headers)

    async def _complete(self, request: Request, who: Caller, on_ids: Any = None) -> Completion:
        done: Completion | None = None
        sent = 0

        def counted(ids: Any) -> None:
            nonlocal sent
            sent += len(ids)
            on_ids(ids)

        try:
            done = await self.chat.complete(request, counted if on_ids else None)
            return done
        except ChatError as error:
            if error.completion.status == "invalid":
                raise BadRequest(str(error)) from error
            raise
        finally:
            served = who if done is None else who._replace(model=str(done.served or request.model))
            self.metering.ended(served, None if done is None else done.usage, sent)

    async def _stream(
        self,
        http: web.Request,
        body: dict[str, Any],
        request: Request,
        who: Caller,
        headers: Mapping[str, str],
    ) -> web.StreamResponse:
        if choices_in(body) != 1:
            raise BadRequest("streaming needs n = 1", "n")
        fresh: asyncio.Queue[list[int]] = asyncio.Queue()
        complete = self._complete(request, who, lambda i: fresh.put_nowait(list(i)))
        task = asyncio.create_task(complete)
        waiting = asyncio.create_task(fresh.get())
        response = web.StreamResponse(headers=headers)
        response.content_type = "text/event-stream"
        response.headers["Cache-Control"] = "no-cache"
        form, ident = form_of(request), f"chatcmpl-{uuid7()}"
        text = TextStream(self.renderer, request.sampling.stop, form is None or bool(form.tools))
        opened = False

        async def send(delta: dict[str, Any], **more: Any) -> None:
            chunk = chat_chunk(ident, self.created, body["model"], delta, **more)
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

        async def opening() -> None:
            await response.prepare(http)
            await send({"role": "assistant", "content": ""})

        try:
            while not task.done() or not fresh.empty():
                await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    continue
                ids = waiting.result()
                while not fresh.empty():
                    ids += fresh.get_nowait()
                waiting = asyncio.create_task(fresh.get())
                if not opened:
                    opened = True
                    await opening()
                await send({"content": text.add(ids)}, token_ids=ids)
            done = await task
            if not opened:
                await opening()
            await self._finish_stream(send, text, done, body)
            await response.write(b"data: [DONE]\n\n")
        except ChatError as error:
            if not opened:
                raise
            await response.write(b"data: " + json.dumps(error_body(str(error))).encode() + b"\n\n")
        finally:
            task.cancel()
            waiting.cancel()
        await response.write_eof()
        return response

    async def _finish_stream(
        self, send: Any, text: TextStream, done: Completion, body: dict[str, Any]
    ) -> None:
        """What is left of the text, the tool calls whole, the reason, ids and usage."""
        assert done.message is not None
        thought = done.message.get("reasoning_content")
        if thought:
            await send({"reasoning_content": thought})
        rest = text.rest(done.message)
        if rest:
            await send({"content": rest})
        calls = done.message.get("tool_calls") or ()
        if calls:
            await send({"tool_calls": [{"index": i, **c} for i, c in enumerate(calls)]})
        exact: dict[str, Any] = {}
        if body.get("return_token_ids"):
            exact["prompt_token_ids"] = list(done.prompt_ids or ())
            exact["origin"] = done.extra.get(ORIGIN)
        if body.get("logprobs"):
            exact["completion"] = done
            exact["decode"] = self.decode
        await send({}, finish_reason=done.finish_reason, **exact)
        if (body.get("stream_options") or {}).get("include_usage"):
            await send({}, usage=usage_body(done.usage))

    async def completions(self, http: web.Request) -> web.StreamResponse:
        body = await _json(http)
        model = self.ref(body.get("model"))
        who = self.metering.caller(http, self.engine.registry.find(model).ref)

        def ended(usage: Usage | None, sent: int = 0) -> None:
            self.metering.ended(who, usage, sent)

        return await self.plain.answer(http, body, model, ended, self.metering.headers(who))

    # -- models ----------------------------------------------------------------------------

    async def models(self, http: web.Request) -> web.Response:
        """Each adapter's name, as the version that a request to it gets, and each version."""
        named: dict[str, Listed] = {}
        for m in self.engine.models():
            plain = ModelRef(self.engine.base, m.ref.adapter)
            named[str(plain)] = self.engine.registry.find(plain)
            named[str(m.ref)] = m
        data = [self._entry(name, m) for name, m in named.items()]
        return web.json_response({"object": "list", "data": data})

    def _entry(self, name: str, m: Listed) -> dict[str, Any]:
        base = self.engine.base
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "understudy",
            "root": m.path or base,
            "parent": None if m.ref.adapter is None else base,
            "max_model_len": self.engine.context,
            "version": m.ref.version,
            "binding": getattr(Binding.read(m.metadata), "id", None),
        }

    async def load_adapter(self, http: web.Request) -> web.Response:
        body = await _json(http)
        name, path = body.get("lora_name"), body.get("lora_path")
        if not isinstance(name, str) or not name or not isinstance(path, str) or not path:
            raise BadRequest("lora_name and lora_path must be given")
        pinned = body.get("pinned")
        if not isinstance(pinned, bool | None):
            raise BadRequest("pinned must be true or false", "pinned")
        ref = self.ref(name)
        if ref.adapter is None:
            raise BadRequest(f"{name!r} is the base model's name", "lora_name")
        known = any(m.ref.adapter == ref.adapter for m in self.engine.models())
        if known and ref.version is None and not body.get("load_inplace"):
            raise BadRequest(f"the adapter {name!r} is loaded already; set load_inplace", None)
        try:
            await self.engine.load(ref, path, bool(pinned))
        except FileNotFoundError as error:
            raise web.HTTPNotFound(text=str(error)) from error
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def unload_adapter(self, http: web.Request) -> web.Response:
        body = await _json(http)
        ref = self.ref(body.get("lora_name"))
        await self.engine.unload(ref)
        return web.Response(text=f"Success: LoRA adapter '{ref}' removed successfully.")

    # -- watching --------------------------------------------------------------------------

    async def health(self, http: web.Request) -> web.Response:
        alive = all(s.thread.is_alive() for s in self.engine.shards)
        return web.Response(status=200 if alive else 503)

    async def metrics(self, http: web.Request) -> web.Response:
        c = self.engine.counters()
        running = sum(s.load for s in self.engine.shards)
        values = {
            "prompt_tokens_total": c.prompt_tokens,
            "cached_tokens_total": c.cached_tokens,
            "generation_tokens_total": c.sampled_tokens,
            "decode_steps_total": c.steps,
            "preemptions_total": c.preempted,
            "adapters_in_memory": self.engine.registry.in_memory,
            "adapter_slots": self.engine.registry.slots or 0,
            "adapter_working_set": self.engine.registry.working_set,
            "adapter_working_set_exceeds_slots": int(self.engine.registry.alarmed),
            "adapter_loads_total": self.engine.registry.loads,
            "adapter_evictions_total": self.engine.registry.evictions,
            "num_requests": running,
            "render_fallbacks_total": self.chat.fallbacks,
        }
        lines = [f"understudy_engine_{k} {v}" for k, v in values.items()]
        lines += metrics_lines(self.metering.meter.uses(), "understudy_engine_")
        return web.Response(text="\n".join(lines) + "\n")


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except UnknownModelError as error:
        return web.json_response(error_body(str(error), "model_not_found", "model"), status=404)
    except BadRequest as error:
        return web.json_response(error_body(str(error), None, error.param), status=400)
    except ValueError as error:
        return web.json_response(error_body(str(error)), status=400)
    except NotImplementedError as error:
        return web.json_response(error_body(str(error)), status=400)
    except (ChatError, EngineError) as error:
        wait = error.retry_after_s if isinstance(error, ChatError | EngineBusyError) else None
        if wait is not None:
            body = error_body(str(error), "rate_limit_exceeded", None, "rate_limit_error")
            after = {"Retry-After": str(math.ceil(wait))}
            return web.json_response(body, status=429, headers=after)
        body = error_body(str(error), None, None, "server_error")
        return web.json_response(body, status=500)
    except web.HTTPException as error:
        return web.json_response(error_body(error.text or error.reason), status=error.status)


async def _json(http: web.Request) -> dict[str, Any]:
    try:
        body = await http.json()
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


async def start_server(server: Server, host: str = "127.0.0.1", port: int = 0) -> web.AppRunner:
    """Serve until `runner.cleanup()`. A client that leaves frees its sequence."""
    runner = web.AppRunner(server.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=2048).start()
    return runner


def server_url(runner: web.AppRunner) -> str:
    """The root URL of a started server."""
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}"


if __name__ == "__main__":
    from understudy.engine.serving import main

    sys.exit(main())
