"""Traffic of the demo's service, and the world that it gives, for the recipes' tests."""

import asyncio

import pytest

from traffic import conversations, write_jsonl
from understudy.core.chat_files import import_file
from understudy.core.types import Episode
from understudy.world.learn import learn
from understudy.world.model import World


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> list[Episode]:
    folder = tmp_path_factory.mktemp("traffic")
    rows = asyncio.run(conversations(folder, 40))
    return list(import_file(write_jsonl(folder / "c.jsonl", rows)))


@pytest.fixture(scope="module")
def world(traffic: list[Episode]) -> World:
    return learn(traffic)
