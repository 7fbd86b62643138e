"""An `Engine` over a vLLM server: we render and parse, it is fed ids and gives ids.

Its chat route is not used: it renders and parses in ways of its own, and versions of it lost ids of
streamed tool calls (vLLM issue 27482). The engine server of this package speaks the same routes
and will do in its place.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from understudy.core.openai_stream import SSEParser
from understudy.core.types import ModelRef, Sample, Sampling, Scores
from understudy.engine.errors import EngineError, UnknownModelError, one_line
from understudy.engine.vllm_wire import (
    Answer,
    Body,
    completion_body,
    load_body,
    load_refusal,
    refusal,
    score_body,
    scores_of,
)

_LATER = {429, 502, 503, 504}
_FRESH_S = 1.0  # how old the list of models may be where a reference names no version


class _Unreached(EngineError):
    """The connection failed: to be tried again, unless tokens have come."""


class VllmEngine:
    """An `Engine` over `url` (with or without /v1) of a server that has `base` under that name.

    The server must be started with `--logprobs-mode processed_logprobs`: logprobs are then those
    of the sampled distribution, after temperature, top-k, top-p and grammar. Its default gives
    those of the raw logits, which is refused at the first request (a token drawn with a top_p of
    nearly 0 must have probability 1). Adapters need `--enable-lora` and the environment variable
    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True; grammars `--structured-outputs-config.backend guidance`;
    counts of cached tokens `--enable-prompt-tokens-details` (else they are 0).
    `vllm_process.start_vllm` starts one so.

    An adapter's version is a name of its own there, `name@version`: what is in flight keeps its
    version, and no version is fed another's cached prefixes. What cannot be reached, or says
    "later", is asked again `retries` times, after its Retry-After or an exponential pause of
    `pause_s` seconds, unless tokens have come. `timeout` seconds are for one answer, whole.
    Loading a version of an adapter unloads all but the `keep_versions` newest.
    Use as an async context manager, or call `aclose`.
    """

    def __init__(
        self,
        url: str,
        base: str,
        stop_ids: Sequence[int],
        *,
        api_key: str | None = None,
        timeout: float = 600.0,
        retries: int = 2,
        pause_s: float = 0.5,
        keep_versions: int = 2,
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.base, self.stop_ids = base, tuple(stop_ids)
        self.timeout, self.retries, self.pause_s = timeout, retries, pause_s
        self.keep_versions = keep_versions
        self.context: int | None = None  # tokens; known after the first request
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session: aiohttp.ClientSession | None = None
        self._listed: dict[str, ModelRef] = {}  # by their name there
        self._listed_at = -_FRESH_S
        self._ready = self._closed = False
        self._open: set[asyncio.Timeout] = set()  # the limits of requests in flight
        self._lock = asyncio.Lock()

    # -- sampling --------------------------------------------------------------------------

    async def sample(
        self,
        prompt_ids: Sequence[int],
        model: ModelRef,
        sampling: Sampling,
        grammar: str | None = None,
        on_chunk: Callable[[Sequence[int]], None] | None = None,
    ) -> Sample:
        """Sample until a stop id, a stop string or max_tokens; cancelling ends it on the server.

        Raises UnknownModelError, ValueError for a prompt, sampling or grammar that cannot be
        served, EngineError for a server that cannot be reached, fails, gives NaN or no ids.
        """
        await self._connect()
        served = await self._resolve(model)
        ids = self._checked(prompt_ids)
        body = completion_body(
            str(served), ids, sampling, self.stop_ids, grammar, on_chunk is not None
        )
        if self.context is not None:
            body["max_tokens"] = min(sampling.max_tokens, self.context - len(ids))
        answer = Answer(ids, served, self.url, sampling.top_logprobs)

        def hear(data: Any) -> None:
            fresh = answer.add(data)
            if fresh and on_chunk is not None:
                on_chunk(fresh)

        await self._ask(served, body, hear)
        return answer.sample()

    async def score(self, ids: Sequence[int], model: ModelRef, top_k: int = 0) -> Scores:
        """Teacher-forced logprobs of ids[1:] at temperature 1, with the `top_k` likeliest
        (id, logprob) at each position where asked for; vLLM gives at most `--max-logprobs` (20).
        Raises as `sample` does."""
        await self._connect()
        served = await self._resolve(model)
        checked = self._checked(ids)
        heard: list[Any] = []
        await self._ask(served, score_body(str(served), checked, top_k), heard.append)
        return scores_of(heard[0], checked, served, top_k, self.url)

    def _checked(self, prompt_ids: Sequence[int]) -> list[int]:
        ids = [int(i) for i in prompt_ids]
        if not ids:
            raise ValueError("the prompt has no tokens")
        if min(ids) < 0:
            raise ValueError("a prompt id is negative")
        if self.context is not None and len(ids) >= self.context:
            raise ValueError(
                f"the prompt has {len(ids)} tokens, the model's context is {self.context}"
            )
        return ids

    async def _ask(self, model: ModelRef, body: Body, hear: Callable[[Any], object]) -> None:
        try:
            await self._complete(body, hear)
        except UnknownModelError:
            await self._list()
            raise self._unknown(model) from None

    # -- models ----------------------------------------------------------------------------

    async def models(self) -> list[ModelRef]:
        """All that the server has, under the names that it can be asked for."""
        await self._list()
        return list(self._listed.values())

    async def load(self, model: ModelRef, path: str) -> None:
        """Load an adapter directory, which the server must see under the same path and which must
        stay as it is until it is unloaded. Without a version it becomes the adapter's next; a
        version that is loaded is unloaded first. Raises FileNotFoundError or ValueError (corrupt,
        of too high a rank, for another base), EngineError."""
        if model.adapter is None or model.base != self.base:
            raise ValueError(f"adapters are loaded under a name of base {self.base!r}")
        await self._connect()
        await self._list()
        newest = max(self._versions(model.adapter), default=0)
        version = newest + 1 if model.version is None else model.version
        ref = ModelRef(self.base, model.adapter, version)
        if str(ref) in self._listed:
            await self._forget(ref)
        body = load_body(ref, path)
        async with self._request("POST", "/v1/load_lora_adapter", body) as response:
            answer = await _content(response)
        if response.status != 200:
            raise load_refusal(response.status, answer, path, self.url)
        await self._list()
        for old in self._versions(model.adapter)[: -self.keep_versions]:
            await self._forget(ModelRef(self.base, model.adapter, old))
        await self._list()

    async def unload(self, model: ModelRef) -> None:
        """Forget a version, or all versions of an adapter; what is in flight ends as it began.
        Raises UnknownModelError, ValueError for the base."""
        await self._connect()
        if model == ModelRef(self.base):
            raise ValueError("the base cannot be unloaded")
        await self._list()
        named = [m for m in self._listed.values() if m.adapter == model.adapter is not None]
        gone = [m for m in named if model.version in (None, m.version)]
        if not gone or model.base != self.base:
            raise self._unknown(model)
        for ref in gone:
            await self._forget(ref)
        await self._list()

    async def _forget(self, ref: ModelRef) -> None:
        body = {"lora_name": str(ref)}
        async with self._request("POST", "/v1/unload_lora_adapter", body) as response:
            if response.status not in (200, 404):  # 404: gone already
                raise refusal(response.status, await _content(response), self.url)

    async def _resolve(self, ref: ModelRef) -> ModelRef:
        """The reference with the version that is asked for: the newest where it names none."""
        if ref.base != self.base:
            raise self._unknown(ref)
        if ref.adapter is None or ref.version is not None:
            return ref
        if time.monotonic() - self._listed_at > _FRESH_S:
            await self._list()
        versions = self._versions(ref.adapter)
        if versions:
            return ModelRef(self.base, ref.adapter, max(versions))
        if ref.adapter not in self._listed:
            raise self._unknown(ref)
        return ref  # loaded by somebody else, without a version

    def _versions(self, adapter: str) -> list[int]:
        found = [m for m in self._listed.values() if m.adapter == adapter]
        return sorted(m.version for m in found if m.version is not None)

    def _unknown(self, ref: ModelRef) -> UnknownModelError:
        known = ", ".join(sorted(self._listed))
        return UnknownModelError(f"no model {str(ref)!r} at {self.url}; there are: {known}")

    # -- the server ------------------------------------------------------------------------

    async def _connect(self) -> None:
        """Once: the base is there, its context, and what its logprobs are of."""
        async with self._lock:
            if self._ready:
                return
            await self._list()
            if self.base not in self._listed:
                raise self._unknown(ModelRef(self.base))
            probe = Answer([0], ModelRef(self.base), self.url)
            one = Sampling(top_p=1e-6, max_tokens=1)  # leaves one token, ties or not
            body = completion_body(self.base, [0], one, self.stop_ids)
            await self._complete(body, probe.add)
            if abs(probe.sample().logprobs[0]) > 1e-6:
                raise EngineError(
                    f"{self.url} gives logprobs of another distribution than it samples: start it "
                    "with --logprobs-mode processed_logprobs"
                )
            self._ready = True

    async def _list(self) -> None:
        """What /v1/models says now."""
        async with self._request("GET", "/v1/models") as response:
            answer = await _content(response)
            if response.status in (401, 403):
                raise refusal(response.status, answer, self.url)
        try:
            cards = {str(card["id"]): card for card in answer["data"]}
        except (KeyError, TypeError) as error:
            raise EngineError(f"{self.url} is no vLLM server: it lists no models") from error
        self._listed = {name: self._ref(name, c.get("parent")) for name, c in cards.items()}
        self._listed_at = time.monotonic()
        longest = cards.get(self.base, {}).get("max_model_len")
        self.context = longest if isinstance(longest, int) else None

    def _ref(self, name: str, parent: str | None) -> ModelRef:
        adapter, _, version = name.rpartition("@")
        if parent is None:
            return ModelRef(name)
        if adapter and version.isdecimal():
            return ModelRef(self.base, adapter, int(version))
        return ModelRef(self.base, name)

    async def _complete(self, body: Body, hear: Callable[[Any], object]) -> None:
        """Hear the answer to a completion, or each event of its stream."""
        heard = False
        for attempt in range(self.retries + 1):
            after = self.pause_s * 2**attempt
            try:
                async with self._request("POST", "/v1/completions", body) as response:
                    if response.status == 200:
                        async for data in _events(response):
                            heard = True
                            hear(data)
                        return
                    answer = await _content(response)
                    fault = refusal(response.status, answer, self.url)
                    if response.status not in _LATER:
                        raise fault
                    said = response.headers.get("Retry-After", "")
                    after = float(said) if said.isdecimal() else after
            except _Unreached as error:
                fault = error
            if heard or attempt == self.retries:
                raise fault
            await asyncio.sleep(min(after, self.timeout))

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: Body | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._closed:
            raise EngineError("the engine was closed")
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)
            whole = aiohttp.ClientTimeout(total=None)
            self._session = aiohttp.ClientSession(
                headers=self._headers, connector=connector, timeout=whole
            )
        limit = asyncio.timeout(self.timeout)
        self._open.add(limit)
        try:
            async with limit:
                async with self._session.request(method, self.url + path, json=body) as response:
                    yield response
        except TimeoutError as error:
            if self._closed:
                raise EngineError("the engine was closed") from error
            raise EngineError(f"no answer from {self.url} within {self.timeout:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Unreached(f"{self.url}: {one_line(error)}") from error
        except RuntimeError as error:  # of a stream that is read while its session closes
            if not self._closed:
                raise
            raise EngineError("the engine was closed") from error
        finally:
            self._open.discard(limit)

    async def aclose(self) -> None:
        """Close the connections: what is in flight fails, and the server goes on."""
        self._closed = True
        for limit in self._open:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> "VllmEngine":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def _content(response: aiohttp.ClientResponse) -> Any:
    """The answer's JSON, or its text where it is none."""
    text = await response.text(errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        return text


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Any]:
    """Each event of a stream, or the answer as the only one. What is no JSON comes as text."""
    if response.content_type != "text/event-stream":
        yield await _content(response)
        return
    parser = SSEParser()
    async for piece in response.content.iter_any():
        for _, data in parser.feed(piece):
            if data.strip() not in (b"", b"[DONE]"):
                try:
                    yield json.loads(data)
                except ValueError:
                    yield data.decode(errors="replace")
