"""The booking system behind the demo's service: SQLite file, virtual clocks, isolated sessions.

A session is one customer's private life of the system: it has its own clock, its own rows and
its own luck, drawn from its seed. No HTTP here; `service.py` puts it on the wire.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy.demo.catalogue import (
    METHODS,
    Rates,
    Stay,
    build_catalogue,
    draw,
    stay_state,
    true_price,
    truly_available,
)

MAX_LISTED = 5
HOLD_SECONDS = 900
Body = dict[str, Any]
Answer = tuple[int, Body]

_SCHEMA = """
CREATE TABLE stays (id TEXT PRIMARY KEY, city TEXT, guests INT, price INT, rating REAL);
CREATE TABLE sessions (id TEXT PRIMARY KEY, seed INT);
CREATE TABLE holds (session TEXT, id TEXT, stay_id TEXT, nights INT, price INT, expires_at INT,
    status TEXT, PRIMARY KEY (session, id));
CREATE TABLE bookings (session TEXT, id TEXT, stay_id TEXT, nights INT, total INT, status TEXT,
    hold_id TEXT, PRIMARY KEY (session, id));
CREATE TABLE payments (session TEXT, hold_id TEXT, method TEXT, status TEXT, at INT);
CREATE TABLE cancellations (session TEXT, booking_id TEXT, at INT);
CREATE INDEX payments_session ON payments (session);
CREATE INDEX cancellations_session ON cancellations (session);
"""


class UnknownSession(KeyError):
    """No session of that id was opened."""


class Refused(Exception):
    """The system's answer is an error: HTTP status and body."""

    def __init__(self, status: int, error: str, **more: Any) -> None:
        super().__init__(error)
        self.status, self.body = status, {"error": error, **more}


@dataclass(slots=True)
class _Life:
    """What a session remembers besides its rows."""

    id: str
    seed: int
    clock: int = 0  # virtual seconds
    calls: int = 0
    limited: bool = False  # the call before was rate limited
    unlisted: set[str] = field(default_factory=set)  # stays found to be sold out or gone
    repriced: set[str] = field(default_factory=set)  # stays whose new price is known
    payments: int = 0
    declined: str | None = None
    ids: set[str] = field(default_factory=set)


