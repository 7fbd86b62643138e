"""A folder of adapters: which of its folders are adapters, under what names and versions.

FOLDER/NAME/           an adapter's folder, or a run's (its adapter/): the newest version of NAME
FOLDER/NAME@VERSION/   that version of NAME
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from understudy.models.adapters import CONFIG


@dataclass(frozen=True, slots=True)
class Found:
    """An adapter's folder. Without a version it becomes the next one of its name."""

    name: str
    version: int | None
    path: Path


def adapters_in(folder: Path) -> tuple[list[Found], list[str]]:
    """The adapters of a folder, each name's versions in their order, and why others are left out.

    Raises ValueError where there is no such folder, it holds no adapter, or two are one version.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name one that holds adapters")
    found: dict[tuple[str, int | None], Found] = {}
    left_out: list[str] = []
    for path in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        holder = next((p for p in (path, path / "adapter") if (p / CONFIG).is_file()), None)
        name, at, version = path.name.rpartition("@")
        versioned = bool(at and name) and version.isdecimal()
        which = (name, int(version)) if versioned else (path.name, None)
        if holder is None:
            left_out.append(f"{path}: {_why_none(path)}")
        elif which in found:
            raise ValueError(f"{path} and {found[which].path} are one version: remove one of them")
        else:
            found[which] = Found(which[0], which[1], holder)
    if not found:
        raise ValueError(f"{folder} holds no adapter ({'; '.join(left_out) or 'it is empty'})")
    order = sorted(found.values(), key=lambda f: (f.name, f.version is None, f.version or 0))
    return order, left_out


def most_versions(found: Sequence[Found]) -> int:
    """How many versions the name with the most of them has."""
    names = [f.name for f in found]
    return max((names.count(name) for name in names), default=0)


def _why_none(path: Path) -> str:
    if not path.is_dir():
        return "no folder"
    if (path / "model" / "config.json").is_file() or (path / "config.json").is_file():
        return "a whole model, to be served as a base of its own"
    return "a run without an adapter" if (path / "run.json").is_file() else "no adapter"
