"""Logs of a model whose chat template was changed since are refused by whatever trains on them."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from understudy.cli import main
from understudy.core.types import Episode, Feedback, ModelRef, Request, Sampling
from understudy.models.loading import folder_of, load_base
from understudy.recipes.learner import make_engine
from understudy.recipes.rehearsal import gather
from understudy.store import SQLiteStore

SETS = {
    "ppo": ["log.split=all", "epochs=1", "kl_bound=null"],
    "stream": ["log.split=all", "passes=1", "value_steps=1"],
    "opd": ["split=all", "steps=1", "teacher_prompt=Be brief.", "scenarios_per_step=1"],
}


async def talk(base: Path, count: int) -> Sequence[Episode]:
    """Episodes of one turn as an engine here records them, with a thumb for every other one."""
    engine, chat = make_engine(load_base(str(base)), threads=1)
    model = ModelRef(base.name)
    try:
        said = await gather([
            chat.complete(Request(
                ({"role": "user", "content": f"Customer {n}"},), model,
                sampling=Sampling(max_tokens=6, seed=n), episode_id=f"e{n}",
            ))
            for n in range(count)
        ])  # fmt: skip
    finally:
        await engine.aclose()
    return [
        Episode(f"e{n}", (c,), feedback=(Feedback(f"f{n}", f"e{n}", "thumb", bool(n % 2), "user"),))
        for n, c in enumerate(said)
    ]


@pytest.mark.parametrize("recipe", SETS)
def test_logs_from_before_the_chat_template_was_changed_are_refused(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    base = tmp_path / "served"
    shutil.copytree(folder_of("tiny"), base)
    with SQLiteStore.open(tmp_path / "s.db") as store:
        store.write(asyncio.run(talk(base, 6)))
    settings = [f"base={base}", "lora.rank=2", "precision=fp32", *SETS[recipe]]
    command = ["--store", str(tmp_path / "s.db"), "--threads", "1", "--quiet",
               *(word for value in settings for word in ("--set", value))]  # fmt: skip
    assert main(["train", recipe, str(tmp_path / "before"), *command]) == 0
    capsys.readouterr()

    template = base / "chat_template.jinja"
    template.write_text(template.read_text() + "\n")  # says the same, and is another all the same
    assert main(["train", recipe, str(tmp_path / "after"), *command]) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "was made with the chat template" in told
    assert "use the model that it was made with, or make it anew" in told
    assert "completion " in told
    assert not (tmp_path / "after" / "adapter").exists()
    assert not list((tmp_path / "after" / "checkpoints").glob("step-*"))
