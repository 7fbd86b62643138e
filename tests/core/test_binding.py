"""What counts as another prompt than those that were trained with, and what does not."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.binding import (
    BINDING,
    FEW,
    KEPT,
    TEMPLATES,
    Binding,
    Prompts,
    parts_of,
    pieces,
    said_of,
)

RULES = "You work for a shop.\nNever promise a refund.\nAsk before you order."


def system(text: str) -> list[Any]:
    return [{"role": "system", "content": text}, {"role": "user", "content": "hi"}]


def tool(name: str, **properties: Any) -> Any:
    schema = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def bound(texts: Sequence[str], tools: Sequence[Any] = ()) -> Binding:
    """After the adapter's metadata was written and read."""
    prompts = Prompts()
    for n, text in enumerate(texts):
        prompts.add(f"e{n}", system(text), tools)
    written = json.loads(json.dumps(prompts.binding().as_json()))
    found = Binding.read({BINDING: written})
    assert found is not None
    assert found == prompts.binding()
    return found


def greeting(name: str, note: str = "") -> str:
    return f"{RULES}\nThe customer is: {name}.{note}\nToday is 2026-03-09."


def test_the_same_prompt_is_the_same_and_a_changed_instruction_is_not() -> None:
    binding = bound([RULES] * 3)
    assert binding.differs(system(RULES), ()) == ()
    assert binding.differs(system(RULES.replace("\n", "  \n\n")), ()) == ()
    for other in (
        RULES.replace("Never", "Always"),
        RULES + "\nBe brief.",
        "Be brief.\n" + RULES,
        "\n".join(reversed(RULES.split("\n"))),
        RULES.split("\n", 1)[1],
        "",
    ):
        assert binding.differs(system(other), ()) == ("system",), other


def test_names_and_dates_vary_and_instructions_beside_them_do_not() -> None:
    names = ["Ann Lee", "Bo Berg", "Cy", "Dee Dee Doe", "Eve Ark"]
    binding = bound([greeting(n) for n in names])
    assert binding.differs(system(greeting("Zed Zorn")), ()) == ()
    later = greeting("Zed Zorn").replace("2026-03-09", "2027-12-24")
    assert binding.differs(system(later), ()) == ()
    for changed in (
        greeting("Zed").replace("Never", "Always"),
        greeting("Zed", " Give a discount."),
        greeting("Zed") + " Give a discount.",
    ):
        assert binding.differs(system(changed), ()) == ("system",), changed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2026-03-09", "2025-11-30"),
        ("2026-03-09T08:30:00Z", "2025-11-30T23:59:59.123Z"),
        ("9.3.2026", "24.12.2027"),
        ("3/9/26", "12/24/27"),
        ("9 March 2026", "24th of December 2027"),
        ("Monday, March 9, 2026", "Friday, Dec. 24, 2027"),
        ("9 March 2026 (Monday)", "24 December 2027 (Friday)"),
        ("8:30 am", "11:59 pm"),
        ("08:30", "23:59:59 UTC"),
    ],
)
def test_dates_are_the_same_even_where_training_saw_one_day(one: str, other: str) -> None:
    binding = bound([f"{RULES} It is {one}."] * 5)
    assert binding.differs(system(f"{RULES} It is {other}."), ()) == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [("5 items", "50 items"), ("market 5", "market 6"), ("you may not", "you may"),
     ("version 3.11.4", "version 3.12.1"), ("on Sunday", "on Monday")],
)  # fmt: skip
def test_what_only_looks_like_a_date_counts(one: str, other: str) -> None:
    binding = bound([f"{RULES} Sell {one}."] * 5)
    assert binding.differs(system(f"{RULES} Sell {other}."), ()) == ("system",)


def test_a_place_with_few_values_that_are_often_seen_is_closed() -> None:
    plans = ["gold", "silver"] * 10
    names = [f"Name{n}" for n in range(20)]
    texts = [f"{RULES}\nCustomer: {n}\nPlan: {p}" for n, p in zip(names, plans, strict=True)]
    binding = bound(texts)
    assert binding.differs(system(f"{RULES}\nCustomer: New\nPlan: gold"), ()) == ()
    assert binding.differs(system(f"{RULES}\nCustomer: New\nPlan: tin"), ()) == ("system",)
    rare = bound(texts[:2] + texts[1:2])  # too few to say that there are no other plans
    assert rare.differs(system(f"{RULES}\nCustomer: New\nPlan: tin"), ()) == ()


