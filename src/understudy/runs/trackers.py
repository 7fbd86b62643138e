"""What a run logs, shown by another program too: TensorBoard, Weights & Biases, MLflow.

`metrics.jsonl` stays the truth. Each program is an extra that is not installed otherwise; numbers
alone are sent, those of nested values as `name/inner`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Takes a step's numbers; `close` sends what is left."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TrackerError(ValueError):
    """A tracker that is unknown or not installed; the message says what to do."""


def check(names: Sequence[str]) -> None:
    """Whether these can be used here. Raises TrackerError."""
    for name in names:
        if name not in TRACKERS:
            raise TrackerError(f"unknown tracker {name!r}; there are: {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise TrackerError(f"{name} is not installed: pip install 'understudy[{name}]'")


def tracker(name: str, path: Path, config: Mapping[str, Any]) -> Tracker:
    """The tracker of this name for the run at `path`. Raises TrackerError."""
    check([name])
    return TRACKERS[name](path, config)


class _TensorBoard:
    """Event files in RUN/tensorboard, for `tensorboard --logdir RUN`."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(path / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        shown = [Summary.Value(tag=name, simple_value=v) for name, v in values.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=shown))
        self._writer.add_event(event)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of the project `understudy`; WANDB_MODE=offline keeps it here."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project="understudy", name=path.name, dir=str(path), config=dict(config)
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """A run where MLFLOW_TRACKING_URI says."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.start_run(run_name=path.name)
        mlflow.log_dict(dict(config), "config.json")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _MLflow,
}
