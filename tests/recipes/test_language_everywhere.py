"""Every command that plays in a world plays in one whose gaps a model fills, where one is named."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mcp import Client
from mcp.types import TextContent

from understudy.cli import main
from understudy.core.chat_files import import_file, write_rows
from understudy.core.types import Episode
from understudy.recipes.teach_language import LanguageConfig
from understudy.recipes.world_language import Remote, filling_here, language_of, try_remote
from understudy.runs.directory import Run
from understudy.testing import WorldFixture
from understudy.world.learn import learn
from understudy.world.model import World
from walks import call_for, conversation, endpoint, walks_and_words, wish
from world.served import printing_url

pytest_plugins = ["pytester"]
WORDS = "In the sun"  # how the model's results begin; few of the service's do
ARGS = {"dog": "Rex", "place": "river", "minutes": 707}
FILLED = "In the sun Rex walked 707 minutes to the river, saw a train and lost a shoe."
PLAYED = 12


@dataclass(frozen=True)
class Service:
    """Its traffic, the world learned from it, and a run that remembers a remote model."""

    folder: Path
    world: World
    url: str

    def named(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("walks")
    rows = [conversation(n) for n in range(100)]
    for name, own in (("s", rows), ("few", rows[:24])):
        file = folder / f"{name}.jsonl"
        write_rows(file, own)
        assert main(["import", str(file), "--store", str(folder / f"{name}.db")]) == 0
    episodes = list(import_file(folder / "s.jsonl"))
    (folder / "check.py").write_text("def check(messages, ticket):\n    return True\n")
    world = learn(episodes)
    world.save(folder / "world")
    with endpoint(walks_and_words) as (url, _):
        for name, given in (("run", episodes[:70]), ("knows-all", episodes)):
            language = try_remote(given, Remote(url=url, model="big"), "all", quiet=True)
            with Run.create(folder / name, LanguageConfig()) as run:
                language.save(run)
        yield Service(folder, world, url)


def in_world(service: Service, *options: str) -> list[str]:
    return ["--world", service.named("world"), "--check", service.named("check.py"), *options]


def results(file: Path) -> list[str]:
    """The tool results of saved conversations."""
    episodes: list[Episode] = list(import_file(file))
    return [str(m["content"]) for e in episodes for m in e.messages if m["role"] == "tool"]


def test_eval(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", service.url, "--model", "agent", *in_world(service), "--quiet"]
    many = ["--scenarios", str(PLAYED), "--save", str(tmp_path / "plain.jsonl")]
    assert main([*command, *many]) == 0
    assert "language model" not in capsys.readouterr().err
    many[-1] = str(tmp_path / "filled.jsonl")
    assert main([*command, *many, "--language", service.named("run")]) == 0
    assert "taken" in capsys.readouterr().err
    plain, filled = (results(tmp_path / f"{name}.jsonl") for name in ("plain", "filled"))
    assert sum(text.startswith(WORDS) for text in plain) < len(plain) / 2
    assert sum(text.startswith(WORDS) for text in filled) > len(filled) / 2


@pytest.fixture(scope="module")
def sampled(service: Service) -> Path:
    """A run of `train rft` in the world whose gaps the model fills."""
    run = service.folder / "sampled"
    small = ["scenarios=12", "reader_epochs=3", "attempts=1", "readings=0", "max_turns=3",
             "slips=0", "lora.rank=4", "precision=fp32", "batch_episodes=8"]  # fmt: skip
    command = ["train", "rft", str(run), *in_world(service, "--store", service.named("few.db"))]
    settings = [part for one in small for part in ("--set", one)]
    named = ["--language", service.named("run"), "--threads", "1", "--quiet"]
    assert main([*command, *settings, *named]) == 0
    return run


def test_rft(sampled: Path) -> None:
    counted = json.loads((sampled / "artefacts" / "rft.json").read_text())["language"]
    made = results(sampled / "artefacts" / "rehearsed.jsonl")
    assert counted["taken"] == counted["asked"] > len(made) / 2
    assert sum(text.startswith(WORDS) for text in made) >= counted["taken"]


def test_ppo_in_the_world(service: Service, sampled: Path, tmp_path: Path) -> None:
    small = ["play.steps=1", "play.scenarios_per_step=3", "play.epochs=1", "play.max_turns=3",
             "precision=fp32"]  # fmt: skip
    settings = [part for one in small for part in ("--set", one)]
    command = ["train", "ppo", str(tmp_path / "run"), "--start", str(sampled), "--threads", "1"]
    named = ["--language", service.named("run")]
    assert main([*command, *named, *settings]) == 1  # no world is named
    assert main([*command, *in_world(service), *named, *settings, "--quiet"]) == 0
    with Run.open(tmp_path / "run", read_only=True) as opened:
        assert opened.metrics().rows[0]["language"]["taken"] > 0


def test_ahead(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["world", "ahead", service.named("world")]
    named = ["--language", service.named("run")]
    assert main([*command, "--call", f"walk {json.dumps(ARGS)}", *named]) == 0
    shown = capsys.readouterr().out
    assert FILLED in shown
    assert "a language model" in shown
    once = {"name": "walk", "arguments": ARGS}
    plans = {"once": [once], "twice": [once, {"name": "walk", "arguments": ARGS | {"minutes": 3}}]}
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    words = tmp_path / "words.py"
    words.write_text(
        "def check(messages, ticket):\n"
        "    last = [m for m in messages if m['role'] == 'tool'][-1]\n"
        f"    assert last['content'].startswith({WORDS!r})\n"
        "    return True\n"
    )
    asked = [*command, "--plans", str(tmp_path / "plans.json"), "--check", str(words), "--json"]
    judged: list[dict[str, int]] = []
    for options in ([], named):
        assert main([*asked, "--n", "40", *options]) == 0
        told: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["plans"]
        judged.append({plan["name"]: plan["success"]["n"] for plan in told})
    assert max(judged[0].values()) < 20
    assert min(judged[1].values()) > 30


async def test_ahead_served(service: Service) -> None:
    command = ["world", "ahead", service.named("world"), "--serve", "--http", "127.0.0.1:0"]
    with printing_url([*command, "--language", service.named("run"), "--n", "2"]) as (url, _):
        async with Client(url) as client:
            call = {"messages": [], "name": "walk", "arguments": ARGS}
            (content,) = (await client.call_tool("foresee_call", call)).content
            assert isinstance(content, TextContent)
            assert json.loads(content.text)["result"]["content"] == FILLED
            plans = {"once": [{"name": "walk", "arguments": ARGS}]}
            asked = {"messages": [], "plans": plans}
            assert not (await client.call_tool("compare_plans", asked)).is_error


def test_compare(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["world", "compare", service.named("s.db"), "--splits", "2", "--json"]
    assert main([*command, "--language", service.named("run")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["language"]["taken"] > 20
    assert 0 < found["left_out"]["real conversations that the model was taught"] < 100
    assert {"played"} <= {one["group"] for one in found["lines"]}
    assert main(command) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["language"] == {}
    replayed = [[one for one in report["lines"] if one["group"].startswith("calls")]
                for report in (plain, found)]  # fmt: skip
    assert replayed[0] == replayed[1]
    assert main([*command, "--language", service.named("knows-all")]) == 1
    assert "was taught all" in capsys.readouterr().err


FIXTURE = f"""
import pytest

