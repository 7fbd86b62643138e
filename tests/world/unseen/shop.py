"""An online shop's checkout: a cart of articles in variants that every change answers whole, with
totals, codes with conditions, shipping by weight and subtotal and tax; stock that runs out; orders
that go through states; addresses as objects; keys that make a call safe to repeat; pages."""

import random
from typing import Any

from unseen.playing import Agent, Refused, Service

COLORS = ["black", "navy", "sand", "olive"]
SIZES = {"shirts": ["S", "M", "L"], "shoes": ["40", "42", "44"], "bags": ["one"]}
NAMES = ["Harbour", "Alder", "Finch", "Ridge", "Pebble", "Cove", "Moss", "Tern"]
CODES = {"WELCOME10": 3000, "TAKE500": 6000, "SHIPFREE": 4000, "SHOES20": 0}
CITIES = [("Bremen", "28195", "DE"), ("Kiel", "24103", "DE"), ("Graz", "8010", "AT"),
          ("Ulm", "89073", "DE"), ("Lyon", "69001", "FR")]  # fmt: skip
STREETS = ["Am Wall", "Lange Str.", "Ring"]
STATES = ["placed", "paid", "packed", "sent", "delivered"]
NEXT = {"pack": ("paid", "packed"), "send": ("packed", "sent"), "deliver": ("sent", "delivered")}


def _catalogue() -> dict[str, Any]:
    fixed, found = random.Random("shop"), {}
    for n in range(18):
        kind = ["shirts", "shoes", "bags"][n % 3]
        article = f"{kind[:2].upper()}-{fixed.randrange(1000, 9999)}"
        price = {"shirts": 1990, "shoes": 5990, "bags": 2990}[kind]
        variants = [
            {"size": size, "color": color, "stock": fixed.choice([0, 1, 2, 4, 9, 20])}
            for size in SIZES[kind] for color in fixed.sample(COLORS, 2)
        ]  # fmt: skip
        found[article] = {
            "article": article, "name": f"{NAMES[n % 8]} {kind.rstrip('s')}", "category": kind,
            "price_cents": price + 100 * fixed.randrange(0, 30),
            "weight_g": {"shirts": 180, "shoes": 900, "bags": 650}[kind] + 10 * (n % 5),
            "variants": variants,
        }  # fmt: skip
    return found


CATALOGUE = _catalogue()


def start(rng: random.Random) -> dict[str, Any]:
    goods = {k: a | {"variants": [dict(v) for v in a["variants"]]} for k, a in CATALOGUE.items()}
    state: dict[str, Any] = {"goods": goods, "lines": [], "code": None, "address": None}
    state |= {"orders": {}, "keys": {}, "n": rng.randrange(20000, 90000)}
    state["day"] = f"2026-03-{rng.randrange(10, 29)}"
    for status in rng.choices(STATES, k=rng.choice([2, 4, 7])):
        article = rng.choice(list(goods.values()))
        line = {k: article[k] for k in ("article", "name")}
        line |= {k: article["variants"][0][k] for k in ("size", "color")}
        state["lines"] = [line | {"quantity": rng.choice([1, 1, 2])}]
        state["address"] = _address(rng)
        order = _order(state)
        order |= {"status": status, "placed_on": f"2026-02-{rng.randrange(10, 29)}"}
        if status in ("sent", "delivered"):
            order["tracking"] = f"T{rng.randrange(10**7, 10**8)}"
    state["lines"], state["address"] = [], None
    state["n"] += rng.randrange(3, 40)
    return state


def _address(rng: random.Random) -> dict[str, Any]:
    city, code, country = rng.choice(CITIES)
    street = f"{rng.choice(STREETS)} {rng.randrange(1, 90)}"
    return {"street": street, "zip": code, "city": city, "country": country}


def _refuse(code: str, field: str | None, message: str) -> Refused:
    return Refused({"errors": [{"code": code, "field": field, "message": message}]})


