"""Fixtures of the engine's tests."""

import pytest
import torch
from engine_models import make_tokenizer

from understudy.core.chatml import ChatMLRenderer
from understudy.core.turns import TurnRenderer
from understudy.models.rendering import over


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def renderer() -> TurnRenderer:
    return over(make_tokenizer(), ChatMLRenderer)
