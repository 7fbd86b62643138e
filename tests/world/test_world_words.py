"""What a person reads of a world: whole sentences, each once, nothing of its inner form."""

import importlib
import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from click.utils import strip_ansi
from unseen.playing import play_all

from understudy.cli import main
from understudy.cli.world_describe import told_lines
from understudy.cli.world_try import play, sources_text
from understudy.runs.report import Report, Section, Table, render
from understudy.world.describing.describe import describe, described_tools
from understudy.world.describing.facts import Bar, Fact, case_of
from understudy.world.describing.phrases import phrase
from understudy.world.fidelity.bench import episode_of
from understudy.world.learn import learn
from understudy.world.likeness.conversations import Likeness, Line
from understudy.world.likeness.page import page
from understudy.world.model import World
from understudy.world.outcomes.tree import _TRUST
from understudy.world.serving.lookahead import foresee

INNER = re.compile(r"\(['\"]|\bNone\b|\bTrue\b|\bFalse\b|\{\{|\}\}|err:|ok:")
FEATURES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("val", "num", "fmt", "has", "kind", "known", "near", "by", "since"), ("sku",)),
    **dict.fromkeys(("idfail", "ownfail"), ("sku",)),
    **dict.fromkeys(("field", "amount", "size"), ("sku", "grade")),
    **dict.fromkeys(("miss", "extra", "unseen", "hits", "rep", "n"), ()),
    "clash": (0,), "done": ("part",), "prev": ("sku", "part"), "with": ("sku", "count"),
    "in": ("sku", "count"), "holds": ("sku", "count"), "cmp": ("sku", "count", "price"),
    "pair": ("sku", "size", "parts", "amount", "price"),
}  # fmt: skip
VALUES: dict[str, list[Any]] = {
    **{key: ["a", 3, True, False, None] for key in ("val", "field")},
    **{key: [["<=", 3], 3, None] for key in ("num", "amount", "size")},
    **{key: [["<=", 3]] for key in ("n", "since")},
    "kind": ["array", "string", None], "by": ["part", None],
    "known": ["session", "shown", "memory", "new", None],
    **{key: ["err:no {}", "ok:{a}", None] for key in ("rep", "idfail", "ownfail")},
    "cmp": ["<", "=", ">", True, False, None], "pair": ["<", "=", ">", None],
}  # fmt: skip


@pytest.fixture(scope="module")
def library() -> World:
    """A world of a service whose failures hang on numbers and lengths."""
    service = importlib.import_module("unseen.library").SERVICE
    return learn([episode_of(row) for row, _ in play_all(service, 160)])


def test_each_test_of_a_tree_has_words_and_other_ones_where_it_does_not_hold(world: World) -> None:
    assert set(FEATURES) == set(_TRUST)
    case = case_of(world, world.models["reserve"], Bar())
    for head, rest in FEATURES.items():
        said = set()
        for value, holds in product(VALUES.get(head, [True, False, None]), (True, False)):
            text = phrase(case, (head, *rest), value, holds)
            assert not INNER.search(text), text
            assert not re.search(r"  |``|\ba [aeiou]", text), text
            said.add((json.dumps(value), holds, text))
        for value in {v for v, _, _ in said}:
            (yes,), (no,) = ({t for v, h, t in said if (v, h) == (value, w)} for w in (True, False))
            assert yes != no


def test_no_statement_stands_twice_and_each_tail_has_its_failure(
    world: World, library: World
) -> None:
    for facts in (describe(world), describe(library)):
        for own in facts.values():
            told = [(f.kind, f.about, f.text) for f in own]
            assert len(told) == len(set(told))
            heads = dict[str, Fact]()
            for f in own:
                if f.kind == "fails":
                    assert heads.setdefault(f.about, f).text.startswith("Fails in "), f


def test_what_a_description_says_of_a_failure_has_its_subject(library: World) -> None:
    """Failures whose words are sentences are told without these, and with when they come."""
    facts = describe(library)
    shorter = 0
    for tool in described_tools(library, facts):
        text = tool["function"].get("description", "")
        parts = re.split(r"(?<=\.) (?=[A-Z`])", text)
        assert len(parts) == len(set(parts))
        assert not any(p.startswith(("When ", "Only when ", "No sign ", "Stays")) for p in parts)
        shorter += len(re.findall(r"Fails in (?:under )?\d+% of calls \(", text))
        assert "must be between" not in text
    assert shorter


def test_statements_fit_a_terminal_and_say_all(library: World) -> None:
    for own in describe(library).values():
        lines = list(told_lines(own))
        assert max(map(len, lines), default=0) <= 100
        joined = " ".join(" ".join(lines).split())
        assert all(" ".join(f.text.split()) in joined for f in own)


