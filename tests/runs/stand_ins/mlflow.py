"""A stand-in for MLflow: takes what `understudy` gives it and keeps it in `told`."""

from collections.abc import Mapping
from typing import Any

told: list[Any] = []


def start_run(run_id: str | None = None, run_name: str | None = None) -> None:
    told.append({"run_name": run_name})


def log_dict(dictionary: dict[str, Any], artifact_file: str) -> None:
    told.append((artifact_file, dictionary))


def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
    told.append((step, metrics))


def end_run(status: str = "FINISHED") -> None:
    told.append("finished")
