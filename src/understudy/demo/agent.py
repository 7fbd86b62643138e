"""The demo's production agent: the loop that a shop runs, through the official openai client."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp
import openai

from understudy.core.chatml import call_error
from understudy.core.ids import uuid7
from understudy.core.types import Message, Scenario, Tool, ToolCall, ToolResult
from understudy.demo.customers import Customer
from understudy.demo.outcome import Verdict, judge_outcome

WORKLOAD = "booking"
PROOF_WORKLOAD = "booking-proof"  # nobody learns from it
MAX_TURNS = 20
SYSTEM_PROMPT = (
    "You book stays for customers. Ask for what is missing. "
    "Do the cancellations first. Pay with the methods in the customer's order."
)


def _tool(name: str, required: str, **parameters: str | list[str]) -> Tool:
    properties: dict[str, Any] = {
        p: {"type": "string", "enum": t} if isinstance(t, list) else {"type": t}
        for p, t in parameters.items()
    }
    schema = {"type": "object", "properties": properties, "required": required.split()}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS: tuple[Tool, ...] = (
    _tool(
        "search_stays", "city guests",
        city="string", guests="integer", max_price="number", sort=["price", "rating"],
    ),
    _tool("stay_details", "stay_id", stay_id="string"),
    _tool("hold_stay", "stay_id nights", stay_id="string", nights="integer"),
    _tool("pay_hold", "hold_id method", hold_id="string", method="string"),
    _tool("cancel_booking", "booking_id", booking_id="string"),
    _tool("find_booking", "booking_id", booking_id="string"),
)  # fmt: skip


class ServiceClient:
    """The booking service over HTTP. An async context manager."""

    def __init__(self, url: str, connections: int = 64) -> None:
        self.url, self._connections = url.rstrip("/"), connections
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "ServiceClient":
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections),
            timeout=aiohttp.ClientTimeout(total=60),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def open_session(self, scenario: Scenario) -> str:
        """A new world for a scenario of `demo.customers`; its seed is the scenario's."""
        body = {"seed": scenario.seed, "scenario": {"existing": scenario.goal.get("existing")}}
        async with self._client.post(f"{self.url}/sessions", json=body) as response:
            response.raise_for_status()
            return str((await response.json())["session"])

    async def call(self, session: str, call: ToolCall) -> ToolResult:
        """Carries out a tool call; a broken one is answered with what is wrong with it."""
        wrong = call_error(call, TOOLS)
        if wrong is not None:
            return ToolResult(json.dumps({"error": wrong}), is_error=True, latency_s=0.0)
        function, started = call["function"], time.perf_counter()
        url = f"{self.url}/tools/{function['name']}"
        body = function["arguments"] or "{}"
        async with self._client.post(url, data=body, headers={"x-session": session}) as response:
            content = await response.text()
            latency = time.perf_counter() - started
            return ToolResult(content, is_error=response.status >= 400, latency_s=latency)

    async def outcome(self, session: str) -> dict[str, Any]:
        """What the service's database holds of the session."""
        return await self._get(f"/admin/outcome/{session}")

    async def calls(self) -> dict[str, Any]:
        """{"total": n, "by_session": {...}}: the tool calls that the service has seen."""
        return await self._get("/calls")

    async def _get(self, path: str) -> dict[str, Any]:
        async with self._client.get(self.url + path) as response:
            response.raise_for_status()
            found: dict[str, Any] = await response.json()
            return found

    @property
    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise RuntimeError("use ServiceClient as `async with ServiceClient(url) as service`")
        return self._http


@dataclass(frozen=True, slots=True)
class Served:
    """One customer served. `messages` starts with the system prompt."""

    episode_id: str
    scenario: Scenario
    messages: tuple[Message, ...]
    verdict: Verdict
    thumb: bool | None
    ended: str  # user_left, max_turns, error
    completions: int
    error: str | None = None


