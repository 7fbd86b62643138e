"""`understudy cost` and `understudy deployments`."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from understudy.cli import main
from understudy.core.ids import uuid7
from understudy.core.meter import METERED
from understudy.core.prices import LIST_PRICES, SIZE_PRICES, size_price
from understudy.core.types import Completion, ModelRef, Policy, Request, Usage
from understudy.models.size import parameters_of
from understudy.recipes.learner import Lora, make_learner
from understudy.recipes.lineage import remember, save_trained
from understudy.runs.directory import Run
from understudy.store import Due, SQLiteStore

OURS = {"model": "rehearsed@2", "parameters": 8 * 10**9}
PRICE = size_price(8e9, SIZE_PRICES["hosted-2026"])


def call(alias: str, served: str, usage: Usage, at: float, metered: Any = None) -> Completion:
    request = Request(({"role": "user", "content": "hi"},), ModelRef(alias))
    extra = {METERED: metered} if metered else {}
    return Completion(uuid7(), request, "ok", served=ModelRef(served), alias=alias, usage=usage,
                      started_at=at, extra=extra)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Path:
    now = time.time()
    with SQLiteStore.open(tmp_path / "s.db") as db:
        db.deploy_now("prod", [(Policy("rehearsed", ModelRef("rehearsed")), 0.9),
                               (Policy("gpt-4o", ModelRef("gpt-4o")), 0.1)])  # fmt: skip
        db.deploy_now("quiet", [(Policy("x", ModelRef("x")), 1.0)])
        million = Usage(1_000_000, 500_000, 100_000)
        db.write([
            call("prod", "rehearsed", million, now, OURS),
            call("prod", "rehearsed", million, now, OURS | {"prompt": "tools"}),
            call("prod", "gpt-4o", million, now),
            call("prod", "unknown", million, now),
            call("prod", "gpt-4o", million, now - 10 * 86_400),
        ])  # fmt: skip
        db.mark_due(Due("support", "prod", "rehearsed@2", "tools", 0.0)).result()
    return tmp_path / "s.db"


def said(capsys: pytest.CaptureFixture[str], *arguments: Any, code: int = 0) -> str:
    assert main([str(a) for a in arguments]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_a_deployment_costs_what_its_models_do(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert PRICE is not None
    ours = 2 * (1.0 * PRICE.prompt + 0.1 * PRICE.sampled)  # cached tokens have no price apart
    gpt = LIST_PRICES["gpt-4o"]
    assert gpt.cached is not None
    theirs = 0.5 * gpt.prompt + 0.5 * gpt.cached + 0.1 * gpt.completion
    told = json.loads(said(capsys, "cost", "prod", "--store", store, "--json"))
    by_model = {u["model"]: u for u in told["uses"]}
    assert by_model["rehearsed@2"]["dollars"] == pytest.approx(ours)
    assert by_model["gpt-4o"]["dollars"] == pytest.approx(2 * theirs)
    assert by_model["unknown"]["dollars"] is None
    assert (told["dollars"], told["unpriced"]) == (pytest.approx(ours + 2 * theirs), 1)
    late = json.loads(said(capsys, "cost", "prod", "--store", store, "--days", 1, "--json"))
    assert late["dollars"] == pytest.approx(ours + theirs)
    sized = json.loads(said(capsys, "cost", "--store", store, "--size", "8B", "--json"))
    assert sized["unpriced"] == 0
    assert sized["dollars"] == pytest.approx(1.5 * ours + 2 * theirs)
    text = said(capsys, "cost", "prod", "--store", store)
    assert "rehearsed@2" in text
    assert "1 requests have no price" in text
    assert "1 requests had another prompt" in text
    assert "docs.primeintellect.ai" in text
    assert json.loads(said(capsys, "cost", "quiet", "--store", store, "--json"))["uses"] == []
    line = said(capsys, "cost", "nobody", "--store", store, code=1)
    assert "there is neither a run nor a deployment 'nobody'" in line


def test_a_run_costs_what_it_trained_and_sampled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    with Run.create(path, {"base": "tiny"}) as run:
        run.use(trained=2_000_000, prompt=3_000_000, cached=1_000_000, sampled=500_000)
        run.log(0)
    told = json.loads(said(capsys, "cost", path, "--json"))
    assert told["parameters"] == parameters_of("tiny")
    price = size_price(told["parameters"], SIZE_PRICES["hosted-2026"])
    assert price is not None
    parts = {"trained": 2 * price.trained, "prompt": 2 * price.prompt, "cached": price.prompt,
             "sampled": 0.5 * price.sampled}  # fmt: skip
    assert told["dollars"] == pytest.approx(parts)
    assert told["total"] == pytest.approx(sum(parts.values()))
    other = json.loads(said(capsys, "cost", path, "--prices", "platform-2024", "--json"))
    assert other["dollars"]["trained"] == 8.0
    text = said(capsys, "cost", path)
    assert "2,000,000" in text
    assert "trained tokens: `used` of metrics.jsonl" in text
    large = said(capsys, "cost", path, "--size", "400B")
    assert "the price list ends at 12B parameters" in large


def trained_adapter(path: Path, tokens: int, start: Path | None = None) -> Path:
    """A run that says to have trained on so many tokens, with what it writes."""
    with Run.create(path, {"base": "tiny", "start": start and str(start)}) as run:
        learner = make_learner("tiny", Lora(rank=2), 0, start)
        remember(run)
        run.use(trained=tokens - 1)
        run.log(0)
        run.use(trained=1)  # which no line tells yet
        return save_trained(run, learner, {"recipe": "sft"})


def test_a_deployment_knows_what_its_adapters_were_trained_on(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trained_adapter(tmp_path / "first", 1_000_000)
    trained_adapter(tmp_path / "then", 500_000, first)
    price = size_price(parameters_of("tiny"), SIZE_PRICES["hosted-2026"])
    assert price is not None
    before = json.loads(said(capsys, "cost", "prod", "--store", store, "--json"))
    assert before["trained_unknown"] == ["rehearsed"]
    assert "the trained tokens of rehearsed are not known" in said(
        capsys, "cost", "prod", "--store", store
    )
    deploy = ["deploy", "prod", "rehearsed=0.9", "gpt-4o=0.1", "--store", store, "--adapter",
              f"rehearsed={tmp_path / 'then'}"]  # fmt: skip
    for _ in range(2):
        assert json.loads(said(capsys, *deploy))["trained"] == {"rehearsed": 1_500_000}
        told = json.loads(said(capsys, "cost", "prod", "--store", store, "--json"))
        (row,) = (u for u in told["uses"] if u["trained"])
        assert (row["model"], row["key"], row["purpose"]) == ("rehearsed", "-", "train")
        assert (row["trained"], row["requests"]) == (1_500_000, 0)
        assert row["dollars"] == pytest.approx(1.5 * price.trained)
        assert told["dollars"] == pytest.approx(before["dollars"] + 1.5 * price.trained)
        assert (told["trained_unknown"], told["unpriced"]) == ([], 1)
    text = said(capsys, "cost", "prod", "--store", store)
    assert "1,500,000" in text
    assert "not known" not in text
    own = json.loads(said(capsys, "cost", tmp_path / "then", "--json"))
    assert own["tokens"]["trained"] == 500_000  # a run's cost is its own

    (first / "understudy.json").write_text('{"recipe": "sft"}')
    for wrong, line in (
        (f"rehearsed={first}", "does not say how many tokens were trained on"),
        (f"={first}", "is not of the form MODEL=FOLDER"),
        (f"nobody={tmp_path / 'then'}", "no policy of the deployment is of the model 'nobody'"),
    ):
        assert line in said(capsys, *deploy[:-1], wrong, code=1)
    (first / "understudy.json").write_text('{"trained": [{"run": "x", "tokens": 5}]}')
    assert "is no list of runs" in said(capsys, *deploy[:-1], f"rehearsed={first}", code=1)


def test_prices_may_be_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run.create(tmp_path / "run", {"base": "tiny"}) as run:
        run.use(trained=1_000_000)
        run.log(0)
    file = tmp_path / "prices.json"
    entry = {
        "parameters": 1e9,
        "trained": 7,
        "prompt": 1,
        "sampled": 1,
        "source": "us",
        "date": "d",
    }
    file.write_text(json.dumps([entry]))
    told = json.loads(said(capsys, "cost", tmp_path / "run", "--prices", file, "--json"))
    assert (told["total"], told["price"]["source"]) == (7.0, "us")
    file.write_text("{")
    assert str(file) in said(capsys, "cost", tmp_path / "run", "--prices", file, code=1)
    assert "there is no price list" in said(capsys, "cost", "--prices", "none", code=1)


def test_sharing_is_a_table_a_picture_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["cost", "--sharing", "--size", "8B", "--tokens-per-second", "1360", "--adapters", "20"]
    text = said(capsys, *asked, "--plot", tmp_path / "new" / "s.svg")
    assert "From 2 adapters on a shared deployment costs less" in text
    assert "1,000 shared" in text  # 1,360 / 1.36
    assert (tmp_path / "new" / "s.svg").read_text().startswith("<svg")
    told = json.loads(said(capsys, *asked, "--gpu-price", "1", "--json"))
    assert told["gpu"]["hour"] == 1.0
    assert told["rows"][-1]["adapters"] == 20
    for wrong, line in (
        (["cost", "--sharing"], "needs --base or --size, and --tokens-per-second"),
        ([*asked, "--size", "8X"], "no number of parameters"),
        ([*asked, "--size", "900B"], "has no price for 900B parameters"),
        ([*asked, "--load", "0"], "must be from 0 to 1"),
        (["cost", "prod", *asked[1:]], "leave 'prod' out"),
    ):
        assert line in said(capsys, *wrong, code=1)


def test_deployments_are_listed_with_what_is_due(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(said(capsys, "deployments", "--store", store, "--json"))
    prod, quiet = told["deployments"]
    assert (prod["alias"], prod["requests"], prod["differs"]) == ("prod", 5, 1)
    assert prod["policies"] == {"rehearsed": 0.9, "gpt-4o": 0.1}
    assert quiet["requests"] == 0
    assert [d["workload"] for d in told["due"]] == ["support"]
    text = said(capsys, "deployments", "--store", store)
    assert "rehearsed 90%, gpt-4o 10%" in text
    assert "due for retraining since 1970-01-01 00:00: workload support under prod" in text


@pytest.mark.parametrize("command", ["cost", "deployments", "engine serve", "engine key"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, *command.split(), "--help")
    assert f"Example: understudy {command}" in " ".join(text.split())


def test_a_fallback_is_an_alias_and_a_policy(capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, "up", "--upstream", "http://127.0.0.1:9/v1", "--store", "s.db",
                "--fallback", "prod", code=1)  # fmt: skip
    assert "--fallback 'prod' is not of the form ALIAS=POLICY" in line
