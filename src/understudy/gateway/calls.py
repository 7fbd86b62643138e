"""One model call on its way: started, answered or not, finalised exactly once."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from understudy.core.openai_stream import ChunkAssembler
from understudy.core.openai_wire import Answer, estimate_usage
from understudy.core.origin import ORIGIN
from understudy.core.types import Completion, ModelRef, Status
from understudy.gateway.identity import Threads, _Chain
from understudy.gateway.routing import Route
from understudy.store import SQLiteStore


@dataclass(slots=True)
class Call:
    """A request being served. `wants` are the answer's fields that the client itself asked for."""

    completion: Completion
    route: Route
    body: dict[str, Any]
    raw: bytes
    changed: bool  # the body differs from what the client sent
    wants: frozenset[str]
    chain: _Chain | None
    first_token_at: float | None = None
    finished: bool = False
    partial: ChunkAssembler | None = None  # what has come of a stream


class Recorder:
    """Writes calls to the store in the configured mode. Nothing here waits for the disk; what
    durable mode waits for is the future that `start` and `finish` return."""

    def __init__(self, store: SQLiteStore, capture: str, threads: Threads) -> None:
        self._store, self._capture, self._threads = store, capture, threads
        self.by_status: Counter[str] = Counter()

    def start(self, call: Call) -> "asyncio.Future[None] | None":
        return self._keep(call.completion)

    def finish(
        self, call: Call, status: Status, answer: Answer | None, error: str | None = None
    ) -> "asyncio.Future[None] | None":
        """Finalise the call. A second attempt changes nothing."""
        if call.finished:
            return None
        call.finished = True
        self.by_status[status] += 1
        message = answer.message if answer is not None else None
        if message is not None and call.chain is not None and status == "ok":
            call.chain.add(message)
            episode_id = call.completion.request.episode_id
            assert episode_id is not None
            self._threads.ended_at(call.chain.thread, episode_id)
        return self._keep(finalised(call, status, answer, error))

    def _keep(self, completion: Completion) -> "asyncio.Future[None] | None":
        if self._capture == "off":
            return None
        if self._capture == "durable":
            return asyncio.wrap_future(self._store.submit([completion]))
        self._store.put([completion])
        return None


def finalised(call: Call, status: Status, answer: Answer | None, error: str | None) -> Completion:
    """The completion as it ends."""
    started = call.completion
    request = started.request
    answer = answer or Answer(None, None, started.usage)
    usage = answer.usage
    if usage.completion_tokens is None and answer.message is not None:
        usage = estimate_usage(request, answer.message)
    extra = dict(started.extra)
    if answer.others:
        extra["choices"] = list(answer.others)
    if answer.origin is not None and answer.output_ids:
        extra[ORIGIN] = answer.origin
    if call.chain is not None and answer.message is not None and status == "ok":
        extra["thread"] = call.chain.thread.full
    served = started.served
    if served is None and answer.model is not None and answer.model != str(request.model):
        served = ModelRef(answer.model)
    return replace(
        started,
        status=status,
        message=answer.message,
        finish_reason=answer.finish_reason,
        served=served,
        usage=usage,
        error=None if error is None else error.encode("utf-8", "replace").decode()[:2000],
        first_token_at=call.first_token_at,
        finished_at=time.time(),
        prompt_ids=answer.prompt_ids,
        output_ids=answer.output_ids,
        logprobs=answer.logprobs,
        extra=extra,
    )
