"""A synthetic service whose things grow with its traffic: what learning is timed on.

A rental of machines: depots that list them, machines, clients with their bookings, bookings that
are made, extended and ended, refusals, and timeouts. Every tenth episode brings a new depot with
its machines and every second one a new client, so that more traffic shows more things instead of
the same ones more often.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from understudy.core.types import Completion, Episode, Message, ModelRef, Request

KINDS = ["crane", "drill", "lift", "mixer", "pump", "saw"]
PER_DEPOT = 18  # machines
EPISODES_A_DEPOT = 10
EPISODES_A_CLIENT = 2
TIMEOUTS = 0.03


def _of(kind: str, number: int) -> random.Random:
    """What is fixed of a thing by its number, however large the service is."""
    return random.Random(f"{kind}:{number}")


class Rental:
    """The service in one episode: depots and clients by number, the latter with their bookings."""

    def __init__(self, rng: random.Random, depots: int) -> None:
        self.rng, self.depots = rng, depots
        self.bookings: dict[str, dict[str, Any]] = {}
        self.clients: dict[str, dict[str, Any]] = {}

    def machine(self, code: str) -> dict[str, Any] | None:
        number = int(code[1:]) - 10_000 if code[1:].isdigit() else -1
        if not 0 <= number < self.depots * PER_DEPOT:
            return None
        rng = _of("machine", number)
        return {
            "machine": code, "kind": KINDS[number % 6], "depot": f"D{100 + number // PER_DEPOT}",
            "daily": rng.randint(20, 400), "grade": round(rng.uniform(1, 5), 1),
        }  # fmt: skip

    def client(self, code: str) -> dict[str, Any] | None:
        if not code[1:].isdigit():
            return None
        if code not in self.clients:
            rng = _of("client", int(code[1:]))
            names = [f"B{rng.randrange(10**5, 10**6)}" for _ in range(rng.randint(0, 2))]
            for name in names:
                found = f"M{10_000 + rng.randrange(self.depots * PER_DEPOT)}"
                self._book(name, code, found, rng.randint(1, 9))
            self.clients[code] = {
                "client": code, "name": f"{rng.choice('ABCDEFGH')}. {rng.choice(KINDS).title()}",
                "level": rng.choice(["plain", "silver", "gold"]), "bookings": names,
            }  # fmt: skip
        return self.clients[code]

    def _book(self, name: str, client: str, code: str, days: int) -> dict[str, Any]:
        found = self.machine(code)
        assert found is not None
        booking = {
            "booking": name, "client": client, "machine": code, "days": days,
            "total": found["daily"] * days, "state": "open",
        }  # fmt: skip
        self.bookings[name] = booking
        return booking

    def call(self, name: str, args: dict[str, Any]) -> Any:
        """The answer to a call."""
        if self.rng.random() < TIMEOUTS:
            return {"error": "timeout, try again"}
        answers: dict[str, Callable[[dict[str, Any]], Any]] = {
            "list_machines": self._list, "get_client": self._get_client,
            "get_machine": lambda a: self.machine(a["machine"]) or _no("machine", a["machine"]),
            "book": self._new, "extend": self._extend, "finish": self._finish,
            "get_booking": lambda a: self.bookings.get(a["booking"])
            or _no("booking", a["booking"]),
        }  # fmt: skip
        return answers[name](args)

    def _get_client(self, args: dict[str, Any]) -> Any:
        return self.client(args["client"]) or _no("client", args["client"])

    def _list(self, args: dict[str, Any]) -> Any:
        first = (int(args["depot"][1:]) - 100) * PER_DEPOT
        if not 0 <= first < self.depots * PER_DEPOT:
            return _no("depot", args["depot"])
        found = [self.machine(f"M{10_000 + first + n}") for n in range(PER_DEPOT)]
        rows = [m for m in found if m and m["kind"] == args["kind"]]
        rows = [m for m in rows if m["daily"] <= args.get("max_daily", 10**6)]
        return {"machines": sorted(rows, key=lambda m: m["daily"])}

    def _new(self, args: dict[str, Any]) -> Any:
        client, found = self.client(args["client"]), self.machine(args["machine"])
        if client is None or found is None:
            return (
                _no("client", args["client"]) if client is None else _no("machine", args["machine"])
            )
        if args["days"] > 30:
            return {"error": "at most 30 days"}
        name = f"B{self.rng.randrange(10**5, 10**6)}"
        client["bookings"] = [*client["bookings"], name]
        return self._book(name, args["client"], args["machine"], args["days"])

    def _extend(self, args: dict[str, Any]) -> Any:
        booking = self.bookings.get(args["booking"])
        if booking is None:
            return _no("booking", args["booking"])
        if booking["state"] != "open":
            return {"error": "not open"}
        found = self.machine(booking["machine"])
        assert found is not None
        days = booking["days"] + args["days"]
        changed = {**booking, "days": days, "total": found["daily"] * days}
        self.bookings[args["booking"]] = changed
        return changed

    def _finish(self, args: dict[str, Any]) -> Any:
        booking = self.bookings.get(args["booking"])
        if booking is None:
            return _no("booking", args["booking"])
        self.bookings[args["booking"]] = {**booking, "state": "ended"}
        return self.bookings[args["booking"]]


def _no(kind: str, code: str) -> dict[str, Any]:
    return {"error": f"no {kind} {code}"}


def _agent(rng: random.Random, depots: int, clients: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The calls of an episode; a result is sent in for each."""
    client, depot = f"C{10_000 + rng.randrange(clients)}", f"D{100 + rng.randrange(depots)}"
    held = yield "get_client", {"client": client if rng.random() > 0.05 else client + "x"}
    asked = {"depot": depot, "kind": rng.choice(KINDS)}
    if rng.random() < 0.5:
        asked["max_daily"] = rng.randrange(100, 400, 50)
    listed = yield "list_machines", asked
    names = [m["machine"] for m in listed.get("machines", ())] or [f"M{rng.randrange(10**4)}"]
    code = rng.choice(names)
    if rng.random() < 0.6:
        yield "get_machine", {"machine": code}
    days = rng.randint(1, 9) if rng.random() > 0.05 else 40
    made = yield "book", {"client": client, "machine": code, "days": days}
    name = made.get("booking") or next(iter(held.get("bookings", ())), "B000000")
    for tool, odds in (("extend", 0.4), ("get_booking", 0.5), ("finish", 0.3), ("extend", 0.1)):
        if rng.random() < odds:
            yield (
                tool,
                {"booking": name} | ({"days": rng.randint(1, 5)} if tool == "extend" else {}),
            )
    yield "get_client", {"client": client}


