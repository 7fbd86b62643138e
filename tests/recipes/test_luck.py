"""Which passing episodes hang on a guess: told by the check alone, whatever the field is."""

import json
from typing import Any

from understudy.core.types import Completion, Episode, ModelRef, Request
from understudy.judges.check import Check
from understudy.recipes.luck import Luck
from understudy.world.users.notes import Notes
from understudy.world.users.wording import Votes

KINDS = ["/ticket/colour", "/ticket/size"]
ASKED = ("a {colour} one", "In which size?", "size {size}")


def as_ordered(messages: list[dict[str, Any]], ticket: dict[str, Any]) -> float:
    """1 where the order is for the ticket's colour and size."""
    made = [
        json.loads(c["function"]["arguments"]) for m in messages for c in m.get("tool_calls", ())
    ]
    return float(made == [{"colour": ticket["colour"], "size": ticket["size"]}])


def order(
    lines: tuple[str, ...], ordered: tuple[str, int], wish: tuple[str, int], told: str = '{"ok": 1}'
) -> Episode:
    """A conversation in which the user wants one thing and the agent orders one."""
    ticket = dict(zip(("colour", "size"), wish, strict=True))
    roles = ("user", "assistant")
    messages: list[Any] = [
        {"role": roles[n % 2], "content": line.format(**ticket)} for n, line in enumerate(lines)
    ]
    arguments = json.dumps(dict(zip(("colour", "size"), ordered, strict=True)))
    call = {"id": "c", "type": "function", "function": {"name": "order", "arguments": arguments}}
    messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    messages.append({"role": "tool", "tool_call_id": "c", "content": told})
    request = Request(tuple(messages), ModelRef("m"))
    return Episode("e", (Completion("e", request, "ok"),), metadata={"ticket": ticket})


def luck(*more: Episode) -> Luck:
    colours, sizes = ("red", "blue", "green"), (2, 3, 5, 8)
    asked = [order(ASKED, (c, s), (c, s)) for c in colours for s in sizes]
    return Luck(Notes(KINDS, Votes()), Check(as_ordered), [*asked, *more])


def test_a_success_that_hangs_on_what_nobody_said_is_a_guess() -> None:
    own = luck()
    assert own.guessed(order(ASKED, ("red", 3), ("red", 3))) is None
    assert own.guessed(order(("a {colour} one",), ("red", 3), ("red", 3))) == "/ticket/size"
    assert own.guessed(order(("size {size}",), ("red", 3), ("red", 3))) == "/ticket/colour"


def test_what_a_result_showed_is_known() -> None:
    shown = order(("a {colour} one",), ("red", 3), ("red", 3), '{"usual size": 3}')
    assert luck().guessed(shown) is None


def test_a_field_that_the_check_does_not_ask_for_is_no_guess() -> None:
    own = luck()
    own.check = Check(lambda messages, ticket: 1.0)
    assert own.guessed(order(("a {colour} one",), ("red", 3), ("red", 3))) is None


def test_what_captured_agents_get_right_is_said_in_other_words() -> None:
    """Notes do not read "the smallest"; the captured agent did, so it is said."""
    words = ("the smallest {colour} one",)
    right = [order(words, (c, 2), (c, 2)) for c in ("red", "blue", "green")]
    assert luck().guessed(right[0]) == "/ticket/size"
    assert luck(*right).guessed(right[0]) is None
    wrong = [order(words, (c, 5), (c, 2)) for c in ("red", "blue", "green") for _ in range(3)]
    assert luck(*right[:2], *wrong).guessed(right[0]) == "/ticket/size"  # it guessed as well
