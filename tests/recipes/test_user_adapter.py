"""A user's adapter: what it learns from, and how it plays."""

import asyncio
from pathlib import Path

import pytest
import torch

from traffic import conversations, write_jsonl
from understudy.cli import main
from understudy.core.chat_files import import_file
from understudy.core.rows import supervised_rows
from understudy.core.types import Episode, Message, split_of, text_of
from understudy.models.loading import load_renderer
from understudy.recipes.learner import Lora
from understudy.recipes.user import UserConfig, train_user, user_chat, user_turns
from understudy.runs.directory import Run
from understudy.store import SQLiteStore
from understudy.world.learn import learn
from understudy.world.likeness.played import END, PlayedUser

LORA = Lora(rank=8, alpha=16)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> list[Episode]:
    folder = tmp_path_factory.mktemp("traffic")
    rows = asyncio.run(conversations(folder, 40))
    return list(import_file(write_jsonl(folder / "c.jsonl", rows)))


def test_a_turn_is_taught_as_a_played_user_reads_it(traffic: list[Episode]) -> None:
    _, renderer = load_renderer("tiny")
    turns = user_turns(traffic)
    users = sum(m["role"] == "user" for e in traffic for m in e.messages)
    assert sum(turn.said is not None for turn in turns) == users
    for episode in traffic[:10]:
        own = [t for t in turns if t.id.startswith(f"{episode.id}-")]
        assert text_of(own[0].messages[-1]["content"]) == "(The agent waits for your message.)"
        assert all("tool" not in {m["role"] for m in t.messages} for t in own)
        assert [t.last for t in own][:-1] == [False] * (len(own) - 1)
        for turn in own:
            (row,), _ = supervised_rows(turn.conversation().messages, (), renderer)
            taught = renderer.decode([e.target for e in row.entries])
            end = f" {END}" if turn.said and turn.last else END if turn.last else ""
            assert taught == f"{turn.said or ''}{end}<|im_end|>"


@pytest.mark.slow
async def test_the_adapter_tells_what_its_user_knows(
    traffic: list[Episode], tmp_path: Path
) -> None:
    config = UserConfig(lora=LORA, epochs=3, batch_episodes=4)
    with Run.create(tmp_path / "run", config) as run:
        told = await asyncio.to_thread(train_user, run, traffic, config, True)
    apart = {e.id for e in traffic if split_of(e.scenario_id or e.id) == "heldout"}
    assert 0 < len(apart) < len(traffic)
    assert told.told is not None
    assert told.told.turns > 0
    assert told.told.trained >= told.told.base
    assert told.told.trained > 0.05
    world = learn(traffic)
    scenario = world.scenarios(1, seed=4)[0]
    opened = [m for m in scenario.messages if m["role"] != "user"]
    async with user_chat(tmp_path / "run", threads=1) as (chat, model):
        user = PlayedUser(chat, model, world, scenario, fallback=world.user(scenario))
        first: Message | None = await user.reply(opened)
    assert first is not None
    assert first["role"] == "user"
    with pytest.raises(ValueError, match="train user"):
        async with user_chat(tmp_path):
            pass


def test_the_command_runs(
    traffic: list[Episode], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "s.db")
    with SQLiteStore.open(store) as db:
        db.write(traffic[:8])
    args = ["train", "user", str(tmp_path / "run"), "--store", store, "--set", "epochs=1",
            "--set", "lora.rank=2", "--threads", "1", "--quiet", "--set", "split=all"]  # fmt: skip
    assert main(args) == 0
    assert "turns; adapter in" in capsys.readouterr().out


def test_without_users_there_is_nothing_to_teach(tmp_path: Path) -> None:
    config = UserConfig(split="all")
    with Run.create(tmp_path / "r", config) as run, pytest.raises(ValueError, match="no user says"):
        train_user(run, [], config, quiet=True)
