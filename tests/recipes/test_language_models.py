"""A model for what a world leaves open: trained here or behind an endpoint, tried, and used by the
commands that play in a world."""

import asyncio
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from understudy.cli import main
from understudy.cli.data import open_store
from understudy.core.chat_files import episode_rows, write_rows
from understudy.core.types import Scenario, ToolResult
from understudy.envs.mcp_env import McpTools
from understudy.judges.check import Check
from understudy.models.loading import load_base
from understudy.recipes.grpo import GrpoConfig, grpo
from understudy.recipes.learner import Lora, make_engine
from understudy.recipes.teach_language import LanguageConfig, train_language
from understudy.recipes.world_language import Language, filling
from understudy.runs.directory import Run
from understudy.world.fidelity.bench import bench
from understudy.world.language.filler import counts_of
from understudy.world.language.trial import word_f1
from understudy.world.learn import learn
from understudy.world.model import World
from walks import endpoint, folder_of, knows, said, walk
from world.served import serving


def closeness(predictions: Path, test: range) -> float:
    """The mean F1 of the words of predicted results."""
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    real = {(walk(n).id, i): r.content for n in test
            for i, r in enumerate(walk(n).results.values())}  # fmt: skip
    assert len(rows) == len(real)
    found = [word_f1(r["content"], real[r["episode"], r["step"]]) for r in rows]
    return sum(found) / len(found)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world() -> World:
    return learn([walk(n) for n in range(60)])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of few steps, and its trial."""
    torch.set_num_threads(1)
    path, config = tmp_path_factory.mktemp("runs") / "run", LanguageConfig(split="all", epochs=1)
    with Run.create(path, config) as opened:
        train_language(opened, [walk(n) for n in range(30)], config, quiet=True)
    return path


def test_the_whole_path_from_episodes_to_predictions(run: Path, tmp_path: Path) -> None:
    language = Language.load(run)
    assert language.trial is not None
    assert language.episodes == {walk(n).id for n in range(30)}
    assert language.trial.counted["answers"] == language.trial.counted["calls"] > 0
    folder = folder_of(tmp_path / "folder", 30, 6)
    bench(folder, tmp_path / "plain")
    filled = bench(folder, tmp_path / "filled", language=lambda w, _: language.opened())
    assert filled["language"]["asked"] == 12
    plain, after = (closeness(tmp_path / f, range(30, 36)) for f in ("plain", "filled"))
    assert after >= plain


@pytest.mark.slow
def test_a_small_model_words_prose_better_than_the_draft(tmp_path: Path) -> None:
    train, config = [walk(n) for n in range(160)], LanguageConfig(split="all")
    with Run.create(tmp_path / "run", config) as opened:
        train_language(opened, train, config, quiet=True)
    language = Language.load(tmp_path / "run")
    folder = folder_of(tmp_path / "folder", 160, 40)
    bench(folder, tmp_path / "plain")
    bench(folder, tmp_path / "filled", language=lambda w, _: language.opened())
    plain, filled = (closeness(tmp_path / f, range(160, 200)) for f in ("plain", "filled"))
    assert filled > plain + 0.05, (plain, filled)


def test_a_remote_model_is_tried_on_the_train_split_and_then_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WALKS_KEY", "secret")
    folder = folder_of(tmp_path / "folder", 60, 8)
    command = ["world", "bench", str(folder), "--predictions"]
    assert main([*command, str(tmp_path / "plain")]) == 0
    capsys.readouterr()
    with endpoint(knows) as (url, came):
        named = [
            "--language-url",
            url,
            "--language-model",
            "big",
            "--language-key-env",
            "WALKS_KEY",
        ]
        assert main([*command, str(tmp_path / "filled"), *named]) == 0
    counted = json.loads(capsys.readouterr().out)["language"]
    assert counted["taken"] == counted["asked"] == 16
    assert len(came) > 30
    for body, authorization in came:
        assert (body["model"], authorization) == ("big", "Bearer secret")
        schema = body["response_format"]["json_schema"]["schema"]
        assert schema["properties"] == {"1": {"type": "string"}}
        assert schema["required"] == ["1"]
    plain, filled = (closeness(tmp_path / f, range(60, 68)) for f in ("plain", "filled"))
    assert filled > plain + 0.1


def test_a_remote_model_that_is_worse_changes_nothing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "folder", 60, 8)
    command = ["world", "bench", str(folder), "--predictions"]
    assert main([*command, str(tmp_path / "plain")]) == 0
    with endpoint(lambda _: said('{"1": "Nobody knows."}')) as (url, came):
        named = ["--language-url", url, "--language-model", "big"]
        assert main([*command, str(tmp_path / "filled"), *named]) == 0
    assert came
    assert (tmp_path / "filled").read_text() == (tmp_path / "plain").read_text()


def test_a_run_remembers_a_remote_model_for_other_commands(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    store, file, run = tmp_path / "s.db", tmp_path / "e.jsonl", str(tmp_path / "run")
    write_rows(file, episode_rows([walk(n) for n in range(80)]))
    assert main(["import", str(file), "--store", str(store)]) == 0
    with open_store(store) as db:
        assert len(list(db.read_episodes())) == 80
    world.save(tmp_path / "world")

    def refuses(body: dict[str, Any]) -> tuple[int, Any]:
        if "response_format" in body:
            return 400, {"error": {"message": "response_format is unknown here"}}
        return knows(body)

    with endpoint(refuses) as (url, came):
        named = ["--language-url", url, "--language-model", "big"]
        assert main(["train", "world", run, "--store", str(store), "--quiet", *named]) == 0
        assert "exact 0.0% by the model" in capsys.readouterr().out
        assert [("response_format" in body) for body, _ in came].count(True) < len(came) / 2
        call = 'walk {"dog": "Rex", "place": "river", "minutes": 707}'
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{call}\nquit\n"))
        assert main(["world", "try", str(tmp_path / "world"), "--language", run]) == 0
        shown = capsys.readouterr().out
        assert "Rex walked 707 minutes to the river, saw a train and lost a shoe." in shown
        assert "a language model" in shown
        with serving(tmp_path / "world", "--language", run) as (served, _):
            result = asyncio.run(one_call(McpTools(served)))
        assert "Rex walked 707 minutes to the river" in result.content
        report = ["world", "report", str(tmp_path / "world"), "--store", str(store)]
        assert main([*report, "--language", run, "--html", str(tmp_path / "r.html")]) == 0
    shown = capsys.readouterr().out
    assert "+ model" in shown
    assert "+ model" in (tmp_path / "r.html").read_text()


async def one_call(environment: Any) -> ToolResult:
    session = await environment.start(Scenario("s", ()), 1)
    arguments = json.dumps({"dog": "Rex", "place": "river", "minutes": 707})
    function = {"name": "walk", "arguments": arguments}
    result = await session.call("agent", {"id": "c", "type": "function", "function": function})
    await session.aclose()
    return result  # type: ignore[no-any-return]


async def test_actor_and_world_share_an_engine(run: Path, world: World, tmp_path: Path) -> None:
    language = replace(Language.load(run), trial=None)
    engine, chat = make_engine(load_base(), 1)
    try:
        async with filling(language, beside=chat) as filled:
            owner = filled(world)
            await one_call(owner)
        assert counts_of(owner)["answers"] == 1
        assert [m.ref.adapter for m in engine.models()] == [None, "world"]
    finally:
        await engine.aclose()
    small: dict[str, Any] = {"lora": Lora(rank=4, alpha=8), "steps": 1, "scenarios_per_step": 2,
                             "group_size": 2, "pool": 4, "max_turns": 2}  # fmt: skip
    rehearse = GrpoConfig(**small, max_tokens=8, precision="fp32", language=str(run))
    check = Check(lambda messages, ticket: float(len(str(messages)) % 7), "any")
    with Run.create(tmp_path / "rehearsed", rehearse) as opened:
        await grpo(opened, world, check, rehearse, threads=1, quiet=True)
        assert "language" in opened.metrics().rows[0]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--language-url", "http://127.0.0.1:1/v1"], "--language-model"),
        (["--language", "nowhere"], "language.json"),
        (["--language", "x", "--language-url", "u", "--language-model", "m"], "not both"),
        (["--language-url", "u", "--language-model", "m", "--language-key-env", "NOT_SET_HERE"],
         "NOT_SET_HERE"),
    ],
)  # fmt: skip
def test_what_is_named_wrong_is_said_in_a_line(
    world: World, tmp_path: Path, options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world.save(tmp_path / "world")
    assert main(["world", "try", str(tmp_path / "world"), *options]) == 1
    assert why in capsys.readouterr().err


def test_an_endpoint_that_does_not_answer_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "folder", 40, 4)
    refused = 401, {"error": {"message": "no such key"}}
    with endpoint(lambda _: refused) as (url, _):
        named = ["--language-url", url, "--language-model", "big"]
        command = ["world", "bench", str(folder), "--predictions", str(tmp_path / "p")]
        assert main([*command, *named]) == 1
    assert "no such key" in capsys.readouterr().err
