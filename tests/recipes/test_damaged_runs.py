"""Files of a run that were damaged since: named in one line when it is resumed, never half read."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from logs import COLOURS, LIKED, asked

from understudy.core.types import Completion, Episode, Feedback, ModelRef, Request
from understudy.recipes.arrivals import Arrivals, Given
from understudy.recipes.learner import Lora
from understudy.recipes.preference_data import begun_with, read_thumbs, thumbs_of
from understudy.recipes.sft import SftConfig, sft
from understudy.runs.directory import Run, RunError
from understudy.runs.training_page import page

EPISODES = [
    Episode(
        f"{name}-{colour}",
        (Completion("c", Request(asked(name), ModelRef("x")), "ok",
                    {"role": "assistant", "content": colour}),),
        name,
        feedback=(Feedback("f", "", "thumb", LIKED[name] == colour, "user"),),
    )
    for name in LIKED for colour in COLOURS
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_what_a_distillation_began_with(tmp_path: Path) -> None:
    config = SftConfig(lora=Lora(rank=2), epochs=1, split="all", precision="fp32")
    with Run.create(tmp_path / "run", config) as run:
        sft(run, EPISODES, config, quiet=True)
    cut(run.artefacts / "episodes.json")
    with pytest.raises(RunError, match=r"episodes.json is damaged \(.*\): begin a new run"):
        with Run.open(run.path) as run:
            sft(run, EPISODES, config, quiet=True)
    cut(run.artefacts / "sft.json")
    with pytest.raises(RunError, match=r"episodes.json is damaged"):
        page(run)
    cut(run.path / "run.json")
    with pytest.raises(RunError, match=r"run.json is damaged"):
        Run.open(run.path)


@pytest.mark.parametrize("file", ["thumbs.jsonl", "left_out.json"])
def test_the_thumbs_that_a_run_began_with(tmp_path: Path, file: str) -> None:
    find = partial(thumbs_of, EPISODES, "thumb", "all", 1.0)
    with Run.create(tmp_path / "run", {}) as run:
        kept, _ = begun_with(run, "thumbs", find, read_thumbs)
        assert len(kept) == len(EPISODES)
        cut(run.artefacts / file)
        with pytest.raises((ValueError, RunError), match=rf"{file} is damaged .*begin a new run"):
            begun_with(run, "thumbs", find, read_thumbs)


@pytest.mark.parametrize(
    ("spoil", "arrive"),
    [
        (lambda data: data + b'{"step": 3, "ids": ["bob-r', True),  # died while it wrote
        (lambda data: b"{" + data, False),
    ],
)
def test_what_had_arrived(tmp_path: Path, spoil: Callable[[bytes], bytes], arrive: bool) -> None:
    run, file = Run.create(tmp_path / "run", {}), tmp_path / "run" / "artefacts" / "arrived.jsonl"
    first = Arrivals(Given(EPISODES[:2]), run, 0).before(0)
    assert [e.id for e in first] == [e.id for e in EPISODES[:2]]
    file.write_bytes(spoil(file.read_bytes()))
    if arrive:
        again = Arrivals(Given(EPISODES[:2]), run, 0)
        assert [e.id for e in again.before(5)] == [e.id for e in EPISODES[:2]]
    else:
        with pytest.raises(ValueError, match=r"arrived.jsonl is damaged .*begin a new run"):
            Arrivals(Given(EPISODES), run, 0)
    run.close()
