"""The fidelity report: what its columns count, its page, and the warning of who trains."""

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import warehouse
from recorded import recorded
from typer.testing import CliRunner

from understudy.cli import app
from understudy.cli.data import open_store
from understudy.core.chat_files import episode_rows, write_rows
from understudy.core.types import Episode
from understudy.recipes.trust import NOTE, Trust, warn, weaknesses
from understudy.recipes.world import learn_world
from understudy.runs.directory import Run
from understudy.runs.report import render
from understudy.world.fidelity.compare import Truth, changes
from understudy.world.fidelity.forms import Forms
from understudy.world.fidelity.freerun import free_runs
from understudy.world.fidelity.latency import latencies
from understudy.world.fidelity.page import page, side_by_side
from understudy.world.fidelity.report import FidelityReport, fidelity
from understudy.world.fidelity.scoring import world_values
from understudy.world.fidelity.survival import survival
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.traffic.transitions import Step


def step(value: Any, args: dict[str, Any], failed: bool = False) -> Step:
    text = value if isinstance(value, str) else json.dumps(value)
    return Step(0, 0, 0, "look", args, text, value, failed, failed)


def stored(episodes: list[Episode], store: Path) -> None:
    """Episodes imported into a store."""
    file = store.with_suffix(".jsonl")
    write_rows(file, episode_rows(episodes))
    done = CliRunner().invoke(app, ["import", str(file), "--store", str(store)])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def measured(world: World, episodes: list[Episode], heldout: list[Episode]) -> FidelityReport:
    return fidelity(world, heldout[:60], episodes)


def test_leaves_are_determined_recalled_or_free() -> None:
    real = {"id": "a1", "seen": "s", "old": "o", "new": "n"}
    truth = Truth.of(step(real, {"id": "a1"}), {"s"}, {"o", "s"}, False)
    assert {p for p, _ in truth.determined} == {"/id", "/seen"}
    assert {p for p, _ in truth.recalled} == {"/old"}
    assert truth.free == [("/new", "n")]
    ceiling = truth.ceiling()
    assert (ceiling["exact"], ceiling["exact_but_free"], ceiling["leaf_f1"]) == (0.0, 1.0, 0.75)
    got = truth.scores(json.dumps({"id": "a1", "seen": "x", "old": "o", "new": "other"}), False)
    assert (got["determined_f1"], got["recalled_f1"], got["free_type"]) == (0.5, 1.0, 1.0)
    assert got["known_f1"] == pytest.approx(2 / 3)
    assert got["exact_but_free"] == 0.0


def test_a_part_of_a_column_is_scored_without_the_rest_of_it() -> None:
    truth = Truth.of(step([{"v": "a"}, {"v": "b"}], {"q": "a"}), set(), {"b"}, False)
    got = truth.scores('[{"v": "b"}, {"v": "c"}]', False)
    assert (got["determined_f1"], got["recalled_f1"]) == (0.0, pytest.approx(2 / 3))
    assert truth.scores('[{"v": "a"}, {"v": "b"}]', False)["determined_f1"] == 1.0


def test_failures_are_right_or_wrong_as_a_whole() -> None:
    truth = Truth.of(step("no such part", {}, failed=True), set(), set(), True)
    right, wrong = truth.scores("no such part", True), truth.scores("no such thing", False)
    assert (right["known_f1"], right["flag"], right["revealing"]) == (1.0, 1.0, 1.0)
    assert (wrong["known_f1"], wrong["flag"], wrong["revealing"]) == (0.0, 0.0, 0.0)
    assert right["determined_f1"] is None
    assert truth.ceiling()["exact"] == 1.0


def test_results_are_valid_in_the_forms_that_the_traffic_shows(world: World) -> None:
    session, forms = world.session(1), Forms(world)
    part = {"sku": "P1000", "category": "gears", "price": 9, "grade": 3.1}
    c = world.models["part"].context(session.state, {"sku": "P1000"})
    assert forms.valid(c, json.dumps(part), False)
    assert not forms.valid(c, json.dumps({**part, "price": "nine"}), False)
    assert not forms.valid(c, json.dumps({k: v for k, v in part.items() if k != "grade"}), False)
    assert not forms.valid(c, json.dumps({**part, "more": 1}), False)
    assert forms.valid(c, json.dumps({"error": "discontinued", "sku": "P1000"}), True)
    assert not forms.valid(c, json.dumps({"error": "on fire"}), True)
    assert forms.valid(None, "{}", False) is None


