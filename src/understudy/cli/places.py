"""Places that a command writes to at its end, looked at before its work."""

from pathlib import Path


def ready_file(path: Path | None) -> None:
    """Make the folder of a file. Raises ValueError where none can be written there."""
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it")
    _made(path, path.parent)


def ready_folder(path: Path | None) -> None:
    """Make the folder that a folder is to stand in. Raises ValueError where none can be there."""
    if path is None:
        return
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: name a folder")
    _made(path, path.parent)


def _made(path: Path, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written: {folder} cannot be made ({error.strerror})"
        ) from None
