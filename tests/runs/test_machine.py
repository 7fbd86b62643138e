"""What is said of the machine."""

from pathlib import Path

import pytest

from understudy.runs import machine


def test_a_gpu_is_named_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    assert machine.machine().gpu is None
    gpu = tmp_path / "driver" / "nvidia" / "gpus" / "0000:06:00.0"
    gpu.mkdir(parents=True)
    (gpu / "information").write_text("Model: \t\t NVIDIA H100 80GB  HBM3\nIRQ:   \t\t 31\n")
    found = machine.machine()
    assert found.gpu == "NVIDIA H100 80GB HBM3"
    assert ", NVIDIA H100 80GB HBM3, load" in str(found)