def test_changes_are_fields_of_known_things_with_another_value() -> None:
    def answer(tool: str, args: Any) -> Any:
        return {"box_id": args["box_id"], "lid": args.get("lid", "shut"), "side": "left"}

    episodes = [
        recorded(f"e{n}", [("show", {"box_id": f"B-{n}{i}"}) for i in range(4)], answer)
        for n in range(10, 30)
    ]
    session = learn(episodes).session()
    args = {"box_id": "B-101"}
    session.observe("show", args, json.dumps(answer("show", args)), False)
    s = Step(0, 0, 0, "show", args, "", None, False, False)
    assert not changes(session.state, s, answer("show", args), True)
    found = changes(session.state, s, {"box_id": "B-101", "lid": "open", "side": "left"}, True)
    assert [(name, value) for _, name, value in found] == [("lid", '"open"')]
    assert not changes(session.state, s, {"box_id": "B-101", "lid": "open"}, False)


def test_every_figure_lies_in_its_interval_and_under_the_ceiling(measured: FidelityReport) -> None:
    rows = (measured.nearest, measured.floor, measured.overall, *measured.tools.values())
    for figures in rows:
        for name, f in figures.items():
            if f["n"] and not name.endswith("_ece"):  # few different calls err more
                assert f["low"] - 1e-9 <= f["value"] <= f["high"] + 1e-9, name
            if f["n"] and name in measured.ceiling and figures is measured.overall:
                assert f["value"] <= measured.ceiling[name]["value"] + 1e-9, name
    assert measured.nearest["known_f1"]["value"] < measured.overall["known_f1"]["value"]
    assert sum(n for _, _, n in measured.calibration["doubt"]) == measured.calls
    assert measured.overall["schema"]["value"] > 0.95
    by_changes = [measured.overall[f"changes_{n}"] for n in (0, 1, 2, 5)]
    assert by_changes[0]["n"] > 0
    assert by_changes[1]["n"] > 0
    assert by_changes[1]["value"] > measured.nearest["changes_1"]["value"]


def test_the_floor_copies_failures_too_and_is_the_one_of_rollouts() -> None:
    def answer(tool: str, args: Any) -> Any:
        return {"size": 3} if args["box"] == "B-1" else "no such box"

    calls: list[Any] = [("look", {"box": "B-1"}), ("look", {"box": "B-2"})]
    train = [recorded(f"e{n}", calls * 3, answer) for n in range(4)]
    test = [recorded("new", calls * 3, answer)]
    world = learn(train)
    report = fidelity(world, test, train)
    assert report.nearest["exact"]["value"] == report.floor["exact"]["value"] == 1.0
    alive = free_runs(world, train, test)["floor"]["survival"]["5"]["exact"]
    assert alive["value"] == 1.0


def test_without_the_episodes_it_learned_from_a_report_has_no_floor(
    world: World, heldout: list[Episode]
) -> None:
    report = fidelity(world, heldout[:5], ())
    assert not report.floor
    assert not report.floor_tools
    assert "not at hand" in report.elsewhere["floor"]
    assert "retrieval floor" not in report.table()
    assert "not at hand" in render(page(report))


def test_free_running_rollouts_survive_less_and_less(measured: FidelityReport) -> None:
    lived = [f for f in measured.survival.values() if f["n"]]
    assert lived[0]["value"] > 0.5
    assert [f["n"] for f in lived] == sorted((f["n"] for f in lived), reverse=True)
    assert lived[-1]["value"] < lived[0]["value"]


def test_what_to_collect_comes_with_how_often_and_what_would_help(
    measured: FidelityReport,
) -> None:
    weights = [g["weight"] for g in measured.collect]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) <= 1 + 1e-9
    assert sum(g["calls"] for g in measured.collect) <= measured.calls
    assert all(g["help"] and g["in_traffic"] > 0 for g in measured.collect)


