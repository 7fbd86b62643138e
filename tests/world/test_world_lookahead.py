"""Looking ahead: what a call would return, and which plan ends well, as the real service has it."""

import asyncio
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import warehouse
from hypothesis import given
from hypothesis import strategies as st
from recorded import Call, recorded

from understudy.cli import main
from understudy.core.types import Episode, Message, Scenario
from understudy.judges.check import Check
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.serving.lookahead import (
    filled,
    foresee,
    look_ahead,
    read_plans,
    standing,
    verdict,
)

SKU = warehouse.CATALOGUE[4]["sku"]


def said(*exchanges: tuple[str, dict[str, Any], Any]) -> list[Message]:
    """A conversation of these calls with these results."""
    messages: list[Any] = [{"role": "user", "content": "please"}]
    for n, (name, args, result) in enumerate(exchanges):
        function = {"name": name, "arguments": json.dumps(args)}
        call = {"id": f"c{n}", "type": "function", "function": function}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{n}", "content": json.dumps(result)})
    return messages


LISTED = said((
    "find_parts",
    {"category": "pumps", "order": "price"},
    {"parts": [{k: warehouse.CATALOGUE[4][k] for k in ("sku", "price", "grade")}], "count": 1},
))  # fmt: skip
HELD = LISTED + said((
    "reserve",
    {"sku": SKU, "count": 3},
    {"reservation": "R-31415", "sku": SKU, "count": 3, "total": 141, "status": "held"},
))[1:]  # fmt: skip


def buying(method: str) -> list[dict[str, Any]]:
    settle = {"reservation": "$1/reservation", "method": method}
    return [
        {"name": "reserve", "arguments": {"sku": SKU, "count": 3}},
        {"name": "settle", "arguments": settle},
    ]


def really(plan: list[dict[str, Any]], seed: int) -> bool:
    """Whether the real service carries a plan out."""

    async def play() -> bool:
        session = await warehouse.SERVICE.start(Scenario("s", ()), seed)
        results: list[Any] = []
        for n, call in enumerate(plan):
            arguments = json.dumps(filled(call["arguments"], results))
            function: Any = {"name": call["name"], "arguments": arguments}
            told = await session.call(
                "agent", {"id": f"c{n}", "type": "function", "function": function}
            )
            results.append(json.loads(told.content))
            if "error" in results[-1] or results[-1].get("status") == "error":
                return False
        return True

    return asyncio.run(play())


def test_a_call_is_foreseen_with_what_it_changes(world: World) -> None:
    seen = foresee(world, HELD, "settle", {"reservation": "R-31415", "method": "voucher"})
    result = json.loads(seen.result.content)
    assert (result["status"], result["total"], result["reservation"]) == ("paid", 141, "R-31415")
    changed = [c for c in seen.changes if c.before is not None]
    assert [(c.thing, c.field, c.before, c.after) for c in changed] == [
        ("R-31415", "status", "held", "paid")
    ]
    assert sum(seen.chances.values()) == pytest.approx(1)
    again = foresee(world, HELD, "lookup", {"reservation": "R-31415"})
    assert json.loads(again.result.content)["status"] == "held"
    assert again.changes == ()


def test_the_chances_of_a_call_are_those_of_its_situation(world: World) -> None:
    def failing(method: str) -> float:
        args = {"reservation": "R-31415", "method": method}
        chances = foresee(world, HELD, "settle", args).chances
        return sum(p for label, p in chances.items() if "declined" in label)

    assert failing("invoice") == pytest.approx(warehouse.DECLINED, abs=0.1)
    assert failing("prepaid") == 0
    missing = foresee(world, HELD, "settle", {"reservation": "R-31416", "method": "prepaid"})
    assert missing.result.is_error
    assert "no_such_reservation" in missing.result.content


