"""The booking system: what it lists, how it fails, that every failure can be got over."""

import asyncio
import itertools
from pathlib import Path

import aiohttp
import pytest
from helpers import new_system

from understudy.demo.booking import MAX_LISTED, BookingSystem, UnknownSession
from understudy.demo.catalogue import (
    CITIES,
    NO_FAILURES,
    Rates,
    Stay,
    build_catalogue,
    draw,
    stay_state,
)

CERTAIN = {"sold_out": 0, "gone": 0, "dearer": 0, "rate_limited": 0, "expired": 0, "declined": 0}


def quiet(folder: Path, **rates: float) -> BookingSystem:
    """A system that fails only as said."""
    return new_system(folder, **{**CERTAIN, **rates})


def first_stay(system: BookingSystem) -> Stay:
    return system.catalogue[CITIES[0]][0]


def test_the_catalogue_is_fixed_by_its_seed_and_has_no_ties() -> None:
    assert build_catalogue(3) == build_catalogue(3) != build_catalogue(4)
    catalogue = build_catalogue(3)
    ids = [s.id for stays in catalogue.values() for s in stays]
    assert len(catalogue) == 24
    assert len(set(ids)) == len(ids)
    for stays in catalogue.values():
        assert 12 <= len(stays) <= 20
        prices = [p for s in stays for p in (s.price, s.raised_price)]
        assert len(set(prices)) == len(prices)
        assert len({s.rating for s in stays}) == len(stays)
        assert all(40 <= s.price <= 400 and s.raised_price > s.price for s in stays)


def test_search_obeys_guests_cap_and_sort(tmp_path: Path) -> None:
    system = quiet(tmp_path)
    session = system.open_session(1)
    for city, stays in system.catalogue.items():
        fitting = [s for s in stays if s.guests >= 3 and s.price <= 250]
        ask = {"city": city.lower(), "guests": 3, "max_price": 250}
        by_price = system.call(session, "search_stays", {**ask, "sort": "price"})[1]["stays"]
        by_rating = system.call(session, "search_stays", {**ask, "sort": "rating"})[1]["stays"]
        cheapest = sorted(fitting, key=lambda s: s.price)[:MAX_LISTED]
        best = sorted(fitting, key=lambda s: -s.rating)[:MAX_LISTED]
        assert [s["id"] for s in by_price] == [s.id for s in cheapest]
        assert [s["id"] for s in by_rating] == [s.id for s in best]
        listed = system.call(session, "search_stays", ask)[1]["stays"]
        assert [s["id"] for s in listed] == [s.id for s in fitting][:MAX_LISTED]
    too_many = system.call(session, "search_stays", {"city": CITIES[0], "guests": 9})
    assert too_many == (200, {"stays": []})


def test_failures_come_at_their_rates() -> None:
    stays = [s for some in build_catalogue(0).values() for s in some]
    rates = Rates()
    states = [stay_state(seed, s.id, rates) for seed in range(60) for s in stays]
    for state, rate in (("sold_out", 0.10), ("gone", 0.07), ("dearer", 0.08)):
        assert states.count(state) / len(states) == pytest.approx(rate, abs=0.01)


def test_rate_limits_come_at_their_rate_and_never_twice(tmp_path: Path) -> None:
    system = quiet(tmp_path, rate_limited=0.1)
    ask = {"city": CITIES[1], "guests": 2}
    sessions = [system.open_session(seed) for seed in range(100)]
    runs = [[system.call(s, "search_stays", ask)[0] for _ in range(20)] for s in sessions]
    assert sum(r.count(429) for r in runs) / 2000 == pytest.approx(0.1, abs=0.025)
    assert not any(a == b == 429 for r in runs for a, b in itertools.pairwise(r))


def hold(system: BookingSystem, session: str, stay: Stay, nights: int = 2) -> tuple[int, dict]:
    return system.call(session, "hold_stay", {"stay_id": stay.id, "nights": nights})


def pay(system: BookingSystem, session: str, hold_id: str, method: str = "visa") -> dict:
    status, body = system.call(session, "pay_hold", {"hold_id": hold_id, "method": method})
    assert status == 200
    return body


@pytest.mark.parametrize(
    ("kind", "error"), [("sold_out", "sold out"), ("gone", "no longer listed")]
)
def test_what_cannot_be_had_stays_so_and_leaves_the_list(
    tmp_path: Path, kind: str, error: str
) -> None:
    system = quiet(tmp_path, **{kind: 1.0})
    session, stay = system.open_session(1), first_stay(system)
    ask = {"city": stay.city, "guests": 1, "sort": "price", "max_price": stay.price}
    before = system.call(session, "search_stays", ask)[1]["stays"]
    for _ in range(3):
        status, body = hold(system, session, stay)
        assert status in (409, 410)
        assert body == {"error": error}
    after = system.call(session, "search_stays", ask)[1]["stays"]
    assert stay.id not in [s["id"] for s in after]
    other = system.open_session(1)
    assert system.call(other, "search_stays", ask)[1]["stays"] == before


def test_a_changed_price_is_told_once_then_listed_and_charged(tmp_path: Path) -> None:
    system = quiet(tmp_path, dearer=1.0)
    session, stay = system.open_session(1), first_stay(system)
    changed = {"error": "price changed", "price": stay.raised_price}
    assert hold(system, session, stay) == (409, changed)
    assert system.call(session, "stay_details", {"stay_id": stay.id})[1]["price"] == (
        stay.raised_price
    )
    assert hold(system, session, stay, 3)[1]["total"] == 3 * stay.raised_price


