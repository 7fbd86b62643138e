"""What torch compiles of the engine computes what it did before."""

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from engine_models import make_model
from test_engine_exactness import BASE, engine_for, max_gap, prompts_for, teacher_logprobs

from understudy.core.types import Sampling

WITHOUT = """
import torch
from understudy.engine.ops import compiled
compiled(torch.device("cpu"))
"""


@pytest.mark.slow
async def test_a_compiled_engine_gives_what_the_other_gives() -> None:
    """Single rows and many, prompts in one piece, behind a shared prefix; then what it drew is fed
    again as a prompt."""
    model = make_model()
    plain = engine_for(model, kernel="off")
    compiled = engine_for(model, kernel="off", compile=True)
    assert compiled.shards[0].decoder.ops is not plain.shards[0].decoder.ops
    prompts = prompts_for(6, 90, random.Random(1))
    found = []
    for engine in (plain, compiled):
        asked = [Sampling(max_tokens=12, seed=i) for i in range(len(prompts))]
        alone = await engine.sample(prompts[0], BASE, asked[0])
        many = await asyncio.gather(
            *(engine.sample(p, BASE, s) for p, s in zip(prompts, asked, strict=True))
        )
        found.append([alone, *many])
        engine.close()
    for a, b, prompt in zip(*found, [prompts[0], *prompts], strict=True):
        assert a.ids == b.ids
        assert max_gap(a.logprobs, b.logprobs) < 1e-5
        assert max_gap(b.logprobs, teacher_logprobs(model, prompt, b)) < 1e-4


@pytest.mark.slow
def test_without_a_compiler_it_is_said_at_once(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "CXX": "no-such-compiler",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
    }
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True
    )
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1
    assert last.startswith("ValueError: torch cannot compile here; leave out `compile`: ")