def test_an_identifier_that_was_never_seen_is_asked_for() -> None:
    def answer(tool: str, args: Any) -> Any:
        rng = random.Random(args["box_id"])
        return {"box_id": args["box_id"], "weight": rng.randint(1, 10**6)}

    def episode(n: int) -> Episode:
        return recorded(f"e{n}", [("weigh", {"box_id": f"B-{n}{i}"}) for i in range(3)], answer)

    report = fidelity(learn([episode(n) for n in range(100, 140)]), [episode(900)], ())
    (gap,) = report.collect
    assert gap["tool"] == "weigh"
    assert gap["situation"] == "box_id was never seen"
    assert "box_id" in gap["help"]
    assert (gap["calls"], gap["in_traffic"]) == (3, 120)


def test_the_page_is_one_file_and_escapes_what_it_shows(measured: FidelityReport) -> None:
    miss = {"tool": "<b>", "arguments": "{}", "real": '{"a": "<script>x</script>", "b": 1}',
            "predicted": '{"a": "y", "b": 1}', "doubt": 0.5}  # fmt: skip
    data = measured.to_json() | {"misses": [miss]}
    html = render(page(FidelityReport.from_json(data), "<w>"))
    assert "<script" not in html
    assert "<mark>/a: &#34;&lt;script&gt;x&lt;/script&gt;&#34;</mark>" in html
    assert "<mark>/b" not in html
    outside = set(re.findall(r"(?:src|href)=\"([^#\"][^\"]*)\"", html)) | set(
        re.findall(r"https?://[^\s\"']+", html)
    )
    assert outside <= {"http://www.w3.org/2000/svg", "data:,"}
    for said in ("Collect traces here", "Coverage and accuracy", "ceiling", "user coverage"):
        assert said in html


def test_equal_lines_are_matched_once() -> None:
    real, predicted = side_by_side('["a", "a", "b"]', '["a", "b", "b"]')
    assert [differs for _, differs in real] == [False, True, False]
    assert [differs for _, differs in predicted] == [False, False, True]


def test_the_table_fits_a_terminal(measured: FidelityReport) -> None:
    lines = measured.table().splitlines()
    assert max(len(line) for line in lines if "retrieval floor" in line or "world" in line) <= 100
    assert not any("…" in line for line in lines if not line.startswith(tuple(measured.tools)))


def test_report_measures_a_world_on_traffic_that_it_has_not_seen(tmp_path: Path) -> None:
    folder, store = tmp_path / "world", tmp_path / "s.db"
    stored(warehouse.traffic(40), store)
    with open_store(store) as db:
        learn_world(list(db.read_episodes()), folder, quiet=True)
    command = ["world", "report", str(folder), "--json"]
    refused = CliRunner().invoke(app, [*command, "--store", str(store)])
    assert refused.exit_code != 0
    assert "learned from all 40 episodes" in str(refused.exception) + refused.output
    stored(warehouse.traffic(4, first=5000), store)
    html = tmp_path / "made" / "page.html"
    shown = CliRunner().invoke(app, [*command, "--store", str(store), "--html", str(html)])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["episodes"] == 4
    assert html.read_text().startswith("<!doctype html>")
    kept = json.loads(CliRunner().invoke(app, command).stdout)
    assert kept == json.loads((folder / "fidelity.json").read_text())


def test_training_in_a_weak_world_warns_once_and_says_why(
    measured: FidelityReport, tmp_path: Path, capsys: Any
) -> None:
    good, weak = learn(warehouse.traffic(5)), learn(warehouse.traffic(5))
    good.fidelity = measured.to_json()
    no_better = {**measured.overall, **measured.floor}
    weak.fidelity = measured.to_json() | {"overall": no_better}
    for name, world, expected in (("good", good, ""), ("weak", weak, "of the way")):
        with Run.create(tmp_path / name, {}) as run:
            assert bool(warn(run, world, Trust())) is bool(expected)
        said = capsys.readouterr().err
        assert expected in said
        assert said.count("WARNING") == bool(expected)
        note = tmp_path / name / "artefacts" / NOTE
        assert (note.read_text() if note.exists() else "") == said
    weak.fidelity = None
    assert "no fidelity report" in weaknesses(None, Trust())[0]


