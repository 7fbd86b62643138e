"""Does reinforcement learning learn? A reward for one constant behaviour must rise.

The behaviour is against what the policy does: it copies the customer's number of guests. Where
nobody asked for three, all of a group get nothing until one tries it by chance, so half of the
steps go by before the reward moves.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from traffic import conversations, write_jsonl
from understudy.core.chat_files import import_file
from understudy.judges.check import Check
from understudy.recipes.grpo import GrpoConfig, grpo
from understudy.recipes.sft import SftConfig, sft
from understudy.runs.directory import Run
from understudy.world.learn import learn


def searches_for_three(messages: list[dict[str, Any]], ticket: Any) -> float:
    """1 where the first search is for three guests, whoever the customer is."""
    for message in messages:
        for call in message.get("tool_calls") or []:
            if call["function"]["name"] != "search_stays":
                continue
            try:
                arguments = json.loads(call["function"]["arguments"])
            except json.JSONDecodeError:
                return 0.0
            return float(isinstance(arguments, dict) and arguments.get("guests") == 3)
    return 0.0


@pytest.mark.slow
def test_a_constant_behaviour_is_learned_in_24_steps(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    rows = asyncio.run(conversations(tmp_path, 200))
    episodes = list(import_file(write_jsonl(tmp_path / "c.jsonl", rows)))
    distil = SftConfig(epochs=1, batch_episodes=4, lr=3e-3)
    with Run.create(tmp_path / "distilled", distil) as run:
        start = sft(run, episodes, distil, quiet=True).adapter
    config = GrpoConfig(
        start=str(start), steps=24, scenarios_per_step=16, lr=3e-3, max_turns=2, pool=200
    )
    with Run.create(tmp_path / "run", config) as run:
        asyncio.run(grpo(run, learn(episodes), Check(searches_for_three), config, quiet=True))
        rewards = [row["reward"] for row in run.metrics().rows]
    assert rewards[0] < 0.5
    assert sum(rewards[-3:]) / 3 > 0.9
