"""Where the compiled kernel is kept: in folders of this user's alone, whole or not at all."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from understudy.core import native
from understudy.engine.kernel import build_kernel

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or not hasattr(os, "getuid"), reason="no C compiler here"
)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The user's cache, and the one in the temporary directory."""
    home, temporary = tmp_path / "cache", tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.delenv("CC", raising=False)
    return home / "understudy" / "kernels", temporary / f"understudy-{os.getuid()}"


def loaded_from() -> Path | None:
    built = build_kernel(16, 2, 2)
    return None if built is None else Path(built.library._name).parent


def test_it_is_kept_in_the_users_cache(folders: tuple[Path, Path]) -> None:
    assert [loaded_from(), loaded_from()] == [folders[0]] * 2
    assert len(list(folders[0].iterdir())) == 1
    assert not folders[1].exists()
    assert folders[0].stat().st_mode & 0o777 == 0o700


def test_a_failed_compilation_leaves_nothing(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "false")
    assert loaded_from() is None
    for folder in folders:
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_folders_that_others_can_write_are_passed_over(
    folders: tuple[Path, Path], mode: int
) -> None:
    own, temporary = folders
    assert loaded_from() == own
    own.chmod(mode)
    assert loaded_from() == temporary
    temporary.chmod(mode)
    assert loaded_from() is None
    own.chmod(0o755)
    assert loaded_from() == own


def test_a_link_is_passed_over(folders: tuple[Path, Path], tmp_path: Path) -> None:
    own, temporary = folders
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    own.parent.mkdir(parents=True)
    own.symlink_to(tmp_path / "elsewhere")
    assert loaded_from() == temporary


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root gives away")
def test_a_folder_of_another_user_is_passed_over(folders: tuple[Path, Path]) -> None:
    own, temporary = folders
    own.mkdir(parents=True, mode=0o700)
    os.chown(own, 12345, -1)
    assert loaded_from() == temporary


def test_a_changed_header_is_compiled_anew(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "HEADERS", tmp_path)
    source, header = tmp_path / "answer.c", tmp_path / "answer.h"
    source.write_text('#include "answer.h"\nint answer(void) { return ANSWER; }\n')
    for answer in (41, 42):
        header.write_text(f"#define ANSWER {answer}\n")
        built = native.library(source, {})
        assert built is not None
        assert built.answer() == answer
