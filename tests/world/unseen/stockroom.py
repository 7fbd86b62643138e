"""An inventory behind an envelope: failures with status 200, nested objects, records by two keys,
optional fields, orders whose numbers count up, an export in CSV."""

import json
import random
from typing import Any

from unseen.playing import Agent, Refused, Service

SITES = ["north", "south", "harbor"]
GOODS = ["bolt", "nut", "washer", "hinge", "screw", "clamp"]


def start(rng: random.Random) -> dict[str, Any]:
    fixed = random.Random("stockroom")
    items = {}
    for n in range(30):
        sku = f"{GOODS[n % 6][:2].upper()}{100 + 7 * n}"
        items[sku] = {
            "sku": sku, "name": f"{GOODS[n % 6]} M{3 + n % 5}",
            "price": {"amount": fixed.randrange(5, 400) / 10, "unit": "each" if n % 4 else "box"},
            "dims": {"w": fixed.randrange(1, 20), "h": fixed.randrange(1, 20)} if n % 3 else None,
        }  # fmt: skip
    stock = {f"{sku}:{site}": fixed.randrange(60) for sku in items for site in SITES}
    return {"items": items, "stock": stock, "orders": {}, "next": rng.randrange(1000, 9000)}


def _fail(code: str, message: str) -> Refused:
    return Refused({"code": code, "message": message})


def _item(state: Any, sku: str) -> dict[str, Any]:
    if sku not in state["items"]:
        raise _fail("item_unknown", f"No item {sku}")
    own: dict[str, Any] = state["items"][sku]
    return own


def _at(state: Any, sku: str, site: str) -> str:
    _item(state, sku)
    if site not in SITES:
        raise _fail("site_unknown", f"No site {site}")
    return f"{sku}:{site}"


def find_items(state: Any, text: str) -> Any:
    found = [i for i in state["items"].values() if text in i["name"]]
    return {"items": [{k: i[k] for k in ("sku", "name")} for i in found], "total": len(found)}


def get_item(state: Any, sku: str) -> Any:
    own = dict(_item(state, sku))
    return {k: v for k, v in own.items() if v is not None}


def get_stock(state: Any, sku: str, site: str) -> Any:
    return {"sku": sku, "site": site, "on_hand": state["stock"][_at(state, sku, site)]}


def move_stock(state: Any, sku: str, source: str, target: str, quantity: int) -> Any:
    one, other = _at(state, sku, source), _at(state, sku, target)
    if quantity < 1:
        raise _fail("bad_quantity", f"Quantity {quantity} is not positive")
    if state["stock"][one] < quantity:
        raise _fail("short", f"Only {state['stock'][one]} of {sku} at {source}")
    state["stock"][one] -= quantity
    state["stock"][other] += quantity
    return {"moved": quantity, "left": state["stock"][one]}


def place_order(state: Any, site: str, lines: list) -> Any:
    for line in lines:
        key = _at(state, line["sku"], site)
        if state["stock"][key] < line["quantity"]:
            raise _fail("short", f"Only {state['stock'][key]} of {line['sku']} at {site}")
    total = 0.0
    for line in lines:
        state["stock"][f"{line['sku']}:{site}"] -= line["quantity"]
        total += state["items"][line["sku"]]["price"]["amount"] * line["quantity"]
    state["next"] += 1
    state["orders"][state["next"]] = {
        "order_id": state["next"], "site": site, "state": "placed", "lines": lines,
        "total": round(total, 2),
    }  # fmt: skip
    return {"order_id": state["next"], "state": "placed", "total": round(total, 2)}


def get_order(state: Any, order_id: int) -> Any:
    if order_id not in state["orders"]:
        raise _fail("order_unknown", f"No order {order_id}")
    return dict(state["orders"][order_id])


def cancel_order(state: Any, order_id: int) -> Any:
    own = state["orders"].get(order_id)
    if own is None:
        raise _fail("order_unknown", f"No order {order_id}")
    if own["state"] == "cancelled":
        raise _fail("order_closed", f"Order {order_id} is cancelled")
    own["state"] = "cancelled"
    for line in own["lines"]:
        state["stock"][f"{line['sku']}:{own['site']}"] += line["quantity"]
    return {"order_id": order_id, "state": "cancelled"}


def export_csv(state: Any, sku: str) -> Any:
    _item(state, sku)
    rows = [f"{sku},{site},{state['stock'][f'{sku}:{site}']}" for site in SITES]
    return "\n".join(["sku,site,on_hand", *rows])


def agent(rng: random.Random, state: Any) -> Agent:
    seen = yield "find_items", {"text": rng.choice([*GOODS, "M4", "M7", "gear"])}
    known = [i["sku"] for i in seen["items"]] or ["BO100", "NU107"]
    rng.shuffle(known)
    orders: list[int] = []
    site = rng.choice(SITES)
    for sku in known[:2]:
        if rng.random() < 0.7:
            yield "get_item", {"sku": sku}
        asked = {"sku": sku, "site": site}
        yield "get_stock", asked
        act = rng.random()
        if act < 0.4:
            target = rng.choice([*SITES, "moon"])
            yield "move_stock", {"sku": sku, "source": site, "target": target,
                                 "quantity": rng.choice([1, 5, 12, 30, 0])}  # fmt: skip
        elif act < 0.85:
            lines = [{"sku": s, "quantity": rng.choice([1, 3, 8, 20])} for s in known[:2]]
            done = yield "place_order", {"site": site, "lines": lines[: rng.choice([1, 2])]}
            if not isinstance(done, Refused):
                orders.append(done["order_id"])
        yield "get_stock", asked
        if rng.random() < 0.4:
            yield "export_csv", {"sku": sku}
    for order in orders:
        yield "get_order", {"order_id": order}
        if rng.random() < 0.5:
            yield "cancel_order", {"order_id": order}
            if rng.random() < 0.5:
                yield "get_order", {"order_id": order}
            if rng.random() < 0.4:
                yield "cancel_order", {"order_id": order}
            yield "get_stock", {"sku": known[0], "site": site}


def malformed(what: str, tool: str, argument: str) -> Any:
    return {"code": "invalid", "message": f"{argument}: {what}"}


def wrap(value: Any, failed: bool) -> Any:
    return {"ok": False, "error": value} if failed else {"ok": True, "data": value}


def dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


SERVICE = Service(
    "stockroom", start,
    {f.__name__: f for f in
     (find_items, get_item, get_stock, move_stock, place_order, get_order, cancel_order,
      export_csv)},
    agent, malformed, flagged=False, wrap=wrap, dump=dump,
)  # fmt: skip
