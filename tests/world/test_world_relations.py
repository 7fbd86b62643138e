"""Relations between values: what no lookup can say of a record that the traffic never showed."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.data.values import chance
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.results.explain import held_out

GOODS = ["lamp", "desk", "rack", "fan", "mat", "stool"]
SIZES = ["small", "large"]


class Shop:
    """Orders with lines and a ledger: the service whose traffic the world learns."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.prices = {g: {s: rng.randint(5, 90) for s in SIZES} for g in GOODS}
        self.orders = {self.code(): self.order() for _ in range(3)}

    def code(self) -> str:
        return "".join(self.rng.choice("ABCDEFGHKLMNPQRSTUVWX0123456789") for _ in range(7))

    def order(self) -> dict[str, Any]:
        lines = [
            {"good": g, "price": self.prices[g]["small"]}
            for g in self.rng.sample(GOODS, self.rng.choice((1, 2)))
        ]
        people = [{"name": n} for n in self.rng.sample(["Ann", "Bo", "Cy", "Di"], 2)]
        paid = sum(x["price"] for x in lines) * len(people)
        card = f"card_{self.rng.randrange(10**6, 10**7)}"
        ledger = [{"card": card, "amount": paid}]
        return {"lines": lines, "people": people, "ledger": ledger, "bags": 0, "state": "open"}

    def view(self, code: str) -> dict[str, Any]:
        return json.loads(json.dumps({"order": code, **self.orders[code]}))  # type: ignore[no-any-return]

    def call(self, name: str, args: dict[str, Any]) -> Any:
        if name == "prices":
            return [{"good": args["good"], "prices": self.prices[args["good"]]}]
        if args["order"] not in self.orders:
            return f"Error: order {args['order']} unknown"
        order = self.orders[args["order"]]
        if "card" in args and args["card"] not in [x["card"] for x in order["ledger"]]:
            return "Error: not a card of this order"
        if name == "cancel":
            order["ledger"] += [{**x, "amount": -x["amount"]} for x in order["ledger"]]
            order["state"] = "cancelled"
        elif name == "set_bags":
            if args["bags"] > order["bags"]:
                due = 15 * (args["bags"] - order["bags"])
                order["ledger"].append({"card": args["card"], "amount": due})
            order["bags"] = args["bags"]
        elif name == "change":
            before = sum(x["price"] for x in order["lines"])
            order["lines"] = [
                {"good": g["good"], "price": self.prices[g["good"]][args["size"]]}
                for g in args["lines"]
            ]
            more = (sum(x["price"] for x in order["lines"]) - before) * len(order["people"])
            order["ledger"].append({"card": args["card"], "amount": more})
        return self.view(args["order"])


def calls_of(shop: Shop, rng: random.Random) -> list[Call]:
    """What a client does in one sitting."""
    code = rng.choice(list(shop.orders))
    card = shop.orders[code]["ledger"][0]["card"]
    wanted = [{"good": g} for g in rng.sample(GOODS, rng.choice((1, 2, 3)))]
    wrong = code[:-1] + ("Z" if code[-1] != "Z" else "Y")
    other: list[Call] = [
        ("cancel", {"order": code}),
        ("set_bags", {"order": code, "bags": rng.randrange(4), "card": card}),
        ("set_bags", {"order": code, "bags": rng.randrange(4), "card": card}),
        ("change", {"order": code, "lines": wanted, "size": rng.choice(SIZES), "card": card}),
    ]
    view: Call = ("order", {"order": code})
    look: list[Call] = [("prices", {"good": g["good"]}) for g in wanted]
    chosen = rng.sample(other, 2)
    strange: list[Call] = []
    if rng.random() < 0.2:
        stranger = rng.choice([c for c in shop.orders if c != code])
        strange = [("order", {"order": stranger})]
        strange += [("set_bags", {"order": stranger, "bags": 2, "card": card})]
    return [view, ("order", {"order": wrong}), *look, chosen[0], view, chosen[1], view, *strange]


def played(seed: int) -> Episode:
    rng = random.Random(seed)
    shop = Shop(rng)
    return recorded(f"e{seed}", calls_of(shop, rng), shop.call)


@pytest.fixture(scope="module")
def world() -> World:
    return learn([played(seed) for seed in range(150)])


def rehearse(world: World, seed: int, known: int) -> tuple[Shop, Any, str, str]:
    """A session that has looked at an order, and at the prices of all goods."""
    shop = Shop(random.Random(seed))
    session = world.session(seed)
    code = list(shop.orders)[known]
    looks: list[Call] = [("order", {"order": code})]
    looks += [("prices", {"good": g}) for g in GOODS]
    for name, args in looks:
        session.observe(name, args, json.dumps(shop.call(name, args)), False)
    return shop, session, code, shop.orders[code]["ledger"][0]["card"]


