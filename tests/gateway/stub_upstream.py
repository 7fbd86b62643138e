"""A stand-in for a model provider: an OpenAI-compatible endpoint on loopback with scripted answers.

What it does is chosen by the last user message:
    echo ...      repeats the text (default)
    tool ...      calls the tool `find` with {"text": ...}
    hang          never answers
    together N    answers when N such requests have come
    slow          streams one chunk, then waits until the test releases it
    cut           streams two chunks and breaks the connection
    garbage       streams a chunk that is no JSON
    refuse        answers 429
    nonsense      answers 200 with something that is no completion
    answer JSON   answers 200 with this JSON, in a stream: with each of these chunks
    broken        calls the tool `find` with half of a JSON object
"""

import argparse
import asyncio
import json
import resource
import sys
from typing import Any

from aiohttp import web


class StubUpstream:
    """Counts and keeps what it was asked; `engine` adds token ids and logprobs as vLLM does."""

    def __init__(self, engine: bool = False) -> None:
        self.engine = engine
        self.bodies: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.release = asyncio.Event()
        self.disconnected = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.together = 0
        self.keep = True

    async def start(self) -> str:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", self.chat)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, backlog=4096)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}/v1"

    async def stop(self) -> None:
        assert self._runner is not None
        self.release.set()
        await self._runner.cleanup()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw)
        if self.keep:
            self.raw.append(raw)
            self.bodies.append(body)
            self.headers.append({k.lower(): v for k, v in request.headers.items()})
        said = next((m["content"] for m in reversed(body["messages"]) if m["role"] == "user"), "")
        if not isinstance(said, str):
            said = "parts"
        word = said.split(" ")[0]
        if word == "together":
            self.together += 1
            if self.together == int(said.split(" ")[1]):
                self.release.set()
        if word in ("hang", "together"):
            await self.release.wait()
        if word == "refuse":
            error = {"error": {"message": "slow down", "type": "rate_limit", "code": None}}
            return web.json_response(error, status=429, headers={"retry-after": "7"})
        if word == "nonsense":
            return web.json_response({"hello": "there"})
        if word == "answer":
            return await self._given(request, body, said.removeprefix("answer "))
        tool = word in ("tool", "broken") and body["messages"][-1]["role"] == "user"
        if body.get("stream"):
            return await self._stream(request, body, said, word, tool)
        message: dict[str, Any] = {"role": "assistant", "content": said, "refusal": None}
        if tool:
            message = {"role": "assistant", "content": None, "tool_calls": [_call(said)]}
        choice: dict[str, Any] = {
            "index": 0,
            "message": message,
            "finish_reason": "tool_calls" if tool else "stop",
            "logprobs": None,
        }
        answer: dict[str, Any] = {
            "id": "chatcmpl-stub",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
        }
        if self.engine and body.get("return_token_ids"):
            answer["prompt_token_ids"] = [1, 2, 3]
            choice["token_ids"] = [4, 5]
            choice["logprobs"] = _logprobs([-0.25, -0.5])
        return web.json_response(answer)

    async def _given(
        self, request: web.Request, body: dict[str, Any], text: str
    ) -> web.StreamResponse:
        if not body.get("stream"):
            return web.Response(text=text, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for chunk in json.loads(text):
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _stream(
        self, request: web.Request, body: dict[str, Any], said: str, word: str, tool: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        pieces: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        if tool:
            call = _call(said)
            arguments = call["function"]["arguments"]
            head = {**call, "function": {"name": "find", "arguments": ""}}
            pieces.append({"tool_calls": [{"index": 0, **head}]})
            for part in (arguments[:4], arguments[4:]):
                pieces.append({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        else:
            pieces += [{"content": w} for w in said.split(" ")]
        try:
            for i, delta in enumerate(pieces):
                await response.write(self._event(body, delta, i))
                if word == "slow" and i == 1:
                    await self.release.wait()
                if word == "cut" and i == 2:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                if word == "garbage" and i == 1:
                    await response.write(b"data: {broken\n\n")
        except (asyncio.CancelledError, ConnectionResetError):
            self.disconnected.set()
            raise
        await response.write(self._event(body, {}, -1, "tool_calls" if tool else "stop"))
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
            chunk = {**_head(body), "choices": [], "usage": usage}
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await response.write(b": a comment\n\ndata: [DONE]\n\n")
        await response.write_eof()
        return response

    def _event(
        self, body: dict[str, Any], delta: dict[str, Any], i: int, reason: str | None = None
    ) -> bytes:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk: dict[str, Any] = {**_head(body), "choices": [choice]}
        if self.engine and body.get("return_token_ids"):
            if i == 0:
                chunk["prompt_token_ids"] = [1, 2, 3]
            else:
                choice["token_ids"] = [7 + i]
                choice["logprobs"] = _logprobs([-0.125])
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _head(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-stub", "object": "chat.completion.chunk", "created": 1,
        "model": body["model"],
    }  # fmt: skip


def _call(said: str) -> dict[str, Any]:
    arguments = '{"text": ' if said.startswith("broken") else json.dumps({"text": said})
    return {
        "id": "call_1",
        "type": "function",
        "function": {"name": "find", "arguments": arguments},
    }


def _logprobs(values: list[float]) -> dict[str, Any]:
    return {"content": [{"token": "t", "logprob": v, "top_logprobs": []} for v in values]}


async def _main(engine: bool) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    stub = StubUpstream(engine)
    stub.keep = False
    print(json.dumps({"url": await stub.start()}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", action="store_true")
    sys.exit(asyncio.run(_main(parser.parse_args().engine)))
