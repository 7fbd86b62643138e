"""A stand-in for a vLLM server: a toy model behind the answers that vLLM 0.32 gave.

The bodies are recorded from vLLM 0.32 on a CPU (`vllm serve --enable-lora --logprobs-mode
processed_logprobs --enable-prompt-tokens-details`), with what is sampled filled in. The toy's
next token depends on the adapter's file and the last ids alone. `fault` orders a failure.
"""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

RECORDED = Path(__file__).parent.parent / "data" / "vllm_chat.json"
VOCAB, BLOCK = 300, 16
Json = dict[str, Any]
Step = tuple[int, np.ndarray, str | None]  # an id, all logprobs, why it is the last


class VllmStandIn:
    """`decode` gives the text of ids, for stop strings. `processed`: as with --logprobs-mode
    processed_logprobs; else as without."""

    def __init__(
        self, decode: Callable[[Sequence[int]], str], context: int = 1024, processed: bool = True
    ) -> None:
        self.decode, self.context, self.processed = decode, context, processed
        self.adapters: dict[str, tuple[str, bytes]] = {}  # by name: the path, what was in it
        self.cached: set[tuple[str, str, tuple[int, ...]]] = set()
        self.running = self.drawn = 0
        self.fault: str | None = None
        self.asked: list[Json] = []  # the bodies of completions

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20)
        app.add_routes(
            [
                web.get("/v1/models", self.models),
                web.post("/v1/completions", self.completions),
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/load_lora_adapter", self.load),
                web.post("/v1/unload_lora_adapter", self.unload),
            ]
        )
        return app

    async def models(self, http: web.Request) -> web.Response:
        if self.fault == "key" and "Authorization" not in http.headers:
            return web.json_response({"error": "Unauthorized"}, status=401)
        base = {"id": "base", "root": "./base", "parent": None, "max_model_len": self.context}
        loaded = [
            {"id": name, "root": path, "parent": "base", "max_model_len": None}
            for name, (path, _) in self.adapters.items()
        ]
        common = {"object": "model", "created": 1795795783, "owned_by": "vllm", "permission": []}
        cards = [common | card for card in (base, *loaded)]
        return web.json_response({"object": "list", "data": cards})

    # -- completions -----------------------------------------------------------------------

    async def completions(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        self.asked.append(body)
        failed = await self._failed(http) or self._refused(body)
        if failed is not None:
            return failed
        self.running += 1
        try:
            return await (self._stream if body.get("stream") else self._whole)(http, body)
        finally:
            self.running -= 1

    async def _failed(self, http: web.Request) -> web.Response | None:
        """What is ordered, before anything is sampled."""
        fault = self.fault
        if fault in ("busy", "busy once"):
            self.fault = None if fault == "busy once" else fault
            return web.json_response({"detail": "busy"}, status=503, headers={"Retry-After": "0"})
        if fault == "no json":
            return web.Response(text="Internal Server Error", status=500)
        if fault == "dead":
            return refused(500, "EngineCore encountered an issue.", "InternalServerError")
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "cut":
            assert http.transport is not None
            http.transport.close()
        return None

    def _refused(self, body: Json) -> web.Response | None:
        prompt, most = body["prompt"], body["max_tokens"]
        if body["model"] not in ("base", *self.adapters):
            said = f"The model `{body['model']}` does not exist. Valid aliases: base."
            return refused(404, said, "NotFoundError", "model")
        if max(prompt) >= VOCAB:
            return refused(400, f"Token id {max(prompt)} is out of vocabulary")
        if len(prompt) >= self.context:
            return refused(400, f"This model's maximum context length is {self.context} tokens.")
        if not 1 <= most <= self.context - len(prompt):
            return refused(400, f"max_tokens must be at least 1, got {most}.", param="max_tokens")
        if not 0 < body.get("top_p", 1) <= 1:
            return refused(400, f"top_p must be in (0, 1], got {body['top_p']}.", param="top_p")
        if body["temperature"] < 0:
            return refused(400, "temperature must be non-negative.", param="temperature")
        if self.fault == "nan" and not body.get("stream"):
            return refused(400, "Out of range float values are not JSON compliant")
        return None

    async def _whole(self, http: web.Request, body: Json) -> web.StreamResponse:
        cached, key = self._cached(body), self._key(body)
        steps = [step async for step in self._draw(body, key)]
        choice = self._choice(body, steps) | {"prompt_token_ids": body["prompt"]}
        choice["prompt_logprobs"] = self._prompt_logprobs(body, key)
        choice |= {"token_ids": None} if self.fault == "no ids" else {}
        choice |= {"prompt_token_ids": [1, 2]} if self.fault == "other prompt" else {}
        choice |= {"finish_reason": "abort"} if self.fault == "aborted" else {}
        answer = frame(body) | {"choices": [choice], "usage": usage(body, len(steps), cached)}
        return web.json_response(answer | {"kv_transfer_params": None, "metrics": None})

    async def _stream(self, http: web.Request, body: Json) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(http)

        async def send(data: Json) -> None:
            await response.write(b"data: " + json.dumps(data).encode() + b"\n\n")

        cached, count = self._cached(body), 0
        async for step in self._draw(body, self._key(body)):
            choice = self._choice(body, [step])
            choice["prompt_token_ids"] = None if count else body["prompt"]
            count += 1
            if self.fault == "nan":
                choice["logprobs"]["token_logprobs"] = [None]
            if self.fault == "lost" and count == 2:
                continue
            if self.fault == "cut late" and count == 3:
                assert http.transport is not None
                http.transport.close()
            if self.fault == "error" and count == 3:
                error = {"message": "EngineCore encountered an issue.", "type": "InternalError"}
                await send({"error": error | {"param": None, "code": 500}})
                break
            await send(frame(body) | {"choices": [choice]})
        await send(frame(body) | {"choices": [], "usage": usage(body, count, cached)})
        await response.write(b"data: [DONE]\n\n")
        return response

    def _choice(self, body: Json, steps: list[Step]) -> Json:
        """The text of a token whose bytes are no text is empty, as vLLM's is."""
        texts = [self.decode([i]).replace("\ufffd", "") for i, _, _ in steps]
        as_ids, most = body.get("return_tokens_as_token_ids"), body.get("logprobs") or 0

        def name(i: int) -> str:
            return f"token_id:{i}" if as_ids else self.decode([i]).replace("\ufffd", "")

        told = {
            "text_offset": [0] * len(steps),
            "token_logprobs": [float(logprobs[i]) for i, logprobs, _ in steps],
            "tokens": [name(i) for i, _, _ in steps],
            "top_logprobs": [
                {name(t): max(float(p[t]), -9999.0) for t in (i, *likeliest(p, most))}
                for i, p, _ in steps
            ],
        }
        told = told if body.get("logprobs") is not None else None
        choice = {"index": 0, "text": "".join(texts), "logprobs": told, "stop_reason": None}
        return choice | {"finish_reason": steps[-1][2], "token_ids": [i for i, _, _ in steps]}

    def _prompt_logprobs(self, body: Json, key: bytes) -> list[Any] | None:
        top_k = body.get("prompt_logprobs")
        if top_k is None:
            return None
        found: list[Any] = [None]
        for n, fed in enumerate(body["prompt"][1:], start=1):
            logprobs = log_softmax(logits(key, body["prompt"][:n]))
            order = (-logprobs).argsort().tolist()
            entries = {}
            for i in (fed, *order[:top_k]):
                entry = {"logprob": float(logprobs[i]), "rank": order.index(i) + 1}
                entries[str(i)] = entry | {"decoded_token": self.decode([i])}
            found.append(entries)
        return found

    async def _draw(self, body: Json, key: bytes) -> AsyncIterator[Step]:
        rng = np.random.default_rng(body.get("seed", self.drawn) % 2**63)
        ids, first = list(body["prompt"]), len(body["prompt"])
        for n in range(body["max_tokens"]):
            await asyncio.sleep(0)  # others' turn
            raw = log_softmax(logits(key, ids))
            for token, bias in (body.get("logit_bias") or {}).items():
                raw[int(token)] += bias
            sampled = narrowed(raw, body)
            greedy = body["temperature"] == 0
            drawn = sampled.argmax() if greedy else rng.choice(VOCAB, p=np.exp(sampled))
            ids.append(int(drawn))
            self.drawn += 1
            text = self.decode(ids[first:])
            stopped = ids[-1] in (body.get("stop_token_ids") or ())
            stopped = stopped or any(s in text for s in body.get("stop") or ())
            reason = "stop" if stopped else "length" if n + 1 == body["max_tokens"] else None
            yield ids[-1], sampled if self.processed else raw, reason
            if reason is not None:
                return

    async def chat(self, http: web.Request) -> web.Response:
        """The recorded answer, a tool call, whatever is asked; ids where they are asked for."""
        body = await http.json()
        self.asked.append(body)
        failed = await self._failed(http)
        if failed is not None:
            return failed
        if body["model"] != "base":
            said = f"The model `{body['model']}` does not exist. Valid aliases: base."
            return refused(404, said, "NotFoundError", "model")
        answer = json.loads(RECORDED.read_text())["whole"]
        (choice,) = answer["choices"]
        if not body.get("return_token_ids"):
            answer["prompt_token_ids"] = choice["token_ids"] = None
        if not body.get("logprobs"):
            choice["logprobs"] = None
        return web.json_response(answer)

    # -- adapters --------------------------------------------------------------------------

    def _key(self, body: Json) -> bytes:
        return self.adapters[body["model"]][1] if body["model"] in self.adapters else b""

    def _cached(self, body: Json) -> int:
        """How much of the prompt was seen before, in whole blocks: by name and path, as vLLM's
        cache has it, whatever the weights are now."""
        path, _ = self.adapters.get(body["model"], ("", b""))
        prompt, own = tuple(body["prompt"]), (body["model"], path)
        ends = range(BLOCK, len(prompt), BLOCK)
        known = max((n for n in ends if (*own, prompt[:n]) in self.cached), default=0)
        self.cached |= {(*own, prompt[:n]) for n in ends}
        return known

    async def load(self, http: web.Request) -> web.Response:
        if self.fault == "no lora":
            return web.json_response({"detail": "Not Found"}, status=404)
        body = await http.json()
        name, given = body["lora_name"], body["lora_path"]
        if name in self.adapters and not body.get("load_inplace"):
            said = f"The lora adapter '{name}' has already been loaded. If you want to load the "
            said += "adapter in place, set 'load_inplace' to True."
            return refused(400, said, "InvalidUserInput")
        file = Path(given) / "adapter_model.safetensors"
        if not file.is_file():
            said = f"Loading lora {name} failed: No adapter found for <path>"
            return refused(404, said, "NotFoundError")
        said = "Call to add_lora method failed: Worker failed with error '{}', please check the "
        said += "stack trace above for the root cause"
        raw = file.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        if size + 8 > len(raw):
            why = "Error while deserializing header: invalid header length"
            return refused(500, said.format(why), "InternalServerError")
        tensors = json.loads(raw[8 : size + 8])
        if any("q_proj.lora_A" in n and t["shape"][1] != 64 for n, t in tensors.items()):
            why = "The size of tensor a (64) must match the size of tensor b (96)"
            return refused(500, said.format(why), "InternalServerError")
        self.adapters[name] = (given, raw)
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, http: web.Request) -> web.Response:
        name = (await http.json())["lora_name"]
        if name not in self.adapters:
            return refused(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        del self.adapters[name]
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")


def logits(key: bytes, ids: Sequence[int]) -> np.ndarray:
    seed = zlib.crc32(np.asarray(ids[-6:], dtype=np.int32).tobytes(), zlib.crc32(key))
    return np.random.default_rng(seed).normal(size=VOCAB) * 2


def log_softmax(values: np.ndarray) -> np.ndarray:
    shifted = values - values.max()
    return shifted - np.log(np.exp(shifted).sum())


def likeliest(logprobs: np.ndarray, count: int) -> list[int]:
    return (-logprobs).argsort(kind="stable").tolist()[:count]


def narrowed(logprobs: np.ndarray, body: Json) -> np.ndarray:
    """After temperature, top-k and top-p; greedy as at temperature 1."""
    if body["temperature"] == 0:
        return log_softmax(logprobs)
    logprobs = log_softmax(logprobs / body["temperature"])
    order = (-logprobs).argsort()
    mass = np.exp(logprobs[order]).cumsum()
    kept = 1 + int((mass < body.get("top_p", 1)).sum())
    kept = min(kept, body.get("top_k") or VOCAB)
    cut = np.full(VOCAB, -np.inf)
    cut[order[:kept]] = logprobs[order[:kept]]
    return log_softmax(cut)


def frame(body: Json) -> Json:
    head = {"id": "cmpl-a5d5996a728c7f12", "object": "text_completion", "created": 1795795783}
    return head | {"model": body["model"], "system_fingerprint": "vllm-0.32.0-132b73ac"}


def usage(body: Json, sampled: int, cached: int) -> Json:
    fed = len(body["prompt"])
    counts = {"prompt_tokens": fed, "total_tokens": fed + sampled, "completion_tokens": sampled}
    details = {"cached_tokens": cached, "created_cache_tokens": None, "multimodal_tokens": None}
    return counts | {"prompt_tokens_details": details, "completion_tokens_details": None}


def refused(
    status: int, message: str, kind: str = "BadRequestError", param: str | None = None
) -> web.Response:
    error = {"message": message, "type": kind, "param": param, "code": status}
    return web.json_response({"error": error}, status=status)
