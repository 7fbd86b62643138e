"""Traffic and worlds that the tests share: learned once, never changed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import warehouse
from served import serving

from understudy.core.types import Episode
from understudy.world.learn import learn
from understudy.world.model import World


@pytest.fixture(scope="session")
def episodes() -> list[Episode]:
    return warehouse.traffic(600)


@pytest.fixture(scope="session")
def heldout() -> list[Episode]:
    return warehouse.traffic(100, first=10_000)


@pytest.fixture(scope="session")
def world(episodes: list[Episode]) -> World:
    return learn(episodes)


@pytest.fixture(scope="session")
def world_folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world as files."""
    folder = tmp_path_factory.mktemp("world")
    world.save(folder)
    return folder


@pytest.fixture(scope="session")
def world_url(world_folder: Path) -> Iterator[str]:
    """The world served over HTTP by a process of its own; clients without a seed begin at 40."""
    with serving(world_folder, "--seed", "40") as (url, _):
        yield url