def test_plans_end_as_often_as_in_the_real_service(world: World) -> None:
    plans = {method: buying(method) for method in ("invoice", "prepaid")}
    found = look_ahead(world, LISTED, read_plans(plans), n=150)
    shares = {r.name: r.success for r in found.plans}
    for method, plan in plans.items():
        real = sum(really(plan, seed) for seed in range(200)) / 200
        assert shares[method].mean == pytest.approx(real, abs=0.15)
        assert shares[method].low < shares[method].mean < shares[method].high
    assert found.verdict == "prepaid ends well most often"
    invoice = next(r for r in found.plans if r.name == "invoice")
    (number, tool, why), _ = invoice.failures.most_common(1)[0]
    assert (number, tool) == (2, "settle")
    assert "declined" in why
    assert 1 < invoice.calls <= 2


def test_equal_plans_are_too_close_to_tell(world: World) -> None:
    plans = {"one": buying("prepaid"), "other": buying("voucher")}
    assert look_ahead(world, LISTED, read_plans(plans), n=20).verdict.startswith("too close")


def test_plans_do_not_see_what_others_did(world: World) -> None:
    settle = {"name": "settle", "arguments": {"reservation": "R-31415", "method": "prepaid"}}
    plans = read_plans({"one": [settle], "other": [settle], "both": [settle, settle]})
    rates = {r.name: r.success.mean for r in look_ahead(world, HELD, plans, n=20).plans}
    assert rates == {"one": 1, "other": 1, "both": 0}


def test_failures_that_pass_are_tried_again(world: World) -> None:
    plans = read_plans({"plan": buying("prepaid")})
    (once,) = look_ahead(world, LISTED, plans, n=200).plans
    (often,) = look_ahead(world, LISTED, plans, n=200, retries=4).plans
    assert any("rate_limited" in why for _, _, why in once.failures)
    assert not any("rate_limited" in why for _, _, why in often.failures)
    assert often.success.mean > once.success.mean


def test_a_check_says_what_ends_well(world: World) -> None:
    def check(messages: list[dict[str, Any]], ticket: dict[str, Any]) -> bool:
        results = [json.loads(m["content"]) for m in messages if m["role"] == "tool"]
        return any(r.get("total", 10**9) <= ticket["budget"] for r in results)

    plans, judge = read_plans({"plan": buying("prepaid")}), Check(check).judge_episode
    for budget, least in ((1, 0), (10**6, 0.5)):
        metadata = {"ticket": {"budget": budget}}
        (report,) = look_ahead(world, LISTED, plans, judge, n=20, metadata=metadata).plans
        assert (report.success.mean > least) == (budget > 1)


def test_a_check_that_judges_nothing_says_why(world: World) -> None:
    def check(messages: list[dict[str, Any]], ticket: dict[str, Any]) -> bool:
        raise RuntimeError("no till")

    with pytest.raises(ValueError, match=r"plan p could not be judged: .*no till"):
        look_ahead(world, LISTED, read_plans({"p": buying("prepaid")}), Check(check).judge_episode)


def shelf(seed: int) -> Episode:
    """A service whose results hold a word that nothing tells: any world must make it up."""
    calls: list[Call] = [("weigh", {"box": f"box-{seed:04}"})]
    word = ["red", "blue", "green", "grey", "pink"][zlib.crc32(str(seed).encode()) % 5]
    return recorded(f"e{seed}", calls, lambda _, a: {"box": a["box"], "colour": word})


@pytest.mark.parametrize("episodes", [40, 60])
def test_what_rests_on_invented_values_is_told_apart(episodes: int) -> None:
    """A colour that is made up, and, where the traffic is large, a refusal that is."""
    world = learn([shelf(seed) for seed in range(episodes)])
    plans = read_plans({"weigh": [{"name": "weigh", "arguments": {"box": "box-9999"}}]})
    (report,) = look_ahead(world, [], plans, n=20).plans
    assert report.invented == 20
    assert report.success.mean == 0
    assert (report.success.low, report.success.high) == (0, 1)


