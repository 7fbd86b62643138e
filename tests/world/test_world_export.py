"""What a world remembers, written as staging data and read back."""

import json
import math
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import warehouse
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recorded import recorded

from understudy.cli import main
from understudy.world.data.scrub import Scrub
from understudy.world.known.memory import Memory
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.serving import staging
from understudy.world.serving.entities import type_names
from understudy.world.serving.export import export
from understudy.world.traffic.ids import Ids

Held = dict[str, dict[Any, list[tuple[int, dict[str, Any]]]]]


@pytest.fixture(scope="module")
def bare() -> World:
    """A world with nothing in it but a tool."""
    return learn([recorded("e", [("ping", {})], lambda tool, args: {"pong": True})])


def holding(bare: World, ids: Ids, versions: Held) -> World:
    return replace(bare, ids=ids, memory=Memory(versions))


def shop(people: dict[Any, dict[str, Any]], orders: dict[Any, dict[str, Any]]) -> tuple[Ids, Held]:
    """Two kinds of things: orders name people in a field, and people orders in a list."""
    ids = Ids(
        args={"get_person": {"person_id": "d0"}, "get_order": {"order_id": "d1"}},
        keys={
            "get_person": {"": {"person_id": "d0"}},
            "get_order": {"": {"order_id": "d1"}},
        },
        refs={
            "get_person": {"/person_id": "d0", "/orders/#": "d1", "/last/order": "d1"},
            "get_order": {"/order_id": "d1", "/buyer": "d0", "/lines/#/for": "d0"},
        },
    )
    held = {
        "d0": {k: [(0, {"person_id": k, **v})] for k, v in people.items()},
        "d1": {k: [(0, {"order_id": k, **v})] for k, v in orders.items()},
    }
    return ids, held


def jsonl(folder: Path, name: str) -> list[dict[str, Any]]:
    # lines end with a line feed alone: other separators may stand in texts
    text = (folder / f"{name}.jsonl").read_bytes().decode()
    return [json.loads(line) for line in text.split("\n")[:-1]]


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "staging.db")) as db:
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return db.execute(query).fetchall()


def constraints(folder: Path, table: str) -> set[tuple[str, str, str]]:
    """(column, table, column) of a table's foreign keys."""
    found = rows(folder, f'SELECT "from", "table", "to" FROM pragma_foreign_key_list(\'{table}\')')
    return {(a, b, c) for a, b, c in found}


def test_the_things_of_traffic_are_rows(world: World, tmp_path: Path) -> None:
    manifest = export(world, tmp_path / "out")
    (held,) = world.memory.versions.values()
    assert [(t["name"], t["key"], t["things"]) for t in manifest["types"]] == [
        ("sku", "sku", len(held))
    ]
    lines = jsonl(tmp_path / "out", "sku")
    assert [line["sku"] for line in lines] == list(held)
    real = {part["sku"]: part for part in warehouse.CATALOGUE}
    assert all(line.items() <= real[line["sku"]].items() for line in lines)
    whole = sum(line == real[line["sku"]] for line in lines)
    assert 0 < whole < len(lines)  # those that were looked up, beside those that were but listed
    table = rows(tmp_path / "out", "SELECT sku, category, price, grade FROM sku")
    assert table == [
        tuple(line.get(n) for n in ("sku", "category", "price", "grade")) for line in lines
    ]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    told = [(left["what"], left["count"]) for left in manifest["left_out"]]
    assert ("type reservation", 1) in told


def test_references_that_always_hold_are_foreign_keys(bare: World, tmp_path: Path) -> None:
    people = {1: {"orders": ["a", "b"], "last": {"order": "b"}}, 2: {"orders": []}, 3: {}}
    orders = {
        "a": {"buyer": 1, "lines": [{"for": 2}, {"for": 2}, {"what": "x"}]},
        "b": {"buyer": None, "lines": None},
    }
    manifest = export(holding(bare, *shop(people, orders)), tmp_path / "out")
    assert constraints(tmp_path / "out", "order") == {("buyer", "person", "person_id")}
    assert constraints(tmp_path / "out", "person__orders") == {
        ("person", "person", "person_id"),
        ("order", "order", "order_id"),
    }
    assert rows(tmp_path / "out", 'SELECT * FROM "person__orders"') == [(1, "a"), (1, "b")]
    assert rows(tmp_path / "out", 'SELECT * FROM "person__last"') == [(1, "b")]
    assert rows(tmp_path / "out", 'SELECT * FROM "order__lines"') == [("a", 2)]
    assert rows(tmp_path / "out", "SELECT typeof(person_id) FROM person LIMIT 1") == [("integer",)]
    counted = [(r["from"], r["to"], r["values"], r["dangling"]) for r in manifest["references"]]
    assert counted == [
        ("order.buyer", "person", 1, 0),
        ("order.lines", "person", 2, 0),
        ("person.last", "order", 1, 0),
        ("person.orders", "order", 2, 0),
    ]


