"""Captured traffic for tests: the demo's customers with its scripted incumbent, without HTTP."""

import gzip
import json
from pathlib import Path
from typing import Any

from understudy.core.types import text_of
from understudy.demo.agent import SYSTEM_PROMPT, TOOLS
from understudy.demo.booking import BookingSystem
from understudy.demo.customers import Customer, scenarios
from understudy.demo.incumbent import FlawRates, decide
from understudy.demo.outcome import judge_outcome


async def conversations(
    folder: Path, n: int, seed: int = 0, rates: FlawRates | None = None
) -> list[dict[str, Any]]:
    """`n` rows of messages, tools, metadata and reward; the incumbent has these flaw rates."""
    system = BookingSystem(folder / "service.db", 0)
    rows = []
    for scenario in scenarios("traffic", n, seed):
        session = system.open_session(scenario.seed, {"existing": scenario.goal["existing"]})
        customer = Customer(scenario)
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": text_of(scenario.messages[-1].get("content"))},
        ]
        for turn in range(20):
            said: dict[str, Any] = dict(decide(messages, seed, rates))  # type: ignore[arg-type]
            for k, call in enumerate(said.get("tool_calls") or []):
                call["id"] = f"call_{turn}_{k}"
            messages.append(said)
            if said.get("tool_calls"):
                for call in said["tool_calls"]:
                    function = call["function"]
                    _, body = system.call(
                        session, function["name"], json.loads(function["arguments"])
                    )
                    content = json.dumps(body)
                    messages.append(
                        {"role": "tool", "tool_call_id": call["id"], "content": content}
                    )
                continue
            reply = await customer.reply(messages)  # type: ignore[arg-type]
            if reply is None:
                break
            messages.append(dict(reply))
        verdict = judge_outcome(system.outcome(session), scenario.metadata["ticket"])
        rows.append(
            {
                "messages": messages,
                "tools": list(TOOLS),
                "metadata": dict(scenario.metadata),
                "scenario": scenario.id,
                "reward": int(verdict.success),
            }
        )
    system.close()
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path