class BookingSystem:
    """Stays, holds, payments and bookings. One instance owns its database file.

    `seed` fixes the catalogue. The file is made anew: raises FileExistsError if it is there.
    """

    def __init__(self, path: str | Path, seed: int = 0, rates: Rates | None = None) -> None:
        if Path(path).exists():
            raise FileExistsError(f"{path} exists; give a new file or remove it")
        self.rates = rates or Rates()
        self.catalogue = build_catalogue(seed)
        self._cities = {city.lower(): stays for city, stays in self.catalogue.items()}
        self._stays = {s.id: s for stays in self.catalogue.values() for s in stays}
        self._lives: dict[str, _Life] = {}
        self.calls: Counter[str] = Counter()  # by session
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.executescript(_SCHEMA)
        rows = [(s.id, s.city, s.guests, s.price, s.rating) for s in self._stays.values()]
        self._db.executemany("INSERT INTO stays VALUES (?, ?, ?, ?, ?)", rows)
        self._tools: dict[str, Callable[[_Life, Mapping[str, Any]], Body]] = {
            "search_stays": self._search,
            "stay_details": self._details,
            "hold_stay": self._hold,
            "pay_hold": self._pay,
            "cancel_booking": self._cancel,
            "find_booking": self._find,
        }

    def close(self) -> None:
        self._db.close()

    def open_session(self, seed: int, scenario: Mapping[str, Any] | None = None) -> str:
        """A new session's id. `scenario` may hold {"existing": {booking_id, stay_id, nights}}."""
        life = _Life(f"W{len(self._lives) + 1}", seed)
        self._lives[life.id] = life
        self._db.execute("INSERT INTO sessions VALUES (?, ?)", (life.id, seed))
        existing = (scenario or {}).get("existing")
        if existing:
            stay = self._stays[existing["stay_id"]]
            nights = int(existing["nights"])
            row = (existing["booking_id"], stay.id, nights, stay.price * nights)
            self._insert_booking(life, *row, hold_id=None)
            life.ids.add(existing["booking_id"])
        return life.id

    def call(self, session: str, tool: str, arguments: Any) -> Answer:
        """HTTP status and body. Raises UnknownSession."""
        life = self._life(session)
        self.calls[session] += 1
        life.calls += 1
        life.clock += 5 + int(10 * draw(life.seed, "pace", life.calls))
        try:
            if tool not in self._tools:
                raise Refused(404, "no such tool")
            life.limited = not life.limited and (
                draw(life.seed, "limit", life.calls) < self.rates.rate_limited
            )
            if life.limited:
                raise Refused(429, "rate limited")
            if not isinstance(arguments, dict):
                raise Refused(400, "arguments must be an object")
            return 200, self._tools[tool](life, arguments)
        except Refused as refused:
            return refused.status, refused.body

    def outcome(self, session: str) -> dict[str, Any]:
        """What the database holds of a session, and what was really to be had in the cities in
        which it has bookings. Raises UnknownSession."""
        life = self._life(session)
        found: dict[str, Any] = {"session": session}
        for table in ("bookings", "holds", "payments", "cancellations"):
            rows = self._db.execute(f"SELECT * FROM {table} WHERE session = ?", (session,))
            found[table] = [{k: r[k] for k in r.keys() if k != "session"} for r in rows]  # noqa: SIM118
        cities = {self._stays[b["stay_id"]].city for b in found["bookings"]}
        found["stays"] = [
            {
                "id": s.id,
                "city": s.city,
                "guests": s.guests,
                "price": true_price(life.seed, s, self.rates),
                "rating": s.rating,
                "available": truly_available(life.seed, s, self.rates),
            }
            for city in sorted(cities)
            for s in self.catalogue[city]
        ]
        return found

    # the tools

    def _search(self, life: _Life, arguments: Mapping[str, Any]) -> Body:
        _check(arguments, {"city": str, "guests": int}, {"max_price": float, "sort": str})
        stays = self._cities.get(arguments["city"].strip().lower())
        if stays is None:
            raise Refused(404, "unknown city")
        cap, sort = arguments.get("max_price"), arguments.get("sort")
        if sort not in (None, "price", "rating"):
            raise Refused(400, "sort must be price or rating")
        found: list[dict[str, Any]] = [
            {"id": s.id, "price": self._known_price(life, s), "rating": s.rating}
            for s in stays
            if s.guests >= arguments["guests"] and s.id not in life.unlisted
        ]
        if cap is not None:
            found = [s for s in found if s["price"] <= cap]
        if sort is not None:
            found.sort(key=lambda s: s[sort], reverse=sort == "rating")
        return {"stays": found[:MAX_LISTED]}

    def _details(self, life: _Life, arguments: Mapping[str, Any]) -> Body:
        _check(arguments, {"stay_id": str})
        stay = self._stay(arguments["stay_id"])
        price = self._known_price(life, stay)
        return {"id": stay.id, "price": price, "rating": stay.rating, "guests": stay.guests}

    def _hold(self, life: _Life, arguments: Mapping[str, Any]) -> Body:
        _check(arguments, {"stay_id": str, "nights": int})
        stay, nights = self._stay(arguments["stay_id"]), arguments["nights"]
        if not 1 <= nights <= 14:
            raise Refused(422, "nights must be 1-14")
        state = stay_state(life.seed, stay.id, self.rates)
        if state == "sold_out":
            life.unlisted.add(stay.id)
            raise Refused(409, "sold out")
        if state == "gone":
            life.unlisted.add(stay.id)
            raise Refused(410, "no longer listed")
        if state == "dearer" and stay.id not in life.repriced:
            life.repriced.add(stay.id)
            raise Refused(409, "price changed", price=stay.raised_price)
        hold_id, price = self._new_id(life, "H", 1000, 9999), self._known_price(life, stay)
        row = (life.id, hold_id, stay.id, nights, price, life.clock + HOLD_SECONDS, "open")
        self._db.execute("INSERT INTO holds VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return {"hold_id": hold_id, "total": price * nights}

    def _pay(self, life: _Life, arguments: Mapping[str, Any]) -> Body:
        """Answers 200 even for its errors, which are inside."""
        try:
            return self._charge(life, arguments)
        except Refused as refused:
            return {"ok": False, **refused.body}

    def _charge(self, life: _Life, arguments: Mapping[str, Any]) -> Body:
        _check(arguments, {"hold_id": str, "method": str})
        hold = self._row("holds", life, arguments["hold_id"])
        method = arguments["method"]
        if hold is None:
            raise Refused(404, "no such hold")
        if method != method.lower():
            raise Refused(422, "method must be lower case")
        if method not in METHODS:
            raise Refused(422, "unknown method")
        if hold["status"] == "paid":
            raise Refused(409, "already paid")
        life.payments += 1
        if life.payments == 1 and draw(life.seed, "slow") < self.rates.expired:
            life.clock += HOLD_SECONDS + 300  # the customer looked for the card for too long
        if life.clock > hold["expires_at"]:
            self._set_status("holds", life, hold["id"], "expired")
            raise Refused(409, "hold expired")
        if life.declined is None:
            declines = draw(life.seed, "declined") < self.rates.declined
            life.declined = method if declines else ""
        status = "declined" if method == life.declined else "paid"
        row = (life.id, hold["id"], method, status, life.clock)
        self._db.execute("INSERT INTO payments VALUES (?, ?, ?, ?, ?)", row)
        if status == "declined":
            raise Refused(402, "declined")
        self._set_status("holds", life, hold["id"], "paid")
        booking_id = self._new_id(life, "B", 10000, 99999)
        nights, total = hold["nights"], hold["price"] * hold["nights"]
        self._insert_booking(life, booking_id, hold["stay_id"], nights, total, hold["id"])
        return {"booking_id": booking_id, "status": "confirmed"}

    def _cancel(self, life: _Life, arguments: Mapping[str, Any]) -> Body:
        booking = self._booking(life, arguments)
        if booking["status"] == "cancelled":
            raise Refused(409, "already cancelled")
        self._set_status("bookings", life, booking["id"], "cancelled")
        row = (life.id, booking["id"], life.clock)
        self._db.execute("INSERT INTO cancellations VALUES (?, ?, ?)", row)
        return {"status": "cancelled"}

    def _find(self, life: _Life, arguments: Mapping[str, Any]) -> Body:
        booking = self._booking(life, arguments)
        return {k: booking[k] for k in ("stay_id", "nights", "status")}

    # small parts

    def _life(self, session: str) -> _Life:
        if session not in self._lives:
            raise UnknownSession(session)
        return self._lives[session]

    def _booking(self, life: _Life, arguments: Mapping[str, Any]) -> sqlite3.Row:
        _check(arguments, {"booking_id": str})
        booking = self._row("bookings", life, arguments["booking_id"])
        if booking is None:
            raise Refused(404, "no such booking")
        return booking

    def _stay(self, stay_id: str) -> Stay:
        if stay_id not in self._stays:
            raise Refused(404, "no such stay")
        return self._stays[stay_id]

    def _known_price(self, life: _Life, stay: Stay) -> int:
        return stay.raised_price if stay.id in life.repriced else stay.price

    def _new_id(self, life: _Life, letter: str, low: int, high: int) -> str:
        n = 0
        while True:
            u = draw(life.seed, letter, len(life.ids), n)
            made = f"{letter}{low + int(u * (high - low + 1))}"
            if made not in life.ids:
                life.ids.add(made)
                return made
            n += 1

    def _row(self, table: str, life: _Life, key: str) -> sqlite3.Row | None:
        query = f"SELECT * FROM {table} WHERE session = ? AND id = ?"
        row: sqlite3.Row | None = self._db.execute(query, (life.id, key)).fetchone()
        return row

    def _set_status(self, table: str, life: _Life, key: str, status: str) -> None:
        query = f"UPDATE {table} SET status = ? WHERE session = ? AND id = ?"
        self._db.execute(query, (status, life.id, key))

    def _insert_booking(
        self, life: _Life, key: str, stay_id: str, nights: int, total: int, hold_id: str | None
    ) -> None:
        row = (life.id, key, stay_id, nights, total, "confirmed", hold_id)
        self._db.execute("INSERT INTO bookings VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _check(
    arguments: Mapping[str, Any],
    required: Mapping[str, type],
    optional: Mapping[str, type] | None = None,
) -> None:
    known = {**required, **(optional or {})}
    for name in required:
        if name not in arguments:
            raise Refused(400, f"{name} is missing")
    for name, value in arguments.items():
        if name not in known:
            raise Refused(400, f"unknown field {name}")
        kind = known[name]
        accepted = (int, float) if kind is float else kind
        if (value is None and name in (optional or {})) or (
            isinstance(value, accepted) and not isinstance(value, bool)
        ):
            continue
        word = {str: "a string", int: "an integer", float: "a number"}[kind]
        raise Refused(400, f"{name} must be {word}")
