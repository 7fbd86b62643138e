"""The scripted incumbent behind OpenAI's Chat Completions route: a stand-in for a large model."""

import argparse
import asyncio
import json
import time
from typing import Any

from aiohttp import web

from understudy.core.ids import uuid7
from understudy.core.types import Message
from understudy.demo.incumbent import FlawRates, decide
from understudy.demo.service import serve

MODEL = "incumbent-stand-in"
CHARS_PER_TOKEN = 4  # for the estimated usage


def make_app(seed: int = 0, rates: FlawRates | None = None) -> web.Application:
    """Routes /v1/chat/completions and /v1/models."""
    flaw_rates = rates or FlawRates()

    async def complete(request: web.Request) -> web.StreamResponse:
        try:
            body = json.loads(await request.text())
            messages = body["messages"]
            message = decide(messages, seed, flaw_rates)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            said = {"message": f"unreadable request: {error}", "type": "invalid_request_error"}
            return web.json_response({"error": said}, status=400)
        usage = _usage(messages, message)
        head = {"id": f"chatcmpl-{uuid7()}", "created": int(time.time()), "model": MODEL}
        if body.get("stream"):
            wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return await _stream(request, head, message, usage if wants_usage else None)
        choice = {"index": 0, "message": message, "finish_reason": _finish(message)}
        return web.json_response(
            {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
        )

    async def models(request: web.Request) -> web.Response:
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "demo"}
        return web.json_response({"object": "list", "data": [model]})

    app = web.Application(client_max_size=16 * 2**20)
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/v1/models", models)
    return app


def _finish(message: Message) -> str:
    return "tool_calls" if message.get("tool_calls") else "stop"


def _usage(messages: list[Message], answer: Message) -> dict[str, int]:
    prompt = len(json.dumps(messages)) // CHARS_PER_TOKEN
    said = len(json.dumps(answer)) // CHARS_PER_TOKEN
    return {
        "prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said,
    }  # fmt: skip


async def _stream(
    request: web.Request, head: dict[str, Any], message: Message, usage: dict[str, int] | None
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    calls = [{"index": i, **call} for i, call in enumerate(message.get("tool_calls") or ())]
    text = message.get("content")
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "" if text else None}]
    if isinstance(text, str):
        deltas += [{"content": part} for part in text.replace(" ", " \0").split("\0")]
    deltas += [{"tool_calls": [call]} for call in calls]
    chunks: list[dict[str, Any]] = [{"delta": delta, "finish_reason": None} for delta in deltas]
    chunks.append({"delta": {}, "finish_reason": _finish(message)})
    base = {**head, "object": "chat.completion.chunk"}
    for chunk in chunks:
        await _send(response, {**base, "choices": [{"index": 0, **chunk}]})
    if usage is not None:
        await _send(response, {**base, "choices": [], "usage": usage})
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def _send(response: web.StreamResponse, body: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(body)}\n\n".encode())


def main(argv: list[str] | None = None) -> None:
    """Serves until interrupted."""
    parser = argparse.ArgumentParser(description="The demo's incumbent, a stand-in for a model.")
    parser.add_argument("--seed", type=int, default=0, help="fixes the flaws")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--flaws", default="{}", help='rates as JSON, e.g. {"gives_up": 0.3}')
    given = parser.parse_args(argv)
    try:
        rates = FlawRates.model_validate_json(given.flaws)
    except ValueError as error:
        parser.error(str(error))
    try:
        asyncio.run(serve(make_app(given.seed, rates), given.host, given.port, model=MODEL))
    except KeyboardInterrupt:
        return