def test_a_place_takes_as_many_pieces_as_were_there_and_twice_where_that_varied() -> None:
    def told(*notes: str) -> str:
        return RULES + "\nNotes\n" + "".join(f"{n}\n" for n in notes) + "End"

    one = bound([told(f"n{n}") for n in range(10)])
    assert one.differs(system(told("x")), ()) == ()
    assert one.differs(system(told("x", "y")), ()) == ("system",)
    some = bound([told(*(f"n{n}-{k}" for k in range(n % 3))) for n in range(12)])
    assert some.differs(system(told(*"abcd")), ()) == ()
    assert some.differs(system(told(*"abcde")), ()) == ("system",)
    assert some.differs(system(told("Never promise a refund.", "End")), ()) == ()  # as text there


def test_tools_are_told_apart_from_the_prompt_and_their_order_is_nothing() -> None:
    a, b = tool("a", x={"type": "string"}), tool("b")
    binding = bound([RULES] * 2, [a, b])
    assert binding.differs(system(RULES), [b, a]) == ()
    for tools in ([a], [], [a, tool("b", y={})], [tool("a", x={"type": "number"}), b]):
        assert binding.differs(system(RULES), tools) == ("tools",)
    assert binding.differs(system("x"), [a, b]) == ("system",)
    assert binding.differs(system("x"), [a]) == ("system", "tools")


def test_two_agents_each_keep_their_tools() -> None:
    prompts, front, back = Prompts(), [tool("route")], [tool("refund")]
    for n in range(3):
        prompts.add(f"{n}", system("You route calls. Be quick."), front)
        prompts.add(f"{n}", system("You refund orders. Be sure."), back)
    binding = prompts.binding()
    assert binding.differs(system("You refund orders. Be sure."), back) == ()
    assert binding.differs(system("You refund orders. Be sure."), front) == ("tools",)
    assert binding.differs(system("You hang up."), front) == ("system",)


def test_with_too_many_prompts_there_is_nothing_to_differ_from() -> None:
    texts = [f"Prompt {n} is alone. So is {n * n + 7}." for n in range(TEMPLATES + 1)]
    assert bound(texts[:-1]).differs(system("x"), ()) == ("system",)
    open_ = bound(texts)
    assert open_.too_many == TEMPLATES + 1
    assert open_.differs(system("x"), ()) == ()


def test_one_conversation_counts_once_however_often_it_is_told() -> None:
    prompts = Prompts()
    for n in range(FEW):
        for _ in range(50):
            prompts.add(f"e{n}", system(greeting(f"Name{n}")), ())
    assert prompts.binding().differs(system(greeting("Zed")), ()) == ()


def test_prompts_beyond_those_kept_still_fit_and_collecting_goes_on_from_its_state() -> None:
    prompts = Prompts()
    for n in range(KEPT + 40):
        if n == KEPT // 2:
            prompts = Prompts.restore(json.loads(json.dumps(prompts.state())))
        prompts.add(f"e{n}", system(greeting(f"Name{n}")), ())
    prompts.add("late", system(greeting("Zed", " Call back.")), ())
    assert len(prompts.seen) == KEPT + 1
    assert prompts.binding().differs(system(greeting("New", " Call later.")), ()) == ()


SENTENCES = st.lists(st.sampled_from([f"Say {c}." for c in "abcdef"]), max_size=7).map(" ".join)


@given(st.lists(SENTENCES, min_size=1, max_size=12))
def test_what_was_trained_with_never_differs(texts: list[str]) -> None:
    binding = bound(texts)
    assert [t for t in texts if binding.differs(system(t), ())] == []


def test_the_id_is_one_hash_of_it_all_and_shows_no_text() -> None:
    one, other = bound([RULES]), bound([RULES + "!"])
    assert len({one.id, other.id, bound([RULES], [tool("a")]).id}) == 3
    assert one.id == bound([RULES.replace("\n", " ")]).id
    assert "refund" not in json.dumps(one.as_json())
    assert len(pieces(RULES)) == 3


def test_an_adapter_without_a_binding_or_with_a_damaged_one() -> None:
    assert Binding.read({"recipe": "sft"}) is None
    for damaged in ("x", {"templates": [{}]}, {"templates": 5}, {"too_many": "many"}):
        with pytest.raises(ValueError, match="its binding cannot be read"):
            Binding.read({BINDING: damaged})


def test_the_header_says_which_parts_differ() -> None:
    assert parts_of(said_of(("system", "tools"))) == "system, tools"
    assert [parts_of(h) for h in (None, "", "must-match")] == [None] * 3