def test_references_to_what_nobody_saw_are_counted_and_left_open(
    bare: World, tmp_path: Path
) -> None:
    people = {1: {"orders": ["a", "gone"]}, 2: {"orders": ["a"]}}
    orders = {"a": {"buyer": 1, "lines": [{"for": 1}]}, "b": {"buyer": "1", "lines": []}}
    ids, held = shop(people, orders)
    ids.refs["get_order"]["/seller"] = "d9"
    held["d1"]["a"][0][1]["seller"] = "S1"
    manifest = export(holding(bare, ids, held), tmp_path / "out")
    assert constraints(tmp_path / "out", "order") == set()
    assert constraints(tmp_path / "out", "person__orders") == {("person", "person", "person_id")}
    found = {r["from"]: (r["to"], r["dangling"], r["constraint"]) for r in manifest["references"]}
    assert found == {
        "order.buyer": ("person", 1, False),  # a text is no number
        "order.lines": ("person", 0, True),
        "order.seller": ("seller", 1, False),
        "person.orders": ("order", 1, False),
    }
    assert rows(tmp_path / "out", 'SELECT buyer FROM "order"') == [(1,), ("1",)]


def test_the_latest_version_is_taken_and_differences_are_counted(
    bare: World, tmp_path: Path
) -> None:
    ids, held = shop({1: {}}, {})
    held["d0"][1] = [
        (3, {"person_id": 1, "tier": "low", "since": 2001}),
        (5, {"person_id": 1, "tier": "mid"}),
        (9, {"person_id": 1, "tier": "high", "tags": ["x"]}),
    ]
    held["d0"][2] = [(3, {"person_id": 2}), (4, {"person_id": 2})]
    (described,) = export(holding(bare, ids, held), tmp_path / "out")["types"]
    first, second = jsonl(tmp_path / "out", "person")
    assert first == {"person_id": 1, "tier": "high", "tags": ["x"], "since": 2001}
    assert second == {"person_id": 2}
    assert (described["of_several_versions"], described["differing"]) == (2, {"tier": 1})
    assert rows(tmp_path / "out", "SELECT tags FROM person") == [('["x"]',), (None,)]


def test_a_thing_without_its_id_among_its_fields_gets_it(bare: World, tmp_path: Path) -> None:
    ids = Ids(args={"close": {"case_id": "d0"}})
    held: Held = {"d0": {"K1": [(0, {"state": "closed", "case_id": "other"})], "K2": [(0, {})]}}
    export(holding(bare, ids, held), tmp_path / "out")
    assert jsonl(tmp_path / "out", "case") == [
        {"case_id_": "K1", "state": "closed", "case_id": "other"},
        {"case_id_": "K2"},
    ]
    assert rows(tmp_path / "out", 'SELECT "case_id_", case_id FROM "case"') == [
        ("K1", "other"),
        ("K2", None),
    ]


@pytest.mark.parametrize(
    ("args", "refs", "name"),
    [
        ({"part_id": "d0"}, {"/items/#/id": "d0"}, "part"),
        ({"partId": "d0"}, {}, "part"),
        ({"id": "d0"}, {"/items/#/id": "d0"}, "items"),
        ({"ID": "d0"}, {"/id": "d0"}, "tool"),
        ({"sku": "d0"}, {}, "sku"),
        ({"grid": "d0"}, {}, "grid"),
        ({"odd/na me-no": "d0"}, {}, "odd_na_me"),
        ({"x" * 300: "d0"}, {}, "x" * 48),
    ],
)
def test_types_have_the_names_of_tools(
    args: dict[str, str], refs: dict[str, str], name: str
) -> None:
    assert type_names(Ids(args={"tool": args}, refs={"tool": refs})) == {"d0": name}


def test_no_two_types_have_one_name_in_any_case() -> None:
    names = type_names(Ids(args={"a": {"Part": "d0"}, "b": {"part_id": "d1"}}))
    assert names == {"d0": "Part", "d1": "part_2"}


