"""A library's desk, whose state lasts from one episode to the next: a text search over two fields,
bounds on numbers of a record and on the length of a list in it, loans that end and are gone for
every tool, receipts that name what they changed, fees that come between episodes."""

import random
from datetime import date, timedelta
from typing import Any

from unseen.playing import Agent, Refused, Service

WORDS = ["field", "iron", "winter", "night", "glass", "river", "small", "bell", "blue", "quiet"]
AUTHORS = ["A. Lind", "B. Okar", "C. Weiss", "D. Ruiz", "E. Tana"]
ROOMS = ["fiction", "travel", "science"]
DAY = date(2026, 3, 2)


def start(rng: random.Random) -> dict[str, Any]:
    fixed = random.Random("library")
    books = {}
    for n in range(30):
        isbn = f"978-{fixed.randrange(10**6):06d}"
        title = f"{WORDS[n % 10].title()} {fixed.choice(WORDS)} {n}"
        books[isbn] = {
            "isbn": isbn, "title": title, "author": AUTHORS[n % 5], "room": ROOMS[n % 3],
            "price": fixed.randrange(16, 80) / 2, "on_shelf": fixed.randrange(0, 4),
        }  # fmt: skip
    members, loans = {}, {}
    for n in range(24):
        member = f"M{fixed.randrange(1000, 9999)}"
        members[member] = {
            "member": member, "mail": f"reader{n}@mail.test", "owed": fixed.choice([0, 0, 1.5, 12]),
            "loans": [], "most": fixed.choice([1, 2, 3]),
        }  # fmt: skip
        for _ in range(fixed.randrange(0, 3)):
            loan = f"L-{4100 + len(loans)}"
            loans[loan] = {"loan": loan, "member": member, "isbn": fixed.choice(list(books)),
                           "due": str(DAY + timedelta(days=7)), "renewals": 0}  # fmt: skip
            members[member]["loans"].append(loan)
    return {"books": books, "members": members, "loans": loans, "n": 4200, "day": DAY}


def _of(state: Any, kind: str, key: str) -> dict[str, Any]:
    if key not in state[f"{kind}s"]:
        raise Refused({"error": "not_found", "message": f"no {kind} {key}"})
    own: dict[str, Any] = state[f"{kind}s"][key]
    return own


def find_books(state: Any, text: str, room: str = "", limit: int = 5) -> Any:
    if not 1 <= limit <= 10:
        raise Refused({"error": "bad_request", "message": "limit must be between 1 and 10"})
    found = [
        b for b in state["books"].values()
        if text.lower() in f"{b['title']} {b['author']}".lower() and room in ("", b["room"])
    ]  # fmt: skip
    found.sort(key=lambda b: str(b["title"]))
    shown = [{k: b[k] for k in ("isbn", "title", "author", "on_shelf")} for b in found[:limit]]
    return {"total": len(found), "books": shown}


def get_book(state: Any, isbn: str) -> Any:
    return dict(_of(state, "book", isbn))


def get_member(state: Any, member: str) -> Any:
    own = _of(state, "member", member)
    return own | {"loans": list(own["loans"])}


def get_loan(state: Any, loan: str) -> Any:
    return dict(_of(state, "loan", loan))


def lend(state: Any, member: str, isbn: str, days: int) -> Any:
    reader, book = _of(state, "member", member), _of(state, "book", isbn)
    if not 1 <= days <= 28:
        raise Refused({"error": "bad_request", "message": "days must be between 1 and 28"})
    if reader["owed"] > 10:
        raise Refused({"error": "blocked", "message": "the member owes more than 10"})
    if len(reader["loans"]) >= reader["most"]:
        text = f"the member has {len(reader['loans'])} loans already"
        raise Refused({"error": "too_many_loans", "message": text})
    if book["on_shelf"] < 1:
        text = f"all copies of {book['title']} are out"
        raise Refused({"error": "none_left", "message": text})
    state["n"] += 1
    loan = f"L-{state['n']}"
    made = {"loan": loan, "member": member, "isbn": isbn,
            "due": str(state["day"] + timedelta(days=days)), "renewals": 0}  # fmt: skip
    state["loans"][loan] = made
    reader["loans"].append(loan)
    book["on_shelf"] -= 1
    return dict(made)


def renew(state: Any, loan: str, days: int) -> Any:
    own = _of(state, "loan", loan)
    if own["renewals"] >= 2:
        raise Refused({"error": "no_more", "message": "a loan can be renewed twice"})
    own["due"] = str(date.fromisoformat(own["due"]) + timedelta(days=days))
    own["renewals"] += 1
    return {"loan": loan, "due": own["due"]}