def test_an_expired_hold_can_be_made_again(tmp_path: Path) -> None:
    system = quiet(tmp_path, expired=1.0)
    session, stay = system.open_session(1), first_stay(system)
    old = hold(system, session, stay)[1]["hold_id"]
    assert pay(system, session, old) == {"ok": False, "error": "hold expired"}
    assert pay(system, session, old) == {"ok": False, "error": "hold expired"}
    new = hold(system, session, stay)[1]["hold_id"]
    assert pay(system, session, new)["status"] == "confirmed"


def test_a_declined_method_stays_declined_and_another_works(tmp_path: Path) -> None:
    system = quiet(tmp_path, declined=1.0)
    session, stay = system.open_session(1), first_stay(system)
    held = hold(system, session, stay)[1]["hold_id"]
    assert pay(system, session, held, "amex") == {"ok": False, "error": "declined"}
    assert pay(system, session, held, "amex") == {"ok": False, "error": "declined"}
    paid = pay(system, session, held, "maestro")
    assert paid["status"] == "confirmed"
    assert pay(system, session, held, "maestro")["error"] == "already paid"
    found = system.outcome(session)
    assert [p["status"] for p in found["payments"]] == ["declined", "declined", "paid"]
    assert [b["id"] for b in found["bookings"]] == [paid["booking_id"]]


def test_quirks_and_bad_input(tmp_path: Path) -> None:
    system = quiet(tmp_path)
    session, stay = system.open_session(1), first_stay(system)
    assert hold(system, session, stay, 15) == (422, {"error": "nights must be 1-14"})
    held = hold(system, session, stay, 14)[1]["hold_id"]
    assert pay(system, session, held, "Visa")["error"] == "method must be lower case"
    assert pay(system, session, held, "shells")["error"] == "unknown method"
    assert pay(system, session, "H1", "visa")["error"] == "no such hold"
    bad = [
        ("search_stays", {"guests": 2}, "city is missing"),
        ("search_stays", {"city": "Atlantis", "guests": 2}, "unknown city"),
        ("search_stays", {"city": stay.city, "guests": "2"}, "guests must be an integer"),
        ("search_stays", {"city": stay.city, "guests": True}, "guests must be an integer"),
        ("search_stays", {"city": stay.city, "guests": 2, "sort": "size"}, "sort must be"),
        ("hold_stay", {"stay_id": "S1", "nights": 2}, "no such stay"),
        ("stay_details", {"stay_id": stay.id, "x": 1}, "unknown field x"),
        ("find_booking", {"booking_id": "B1"}, "no such booking"),
        ("sing", {}, "no such tool"),
        ("hold_stay", [], "arguments must be an object"),
    ]
    for tool, arguments, error in bad:
        status, body = system.call(session, tool, arguments)
        assert status >= 400
        assert body["error"].startswith(error)
    with pytest.raises(UnknownSession):
        system.call("nobody", "search_stays", {})


def test_sessions_do_not_see_each_other(tmp_path: Path) -> None:
    system = quiet(tmp_path)
    old = {"booking_id": "B11111", "stay_id": first_stay(system).id, "nights": 2}
    mine, theirs = system.open_session(1, {"existing": old}), system.open_session(1)
    held = hold(system, mine, first_stay(system))[1]["hold_id"]
    assert pay(system, theirs, held)["error"] == "no such hold"
    cancel = {"booking_id": "B11111"}
    assert system.call(theirs, "cancel_booking", cancel)[0] == 404
    assert system.call(mine, "find_booking", cancel)[1]["status"] == "confirmed"
    assert system.call(mine, "cancel_booking", cancel) == (200, {"status": "cancelled"})
    assert system.call(mine, "cancel_booking", cancel)[1] == {"error": "already cancelled"}
    assert len(system.outcome(mine)["cancellations"]) == 1
    assert system.outcome(theirs)["bookings"] == []
    assert system.calls == {mine: 4, theirs: 2}


def test_the_same_calls_give_the_same_answers(tmp_path: Path) -> None:
    def life() -> list[tuple[int, dict]]:
        system = new_system(tmp_path, seed=5)
        session = system.open_session(77)
        stays = system.catalogue[CITIES[2]]
        return [hold(system, session, s) for s in stays]

    assert life() == life()
    assert draw(1, "a") == draw(1, "a") != draw(1, "b")


def test_an_existing_database_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "stays.db").write_text("somebody's")
    with pytest.raises(FileExistsError, match="remove it"):
        BookingSystem(tmp_path / "stays.db", rates=NO_FAILURES)


def test_the_service_over_http(tmp_path: Path, start) -> None:
    url = start("understudy.demo.service", "--db", str(tmp_path / "s.db"), "--seed", "3")
    ask = {"city": CITIES[0], "guests": 2}

    async def talk() -> None:
        async with aiohttp.ClientSession(url) as http:
            opened = await (await http.post("/sessions", json={"seed": 4})).json()
            headers = {"x-session": opened["session"]}
            for _ in range(2):  # a rate limit is never met twice in a row
                answer = await http.post("/tools/search_stays", json=ask, headers=headers)
                if answer.status == 200:
                    break
            assert 0 < len((await answer.json())["stays"]) <= MAX_LISTED
            broken = await http.post("/tools/search_stays", data="{", headers=headers)
            assert broken.status in (400, 429)
            lost = await http.post("/tools/search_stays", json=ask)
            assert lost.status == 404
            assert (await http.post("/sessions", json=[])).status == 400
            assert (await http.get("/admin/outcome/nobody")).status == 404
            calls = await (await http.get("/calls")).json()
            assert calls["total"] == calls["by_session"][opened["session"]]
            found = await (await http.get(f"/admin/outcome/{opened['session']}")).json()
            assert found["bookings"] == []

    asyncio.run(talk())
