"""Traffic as it comes: what is broken is learned from or set aside with a reason, never a crash."""

import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from understudy.cli import app
from understudy.core.types import Completion, Episode, ModelRef, Request, Tool, ToolResult
from understudy.recipes.world import learn_world
from understudy.world.data.values import DEPTH, at, is_number, kind_of, parse
from understudy.world.fidelity.report import fidelity
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.traffic.aside import BROKEN, DEEP, LARGE, LARGEST
from understudy.world.traffic.transitions import transitions, unanswered_calls

Asked = tuple[str, Any]  # a tool, and its arguments as a text or a value
Broken = Callable[[int, str, dict[str, Any]], str]  # (number, tool, result) -> the text sent back
NAMES = [f"X{n}" for n in range(100, 130)]
LONG = '{"a":' * 900 + "1" + "}" * 900
ODD: list[Asked] = [
    ("get", {"id": "X1"}), ("get", {"id": None}), ("get", {"id": ["X100"]}), ("get", "{bad"),
    ("get", '{"id": NaN}'), ("set", '{"id": "X100", "n": 1e999}'), ("set", '{"id": "\\ud800"}'),
    ("list", {"kind": "a", "limit": -1}), ("list", '{"kind": "a", "limit": Infinity}'),
    ("list", {}), ("get", LONG), ("get", ""), ("get", "[]"), ("nothing", {"id": "X100"}),
]  # fmt: skip


def session_of(seed: int) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(tool, arguments, result) of a sound service."""
    rng = random.Random(seed)
    name, n = rng.choice(NAMES), rng.randrange(100)
    rows = [{"id": x, "kind": "a", "n": int(x[1:])} for x in sorted(rng.sample(NAMES, 4))]
    return [
        ("list", {"kind": "a", "limit": 4}, {"rows": rows}),
        ("get", {"id": name}, {"id": name, "title": f"no {name}", "n": int(name[1:])}),
        ("set", {"id": name, "n": n}, {"id": name, "title": f"no {name}", "n": n}),
        ("get", {"id": name}, {"id": name, "title": f"no {name}", "n": n}),
    ]


def sound(_: int, __: str, result: dict[str, Any]) -> str:
    return json.dumps(result)


def episode(seed: int, broken: Broken, tools: tuple[Tool, ...] = ()) -> Episode:
    messages: list[Any] = [{"role": "user", "content": "please"}]
    results: dict[str, ToolResult] = {}
    for n, (tool, args, result) in enumerate(session_of(seed)):
        function = {"name": tool, "arguments": json.dumps(args)}
        call = {"id": f"c{n}", "type": "function", "function": function}
        text = broken(seed, tool, result)
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{n}", "content": text})
        results[f"c{n}"] = ToolResult(text, False)
    request = Request(tuple(messages), ModelRef("m"), tools)
    completion = Completion(f"c{seed}", request, "ok", {"role": "assistant", "content": "done"})
    return Episode(f"e{seed}", (completion,), results=results if seed % 2 else {})


def world_of(broken: Broken, count: int = 24) -> World:
    """Learned, written and read again; it has answered what is asked of it, in what can be sent."""
    episodes = [episode(seed, broken) for seed in range(count)]
    learned = learn(episodes)
    with tempfile.TemporaryDirectory() as folder:
        learned.save(folder)
        world = World.load(folder)
    assert world.left_out == learned.left_out
    for seed in range(3):
        session = world.session(seed)
        for name, args in [*((t, a) for t, a, _ in session_of(seed)), *ODD]:
            result = session.step(name, args if isinstance(args, str) else json.dumps(args))
            result.content.encode()
    report = fidelity(world, episodes[:2], episodes)
    json.dumps(report.to_json(), allow_nan=False)
    return world


def got(world: World, name: str, args: dict[str, Any]) -> Any:
    return json.loads(world.session(0).step(name, json.dumps(args)).content)


def some(reply: Callable[[str], str]) -> Broken:
    """Every third episode's results replaced."""
    return lambda n, tool, result: reply(json.dumps(result)) if n % 3 == 0 else json.dumps(result)


def empty(n: int, tool: str, result: dict[str, Any]) -> str:
    return ["", "{}", "[]", '""', "null", "0", "false"][n % 7]


