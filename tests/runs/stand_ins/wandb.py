"""A stand-in for Weights & Biases: takes what `understudy` gives it and keeps it in `told`."""

from collections.abc import Mapping
from typing import Any

told: list[Any] = []


class Run:
    def log(self, data: Mapping[str, Any], step: int | None = None) -> None:
        told.append((step, data))

    def finish(self, exit_code: int | None = None) -> None:
        told.append("finished")


def init(
    project: str | None = None,
    name: str | None = None,
    dir: str | None = None,
    config: dict[str, Any] | None = None,
) -> Run:
    told.append({"project": project, "name": name, "dir": dir, "config": config})
    return Run()