def _cart(state: Any) -> dict[str, Any]:
    items, goods = [], state["goods"]
    for line in state["lines"]:
        price = goods[line["article"]]["price_cents"]
        items.append(line | {"price_cents": price, "line_total_cents": price * line["quantity"]})
    subtotal = sum(i["line_total_cents"] for i in items)
    weight = sum(goods[i["article"]]["weight_g"] * i["quantity"] for i in items)
    if state["code"] and subtotal < CODES[state["code"]]:
        state["code"] = None
    shoes = sum(i["line_total_cents"] for i in items if goods[i["article"]]["category"] == "shoes")
    off = {"WELCOME10": subtotal // 10, "TAKE500": 500, "SHOES20": shoes // 5}
    discount = off.get(state["code"], 0)
    shipping = 0 if not items else 390 if weight <= 500 else 590 if weight <= 2000 else 990
    if subtotal - discount >= 8000 or state["code"] == "SHIPFREE":
        shipping = 0
    if items and state["address"] and state["address"]["country"] != "DE":
        shipping += 600
    total = subtotal - discount + shipping
    told = {"code": state["code"], "amount_cents": discount} if state["code"] else None
    return {
        "items": items, "item_count": sum(i["quantity"] for i in items),
        "subtotal_cents": subtotal, "discount": told, "weight_g": weight,
        "shipping_cents": shipping, "tax_cents": round(total * 19 / 119), "total_cents": total,
        "address": state["address"],
    }  # fmt: skip


def _order(state: Any) -> dict[str, Any]:
    cart = _cart(state)
    state["n"] += 1
    order = {"order": f"O-{state['n']}", "status": "placed", "placed_on": state["day"],
             "items": cart["items"], "address": cart["address"], "tracking": None}  # fmt: skip
    order |= {k: cart[k] for k in ("subtotal_cents", "shipping_cents", "tax_cents", "total_cents")}
    state["orders"][order["order"]] = order
    return order


def _page(found: list[Any], page: int, page_size: int) -> Any:
    if page < 1:
        raise _refuse("invalid", "page", "page must be 1 or more")
    if not 1 <= page_size <= 20:
        raise _refuse("invalid", "page_size", "page_size must be between 1 and 20")
    shown = found[(page - 1) * page_size : page * page_size]
    return {"items": shown, "page": page, "page_size": page_size, "total": len(found)}


def list_articles(
    state: Any, category: str = "", sort: str = "name", page: int = 1, page_size: int = 5
) -> Any:
    if sort not in ("name", "price", "-price"):
        raise _refuse("invalid", "sort", f"cannot sort by {sort}")
    found = [
        {k: a[k] for k in ("article", "name", "price_cents")}
        for a in state["goods"].values() if category in ("", a["category"])
    ]  # fmt: skip
    found.sort(key=lambda a: str(a["article"]))
    if sort == "name":
        found.sort(key=lambda a: str(a["name"]))
    else:
        found.sort(key=lambda a: int(a["price_cents"]), reverse=sort == "-price")
    return _page(found, page, page_size)


def get_article(state: Any, article: str) -> Any:
    if article not in state["goods"]:
        raise _refuse("not_found", "article", f"article {article} does not exist")
    own = state["goods"][article]
    return own | {"variants": [dict(v) for v in own["variants"]]}


def _variant(state: Any, article: str, size: str, color: str) -> Any:
    get_article(state, article)
    for variant in state["goods"][article]["variants"]:
        if (variant["size"], variant["color"]) == (size, color):
            return variant
    raise _refuse("no_variant", "size", f"{article} is not made in {size}/{color}")


def _line(state: Any, article: str, size: str, color: str) -> Any:
    for line in state["lines"]:
        if (line["article"], line["size"], line["color"]) == (article, size, color):
            return line
    return None


def _enough(variant: Any, quantity: int) -> None:
    if quantity > variant["stock"]:
        left = f"only {variant['stock']} left" if variant["stock"] else "sold out"
        raise _refuse("out_of_stock", "quantity", left)


def add_item(state: Any, article: str, size: str, color: str, quantity: int) -> Any:
    variant = _variant(state, article, size, color)
    if quantity < 1:
        raise _refuse("invalid", "quantity", "quantity must be at least 1")
    line = _line(state, article, size, color)
    _enough(variant, quantity + (line["quantity"] if line else 0))
    if line:
        line["quantity"] += quantity
    else:
        name = state["goods"][article]["name"]
        state["lines"].append({"article": article, "name": name, "size": size, "color": color,
                               "quantity": quantity})  # fmt: skip
    return _cart(state)


def set_quantity(state: Any, article: str, size: str, color: str, quantity: int) -> Any:
    line = _line(state, article, size, color)
    if line is None:
        raise _refuse("not_in_cart", "article", f"{article} is not in the cart")
    if quantity < 0:
        raise _refuse("invalid", "quantity", "quantity must not be negative")
    _enough(_variant(state, article, size, color), quantity)
    line["quantity"] = quantity
    state["lines"] = [own for own in state["lines"] if own["quantity"]]
    return _cart(state)


def remove_item(state: Any, article: str, size: str, color: str) -> Any:
    return set_quantity(state, article, size, color, 0)


def get_cart(state: Any) -> Any:
    return _cart(state)


def apply_code(state: Any, code: str) -> Any:
    if code == "SPRING25":
        raise _refuse("code_expired", "code", "code SPRING25 has expired")
    if code not in CODES:
        raise _refuse("code_unknown", "code", f"code {code} is not known")
    missing = CODES[code] - _cart(state)["subtotal_cents"]
    if missing > 0:
        raise _refuse("minimum_not_met", "code", f"add {missing} cents to use {code}")
    state["code"] = code
    return _cart(state)


def set_address(state: Any, address: dict) -> Any:  # type: ignore[type-arg]
    wrong = [
        {"code": "required", "field": f"address.{k}", "message": f"{k} must not be empty"}
        for k in ("street", "zip", "city", "country") if not address.get(k)
    ]  # fmt: skip
    country = address.get("country")
    if country and country not in ("DE", "AT", "FR"):
        wrong.append({"code": "unsupported", "field": "address.country",
                      "message": f"no delivery to {country}"})  # fmt: skip
    if wrong:
        raise Refused({"errors": wrong})
    state["address"] = {k: address[k] for k in ("street", "zip", "city", "country")}
    return _cart(state)


def place_order(state: Any, idempotency_key: str) -> Any:
    if idempotency_key in state["keys"]:
        return dict(state["orders"][state["keys"][idempotency_key]])
    if not state["lines"]:
        raise _refuse("cart_empty", None, "the cart is empty")
    if not state["address"]:
        raise _refuse("required", "address", "set an address first")
    order = _order(state)
    for line in state["lines"]:
        _variant(state, line["article"], line["size"], line["color"])["stock"] -= line["quantity"]
    state["lines"], state["code"] = [], None
    state["keys"][idempotency_key] = order["order"]
    return dict(order)


def get_order(state: Any, order: str) -> Any:
    if order not in state["orders"]:
        raise _refuse("not_found", "order", f"order {order} does not exist")
    return dict(state["orders"][order])


def list_orders(state: Any, status: str = "", page: int = 1, page_size: int = 5) -> Any:
    found = [
        {k: o[k] for k in ("order", "status", "placed_on", "total_cents")}
        for o in reversed(state["orders"].values()) if status in ("", o["status"])
    ]  # fmt: skip
    return _page(found, page, page_size)


def pay_order(state: Any, order: str, amount_cents: int, method: str) -> Any:
    own = get_order(state, order)
    if own["status"] != "placed":
        raise _refuse("wrong_state", "order", f"order {order} is {own['status']}")
    if method not in ("card", "invoice", "wallet"):
        raise _refuse("invalid", "method", f"{method} is not accepted")
    if amount_cents != own["total_cents"]:
        raise _refuse("wrong_amount", "amount_cents", f"{own['total_cents']} cents are due")
    state["orders"][order]["status"] = "paid"
    return {"order": order, "status": "paid", "paid_cents": amount_cents, "method": method}


def move_order(state: Any, order: str, action: str) -> Any:
    own = get_order(state, order)
    if action not in NEXT:
        raise _refuse("invalid", "action", f"there is no action {action}")
    before, after = NEXT[action]
    if own["status"] != before:
        text = f"cannot {action} order {order}: it is {own['status']}, not {before}"
        raise _refuse("wrong_state", "order", text)
    own = state["orders"][order] = own | {"status": after}
    if after == "sent":
        own["tracking"] = f"T{37 * int(order[2:]) % 10**7 + 10**7}"
    return dict(own)


def return_order(state: Any, order: str, reason: str) -> Any:
    own = get_order(state, order)
    if own["status"] != "delivered":
        text = f"only delivered orders can be returned, {order} is {own['status']}"
        raise _refuse("wrong_state", "order", text)
    if not reason:
        raise _refuse("required", "reason", "say why")
    state["orders"][order]["status"] = "returned"
    for i in own["items"]:
        _variant(state, i["article"], i["size"], i["color"])["stock"] += i["quantity"]
    return {"order": order, "status": "returned", "refund_cents": own["subtotal_cents"]}


def agent(rng: random.Random, state: Any) -> Agent:
    if rng.random() < 0.7:
        yield from _shops(rng, state)
    if rng.random() < 0.5 or not state["orders"]:
        yield from _handles(rng, state)


def _shops(rng: random.Random, state: Any) -> Agent:
    wanted = []
    for _ in range(rng.choice([1, 2, 2, 3])):
        own = rng.choice(list(state["goods"].values()))
        if rng.random() < 0.4:
            yield "list_articles", _browses(rng, own["category"])
        if rng.random() < 0.5:
            yield "get_article", {"article": own["article"]}
        variant = rng.choice(own["variants"])
        size = variant["size"] if rng.random() < 0.95 else "XL"
        that = {"article": own["article"], "size": size, "color": variant["color"]}
        wanted.append(that)
        yield "add_item", that | {"quantity": rng.choice([1, 1, 1, 2, 3, 0])}
    for _ in range(rng.choice([0, 1, 1, 2])):
        that = rng.choice(wanted)
        many = {"quantity": rng.choice([1, 2, 3, 5, 0, -1])}
        yield rng.choice([("add_item", that | {"quantity": 1}), ("set_quantity", that | many),
                          ("remove_item", that), ("get_cart", {})])  # fmt: skip
    if rng.random() < 0.6:
        told = yield "apply_code", {"code": rng.choice([*CODES, "SPRING25", "HELLO"])}
        if isinstance(told, Refused) and rng.random() < 0.6:
            yield "apply_code", {"code": rng.choice(list(CODES))}
    if rng.random() < 0.85:
        address = _address(rng)
        if rng.random() < 0.2:
            address |= rng.choice([{"zip": ""}, {"country": "US"}, {"street": "", "city": ""}])
        told = yield "set_address", {"address": address}
        if isinstance(told, Refused):
            yield "set_address", {"address": _address(rng)}
    if rng.random() < 0.4:
        yield "get_cart", {}
    key = {"idempotency_key": f"k-{rng.randrange(16**6):06x}"}
    order = yield "place_order", key
    if isinstance(order, Refused):
        return
    if rng.random() < 0.3:
        yield rng.choice([("place_order", key), ("get_cart", {})])
    if rng.random() < 0.3:
        yield "get_article", {"article": rng.choice(order["items"])["article"]}
    yield from _pays(rng, order)


def _pays(rng: random.Random, order: Any) -> Agent:
    name, due = order["order"], order["total_cents"]
    amount = rng.choice([due, due, due, due, due - 100])
    method = rng.choice(["card", "card", "invoice", "wallet", "cash"])
    paid = yield "pay_order", {"order": name, "amount_cents": amount, "method": method}
    if isinstance(paid, Refused):
        paid = yield "pay_order", {"order": name, "amount_cents": due, "method": "card"}
    for action in ("pack", "send", "deliver")[: rng.choice([0, 0, 1, 2, 3])]:
        if rng.random() < 0.85:
            yield "move_order", {"order": name, "action": action}
    if rng.random() < 0.4:
        yield "get_order", {"order": name}


def _browses(rng: random.Random, category: str) -> dict[str, Any]:
    args: dict[str, Any] = {}
    if rng.random() < 0.6:
        args["category"] = category
    if rng.random() < 0.6:
        args["sort"] = rng.choice(["name", "price", "-price", "-price", "newest"])
    if rng.random() < 0.4:
        args["page"] = rng.choice([1, 2, 2, 3, 0])
    if rng.random() < 0.4:
        args["page_size"] = rng.choice([3, 5, 10, 50])
    return args


def _handles(rng: random.Random, state: Any) -> Agent:
    args: dict[str, Any] = {"status": rng.choice(["placed", "sent"])} if rng.random() < 0.3 else {}
    if rng.random() < 0.4:
        args |= {"page": rng.choice([1, 2]), "page_size": rng.choice([2, 3, 5])}
    shown = yield "list_orders", args
    names = [o["order"] for o in shown["items"]] if isinstance(shown, dict) else []
    name = rng.choice(names or list(state["orders"]))
    order = yield "get_order", {"order": name}
    if isinstance(order, Refused):
        return
    work = rng.choice(["pay", "move", "move", "return", "look"])
    if work == "pay":
        yield from _pays(rng, order)
    elif work == "move":
        for _ in range(rng.choice([1, 2, 3])):
            yield "move_order", {"order": name, "action": rng.choice(["pack", "send", "deliver"])}
    elif work == "return":
        yield "return_order", {"order": name, "reason": rng.choice(["too small", "damaged", ""])}
    args = {"status": order["status"]} if rng.random() < 0.5 else {}
    yield rng.choice([("get_order", {"order": name}), ("list_orders", args)])


def malformed(what: str, tool: str, argument: str) -> Any:
    text = {"missing": "is required", "extra": "is not allowed", "type": "has the wrong type"}[what]
    return {"errors": [{"code": what, "field": argument, "message": f"{argument} {text}"}]}


TOOLS = (list_articles, get_article, add_item, set_quantity, remove_item, get_cart, apply_code,
         set_address, place_order, get_order, list_orders, pay_order, move_order,
         return_order)  # fmt: skip
SERVICE = Service("shop", start, {f.__name__: f for f in TOOLS}, agent, malformed)