texts = st.text(max_size=12) | st.sampled_from(
    ["sqlite_x", "A", "a", "", "\0", "🙂", "\u2028", "\ud800"]
)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts
)  # infinite, not a number, and more than 64 bits among them
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(texts, v, max_size=3)
)
keys = st.integers(-(2**70), 2**70) | texts


def as_written(value: Any) -> Any:
    """What JSON and UTF-8 can hold of a value."""
    if isinstance(value, dict):
        return {as_written(k): as_written(v) for k, v in value.items()}
    if isinstance(value, list):
        return [as_written(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return re.sub("[\ud800-\udfff]", "?", value) if isinstance(value, str) else value


@given(st.dictionaries(keys, st.dictionaries(texts, values, max_size=4), min_size=1, max_size=5))
@example({"😀": {"a": 1, "A": "1", "person_id": 7, "sqlite_a": math.nan, "": [2**65]}})
@example({2**64: {"buyer": str(2**64)}, "x" * 5000: {"deep": json.loads("[" * 90 + "]" * 90)}})
@example({"\ud800": {}, "?": {"a": "\ud800"}, 2**64: {}, str(2**64): {}})
@settings(max_examples=40)
def test_any_things_are_read_back_as_they_were(
    bare: World, things: dict[Any, dict[str, Any]]
) -> None:
    with TemporaryDirectory() as name:
        ids = Ids(args={"get": {"thing_id": "d0"}}, refs={"get": {"/a": "d0", "/A/#": "d0"}})
        held: Held = {"d0": {k: [(0, v)] for k, v in things.items()}}
        manifest = export(holding(bare, ids, held), Path(name) / "out")
        (described,), table = manifest["types"], manifest["tables"][0]
        expected: dict[Any, dict[str, Any]] = {}
        for k, v in things.items():
            big = isinstance(k, int) and abs(k) >= 2**63
            row = {described["key"]: as_written(k), **as_written(v)}
            expected.setdefault(str(k) if big else as_written(k), row)
        lost = sum(left["count"] for left in manifest["left_out"] if left["what"] == "things")
        assert lost == len(things) - len(expected)
        assert jsonl(Path(name) / "out", "thing") == list(expected.values())
        read = {row[0]: row for row in rows(Path(name) / "out", "SELECT * FROM thing")}
        assert read.keys() == expected.keys()
        for key, fields in expected.items():
            row = read[key]
            for cell, (field, _) in zip(row, table["columns"].items(), strict=True):
                value = fields.get(field)
                if isinstance(value, (dict, list)):
                    cell = json.loads(cell)
                elif isinstance(value, int) and abs(value) >= 2**63:
                    cell = int(cell)
                assert cell == value


def test_fields_beyond_what_a_table_takes_share_a_column(bare: World, tmp_path: Path) -> None:
    wide = {f"f{n}": n for n in range(3000)}
    ids, held = shop({1: wide, 2: {"f7": 7}}, {})
    manifest = export(holding(bare, ids, held), tmp_path / "out")
    (table,) = (t for t in manifest["tables"] if t["name"] == "person")
    assert table["rare_fields"] == 3000 - staging.COLUMNS
    read = rows(tmp_path / "out", "SELECT * FROM person WHERE person_id = 1")[0]
    kept = dict(zip(table["columns"], read[:-1], strict=True))
    assert {**kept, **json.loads(read[-1])} == {"person_id": 1, **wide}


PEOPLE = {
    "jo.doe@mail.test": {
        "phone": "+49 170 1234567",
        "card": "4111 1111 1111 1111",
        "note": "Call (030) 555-0199 or write to jo.doe@mail.test, not before 2024-05-20 10:30.",
        "orders": ["a"],
        "name": {"first": "Jo", "last": "Doe"},
        "born": "1970-02-28",
        "age": 54,
    },
    "ann@mail.test": {
        "phone": "0170-765-4321",
        "orders": [],
        "name": {"first": "Ann"},
        "note": "Doe",
    },
}
ORDERS = {"a": {"buyer": "jo.doe@mail.test", "at": "2024-05-20", "price": "12345.67", "lines": []}}


def scrubbed(bare: World, folder: Path, scrub: Scrub) -> tuple[list[Any], list[Any], Any]:
    manifest = export(holding(bare, *shop(PEOPLE, ORDERS)), folder, scrub=scrub)
    return jsonl(folder, "person"), jsonl(folder, "order"), manifest


def test_scrubbing_keeps_formats_and_references(bare: World, tmp_path: Path) -> None:
    (jo, ann), (order,), manifest = scrubbed(bare, tmp_path / "out", Scrub(b"k"))
    written = b"".join(p.read_bytes() for p in (tmp_path / "out").iterdir())
    for personal in ("jo.doe", "ann@", "mail.test", "1234567", "4111", "555-0199", "765-4321"):
        assert personal.encode() not in written
    assert re.fullmatch(r"[a-z]{2}\.[a-z]{3}@example\.com", jo["person_id"])
    assert re.fullmatch(r"\+\d\d \d{3} \d{7}", jo["phone"])
    assert re.fullmatch(r"\d{4}-\d{3}-\d{4}", ann["phone"])
    assert order["buyer"] == jo["person_id"]
    assert jo["person_id"] in jo["note"]
    assert jo["note"].endswith("not before 2024-05-20 10:30.")
    kept = {"order_id": "a", "at": "2024-05-20", "price": "12345.67", "lines": []}
    assert order == {"buyer": order["buyer"], **kept}
    assert (jo["name"], jo["born"]) == ({"first": "Jo", "last": "Doe"}, "1970-02-28")
    assert constraints(tmp_path / "out", "order") == {("buyer", "person", "person_id")}
    assert manifest["scrubbed"]["mails"] == 2
    assert manifest["scrubbed"]["numbers"] == 4


def test_named_fields_are_scrubbed_wherever_their_texts_stand(bare: World, tmp_path: Path) -> None:
    fields = ("name", "born", "age")
    (jo, ann), _, manifest = scrubbed(bare, tmp_path / "out", Scrub(b"k", fields))
    assert re.fullmatch(r"[A-Z][a-z]", jo["name"]["first"])
    assert jo["name"]["last"] != "Doe"
    assert ann["note"] == jo["name"]["last"]
    assert re.fullmatch(r"\d{4}-[01]\d-[0-3]\d", jo["born"])
    assert jo["born"] != "1970-02-28"
    assert manifest["scrubbed"]["numbers_left_in_fields"] == 1


def test_references_below_names_that_are_replaced_hold(bare: World, tmp_path: Path) -> None:
    ids, held = shop({"jo@mail.test": {"for": {"ann@mail.test": {"order": "a"}}}}, {"a": {}})
    ids.refs["get_person"]["/for/ann@mail.test/order"] = "d1"
    export(holding(bare, ids, held), tmp_path / "out", scrub=Scrub(b"k"))
    (jo,) = jsonl(tmp_path / "out", "person")
    assert "ann@mail.test" not in jo["for"]
    pairs = rows(tmp_path / "out", 'SELECT person, "order" FROM person__for')
    assert pairs == [(jo["person_id"], "a")]


def test_replacements_depend_on_the_key_alone(bare: World, tmp_path: Path) -> None:
    found = [
        scrubbed(bare, tmp_path / str(n), Scrub(key))[0]
        for n, key in enumerate([b"k", b"k", b"other", None, None])
    ]
    assert found[0] == found[1]
    assert len({json.dumps(f) for f in found}) == 4


@pytest.fixture
def shop_folder(bare: World, tmp_path: Path) -> Path:
    holding(bare, *shop(PEOPLE, ORDERS)).save(tmp_path / "world")
    return tmp_path / "world"


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ([], {"manifest.json", "order.jsonl", "person.jsonl", "staging.db"}),
        (["--format", "jsonl"], {"manifest.json", "order.jsonl", "person.jsonl"}),
        (["--format", "sqlite", "--scrub"], {"manifest.json", "staging.db"}),
    ],
)
def test_the_command_writes_what_is_asked_for(
    shop_folder: Path, tmp_path: Path, options: list[str], files: set[str]
) -> None:
    out = tmp_path / "deep" / "out"
    assert main(["world", "export", str(shop_folder), str(out), *options]) == 0
    assert {p.name for p in out.iterdir()} == files
    scrub = json.loads((out / "manifest.json").read_text())["scrubbed"]
    assert (scrub is not None) == ("--scrub" in options)


def test_what_cannot_be_exported_is_said_in_one_line(
    bare: World, shop_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare.save(tmp_path / "bare")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    for world, out, told in (
        (shop_folder, "full", "is not empty: name a new folder"),
        (tmp_path / "bare", "new", "remembers no things"),
        (tmp_path / "none", "new", "write one with `understudy world learn`"),
    ):
        assert main(["world", "export", str(world), str(tmp_path / out)]) == 1
        assert told in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main(["world", "export", str(shop_folder), str(tmp_path / "n"), "--scrub-key", "k"]) == 2