def give_back(state: Any, loan: str) -> Any:
    own = _of(state, "loan", loan)
    reader = state["members"][own["member"]]
    del state["loans"][loan]
    reader["loans"].remove(loan)
    state["books"][own["isbn"]]["on_shelf"] += 1
    return {"returned": loan, "open": len(reader["loans"])}


def pay(state: Any, member: str, amount: float) -> Any:
    reader = _of(state, "member", member)
    if not 0 < amount <= reader["owed"]:
        raise Refused({"error": "bad_request", "message": "amount must be what is owed or less"})
    reader["owed"] -= amount
    return {"paid": amount, "owed": reader["owed"]}


def set_mail(state: Any, member: str, mail: str) -> Any:
    reader = _of(state, "member", member)
    if "@" not in mail:
        raise Refused({"error": "bad_request", "message": "not an address"})
    reader["mail"] = mail
    return {"ok": True}


def agent(rng: random.Random, state: Any) -> Agent:
    state["day"] += timedelta(days=rng.random() < 0.12)
    reader = rng.choice(list(state["members"].values()))
    reader["owed"] = reader["owed"] or rng.choice([2, 4.5, 11, 15.5])
    for _ in range(rng.choice([1, 2])):
        member = rng.choice(list(state["members"]))
        work = rng.choice([_lends, _lends, _returns, _renews, _pays, _moves, _looks])
        yield from work(rng, state, member)


def _lends(rng: random.Random, state: Any, member: str) -> Agent:
    book = rng.choice(list(state["books"].values()))
    text = rng.choice([book["title"], book["title"].split()[0], book["author"]])
    yield "find_books", {"text": text}
    if rng.random() < 0.4:
        yield "get_member", {"member": member}
    days = rng.choice([7, 14, 21, 28, 28, 35])
    told = yield "lend", {"member": member, "isbn": book["isbn"], "days": days}
    if isinstance(told, Refused):
        yield "get_member", {"member": member}
        owed = state["members"][member]["owed"]
        if owed > 10:
            yield "pay", {"member": member, "amount": float(owed)}
            yield "lend", {"member": member, "isbn": book["isbn"], "days": 14}
        return
    for name, args in (("get_loan", {"loan": told["loan"]}), ("get_member", {"member": member}),
                       ("get_book", {"isbn": book["isbn"]})):  # fmt: skip
        if rng.random() < 0.5:
            yield name, args


def _returns(rng: random.Random, state: Any, member: str) -> Agent:
    loans = state["members"][member]["loans"]
    loan = rng.choice(loans) if loans else f"L-{rng.randrange(4000, 4099)}"
    if rng.random() < 0.5:
        yield "get_loan", {"loan": loan}
    yield "give_back", {"loan": loan}
    of_it, again = {"loan": loan}, {"loan": loan, "days": 7}
    for name, args in (("get_loan", of_it), ("get_member", {"member": member}),
                       ("renew", again), ("give_back", of_it)):  # fmt: skip
        if rng.random() < 0.4:
            yield name, args


def _renews(rng: random.Random, state: Any, member: str) -> Agent:
    loans = state["members"][member]["loans"]
    loan = rng.choice(loans) if loans else rng.choice(list(state["loans"]))
    for _ in range(rng.choice([1, 1, 2, 3])):
        yield "renew", {"loan": loan, "days": rng.choice([3, 7, 14])}
    yield "get_loan", {"loan": loan}


def _pays(rng: random.Random, state: Any, member: str) -> Agent:
    shown = yield "get_member", {"member": member}
    owed = shown["owed"] if isinstance(shown, dict) else 1.0
    yield "pay", {"member": member, "amount": float(rng.choice([owed, owed / 2, owed + 5]))}
    yield "get_member", {"member": member}


def _moves(rng: random.Random, state: Any, member: str) -> Agent:
    mail = f"new{rng.randrange(99)}{rng.choice(['@', '@', '@', ' at '])}post.test"
    yield "set_mail", {"member": member, "mail": mail}
    yield "get_member", {"member": member}


def _looks(rng: random.Random, state: Any, member: str) -> Agent:
    args: dict[str, Any] = {"text": rng.choice(AUTHORS)}
    if rng.random() < 0.5:
        args["room"] = rng.choice(ROOMS)
    if rng.random() < 0.4:
        args["limit"] = rng.choice([2, 3, 10, 50])
    shown = yield "find_books", args
    if isinstance(shown, dict) and shown["books"]:
        yield "get_book", {"isbn": rng.choice(shown["books"])["isbn"]}


def malformed(what: str, tool: str, argument: str) -> Any:
    return {"error": "bad_request", "message": f"{what} field: {argument}"}


TOOLS = (find_books, get_book, get_member, get_loan, lend, renew, give_back, pay, set_mail)
SERVICE = Service("library", start, {f.__name__: f for f in TOOLS}, agent, malformed,
                  lasting=True)  # fmt: skip
