"""The pytest fixture that gives an agent's tests a learned world, and the page that explains it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from understudy.cli import main
from understudy.testing import WorldFixture
from understudy.world.learn import learn
from understudy.world.model import World
from world.recorded import recorded
from world.warehouse import traffic

pytest_plugins = ["pytester"]
PAGE = (Path(__file__).resolve().parents[1] / "docs" / "testing-agents.md").read_text()
INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
LISTING = {"category": "pumps", "order": "price"}


@pytest.fixture(scope="module")
def learned() -> World:
    return learn(traffic(150))


@pytest.fixture(scope="module")
def folder(learned: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world")
    learned.save(path)
    return path


@pytest.fixture
def life(learned: World, folder: Path) -> WorldFixture:
    return WorldFixture(learned, 3, folder)


def run(pytester: pytest.Pytester, body: str, *args: str, conftest: str = "") -> pytest.RunResult:
    pytester.makeini(INI)
    pytester.makeconftest(conftest or "from understudy.testing import world\n")
    pytester.makepyfile(test_it=body)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *args)


def listed(life: WorldFixture) -> list[str]:
    """The parts of a listing that is asked for until it is given."""
    while life.call("find_parts", LISTING) and life.calls[-1].failed:
        pass
    return [str(part["sku"]) for part in life.calls[-1].value["parts"]]


def reserved(life: WorldFixture) -> str:
    """A reservation of the first part that can be had."""
    for sku in listed(life) * 9:
        if not life.call("reserve", {"sku": sku, "count": 2}).content.count("error"):
            return str(life.calls[-1].value["reservation"])
    raise AssertionError(life.calls)


def test_the_examples_of_the_page_run(
    pytester: pytest.Pytester, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```(?:python|ini)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
    for name, text in blocks:
        (pytester.path / name).write_text(text)
    (pytester.path / "pytest.ini").write_text(INI + "understudy_world = build/world\n")
    (pytester.path / "build").mkdir()
    (pytester.path / "build" / "world").symlink_to(folder)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--strict-markers")
    result.assert_outcomes(passed=10)
    monkeypatch.chdir(pytester.path)
    (command,) = re.findall(r"```bash\nunderstudy (.*?)\n```", PAGE)
    assert main(command.split()) == 0
    assert (pytester.path / "build" / "staging" / "manifest.json").exists()


def test_a_world_is_named_by_environment_marker_or_parameter(
    pytester: pytest.Pytester, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = pytester.path / "other"
    other.symlink_to(folder)
    body = f"""
import pytest
from pathlib import Path

def test_environment(world):
    assert world.folder == Path({str(folder)!r})

@pytest.mark.world("other", seed=5)
def test_marker(world):
    assert (world.folder, world.seed) == (Path({str(other)!r}), 5)

@pytest.mark.world("other")
@pytest.mark.parametrize("world", [{str(folder)!r}, 8], indirect=True)
def test_parameter(world, request):
    seeded = request.node.callspec.params["world"] == 8
    assert world.folder == Path({str(other)!r} if seeded else {str(folder)!r})
    assert (world.seed == 8) == seeded
"""
    monkeypatch.setenv("UNDERSTUDY_WORLD", str(folder))
    plugin = 'pytest_plugins = ["understudy.testing"]\n'
    run(pytester, body, "--strict-markers", conftest=plugin).assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("named", "message"),
    [("", "set UNDERSTUDY_WORLD to a folder"), ("nowhere", "no world in *nowhere: write one with")],
)
def test_no_world_is_said_in_one_line(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, named: str, message: str
) -> None:
    monkeypatch.setenv("UNDERSTUDY_WORLD", named)
    result = run(pytester, "def test_it(world): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{message}*"])


def test_each_test_has_a_life_of_its_own_and_the_same_one_again(
    pytester: pytest.Pytester, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """
import json, pytest