def _episode(number: int, depots: int, clients: int) -> Episode:
    rng = random.Random(f"episode:{number}")
    service, agent = Rental(rng, depots), _agent(rng, depots, clients)
    messages: list[Message] = [{"role": "user", "content": "I need a machine, please."}]
    results: Any = None
    while True:
        try:
            name, args = agent.send(results)  # type: ignore[attr-defined]
        except StopIteration:
            break
        results = service.call(name, args)
        call_id = f"k{len(messages)}"
        function = {"name": name, "arguments": json.dumps(args)}
        calls = [{"id": call_id, "type": "function", "function": function}]
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})  # type: ignore[typeddict-item]
        messages.append({"role": "tool", "tool_call_id": call_id, "content": json.dumps(results)})
    request = Request(tuple(messages), ModelRef("script"))
    done: Message = {"role": "assistant", "content": "Done."}
    return Episode(f"e{number}", (Completion(f"c{number}", request, "ok", done),), f"s{number}")


def traffic(size: int, first: int = 0, count: int | None = None) -> list[Episode]:
    """Captured episodes, by default `size` of them, of a service as large as `size` are many."""
    depots = max(3, size // EPISODES_A_DEPOT)
    clients = max(10, size // EPISODES_A_CLIENT)
    return [_episode(first + n, depots, clients) for n in range(size if count is None else count)]


def calls(episode: Episode) -> list[tuple[str, str]]:
    """(tool, arguments) of an episode's calls."""
    return [
        (c["function"]["name"], c["function"]["arguments"])  # type: ignore[typeddict-item]
        for m in episode.messages
        for c in m.get("tool_calls") or []
    ]