@pytest.mark.parametrize(
    ("reason", "reply"),
    [
        (BROKEN, lambda text: text[: len(text) // 2]),
        (BROKEN, lambda text: text[:1]),
        (BROKEN, lambda text: text[:-1] + ",}"),
        (BROKEN, lambda text: '{"n": 1' + "0" * 5000 + "}"),
        (DEEP, lambda text: LONG),
        (DEEP, lambda text: "[" * 60_000 + "]" * 60_000),
        (DEEP, lambda text: "[" * (DEPTH + 1) + "]" * (DEPTH + 1)),
        (LARGE, lambda text: json.dumps({"rows": [{"id": "X100", "t": "x" * 60}] * 12_000})),
        (LARGE, lambda text: "word 1 " * 150_000),
    ],
)  # fmt: skip
def test_what_says_nothing_is_set_aside_and_counted(
    reason: str, reply: Callable[[str], str]
) -> None:
    world = world_of(some(reply))
    assert world.left_out == {reason: 4 * 8}
    assert got(world, "get", {"id": "X104"}).keys() == {"id", "title", "n"}
    assert got(world, "list", {"kind": "a", "limit": 4}).keys() == {"rows"}


def test_just_short_of_the_limits_is_learned_from() -> None:
    nested = "[" * DEPTH + "]" * DEPTH
    assert parse(nested) == json.loads(nested)
    large = json.dumps("x" * (LARGEST - 2))
    assert world_of(some(lambda text: nested)).left_out == {}
    assert world_of(some(lambda text: large), 6).left_out == {}


@pytest.mark.parametrize(
    "text",
    ["<html>502</html>", "all well", "{name} is not known", "[note] see below", '{"a": 1}{"b": 2}'],
)
def test_results_that_are_no_json_are_learned_as_texts(text: str) -> None:
    """Braces in front make none of them a broken JSON: they are what the tool says."""
    world = world_of(some(lambda _: text))
    assert world.left_out == {}
    said = {world.session(seed).step("get", '{"id": "X104"}').content for seed in range(40)}
    assert text in said
    assert len(said) > 1


def test_a_tool_that_never_ends_its_json_is_learned_as_it_is() -> None:
    world = world_of(lambda n, tool, result: json.dumps(result)[:-1])
    assert world.left_out == {}
    assert world.session(0).step("get", '{"id": "X104"}').content.startswith('{"id": "X104"')


def test_a_tool_of_which_nothing_can_be_learned_says_so() -> None:
    def spoilt(n: int, tool: str, result: dict[str, Any]) -> str:
        return LONG if tool == "get" else json.dumps(result)

    get: Any = {"type": "function", "function": {"name": "get", "parameters": {}}}
    for tools in ((), (get,)):
        world = learn([episode(seed, spoilt, tools) for seed in range(12)])
        assert world.left_out == {DEEP: 24}
        result = world.session(0).step("get", '{"id": "X104"}')
        assert result.is_error
        assert result.doubt is not None
        assert result.doubt >= 0.9
    assert "nothing in the traffic shows" in result.content


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda n, t, r: json.dumps(
            {**r, "n": n} if "n" in r else r), id="contradictory"),
        pytest.param(lambda n, t, r: json.dumps(
            r if n < 8 else [r] if n < 16 else {"data": r}), id="schema changes"),
        pytest.param(lambda n, t, r: json.dumps(
            {k if n < 12 else k.upper(): v for k, v in r.items()}), id="fields renamed"),
        pytest.param(lambda n, t, r: json.dumps(
            {k: [1, 1.5, True, None, "x", [1], {"a": 1}][(n + len(k)) % 7] for k in r}),
            id="types change"),
        pytest.param(lambda n, t, r: json.dumps(dict.fromkeys(r)), id="null everywhere"),
        pytest.param(some(lambda text: "null"), id="null at times"),
        pytest.param(empty, id="empty"),
        pytest.param(lambda n, t, r: json.dumps({"rows": [
            {"id": "X100", "n": 1}, {"id": "X100", "n": 2}, {"id": ["X100"]}, {"id": None}, {}]}
            if t == "list" else r), id="duplicate ids"),
        pytest.param(lambda n, t, r: json.dumps({"rows": [*r["rows"], {"id": ["X1"]}]}
            if t == "list" and n == 5 else r), id="a list for an id, once"),
        pytest.param(lambda n, t, r: json.dumps(
            {**r, "at": f"2026-01-{n + 1:02d}T10:00:00Z", "ts": 1_700_000_000 + 977 * n,
             "clock": f"10:{n:02d}"}), id="clocks"),
        pytest.param(lambda n, t, r: json.dumps(
            {**r, "a": float("nan"), "b": float("inf"), "c": float("-inf"), "d": 10**400,
             "e": 1e308, "f": 5e-324}), id="numbers"),
        pytest.param(lambda n, t, r: json.dumps(r).replace('"n": ', '"n": 1e999, "m": '),
            id="1e999"),
        pytest.param(lambda n, t, r: json.dumps(
            {**r, "t": "\ud800", "\udfff": "\u202eab\u05d0\ufeff", "²": ["³"], "é": "e\u0301",
             "nul": "\0"}), id="surrogates"),
        pytest.param(lambda n, t, r: f"no \ud800 {n}", id="surrogates in texts"),
        pytest.param(lambda n, t, r: "\ufeff\n " + json.dumps(r), id="byte order mark"),
    ],
)  # fmt: skip
def test_what_is_odd_is_learned_from(broken: Broken) -> None:
    assert world_of(broken).left_out == {}


def test_numbers_that_cannot_be_reckoned_with_are_numbers_all_the_same() -> None:
    for number in (float("nan"), float("inf"), 10**400, -(10**400), 1e300):
        assert kind_of(number) == "number"
        assert not is_number(number)
    assert is_number(-(10**15))


