"""One model call on its way: started, answered or not, finalised exactly once."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from understudy.core.binding import PROMPT_HEADER, parts_of
from understudy.core.meter import METERED, MODEL_HEADER, NOBODY, PARAMETERS_HEADER
from understudy.core.openai_stream import ChunkAssembler
from understudy.core.openai_wire import Answer, estimate_usage
from understudy.core.origin import ORIGIN
from understudy.core.types import Completion, ModelRef, Status
from understudy.gateway.identity import Threads, _Chain
from understudy.gateway.routing import Route
from understudy.store import Due, SQLiteStore


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
    fallback: Route | None = None  # who answers where the prompt is none that was trained with
    metered: dict[str, Any] = field(default_factory=dict)  # what the completion is counted by

    def heard(self, headers: Mapping[str, str]) -> str | None:
        """What an engine says of its answer, kept with the completion; the parts of the request
        that the adapter was not trained with, None where there are none."""
        if MODEL_HEADER in headers:
            self.metered["model"] = headers[MODEL_HEADER]
        if headers.get(PARAMETERS_HEADER, "").isdecimal():
            self.metered["parameters"] = int(headers[PARAMETERS_HEADER])
        parts = parts_of(headers.get(PROMPT_HEADER))
        if parts is not None:
            self.metered["prompt"] = parts
        return parts


class Recorder:
    """Writes calls to the store in the configured mode. Nothing here waits for the disk; what
    durable mode waits for is the future that `start` and `finish` return."""

    def __init__(self, store: SQLiteStore, capture: str, threads: Threads) -> None:
        self._store, self._capture, self._threads = store, capture, threads
        self.by_status: Counter[str] = Counter()
        self.differing: Counter[str] = Counter()  # requests with another prompt, by alias
        self.fell_back: Counter[str] = Counter()  # those of them that the fallback answers
        self._marked: set[tuple[str, str, str, str]] = set()

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

    def differs(self, call: Call, parts: str) -> None:
        """A request came with another prompt, or other tools, than the adapter was trained with:
        its workload wants training again."""
        alias = call.route.alias or NOBODY
        self.differing[alias] += 1
        model = str(call.metered.get("model", call.route.model))
        mark = (call.completion.request.workload, alias, model, parts)
        if self._capture == "off" or mark in self._marked:
            return
        self._marked.add(mark)

        def again(done: "Future[None]") -> None:
            if done.cancelled() or done.exception() is not None:
                self._marked.discard(mark)  # the next such request tries again

        self._store.mark_due(Due(*mark, time.time())).add_done_callback(again)

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
    if call.metered:
        extra[METERED] = dict(sorted(call.metered.items()))
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
