"""The truth about an episode, from the service's database alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the customer got what the ticket asks for; `reason` says what went wrong."""

    success: bool
    reason: str  # "ok" or the first thing that is wrong


def judge_outcome(found: Mapping[str, Any], ticket: Mapping[str, Any]) -> Verdict:
    """`found` is what `BookingSystem.outcome` (GET /admin/outcome/{session}) returns.

    Success: exactly one new active booking, paid with the customer's first method that is not
    declined, for the right nights, of the best stay that could truly be had under the cap; and
    an old booking cancelled if and only if the ticket asks for it. Stays only ever turn out
    dearer than listed, so that what is hidden never makes a better choice out of a worse one.
    """
    wrong = _what_is_wrong(found, ticket)
    return Verdict(wrong is None, wrong or "ok")


def _what_is_wrong(found: Mapping[str, Any], ticket: Mapping[str, Any]) -> str | None:
    active = [b for b in found["bookings"] if b["hold_id"] and b["status"] == "confirmed"]
    if not active:
        return "no booking"
    if len(active) > 1:
        return "several bookings"
    booking = active[0]
    stays = {s["id"]: s for s in found["stays"]}
    stay, cap = stays[booking["stay_id"]], ticket["max_price"]
    if stay["city"] != ticket["city"]:
        return "wrong city"
    if stay["guests"] < ticket["guests"]:
        return "too small"
    if cap is not None and stay["price"] > cap:
        return "over the cap"
    if booking["nights"] != ticket["nights"]:
        return "wrong nights"
    suitable = [
        s
        for s in stays.values()
        if s["city"] == ticket["city"]
        and s["available"]
        and s["guests"] >= ticket["guests"]
        and (cap is None or s["price"] <= cap)
    ]
    if ticket["prefer"] == "cheapest":
        best = min(suitable, key=lambda s: s["price"])
    else:
        best = max(suitable, key=lambda s: s["rating"])
    if stay["id"] != best["id"]:
        return "not the best"
    return _wrong_payment(found, ticket, booking["hold_id"]) or _wrong_cancellation(found, ticket)


def _wrong_payment(found: Mapping[str, Any], ticket: Mapping[str, Any], hold_id: str) -> str | None:
    paid = [p["method"] for p in found["payments"] if p["hold_id"] == hold_id]
    declined = {p["method"] for p in found["payments"] if p["status"] == "declined"}
    right = next((m for m in ticket["methods"] if m not in declined), None)
    return None if right is not None and right in paid else "wrong method"


def _wrong_cancellation(found: Mapping[str, Any], ticket: Mapping[str, Any]) -> str | None:
    for old in (b for b in found["bookings"] if not b["hold_id"]):
        asked = old["id"] == ticket["cancel"]
        if asked and old["status"] != "cancelled":
            return "old booking not cancelled"
        if not asked and old["status"] == "cancelled":
            return "cancelled without being asked"
    return None
