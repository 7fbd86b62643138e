"""A world's tools called by hand."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.cli import main
from understudy.cli.world_try import arguments_of, play
from understudy.world.learn import learn
from understudy.world.model import World
from world.warehouse import traffic


@pytest.fixture(scope="module")
def world() -> World:
    return learn(traffic(60))


def said(world: World, *lines: str) -> str:
    out: list[str] = []
    play(world, lines, out.append)
    return "\n".join(out)


def test_a_call_shows_the_sessions_own_answer_with_its_sources_and_doubt(world: World) -> None:
    text = said(world, "find_parts category=gears max_price=60 order=price")
    arguments = {"category": "gears", "max_price": 60, "order": "price"}
    answer = world.session(0).step("find_parts", json.dumps(arguments))
    shown, _ = json.JSONDecoder().raw_decode(text)
    assert shown == json.loads(answer.content)
    for p in answer.provenance:
        assert any(p.path in x and p.kind in x and p.source in x for x in text.splitlines())
    assert f"doubt {answer.doubt:.2f}" in text


def test_both_ways_of_writing_arguments_are_the_same_call(world: World) -> None:
    one = said(world, "find_parts category=gears order=price")
    other = said(world, 'find_parts {"category": "gears", "order": "price"}')
    assert one == other


def test_the_state_shows_what_was_seen_until_a_fresh_session(world: World) -> None:
    assert "nothing yet" in said(world, "state")
    text = said(world, "part sku=P1222", "state")
    assert "P1222" in text.split("doubt")[1]
    assert "nothing yet" in said(world, "part sku=P1222", "new 4", "state")


def test_a_call_shows_what_it_changed(world: World) -> None:
    """A reservation that is made and paid: new with all its fields, then one field from to."""
    lines = ["part sku=P1222", "reserve sku=P1222 count=2"]
    for seed in range(20):
        shown, made = (said_last(world, seed, lines[:n]) for n in (1, 2))
        name = json.JSONDecoder().raw_decode(made)[0].get("reservation")
        paid = said_last(world, seed, [*lines, f"settle reservation={name} method=prepaid"])
        if name is not None and '"paid"' in paid:
            break
    assert shown.endswith("\n  changes nothing")
    assert made.split("\n  new reservation ")[1].splitlines()[0] == name
    for field, value in json.JSONDecoder().raw_decode(made)[0].items():
        assert f"\n    {field}: {json.dumps(value)}" in made
    told = paid.split(f"\n  changed reservation {name}\n")[1].splitlines()
    assert told[0] == '    status: "held" -> "paid"'
    again = [*lines, f"settle reservation={name} method=prepaid", f"lookup reservation={name}"]
    assert said_last(world, seed, again).endswith("\n  changes nothing")


def said_last(world: World, seed: int, lines: list[str]) -> str:
    """What the last of these lines is answered."""
    out: list[str] = []
    play(world, lines[:-1], out.append, seed)
    before = len(out)
    out.clear()
    play(world, lines, out.append, seed)
    return "\n".join(out[before:])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("fly to=moon", "no tool fly; there are"),
        ("part {sku}", "the arguments are no JSON"),
        ("part P1222", "write arguments as name=value"),
        ('part sku="P1222', "a quotation mark is not closed"),
        ("new soon", "a seed is a whole number, not soon"),
    ],
)
def test_a_wrong_line_is_told_and_the_session_goes_on(world: World, line: str, why: str) -> None:
    text = said(world, line, "tools")
    assert why in text
    assert text.endswith("\n" + said(world, "tools"))


@given(st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), st.integers() | st.booleans()))
def test_values_that_are_json_keep_their_type(arguments: dict[str, int | bool]) -> None:
    text = " ".join(f"{k}={json.dumps(v)}" for k, v in arguments.items())
    assert arguments_of(text) == arguments


def test_the_command_reads_lines_until_the_end(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world.save(tmp_path / "world")
    monkeypatch.setattr("sys.stdin", io.StringIO("tools\nquit\nstate\n"))
    assert main(["world", "try", str(tmp_path / "world")]) == 0
    out = capsys.readouterr().out
    assert "find_parts" in out
    assert "nothing yet" not in out
    assert main(["world", "try", str(tmp_path / "none")]) != 0
    assert "understudy world learn" in capsys.readouterr().err
