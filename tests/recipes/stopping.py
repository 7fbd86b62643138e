"""A training run that is interrupted."""

from typing import Any

import pytest

from understudy.train.trainer import Trainer


def stop_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C at the trainer's step of this number, counted from one."""
    steps, step = 0, Trainer.step

    def stopping(self: Trainer, rows: Any, share: float = 1.0) -> Any:
        nonlocal steps
        steps += 1
        if steps == number:
            raise KeyboardInterrupt
        return step(self, rows, share)

    monkeypatch.setattr(Trainer, "step", stopping)
