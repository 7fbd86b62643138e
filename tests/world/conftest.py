"""Traffic and worlds that the tests share: learned once, never changed."""

import pytest
import warehouse

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
