"""A ledger: accounts in two currencies, transfers with a fee, statements of earlier entries,
balances that stay above zero, accounts that are frozen."""

import random
from typing import Any

from unseen.playing import Agent, Refused, Service

OWNERS = ["Ada Moss", "Ben Orr", "Cleo Park", "Dan Rush", "Eve Stone", "Finn Tate", "Gus Vale"]
RATE = {("EUR", "USD"): 1.1, ("USD", "EUR"): 0.9}


def start(rng: random.Random) -> dict[str, Any]:
    fixed = random.Random("ledger")
    accounts = {}
    for n in range(40):
        number = f"AC-{fixed.randrange(10_000, 99_999)}"
        accounts[number] = {
            "account": number, "owner": OWNERS[n % 7], "currency": "EUR" if n % 3 else "USD",
            "balance": round(fixed.uniform(20, 900), 2), "frozen": n % 9 == 0,
        }  # fmt: skip
    return {"accounts": accounts, "entries": [], "next": rng.randrange(5000, 9000)}


def _account(state: Any, number: str) -> dict[str, Any]:
    if number not in state["accounts"]:
        raise Refused(f"Error 404: account {number} does not exist")
    own: dict[str, Any] = state["accounts"][number]
    return own


def _open(state: Any, number: str) -> dict[str, Any]:
    own = _account(state, number)
    if own["frozen"]:
        raise Refused(f"Error 423: account {number} is frozen")
    return own


def _enter(state: Any, account: str, kind: str, amount: float) -> int:
    state["next"] += 1
    own = state["accounts"][account]
    own["balance"] = round(own["balance"] + amount, 2)
    state["entries"].append(
        {"entry": state["next"], "account": account, "kind": kind, "amount": amount,
         "balance": own["balance"]}
    )  # fmt: skip
    return int(state["next"])


def accounts_of(state: Any, owner: str) -> Any:
    found = [a for a in state["accounts"].values() if a["owner"] == owner]
    rows = [{k: a[k] for k in ("account", "currency", "balance")} for a in found]
    return {"owner": owner, "accounts": rows, "count": len(rows)}


def balance(state: Any, account: str) -> Any:
    return dict(_account(state, account))


def deposit(state: Any, account: str, amount: float | int) -> Any:
    if amount <= 0:
        raise Refused(f"Error 400: amount must be positive, got {amount}")
    own = _open(state, account)
    entry = _enter(state, account, "deposit", float(amount))
    return {"entry": entry, "balance": own["balance"]}


def transfer(state: Any, source: str, target: str, amount: float | int) -> Any:
    if amount <= 0:
        raise Refused(f"Error 400: amount must be positive, got {amount}")
    one, other = _open(state, source), _account(state, target)
    if one is other:
        raise Refused("Error 400: source and target are the same account")
    fee = round(0.01 * amount, 2)
    if one["balance"] < amount + fee:
        raise Refused(f"Error 402: balance of {source} is {one['balance']}, needed {amount + fee}")
    rate = RATE.get((one["currency"], other["currency"]), 1)
    entry = _enter(state, source, "transfer_out", round(-amount - fee, 2))
    _enter(state, target, "transfer_in", round(amount * rate, 2))
    return {"entry": entry, "fee": fee, "rate": rate, "credited": round(amount * rate, 2)}


def statement(state: Any, account: str) -> Any:
    _account(state, account)
    found = [e for e in state["entries"] if e["account"] == account]
    rows = [{k: v for k, v in e.items() if k != "account"} for e in found]
    return {"account": account, "entries": rows, "closing": state["accounts"][account]["balance"]}


def freeze(state: Any, account: str, frozen: bool) -> Any:
    own = _account(state, account)
    if own["frozen"] is frozen:
        raise Refused(f"Error 409: account {account} is already in that state")
    own["frozen"] = frozen
    return {"account": account, "frozen": frozen}


def agent(rng: random.Random, state: Any) -> Agent:
    known: list[str] = []
    for owner in rng.sample(OWNERS, 2):
        seen = yield "accounts_of", {"owner": owner}
        known += [a["account"] for a in seen["accounts"]][:3]
    rng.shuffle(known)
    for _ in range(3):
        one, other = rng.sample(known, 2)
        amount = rng.choice([10, 25, 60.5, 120, 199.99, 400])
        if rng.random() < 0.6:
            yield "balance", {"account": one}
        if rng.random() < 0.3:
            yield "deposit", {"account": one, "amount": rng.choice([50, 75.25, 100, 0, -5])}
        done = yield "transfer", {"source": one, "target": other, "amount": amount}
        if isinstance(done, Refused):
            if "frozen" in done.args[0] and rng.random() < 0.7:
                yield "freeze", {"account": one, "frozen": False}
                yield "transfer", {"source": one, "target": other, "amount": amount}
            elif rng.random() < 0.5:
                yield "transfer", {"source": one, "target": other, "amount": 5}
        for account in (one, other):
            if rng.random() < 0.6:
                yield "balance", {"account": account}
            if rng.random() < 0.4:
                yield "statement", {"account": account}
    if rng.random() < 0.4:
        yield "freeze", {"account": known[0], "frozen": rng.random() < 0.7}
        yield "deposit", {"account": known[0], "amount": 20}
        yield "balance", {"account": known[0]}


def malformed(what: str, tool: str, argument: str) -> str:
    words = {"extra": "unexpected", "missing": "missing", "type": "badly typed"}
    return f"Error 422: {words[what]} field {argument} in {tool}"


SERVICE = Service(
    "ledger", start,
    {f.__name__: f for f in (accounts_of, balance, deposit, transfer, statement, freeze)},
    agent, malformed,
)  # fmt: skip