def test_a_digit_that_is_no_number_is_no_place_in_a_list() -> None:
    with pytest.raises(KeyError):
        at([1, 2, 3], "/\u00b2")


def test_json_after_blanks_or_a_mark_is_json() -> None:
    world = world_of(lambda n, tool, result: ["\ufeff", "\n ", "\t"][n % 3] + json.dumps(result))
    assert got(world, "get", {"id": "X104"})["id"] == "X104"


def test_the_text_of_a_lone_surrogate_is_as_json_writes_it() -> None:
    world = world_of(lambda n, tool, result: json.dumps({**result, "t": "\ud800 é"}))
    assert "\\ud800 \\u00e9" in world.session(0).step("get", '{"id": "X104"}').content
    plain = world_of(lambda n, tool, result: json.dumps({**result, "t": "é"}, ensure_ascii=False))
    assert '"é"' in plain.session(0).step("get", '{"id": "X104"}').content


def test_keys_that_look_like_paths_come_back() -> None:
    extra = {"": 0, "+": 1, "+x": 2, "a/b": 3, "~1": 4, "#": 5, "0": 6, " ": 7}
    world = world_of(lambda n, tool, result: json.dumps({**result, "in": extra, **extra}))
    found = got(world, "get", {"id": "X104"})
    assert {k: found.get(k) for k in ("in", *extra)} == {"in": extra, **extra}


def test_numbers_as_ids_and_one_id_for_two_kinds_of_things() -> None:
    """Things 100 to 129 of two kinds: each tool answers with its own."""

    def numbered(seed: int) -> Episode:
        messages: list[Any] = [{"role": "user", "content": "please"}]
        rng = random.Random(seed)
        for n, tool in enumerate(("get_box", "get_jar", "get_box")):
            key = rng.randrange(100, 120)
            kind = tool.removeprefix("get_")
            args = json.dumps({f"{kind}_id": key})
            call = {
                "id": f"c{n}",
                "type": "function",
                "function": {"name": tool, "arguments": args},
            }
            record = {f"{kind}_id": key, "name": f"{kind} {key}", "size": key % 7}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            content = json.dumps(record)
            messages.append({"role": "tool", "tool_call_id": f"c{n}", "content": content})
        request = Request(tuple(messages), ModelRef("m"))
        return Episode(f"e{seed}", (Completion(f"c{seed}", request, "ok"),))

    world = learn([numbered(seed) for seed in range(40)])
    session = world.session(0)
    for kind in ("box", "jar", "box"):
        said = session.step(f"get_{kind}", json.dumps({f"{kind}_id": 105})).content
        assert json.loads(said) == {f"{kind}_id": 105, "name": f"{kind} 105", "size": 0}


def test_calls_without_a_result_are_counted_once() -> None:
    (whole,) = episode(1, sound).completions
    cut = [m for m in whole.request.messages if m.get("tool_call_id") != "c3"]
    first = Completion("a", Request(tuple(cut[:3]), ModelRef("m")), "ok", cut[3])  # type: ignore[arg-type]
    last = Completion("b", Request(tuple(cut), ModelRef("m")), "ok")
    told = Episode("e", (first, last))
    assert len(transitions(told)) == 3
    assert unanswered_calls(told) == 1
    assert unanswered_calls(Episode("e", (whole,))) == 0


def test_world_learn_shows_what_was_left_out(tmp_path: Path) -> None:
    rows = []
    for seed in range(12):
        messages = [dict(m) for m in episode(seed, some(lambda text: text[:-3])).messages[:-1]]
        rows.append({"messages": messages[:-1] if seed == 1 else messages})
    file, store = tmp_path / "rows.jsonl", tmp_path / "s.db"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = CliRunner().invoke
    assert run(app, ["import", str(file), "--store", str(store)]).exit_code == 0
    told = run(app, ["world", "learn", str(tmp_path / "w"), "--store", str(store)])
    assert told.exit_code == 0, told.output
    assert f"left out: 16 calls, {BROKEN}" in told.output
    assert "left out: 1 calls, whose result was not captured" in told.output


def test_nothing_to_learn_from_but_what_is_set_aside(tmp_path: Path) -> None:
    report = learn_world([episode(seed, lambda n, t, r: LONG) for seed in range(9)], tmp_path)
    assert report.left_out == {DEEP: 36}
    assert World.load(tmp_path).session(0).step("get", "{}").is_error


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from([*NAMES[:3], "\ud800", "2026-01-01", ""]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    | st.fixed_dictionaries({"id": inner, "rows": st.lists(inner, max_size=3)}),
    max_leaves=8,
)  # fmt: skip
RESULT = JSON.map(json.dumps) | st.text(max_size=30)


@settings(max_examples=40, deadline=None)
@given(st.lists(RESULT, min_size=1, max_size=6))
def test_any_results_are_learned_from(results: list[str]) -> None:
    world_of(lambda n, tool, result: results[(n + len(tool)) % len(results)], 8)