def test_what_stands_near_the_ceiling_is_good_however_high_the_floor() -> None:
    def report(own: float, floor: float) -> dict[str, Any]:
        row = {k: {"value": own, "n": 100} for k in ("exact_but_free", "known_f1", "flag")}
        low = {k: {"value": floor, "n": 100} for k in row}
        gap = {"rate_gap": {"value": 0.0, "n": 100}}
        return FidelityReport(9, 100, {**row, **gap}, low).to_json()

    assert not weaknesses(report(0.97, 0.97), Trust())
    assert not weaknesses(report(0.55, 0.45), Trust())
    assert len(weaknesses(report(0.48, 0.45), Trust())) == 3
    assert not weaknesses(report(0.48, 0.45), Trust(way=0.05))
    unmeasured = FidelityReport(0, 0, unmeasured="not measured, nothing was kept aside").to_json()
    assert "nothing was kept aside" in weaknesses(unmeasured, Trust())[0]


def test_a_tool_that_is_worse_than_its_nearest_calls_is_a_weakness() -> None:
    def row(n: int, share: float) -> dict[str, dict[str, float]]:
        return {"known_f1": {"value": share, "n": n}}

    base = {"calls": 100, "overall": {c: {"value": 0.9} for c in ("exact_but_free", "known_f1")}}
    base["overall"] |= {"flag": {"value": 0.9}, "rate_gap": {"value": 0.0}}
    base["floor"] = {c: {"value": 0.5} for c in ("exact_but_free", "known_f1", "flag")}
    base |= {"tools": {"find": row(10, 0.3), "show": row(10, 0.65), "rare": row(9, 0.0)}}
    base |= {"floor_tools": {t: row(10, 0.7) for t in ("find", "show", "rare")}}
    assert weaknesses(base, Trust()) == [
        "find: 30% of knowable leaves; the nearest call of the traffic has 70%"
    ]
    assert not weaknesses(base, Trust(below=0.5))


def test_a_made_up_identifier_stands_for_the_real_one_in_a_rollout() -> None:
    def episode(n: int) -> Episode:
        made = f"T-{random.Random(n).randint(10_000, 99_999)}"

        def answer(tool: str, args: Any) -> Any:
            return {"ticket_id": made, "size": args["size"], "state": tool}

        sized = {"size": n % 5}
        calls = [("open", sized), ("close", {"ticket_id": made, **sized})]
        return recorded(f"e{n}", calls, answer)

    world, apart = learn([episode(n) for n in range(60)]), [episode(n) for n in range(900, 910)]
    assert survival(world, apart, world_values(world), at=(2,))["2"]["value"] == 1.0


def test_latencies_that_are_twice_as_long_are_a_factor_of_two_away(world: World) -> None:
    episodes = [
        replace(e, results={k: replace(r, latency_s=0.2) for k, r in e.results.items()})
        for e in (recorded(f"e{n}", [("ping", {"n": n})], lambda t, a: dict(a)) for n in range(9))
    ]
    learned = learn(episodes)
    assert not latencies(world, episodes)  # a tool that it does not know
    learned.models["ping"].latencies = {"": [0.4, 0.4]}
    found = latencies(learned, episodes)
    assert found["ping"]["log_distance"] == pytest.approx(math.log(2))
    assert found["ping"]["world_median"] == 2 * found["ping"]["real_median"]


def test_a_part_that_always_stands_inside_must_not_be_missing() -> None:
    def answer(tool: str, args: Any) -> Any:
        return {"size": {"wide": args["n"], "high": 2}, "tags": [{"t": "x"}][: args["n"] % 2]}

    world = learn([recorded(f"e{n}", [("look", {"n": n})], answer) for n in range(12)])
    c, forms = world.models["look"].context(world.session().state, {"n": 3}), Forms(world)
    assert forms.valid(c, '{"size": {"wide": 3, "high": 2}, "tags": []}', False)
    assert not forms.valid(c, '{"size": {"wide": 3}, "tags": []}', False)
