"""The level that the world reaches on services that it was not made on, with a margin."""

import importlib

import pytest
from unseen.playing import play
from unseen.scoring import Scored, score

from understudy.world.data import envelope, moments
from understudy.world.fidelity.bench import episode_of
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.outcomes import frames
from understudy.world.traffic import joint, silent

COLUMNS = ("exact", "knowable", "flag", "malformed", "error", "changing", "revealing")
# service: exact, knowable leaves, failing calls that are right in themselves, per cent at least
LEVELS = {
    "tracker": (70, 90, 85),
    "shell": (78, 86, 85),
    "stockroom": (62, 85, 50),
    "clinica": (68, 92, 85),
    "greenhouse": (45, 78, 40),
    "hotline": (15, 50, 10),  # half of its answers tell the time
    "library": (30, 55, 25),  # asked as of each episode: early ones know little
    "shop": (40, 55, 45),  # a third of the calls tell orders of which nobody could know
}


def _score(name: str, names: int | None = None) -> Scored:
    return score(importlib.import_module(f"unseen.{name}").SERVICE, 90, names)


def _world(name: str, episodes: int = 60) -> World:
    service = importlib.import_module(f"unseen.{name}").SERVICE
    return learn([episode_of(play(service, seed)[0]) for seed in range(episodes)])


@pytest.mark.parametrize("name", LEVELS)
def test_the_level_on_an_unseen_service_holds(name: str) -> None:
    scored = _score(name)
    exact, knowable, errors = LEVELS[name]
    assert scored.share("exact") >= exact
    assert scored.share("knowable") >= knowable
    assert scored.share("error") >= errors


def test_names_carry_nothing() -> None:
    plain, other = _score("stockroom"), _score("stockroom", names=5)
    assert abs(plain.share("exact") - other.share("exact")) < 4
    assert other.share("malformed") > 75


def test_names_carry_nothing_where_numbers_count_up_and_no_tool_lists_them() -> None:
    plain, other = _score("greenhouse"), _score("greenhouse", names=5)
    for column in COLUMNS:
        assert abs(plain.share(column) - other.share(column)) <= 3, column


def test_what_is_in_an_envelope_is_learned_and_put_into_it_again() -> None:
    world = _world("stockroom")
    assert world.failures.envelope.inside == "data"
    session = world.session(1)
    result = session.step("get_item", '{"sku": "BO100"}', greedy=True)
    assert world.failures.envelope.read(result.content)["sku"] == "BO100"
    assert result.content.startswith('{"ok":true,"data":{')
    assert all(p.path.startswith("/data") for p in result.provenance)


def test_two_arguments_name_one_thing() -> None:
    world = _world("stockroom", 120)
    assert world.ids.joint == {"get_stock": "site&sku"}
    assert world.ids.args["move_stock"]["source&sku"] == world.ids.args["get_stock"]["site&sku"]
    session = world.session(1)
    asked = '{"sku": "BO100", "site": "north"}'
    told = '{"ok":true,"data":{"sku":"BO100","site":"north","on_hand":31}}'
    session.observe("get_stock", {"sku": "BO100", "site": "north"}, told, False)
    move = '{"sku": "BO100", "source": "north", "target": "south", "quantity": 5}'
    session.step("move_stock", move, greedy=True)
    shown = session.step("get_stock", asked, greedy=True).content
    assert world.failures.envelope.read(shown)["on_hand"] == 26


def test_a_text_that_was_written_is_read_again() -> None:
    session = _world("shell", 120).session(1)
    session.step("write", '{"path": "/tmp/a1.txt", "text": "never said before"}', greedy=True)
    session.step("append", '{"path": "/tmp/a1.txt", "line": "hello world"}', greedy=True)
    read = session.step("cat", '{"path": "/tmp/a1.txt"}', greedy=True)
    assert read.content == "never said before\nhello world"
    told = session.step("stat", '{"path": "/tmp/a1.txt"}', greedy=True)
    assert told.content == "/tmp/a1.txt: 29 bytes, 2 lines"
    session.step("rm", '{"path": "/tmp/a1.txt"}', greedy=True)
    assert session.step("cat", '{"path": "/tmp/a1.txt"}', greedy=True).is_error


def test_what_a_call_makes_is_as_its_arguments_say() -> None:
    session = _world("clinica", 100).session(1)
    args = '{"documento": "1", "medico": "Dr. Gil", "dia": "lunes", "hora": "11:00"}'
    made = session.step("reservar_cita", args, greedy=True, outcome="ok:{cita,estado}")
    name = made.content.split('"')[3]
    shown = session.step("ver_cita", f'{{"cita": "{name}"}}', greedy=True).content
    assert '"medico": "Dr. Gil", "dia": "lunes", "hora": "11:00", "estado": "activa"' in shown


def test_an_envelope_is_one_where_all_but_the_result_is_always_the_same() -> None:
    same = [("a", {"ok": True, "data": {"n": n}}) for n in range(10)]
    other = [("b", {"ok": True, "data": [n]}) for n in range(10)]
    found = envelope.mine(same + other)
    assert (found.inside, found.always) == ("data", {"ok": True, "data": None})
    assert found.opened({"ok": False, "data": 1}) == {"ok": False, "data": 1}
    assert envelope.mine(same).inside == ""  # one tool: its record
    assert envelope.mine([*same, *(("b", {"ok": n, "data": {}}) for n in range(10))]).inside == ""


def test_a_form_of_failure_is_told_from_a_second_form_of_success() -> None:
    good = [("a", {"id": n}, {"name": f"n{n}"}) for n in range(30)]
    good += [("b", {"id": n}, {"size": n}) for n in range(30)]
    wrong = [("a", {}, {"pech": "id"})] * 3 + [("b", {"id": 9, "x": 1}, {"pech": "x"})]
    assert silent.mine(good + wrong) == [["pech"]]
    empty = [("a", {"id": 90 + n}, {"none": True}) for n in range(4)]
    assert silent.mine(good + empty) == []


def test_wordings_that_differ_in_data_are_one_form() -> None:
    forms = ["{} goes from open to {}.", "{} goes from done to {}.", "{} stays."]
    (frame,) = frames.mine(forms, {"open", "done"})
    assert frames.opened("{} goes from held to {}.", [frame]) == (
        "{} goes from {} to {}.",
        [(1, "held")],
    )
    assert frames.mine(forms, set()) == []


@pytest.mark.parametrize(
    ("text", "seconds", "then"),
    [
        ("2031-03-03T09:30:00+02:00", 5400, "2031-03-03T11:00:00+02:00"),
        ("2031-03-03T23:30:00Z", 3600, "2031-03-04T00:30:00Z"),
        ("2031-12-31", 86400, "2032-01-01"),
        ("09:15", 2700, "10:00"),
        ("2031-13-01", 60, None),
    ],
)
def test_a_later_moment_is_written_like_the_first(
    text: str, seconds: int, then: str | None
) -> None:
    assert moments.later(text, seconds) == then


def test_a_joint_identifier_needs_all_its_arguments() -> None:
    assert joint.value_of("a&b", {"a": "x", "b": 3}) == "x&3"
    assert joint.value_of("a&b", {"a": "x"}) is None
    assert joint.value_of("a&b", {"a": "x", "b": [3]}) is None
