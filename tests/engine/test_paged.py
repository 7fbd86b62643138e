"""Triton's attention over the cache's blocks, by its interpreter, which runs on a CPU. Where it is
a GPU's, tests/engine/test_cuda.py has it."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from understudy.engine.paged import paged_for
from understudy.engine.weights import Shape

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

# differences to torch's attention; whether rows that nobody sees may be NaN; whether a NaN stays
LOOK = """
import json
import torch
from understudy.engine.cache import BLOCK
from understudy.engine.paged import _difference, paged_attend
from understudy.engine.weights import Shape

def shape(heads, kv_heads, dim):
    return Shape(1, 64, heads, kv_heads, dim, 64, 100, 1e-6, 100)

cpu, found = torch.device("cpu"), {}
for sizes in ((4, 2, 32), (16, 8, 128), (8, 1, 64), (40, 2, 16)):
    found[str(sizes)] = [_difference(shape(*sizes), t, cpu) for t in (torch.float32, torch.float16)]

kv = torch.randn(40, 2, 2, BLOCK, 16)
q, tables = torch.randn(2, 4, 16), torch.arange(40).view(2, 20)
lens = torch.tensor([BLOCK + 3, 20 * BLOCK])
before = paged_attend(q, kv, tables, lens, 0.25)
kv[1, :, :, 3:], kv[2:20] = torch.nan, torch.nan
after = paged_attend(q, kv, tables, lens, 0.25)
found["unseen"] = all(torch.equal(a, b) for a, b in zip(before, after))
kv[1, 0, 0, 2, 5] = torch.nan
spoilt = paged_attend(q, kv, tables, lens, 0.25)[0].isnan().flatten(2).any(-1)
found["spoilt"] = spoilt.tolist()
print(json.dumps(found))
"""


@needs_triton
def test_paged_attention_is_torchs() -> None:
    env = os.environ | {"TRITON_INTERPRET": "1"}
    ended = subprocess.run([sys.executable, "-c", LOOK], env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found.pop("unseen")
    assert found.pop("spoilt") == [[True, True, False, False], [False] * 4]
    for single, half in found.values():
        assert single < 1e-5
        assert half < 1e-2


@pytest.mark.parametrize("dim", [8, 80])
def test_other_heads_are_left_to_torch(dim: int, caplog: pytest.LogCaptureFixture) -> None:
    shape = Shape(1, 64, 4, 2, dim, 64, 100, 1e-6, 100)
    assert paged_for(shape, torch.float32, torch.device("cpu")) is None
    assert not caplog.records, "it was tried"


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_where_it_does_not_run_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    shape = Shape(1, 64, 4, 2, 32, 64, 100, 1e-6, 100)
    assert paged_for(shape, torch.float32, torch.device("cpu")) is None
    assert "attention goes on without Triton" in caplog.text