def test_sources_are_told_in_words(world: World) -> None:
    """A total is a count times a price: its source says so."""
    out: list[str] = []
    play(world, ["part sku=P1222", "reserve sku=P1222 count=2", "reserve sku=P1222", "state"],
         out.append)  # fmt: skip
    text = "\n".join(out)
    assert not INNER.search(text), text
    session = world.session(0)
    session.step("part", '{"sku": "P1222"}')
    for _ in range(20):
        made = session.step("reserve", '{"sku": "P1222", "count": 2}')
        if not made.is_error:
            break
    shown = sources_text(made.provenance)
    assert "`count` times `price` of the record that `sku` names" in shown
    assert not INNER.search(shown)


def test_calls_are_counted_as_people_count(world: World) -> None:
    out: list[str] = []
    play(world, ["part sku=P1222", "part sku=P1222"], out.append)
    assert "  call 1, doubt" in "\n".join(out)
    assert re.search(r"observed +call 1|remembered +call 1", "\n".join(out))
    assert "call 0" not in "\n".join(out)


def test_outcomes_that_are_foreseen_are_told_in_words(world: World, library: World) -> None:
    for own, calls in (
        (world, [("reserve", {"sku": "P1222", "count": 2}), ("find_parts", {"category": "gears"})]),
        (library, [("lend", {"member": "M4330", "isbn": "978-1", "days": 7})]),
    ):
        for name, arguments in calls:
            chances = foresee(own, [], name, arguments).chances
            assert sum(chances.values()) == pytest.approx(1)
            assert all(c.startswith(("goes well: ", "fails")) for c in chances)
            assert not any(INNER.search(c) for c in chances)


def line(name: str, within: bool | None, n: int) -> Line:
    bound = None if within is None else 0.5
    return Line("calls", name, "share", 1.0, 1.0, 1.0, 0.1, 0.2, bound, within, n, 5)


def test_a_comparison_counts_what_single_splits_say_too() -> None:
    lines = [line("errors", True, 5), line("turns", True, 2), line("words", False, 1),
             line("errors: " + "a_long_name_of_a_tool" * 3, None, 0)]  # fmt: skip
    assert [x.verdict for x in lines] == ["yes", "mean", "NO", ""]
    report = Likeness(20, 20, 5, "a stand-in by retrieval, mined from the fit half", lines)
    text = report.table()
    assert "1 of 3 in most of 5 splits, 1 in every one, 2 by the mean" in text
    assert "mean 2/5" in text
    assert max(map(len, text.splitlines())) <= 100
    assert "errors: " + "a_long_name_of_a_tool" * 3 in text
    head = page(report).headlines[0]
    assert head.value == "1 of 3"
    assert "2 by the mean" in head.note


def test_a_table_of_many_columns_fits_a_page() -> None:
    """Headings break into lines, and intervals stand under their figure."""
    wide = Table(tuple(f"a heading {n}" for n in range(14)), [[1.5] * 13 + [None]])
    narrow = Table(("a", "b"), [[1, 2]])
    html = render(Report("T", "", (), (Section("S", (wide, narrow)),), made_at=0.0))
    assert html.count('<table class="many">') == 1
    rules = dict(re.findall(r"^([^{}\n]+)\{([^{}]*)\}$", html, re.MULTILINE))
    assert all("nowrap" not in rule for names, rule in rules.items() if "th" in names.split(","))
    assert "nowrap" not in rules["th"]
    assert "display:block" in rules[".many td .note"]


def test_the_list_of_commands_cuts_no_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", "--help"]) == 0
    shown = strip_ansi(capsys.readouterr().out).split("Commands")[1]
    assert "..." not in shown
    assert shown.index(" learn ") < shown.index(" describe ")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["learn", "{file}", "--store", "{file}"], "is a file: name a folder"),
        (["learn", "{file}/new", "--store", "{file}"], "cannot be written"),
        (["describe", "{world}", "--out", "{world}"], "is a folder: name a file in it"),
        (["report", "{world}", "--html", "{file}/x/page.html"], "cannot be written"),
        (["compare", "{file}", "--html", "{world}"], "is a folder: name a file in it"),
        (["export", "{world}", "{file}"], "is a file: name a folder"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(
    command: list[str],
    why: str,
    world_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "file"
    file.write_text("no store")
    named = [part.format(file=file, world=world_folder) for part in command]
    assert main(["world", *named]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert why in said.err.splitlines()[-1]