@pytest.mark.parametrize("n", range(4))
def test_it(world, n):
    found = [world.call("find_parts", {"category": "pumps"}).content for _ in range(4)]
    with open("said.jsonl", "a") as file:
        file.write(json.dumps([world.seed, len(world.calls), found]) + "\\n")
"""
    monkeypatch.setenv("UNDERSTUDY_WORLD", str(folder))
    for _ in range(2):
        run(pytester, body).assert_outcomes(passed=4)
    said = [json.loads(x) for x in (pytester.path / "said.jsonl").read_text().splitlines()]
    assert said[:4] == said[4:]
    assert len({seed for seed, _, _ in said}) == 4
    assert len({json.dumps(found) for _, _, found in said}) > 1
    assert {n for _, n, _ in said} == {4}


def test_doubt_warns_and_a_failed_test_shows_its_calls(
    pytester: pytest.Pytester, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """
def test_doubtful(world):
    world.call("never_seen", {"a": 1})

def test_wrong(world):
    world.call("part", {"sku": "P1000"})
    assert len(world.calls) == 2
"""
    monkeypatch.setenv("UNDERSTUDY_WORLD", str(folder))
    result = run(pytester, body)
    result.assert_outcomes(passed=1, failed=1, warnings=1)
    result.stdout.fnmatch_lines(["*calls of the world*", "seed * of *", '1 part {"sku": "P1000"}*'])
    result.stdout.fnmatch_lines(["*DoubtWarning: the traffic hardly supports*"])
    strict = run(pytester, body, "-W", "error::understudy.testing.DoubtWarning")
    strict.assert_outcomes(passed=1, failed=1, errors=1)


def test_calls_answer_as_a_session_of_the_world(life: WorldFixture, learned: World) -> None:
    session = learned.session(3)
    for arguments in (LISTING, {"category": "größe"}, {}):
        assert life.call("find_parts", arguments) == session.step(
            "find_parts", json.dumps(arguments)
        )
    assert life.call("part", "no json") == session.step("part", "no json")
    assert [life.calls[n].failed for n in (1, 3)] == [True, True]
    assert [c.arguments for c in life.calls] == [LISTING, {"category": "größe"}, {}, "no json"]


def test_changes_are_what_calls_did_and_not_what_they_showed(life: WorldFixture) -> None:
    for sku in listed(life):
        life.call("part", {"sku": sku})
    assert life.changes == []
    name = reserved(life)
    assert {(c.type, c.id, c.before) for c in life.changes} == {("reservation", name, None)}
    before = len(life.changes)
    life.call("release", {"reservation": name})
    assert [(c.field, c.before, c.after) for c in life.changes[before:]] == [
        ("status", "held", "released")
    ]
    assert life.things("reservation")[name]["status"] == "released"
    with pytest.raises(ValueError, match="no type thing; there are: reservation, sku"):
        life.things("thing")


def test_a_listing_that_varies_changes_nothing() -> None:
    def answer(tool: str, args: Any) -> Any:
        listed = [{"sku": f"P{n}00", "price": n * args["day"]} for n in range(1, 9)]
        return {"parts": listed[: 4 + args["day"]]}

    shown = [("find", {"day": n % 3}) for n in range(9)] + [("part", {"sku": "P100", "day": 1})]
    life = WorldFixture(learn([recorded(f"e{n}", shown, answer) for n in range(9)]), 0, Path("x"))
    prices = {life.call("find", {"day": day}).content for day in (1, 2, 0, 2)}
    assert len(prices) == 3
    assert life.things("sku")["P100"]["price"] == 2
    assert life.changes == []


def test_a_forced_failure_is_the_traffics_and_lasts_as_it_did_there(life: WorldFixture) -> None:
    sku = listed(life)[0]
    ways = life.ways_to_fail("reserve")
    assert any("sold_out" in w for w in ways)
    assert any("rate_limited" in w for w in ways)
    life.fail_next("reserve", like="Rate_Limited", times=2)
    asked = {"sku": sku, "count": 2}
    answers = [json.loads(life.call("reserve", asked).content) for _ in range(2)]
    assert [a["error"] for a in answers] == ["rate_limited"] * 2
    life.fail_next("reserve", like="sold_out")
    for _ in range(6):
        life.call("reserve", asked)
    lasting = [c.value for c in life.calls[-6:]]
    assert [c.forced for c in life.calls[-6:]] == [True] + [False] * 5
    assert lasting[0] == {"status": "error", "reason": "sold_out", "sku": sku}
    assert {c.failed for c in life.calls[-6:]} == {True}
    with pytest.raises(ValueError, match="reserve never failed like 'moon'; ways in the traffic"):
        life.fail_next("reserve", like="moon")
    with pytest.raises(ValueError, match="no tool moon; there are find_parts"):
        life.fail_next("moon")
    with pytest.raises(ValueError, match="ways in the traffic: none"):
        life.fail_next("lookup")
    life.fail_next("lookup", like="rate_limited")  # as other tools did
    assert life.call("lookup", {"reservation": "R-1"}).content.startswith(
        '{"error": "rate_limited"'
    )


def test_rewinding_takes_all_back(life: WorldFixture) -> None:
    sku = listed(life)[0]
    life.fail_next("reserve", like="sold_out")
    point, calls = life.snapshot(), len(life.calls)
    life.call("reserve", {"sku": sku, "count": 2})
    seen = [life.call("find_parts", {"category": "gears"}) for _ in range(5)]
    life.rewind(point)
    assert len(life.calls) == calls
    assert life.call("reserve", {"sku": sku, "count": 2}).content == (
        '{"status": "error", "reason": "sold_out", "sku": "' + sku + '"}'
    )
    assert [life.call("find_parts", {"category": "gears"}) for _ in range(5)] == seen
    others = set()
    for seed in range(8):
        life.rewind(point, seed)
        others.add(str([life.call("find_parts", {"category": "gears"}).content for _ in range(5)]))
    assert len(others) > 1


def test_what_happened_before_is_kept_to(life: WorldFixture) -> None:
    held = {"reservation": "R-12345", "sku": "P1000", "count": 4, "total": 77, "status": "held"}
    life.observe("reserve", {"sku": "P1000", "count": 4}, held)
    assert life.calls == []
    found = json.loads(life.call("lookup", {"reservation": "R-12345"}).content)
    assert found == {"reservation": "R-12345", "status": "held", "total": 77}
    with pytest.raises(ValueError, match="no tool moon"):
        life.observe("moon", {}, {})


async def test_users_say_their_lines_or_what_real_ones_said(life: WorldFixture) -> None:
    user = life.user("one", "two")
    assert [user.says([]), await user.reply([]), user.says([])] == [
        "one",
        {"role": "user", "content": "two"},
        None,
    ]
    scenario = life.scenario()
    assert scenario == life.scenario()
    assert scenario != life.scenario(n=1)
    done = [*scenario.messages, {"role": "assistant", "content": "Done: your parts are ordered."}]
    said = {life.user(scenario=life.scenario(n=n)).says(done) for n in range(6)}
    assert "Thanks!" in said
    with pytest.raises(ValueError, match="a user needs lines to say"):
        life.user()


def test_a_tool_call_of_any_kind_gets_its_message(life: WorldFixture) -> None:
    from openai.types.chat import ChatCompletionMessageFunctionToolCall as Made

    call = {
        "id": "c7",
        "type": "function",
        "function": {"name": "part", "arguments": '{"sku": "P1000"}'},
    }
    point = life.snapshot()
    plain = life.answer(call)
    life.rewind(point)
    assert life.answer(Made.model_validate(call)) == plain
    assert plain["tool_call_id"] == "c7"


def test_the_server_ends_with_the_life(life: WorldFixture) -> None:
    import socket
    from urllib.parse import urlparse

    address = urlparse(life.url)
    assert life.url == address.geturl()
    where = (str(address.hostname), int(address.port or 0))
    socket.create_connection(where, timeout=5).close()
    life.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where, timeout=5)
