"""A calendar in camelCase: ISO times with an offset, conflicts, free slots, counters."""

import random
from datetime import datetime, timedelta
from typing import Any

from unseen.playing import Agent, Refused, Service

PEOPLE = ["ana@acme.test", "bob@acme.test", "cas@acme.test", "dee@acme.test", "eli@acme.test"]
TITLES = ["Standup", "Budget review", "Interview", "One to one", "Planning", "Demo"]
DAYS = [f"2031-03-{d:02d}" for d in range(3, 8)]
ZONE = "+02:00"


def _end(begin: str, minutes: int) -> str:
    try:
        return (datetime.fromisoformat(begin) + timedelta(minutes=minutes)).isoformat()
    except ValueError:
        raise Refused({"code": "BAD_TIME", "detail": begin}) from None


def start(rng: random.Random) -> dict[str, Any]:
    fixed = random.Random("diary")
    events = {}
    for person in PEOPLE:
        for day in DAYS:
            for hour in sorted(fixed.sample(range(9, 17), 2)):
                name = f"evt_{fixed.randrange(16**6):06x}"
                begin = f"{day}T{hour:02d}:00:00{ZONE}"
                events[name] = {
                    "eventId": name, "owner": person, "title": fixed.choice(TITLES),
                    "startsAt": begin, "endsAt": _end(begin, 60), "durationMinutes": 60,
                    "status": "confirmed", "revision": 1,
                }  # fmt: skip
    return {"events": events, "rng": rng.randrange(10**9)}


def _event(state: Any, name: str) -> dict[str, Any]:
    if name not in state["events"]:
        raise Refused({"code": "NOT_FOUND", "detail": f"event {name}"})
    own: dict[str, Any] = state["events"][name]
    if own["status"] == "cancelled":
        raise Refused({"code": "GONE", "detail": f"event {name} was cancelled"})
    return own


def _busy(state: Any, person: str, day: str) -> list[dict[str, Any]]:
    own = [
        e for e in state["events"].values() if e["owner"] == person and e["status"] != "cancelled"
    ]
    return sorted((e for e in own if e["startsAt"][:10] == day), key=lambda e: e["startsAt"])


def _free(state: Any, person: str, begin: str, end: str, but: str = "") -> None:
    if person not in PEOPLE:
        raise Refused({"code": "NO_CALENDAR", "detail": person})
    for e in _busy(state, person, begin[:10]):
        if e["eventId"] != but and e["startsAt"] < end and begin < e["endsAt"]:
            raise Refused({"code": "CONFLICT", "detail": "slot is taken", "with": e["eventId"]})


def listEvents(state: Any, owner: str, day: str) -> Any:
    if owner not in PEOPLE:
        raise Refused({"code": "NO_CALENDAR", "detail": owner})
    rows = _busy(state, owner, day)
    keys = ("eventId", "title", "startsAt", "endsAt")
    return {"day": day, "items": [{k: e[k] for k in keys} for e in rows], "totalItems": len(rows)}


def getEvent(state: Any, eventId: str) -> Any:
    return dict(_event(state, eventId))


def createEvent(state: Any, owner: str, title: str, startsAt: str, durationMinutes: int) -> Any:
    end = _end(startsAt, durationMinutes)
    _free(state, owner, startsAt, end)
    state["rng"] = (state["rng"] * 48271 + 11) % (2**31)
    name = f"evt_{state['rng'] % 16**6:06x}"
    state["events"][name] = {
        "eventId": name, "owner": owner, "title": title, "startsAt": startsAt, "endsAt": end,
        "durationMinutes": durationMinutes, "status": "confirmed", "revision": 1,
    }  # fmt: skip
    return dict(state["events"][name])


def moveEvent(state: Any, eventId: str, startsAt: str) -> Any:
    own = _event(state, eventId)
    end = _end(startsAt, own["durationMinutes"])
    _free(state, own["owner"], startsAt, end, eventId)
    own.update(startsAt=startsAt, endsAt=end, revision=own["revision"] + 1)
    return {k: own[k] for k in ("eventId", "startsAt", "endsAt", "revision")}


def renameEvent(state: Any, eventId: str, title: str) -> Any:
    own = _event(state, eventId)
    own.update(title=title, revision=own["revision"] + 1)
    return {"eventId": eventId, "revision": own["revision"]}


def cancelEvent(state: Any, eventId: str) -> Any:
    _event(state, eventId)["status"] = "cancelled"
    return {"eventId": eventId, "status": "cancelled"}


def countEvents(state: Any, owner: str) -> Any:
    if owner not in PEOPLE:
        raise Refused({"code": "NO_CALENDAR", "detail": owner})
    days = {day: len(_busy(state, owner, day)) for day in DAYS}
    return {"owner": owner, "week": sum(days.values()), "busiest": max(days, key=lambda d: days[d])}


def agent(rng: random.Random, state: Any) -> Agent:
    owner, day = rng.choice(PEOPLE), rng.choice(DAYS)
    seen = yield "listEvents", {"owner": owner, "day": day}
    known = [e["eventId"] for e in seen["items"]]
    if rng.random() < 0.4:
        yield "countEvents", {"owner": owner}
    for _ in range(2):
        hour = rng.randrange(9, 17)
        begin = f"{day}T{hour:02d}:{rng.choice(['00', '30'])}:00{ZONE}"
        args = {"owner": owner, "title": rng.choice(TITLES), "startsAt": begin,
                "durationMinutes": rng.choice([30, 45, 60, 90])}  # fmt: skip
        made = yield "createEvent", args
        if isinstance(made, Refused):
            if "with" in made.args[0] and rng.random() < 0.5:
                yield "getEvent", {"eventId": made.args[0]["with"]}
        else:
            known.append(made["eventId"])
            if rng.random() < 0.5:
                yield "getEvent", {"eventId": made["eventId"]}
    rng.shuffle(known)
    for name in known[:3]:
        act = rng.random()
        if act < 0.4:
            begin = f"{rng.choice(DAYS)}T{rng.randrange(9, 17):02d}:00:00{ZONE}"
            yield "moveEvent", {"eventId": name, "startsAt": begin}
        elif act < 0.65:
            yield "renameEvent", {"eventId": name, "title": rng.choice(TITLES)}
        elif act < 0.85:
            yield "cancelEvent", {"eventId": name}
        yield "getEvent", {"eventId": name}
    if rng.random() < 0.6:
        yield "listEvents", {"owner": owner, "day": day}
    if rng.random() < 0.4:
        yield "countEvents", {"owner": owner}
    if rng.random() < 0.1:
        yield "countEvents", {"owner": "zed@acme.test"}


def malformed(what: str, tool: str, argument: str) -> Any:
    return {"code": "BAD_REQUEST", "detail": f"{argument}: {what}"}


SERVICE = Service(
    "diary", start,
    {f.__name__: f for f in
     (listEvents, getEvent, createEvent, moveEvent, renameEvent, cancelEvent, countEvents)},
    agent, malformed,
)  # fmt: skip