ARGS = {ARGS!r}

def test_named_for_all(world):
    assert world.call("walk", ARGS).content == {FILLED!r}
    assert world.calls[0].invented

@pytest.mark.world(language="")
def test_without(world):
    assert not world.call("walk", ARGS).content == {FILLED!r}

async def test_over_mcp(world):
    from mcp import Client

    async with Client(world.url) as agent:
        await agent.call_tool("walk", ARGS)
    assert world.calls[0].value == {FILLED!r}
"""
INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"


@pytest.mark.parametrize("by", ["environment", "ini"])
def test_the_fixture_of_agents_tests(
    service: Service, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    ini = INI
    if by == "environment":
        monkeypatch.setenv("UNDERSTUDY_WORLD", service.named("world"))
        monkeypatch.setenv("UNDERSTUDY_LANGUAGE", service.named("run"))
    else:
        ini += f"understudy_world = {service.named('world')}\n"
        ini += f"understudy_language = {service.named('run')}\n"
    pytester.makeini(ini)
    pytester.makeconftest('pytest_plugins = ["understudy.testing"]\n')
    pytester.makepyfile(test_it=FIXTURE)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-W", "ignore")
    result.assert_outcomes(passed=3)


def test_the_fixtures_marker_names_a_run_or_says_that_there_is_none(
    service: Service, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_WORLD", service.named("world"))
    pytester.makeini(INI)
    pytester.makeconftest('pytest_plugins = ["understudy.testing"]\n')
    pytester.makepyfile(
        test_it=f"""
import pytest

@pytest.mark.world(language={service.named("run")!r})
def test_named(world):
    assert world.call("walk", {ARGS!r}).content == {FILLED!r}

def test_not_named(world):
    assert world.call("walk", {ARGS!r}).content != {FILLED!r}

@pytest.mark.world(language="nowhere")
def test_nowhere(world):
    pass
"""
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-W", "ignore")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*nowhere has no language.json*"])


def test_a_life_forces_and_goes_back_with_a_model_too(service: Service) -> None:
    with filling_here(language_of(service.named("run"))) as filled:
        life = WorldFixture(filled(service.world), 3, service.folder)
        before = life.snapshot()
        said = [life.call("walk", ARGS).content for _ in range(2)]
        assert said == [FILLED, FILLED]  # what was made up stays
        life.rewind(before)
        assert life.call("walk", ARGS).content == FILLED
        assert len(life.calls) == 1


async def test_a_session_that_nobody_waits_for_says_so(service: Service) -> None:
    language = language_of(service.named("run"))
    assert language is not None
    async with language.opened() as filled:
        session = filled(service.world).session(3)
        with pytest.raises(RuntimeError, match="await `call`"):
            session.step("walk", json.dumps(ARGS))
        result = await session.call("agent", call_for(wish(ARGS), "c"))
        assert result.content == FILLED
