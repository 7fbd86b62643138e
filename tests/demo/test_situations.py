"""What episodes met, how failures are counted by it, and what is said of the service's calls."""

import json
from typing import Any

from understudy.demo.report import calls_said
from understudy.demo.situations import failures_by_situation, met
from understudy.demo.words import say_calls


def tool(body: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "c", "content": json.dumps(body)}


def test_situations_come_from_the_services_errors_and_the_ticket() -> None:
    plain: Any = {"cancel": None}
    assert met([tool({"stays": []}), tool(["error"])], plain) == ["none of these"]
    messages: Any = [
        {"role": "user", "content": json.dumps({"error": "sold out"})},  # said, not met
        tool({"ok": False, "error": "declined"}),
        tool({"error": "price changed", "price": 3}),
        {"role": "tool", "tool_call_id": "c", "content": "not JSON"},
    ]
    assert met(messages, plain) == ["price changed", "declined"]
    assert met(messages, {"cancel": "B1"}) == ["price changed", "declined", "cancellation"]


def test_failures_are_shares_of_those_that_met_the_situation() -> None:
    found = failures_by_situation(
        [["declined"], ["declined", "cancellation"], ["none of these"]], [True, False, False]
    )
    assert {k: (v["mean"], v["n"]) for k, v in found.items()} == {
        "declined": (0.5, 2),
        "cancellation": (1.0, 1),
        "none of these": (1.0, 1),
    }


def test_calls_that_the_service_saw_are_said_truthfully() -> None:
    none, some = {"learning": 0, "rehearsal": 0}, {"learning": 0, "rehearsal": 3}
    assert (say_calls(none), say_calls(some)) == (True, False)
    assert "Neither" in calls_said(none)
    assert calls_said(some) == (
        "Learning and rehearsal reached the real service (0 and 3 calls): they must not."
    )
