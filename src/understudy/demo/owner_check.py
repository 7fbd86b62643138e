# mypy: disable-error-code="type-arg,var-annotated"
def check(messages: list[dict], ticket: dict) -> float:
    """Calls and results against the ticket, never the agent's words. 1.0: full success alone."""
    import json
    from contextlib import suppress

    cap, key = ticket["max_price"] or 1e9, {"cheapest": "price"}.get(ticket["prefer"], "rating")
    calls, prices, holds, gone, declined, cancelled = {}, {}, {}, set(), set(), set()
    listed, booked = [], []
    for message in messages:
        calls |= {c["id"]: c.get("function") for c in message.get("tool_calls") or []}
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # broken: earns nothing
            call = calls[message["tool_call_id"]]  # only tools' results have one
            args, result = json.loads(call["arguments"]), json.loads(message["content"])
            name, error, stay = call["name"], result.get("error"), args.get("stay_id")
            if name == "search_stays" and "stays" in result:
                asked = (args["city"].lower(), args["guests"], args.get("max_price") or cap)
                if asked == (ticket["city"].lower(), ticket["guests"], cap):
                    prices |= {s["id"]: s["price"] for s in result["stays"]}
                    if args.get("sort") == key or len(result["stays"]) < 5:
                        listed = result["stays"]  # whole as far as the wish is concerned
            elif name == "hold_stay" and error == "price changed":
                prices[stay] = result["price"]
            elif name == "hold_stay" and error in ("sold out", "no longer listed"):
                gone.add(stay)
            elif name == "hold_stay" and "hold_id" in result:
                fits = [s for s in listed if s["id"] not in gone and prices[s["id"]] <= cap]
                fits.sort(key=lambda s: -s["rating"] if key == "rating" else prices[s["id"]])
                good = args["nights"] == ticket["nights"] and prices.get(stay, cap + 1) <= cap
                best = good and [s["id"] for s in fits[:1]] == [stay]
                holds[result["hold_id"]] = 0.2 * good + 0.6 * best
            elif name == "pay_hold" and result.get("status") == "confirmed":
                first = [m for m in ticket["methods"] if m not in declined][:1]
                booked.append(holds.get(args["hold_id"], 0.0) + 0.2 * (args["method"] in first))
            elif name == "pay_hold" and error == "declined":
                declined.add(args["method"])
            elif name == "cancel_booking" and result.get("status") == "cancelled":
                cancelled.add(args["booking_id"])
    right = cancelled == {ticket["cancel"]} - {None}
    return round(booked[0], 3) * (1.0 if right else 0.5) if len(booked) == 1 else 0.0
