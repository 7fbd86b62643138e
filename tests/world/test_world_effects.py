"""Effects that no result shows at once: a purse that a loan is paid from, a list that it joins."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.learn import learn
from understudy.world.model import World


class Library:
    """Members with purses; lending takes from purses, uses vouchers up, and adds to a list."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.members = {self.code("m"): self.member() for _ in range(2)}

    def code(self, kind: str) -> str:
        return f"{kind}-{self.rng.randrange(10**6, 10**7)}"

    def member(self) -> dict[str, Any]:
        kinds = ["cash", "cash", "voucher", "bank"]
        purses = {self.code("p"): {"kind": k, "amount": self.rng.randint(50, 90)} for k in kinds}
        return {"purses": purses, "loans": [self.code("l")], "points": self.rng.randint(0, 50)}

    def call(self, name: str, args: dict[str, Any]) -> Any:
        if args["member"] not in self.members:
            return f"Error: no member {args['member']}"
        member = self.members[args["member"]]
        if name == "member":
            return json.loads(json.dumps({"member": args["member"], **member}))
        for pay in args["pays"]:
            if pay["purse"] not in member["purses"]:
                return f"Error: no purse {pay['purse']}"
        for pay in args["pays"]:
            if member["purses"][pay["purse"]]["kind"] == "voucher":
                del member["purses"][pay["purse"]]
            elif member["purses"][pay["purse"]]["kind"] == "cash":
                member["purses"][pay["purse"]]["amount"] -= pay["amount"]
        loan = self.code("l")
        member["loans"].append(loan)
        member["points"] += len(args["books"])
        return {"loan": loan, "books": args["books"], "pays": args["pays"]}

    def lending(self, member: str) -> dict[str, Any]:
        purses = self.rng.sample(list(self.members[member]["purses"]), 2)
        books = self.rng.sample(["b1", "b2", "b3", "b4", "b5"], self.rng.choice((1, 2, 3)))
        pays = [{"purse": p, "amount": self.rng.randint(1, 20)} for p in purses]
        return {"member": member, "books": books, "pays": pays}


def played(seed: int) -> Episode:
    library = Library(seed)
    member = next(iter(library.members))
    lending = library.lending(member)
    calls: list[Call] = [
        ("member", {"member": member}),
        ("member", {"member": member}),
        ("lend", lending),
    ]
    if seed % 3:
        calls.append(("member", {"member": member}))
    if seed % 4 == 0:
        calls.append(("lend", lending))
    return recorded(f"e{seed}", calls, library.call)


@pytest.fixture(scope="module")
def world() -> World:
    return learn([played(seed) for seed in range(80)])


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("seed", range(500, 505))
def test_what_a_call_took_and_added_shows_when_the_thing_is_read_again(
    world: World, seed: int, saved: bool, tmp_path: Path
) -> None:
    if saved:
        world.save(tmp_path)
        world = World.load(tmp_path)
    library = Library(seed)
    member, other = library.members
    session = world.session(seed)
    for known in (member, other):
        read = {"member": known}
        session.observe("member", read, json.dumps(library.call("member", read)), False)
    for _ in range(2):
        lending = library.lending(member)
        made = json.loads(session.step("lend", json.dumps(lending)).content)
        real = library.call("lend", lending)
        loans = library.members[member]["loans"]
        loans[loans.index(real["loan"])] = made["loan"]  # the world makes up an id of its own
        shown = session.step("member", json.dumps({"member": member})).content
        assert json.loads(shown) == library.call("member", {"member": member})
    untouched = session.step("member", json.dumps({"member": other})).content
    assert json.loads(untouched) == library.call("member", {"member": other})


def test_what_was_used_up_is_refused_afterwards(world: World) -> None:
    library = Library(600)
    member = next(iter(library.members))
    read = {"member": member}
    session = world.session(600)
    session.observe("member", read, json.dumps(library.call("member", read)), False)
    purses = library.members[member]["purses"]
    voucher = next(p for p, v in purses.items() if v["kind"] == "voucher")
    cash = next(p for p, v in purses.items() if v["kind"] == "cash")
    args = {"member": member, "books": ["b1"], "pays": [{"purse": voucher, "amount": 3}]}
    assert not session.step("lend", json.dumps(args)).is_error
    again = session.step("lend", json.dumps(args))
    assert again.is_error
    assert again.content == f"Error: no purse {voucher}"
    args["pays"] = [{"purse": cash, "amount": 3}]
    assert not session.step("lend", json.dumps(args)).is_error


def test_a_failure_that_only_this_session_saw_stays_one(world: World) -> None:
    library = Library(601)
    member = next(iter(library.members))
    session = world.session(601)
    args = library.lending(member)
    session.observe("lend", args, "Error: closed for cleaning", True)
    again = session.step("lend", json.dumps(args))
    assert again.is_error
    assert again.content == "Error: closed for cleaning"
    assert not session.step("lend", json.dumps({**args, "books": ["b5"]})).is_error