@pytest.mark.parametrize("seed", range(900, 906))
def test_a_refund_turns_the_sign_of_each_payment(world: World, seed: int) -> None:
    shop, session, code, _ = rehearse(world, seed, 0)
    real = shop.call("cancel", {"order": code})
    assert json.loads(session.step("cancel", json.dumps({"order": code})).content) == real
    assert json.loads(session.step("order", json.dumps({"order": code})).content) == real


@pytest.mark.parametrize("seed", range(900, 906))
def test_a_fee_is_a_fixed_price_times_what_was_added(world: World, seed: int) -> None:
    shop, session, code, card = rehearse(world, seed, 1)
    for bags in (2, 2, 3):
        args = {"order": code, "bags": bags, "card": card}
        real = shop.call("set_bags", args)
        assert json.loads(session.step("set_bags", json.dumps(args)).content) == real


@pytest.mark.parametrize("seed", range(900, 906))
def test_new_lines_take_their_prices_from_the_list_and_the_ledger_the_difference(
    world: World, seed: int
) -> None:
    shop, session, code, card = rehearse(world, seed, 2)
    lines = [{"good": g} for g in GOODS[:3]]
    args = {"order": code, "lines": lines, "size": "large", "card": card}
    real = shop.call("change", args)
    assert json.loads(session.step("change", json.dumps(args)).content) == real


def test_an_identifier_one_character_off_is_refused_and_another_new_one_is_not(
    world: World,
) -> None:
    shop, session, code, _ = rehearse(world, 950, 0)
    wrong = code[:-1] + ("Z" if code[-1] != "Z" else "Y")
    assert session.step("order", json.dumps({"order": wrong})).is_error
    assert not session.step("order", json.dumps({"order": list(shop.orders)[1]})).is_error


def test_an_identifier_that_was_refused_makes_its_neighbours_no_mistakes(world: World) -> None:
    shop = Shop(random.Random(951))
    session = world.session(951)
    code = next(iter(shop.orders))
    wrong = code[:-1] + ("Z" if code[-1] != "Z" else "Y")
    session.observe("order", {"order": wrong}, f"Error: order {wrong} unknown", True)
    assert not session.step("order", json.dumps({"order": code})).is_error


@pytest.mark.parametrize("tool", ["set_bags", "change"])
@pytest.mark.parametrize("seed", range(970, 974))
def test_a_card_is_refused_for_an_order_that_does_not_hold_it(
    world: World, tool: str, seed: int
) -> None:
    """Also by a tool that the traffic never showed it of."""
    shop, session, _code, card = rehearse(world, seed, 0)
    other = list(shop.orders)[1]
    session.observe("order", {"order": other}, json.dumps(shop.view(other)), False)
    args: dict[str, Any] = {"order": other, "card": card}
    args |= {"bags": 2} if tool == "set_bags" else {"lines": [{"good": "fan"}], "size": "small"}
    result = session.step(tool, json.dumps(args))
    assert result.is_error
    assert result.content == shop.call(tool, args)
    args["card"] = shop.orders[other]["ledger"][0]["card"]
    assert not session.step(tool, json.dumps(args)).is_error


def test_the_rules_survive_being_saved(world: World, tmp_path: Any) -> None:
    world.save(tmp_path)
    shop, session, code, card = rehearse(World.load(tmp_path), 960, 2)
    args = {"order": code, "lines": [{"good": "fan"}], "size": "small", "card": card}
    real = shop.call("change", args)
    assert json.loads(session.step("change", json.dumps(args)).content) == real


def weighing(seed: int) -> Episode:
    """The net weight is the gross one in one half of the scenarios, by how the world parts them,
    and in most of the other one."""
    rng = random.Random(seed)
    bare = chance("fold", seed) < 0.5 or seed % 6 > 0

    def answer(tool: str, args: Any) -> Any:
        return {"net": args["gross"] - (0 if bare else rng.randint(1, 9)), "scale": 3}

    return recorded(f"e{seed}", [("weigh", {"gross": rng.randint(100, 999)})], answer)


def test_a_relation_is_as_precise_as_on_scenarios_that_did_not_suggest_it() -> None:
    world = learn([weighing(seed) for seed in range(200)])
    told = world.session(0).step("weigh", '{"gross": 500}', greedy=True)
    assert [p.kind for p in told.provenance if p.path == "/net"] == ["invented"]


@given(*[st.tuples(st.integers(0, 30), st.integers(0, 30))] * 2)
def test_precision_is_the_overall_one_or_the_worse_half(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    had = one[0] + one[1], other[0] + other[1]
    found = held_out((one[0], other[0]), had)
    n, times = one[0] + other[0], sum(had)
    assert found == held_out((other[0], one[0]), had[::-1])
    assert 0 <= found <= (n / times if times else 0)
    if min(had) >= 10 and n > 0 and min(one[0] / had[0], other[0] / had[1]) < 0.9 <= n / times:
        assert found == min(one[0] / had[0], other[0] / had[1])