def test_plans_that_only_invention_parts_are_too_close(world: World) -> None:
    made_up = learn([shelf(seed) for seed in range(60)])
    weigh = {"name": "weigh", "arguments": {"box": "box-9999"}}
    plans = read_plans({"once": [weigh], "twice": [weigh, weigh]})
    assert look_ahead(made_up, [], plans, n=10).verdict.startswith("too close")


def test_a_reference_that_finds_nothing_ends_the_plan(world: World) -> None:
    calls = [
        {"name": "find_parts", "arguments": {"category": "pumps"}},
        {"name": "part", "arguments": {"sku": "$1/parts/99/sku"}},
    ]
    (report,) = look_ahead(world, [], read_plans({"p": calls}), n=10, retries=5).plans
    assert report.success.mean == 0
    assert (2, "part", "nothing at $1/parts/99/sku") in report.failures


@pytest.mark.parametrize(
    ("plans", "why"),
    [
        ([], "one JSON object"),
        ({"p": []}, "plan p is not a list"),
        ({"p": [{"arguments": {}}]}, "plan p, call 1 is not"),
        ({"p": [{"name": "part", "arguments": {"sku": "$1/sku"}}]}, r"\$1/sku is of no earlier"),
    ],
)
def test_plans_that_cannot_be_read_say_where(plans: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_plans(plans)


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8))


@given(st.dictionaries(st.text(max_size=4), LEAVES), st.integers(1, 3), LEAVES)
def test_references_are_replaced_and_all_else_stays(
    args: dict[str, Any], n: int, value: Any
) -> None:
    escaped = {k: f"${v}" if isinstance(v, str) and v[:1] == "$" else v for k, v in args.items()}
    results = [{"deep": [{"key": value}]}] * n
    nested = {**escaped, "ref": [{"x": f"${n}/deep/0/key"}]}
    assert filled(nested, results) == {**args, "ref": [{"x": value}]}


def test_what_a_history_holds_beside_calls_of_the_world_is_counted(world: World) -> None:
    messages = said(("fly", {}, {"ok": 1}), ("lookup", {"reservation": "R-31415"}, {}))
    messages.append({**messages[1], "content": "and no result"})
    _, left_out = standing(world, messages)
    assert left_out == {"a tool that the world does not know": 1, "no result, or no function": 1}


def test_an_unknown_tool_is_one_line(world: World) -> None:
    with pytest.raises(ValueError, match="no tool fly in this world; there are find_parts"):
        foresee(world, [], "fly", {})


def test_the_verdict_needs_intervals_apart(world: World) -> None:
    bad = [{"name": "reserve", "arguments": {"sku": SKU, "count": 0}}]
    plans = {"good": buying("prepaid"), "bad": bad}
    found = look_ahead(world, LISTED, read_plans(plans), n=60)
    assert found.verdict == verdict(found.plans) == "good ends well most often"


def test_the_commands(
    world_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history, plans = tmp_path / "so-far.json", tmp_path / "plans.json"
    history.write_text(json.dumps({"messages": HELD}))
    plans.write_text(json.dumps({m: buying(m) for m in ("invoice", "prepaid")}))
    check = tmp_path / "check.py"
    check.write_text("def check(messages, ticket):\n    return 'paid' in messages[-2]['content']\n")
    base = ["world", "ahead", str(world_folder), "--history", str(history)]
    assert main([*base, "--call", "settle reservation=R-31415 method=prepaid"]) == 0
    assert 'changes R-31415: status "held" -> "paid"' in capsys.readouterr().out
    assert main([*base, "--plans", str(plans), "--n", "30", "--check", str(check)]) == 0
    assert "prepaid" in capsys.readouterr().out
    assert main([*base, "--plans", str(plans), "--n", "30", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {p["name"] for p in told["plans"]} == {"invoice", "prepaid"}
    assert all(p["success"]["n"] == 30 for p in told["plans"])
    assert main(base) == 1
    assert "give one of --call, --plans and --serve" in capsys.readouterr().err