async def serve_customer(
    client: openai.AsyncOpenAI,
    service: ServiceClient,
    customer: Customer,
    model: str = "prod",
    system_prompt: str = SYSTEM_PROMPT,
    feedback: Callable[[str, bool], Any] | None = None,
    workload: str = WORKLOAD,
    **request: Any,
) -> Served:
    """Talks with one customer until it leaves; judges the outcome; passes the thumb on.

    `feedback(episode_id, value)` is awaited when the customer leaves a thumb. `request` goes to
    the client's call (temperature, seed, ...). A model that cannot be reached ends the episode
    with ended="error". Messages and tools travel as `extra_body`: the same bytes on the wire, but
    the client does not walk them along its type annotations, which takes it milliseconds a call.
    """
    scenario, episode_id = customer.scenario, uuid7()
    session = await service.open_session(scenario)
    messages: list[Message] = [
        {"role": "system", "content": system_prompt},
        {"role": "user", "content": customer.first},
    ]
    headers = {
        "x-understudy-episode": episode_id,
        "x-understudy-workload": workload,
        "x-understudy-scenario": scenario.id,
        "x-understudy-metadata": json.dumps(dict(scenario.metadata)),
    }
    ended, completions, error = "max_turns", 0, None
    while completions < MAX_TURNS:
        try:
            answer = await client.chat.completions.create(
                model=model,
                messages=[],
                extra_body={"messages": messages, "tools": TOOLS},
                extra_headers=headers,
                **request,
            )
        except openai.OpenAIError as failed:
            ended, error = "error", str(failed)
            break
        completions += 1
        said = _message(answer.choices[0].message)
        messages.append(said)
        if said.get("tool_calls"):
            for call in said["tool_calls"]:
                result = await service.call(session, call)
                messages.append(
                    {"role": "tool", "tool_call_id": call["id"], "content": result.content}
                )
            continue
        reply = await customer.reply(messages)
        if reply is None:
            ended = "user_left"
            break
        messages.append(reply)
    verdict = judge_outcome(await service.outcome(session), scenario.metadata["ticket"])
    thumb = customer.thumb(verdict.success)
    if thumb is not None and feedback is not None:
        await feedback(episode_id, thumb)
    return Served(episode_id, scenario, tuple(messages), verdict, thumb, ended, completions, error)


def _message(said: Any) -> Message:
    """The client's message as it goes back into the next request."""
    message: Message = {"role": "assistant", "content": said.content}
    if said.tool_calls:
        message["tool_calls"] = [
            {
                "id": c.id,
                "type": "function",
                "function": {"name": c.function.name, "arguments": c.function.arguments},
            }
            for c in said.tool_calls
        ]
    return message


async def run_traffic(
    model_url: str,
    service_url: str,
    customers: Sequence[Scenario],
    concurrency: int = 32,
    model: str = "prod",
    feedback_url: str | None = None,
    on_progress: Callable[[Served], None] | None = None,
    api_key: str = "demo",
    workload: str = WORKLOAD,
    **request: Any,
) -> list[Served]:
    """Serves all customers, `concurrency` at a time, in the order of `customers`.

    `model_url` is the endpoint with its /v1; thumbs are posted to `feedback_url`, by default
    the endpoint's /feedback; pass "" where there is none.
    """
    model_url = model_url.rstrip("/")
    thumbs = f"{model_url}/feedback" if feedback_url is None else feedback_url
    gate = asyncio.Semaphore(concurrency)
    headers = {"authorization": f"Bearer {api_key}"}
    async with (
        openai.AsyncOpenAI(base_url=model_url, api_key=api_key, timeout=120) as client,
        ServiceClient(service_url, connections=2 * concurrency) as service,
        aiohttp.ClientSession(headers=headers) as http,
    ):

        async def post_thumb(episode_id: str, value: bool) -> None:
            body = {"episode_id": episode_id, "name": "thumb", "value": value, "source": "user"}
            async with http.post(thumbs, json=body) as response:
                response.raise_for_status()

        async def one(scenario: Scenario) -> Served:
            async with gate:
                served = await serve_customer(
                    client, service, Customer(scenario), model,
                    feedback=post_thumb if thumbs else None, workload=workload, **request,
                )  # fmt: skip
            if on_progress is not None:
                on_progress(served)
            return served

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(s)) for s in customers]
        return [task.result() for task in tasks]
