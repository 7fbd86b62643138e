"""Commands say in one line what is wrong, and lose nothing."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from understudy.cli import cause_of, main
from understudy.cli.running import opened_run
from understudy.recipes.sft import SftConfig
from understudy.runs.directory import RunError
from understudy.store import SQLiteStore
from understudy.store.schema import MIGRATIONS

ROW: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
    ],
    "reward": 1,
}


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


@pytest.fixture
def store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """A store of one episode."""
    path = str(tmp_path / "s.db")
    file = write(tmp_path / "one.jsonl", json.dumps(ROW))
    assert main(["import", file, "--store", path]) == 0
    capsys.readouterr()
    return path


def newer(path: str) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")


def foreign(path: str) -> None:
    Path(path).unlink()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE x (y)")


def text(path: str) -> None:
    Path(path).write_text("hello " * 500)


def damaged(path: str) -> None:
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:4096] + bytes(len(whole) - 4096))


def missing(path: str) -> None:
    Path(path).unlink()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (newer, "written by a newer Understudy"),
        (foreign, "another SQLite database"),
        (text, "is not an Understudy store"),
        (damaged, "database disk image is malformed"),
        (missing, "there is no store at"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [["episodes"], ["export", "out.jsonl"], ["feedback", "0", "thumb", "true"],
     ["world", "learn", "world"], ["rollback", "prod"]],
)  # fmt: skip
def test_a_store_that_cannot_be_used_is_one_line_and_stays_as_it_is(
    store: str,
    spoil: Any,
    why: str,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil(store)
    before = Path(store).read_bytes() if Path(store).exists() else None
    assert main([*command, "--store", store]) == 1
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1
    assert before == (Path(store).read_bytes() if Path(store).exists() else None)


def test_an_export_that_fails_leaves_what_was_there(
    store: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "good.jsonl"
    out.write_text("worth keeping")
    with closing(sqlite3.connect(store)) as raw:
        page = raw.execute("SELECT rootpage FROM sqlite_master WHERE name = 'completions'")
        start, size = page.fetchone()[0] - 1, raw.execute("PRAGMA page_size").fetchone()[0]
    with open(store, "r+b") as file:
        file.seek(start * size)
        file.write(bytes(size))
    assert main(["export", str(out), "--store", store]) == 1
    assert "malformed" in capsys.readouterr().err
    assert [(f.name, f.read_text()) for f in folder.iterdir()] == [(out.name, "worth keeping")]


def test_an_import_counts_and_lists_broken_lines_and_imports_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [json.dumps({**ROW, "n": n}) for n in range(250)]
    bad = ["{", json.dumps({"messages": []}), json.dumps({**ROW, "scenario": "\ud800"})]
    file = write(tmp_path / "a.jsonl", *good[:120], *bad, "", *good[120:])
    path = str(tmp_path / "s.db")
    for written in (1e9, 2e9):  # again adds nothing, whenever the file was written
        os.utime(file, (written, written))
        assert main(["import", file, "--store", path]) == 0
        said = capsys.readouterr().out
        assert said.startswith("250 episodes, 250 completions, 250 outcomes into")
        assert "; 3 broken lines\n  line 121: not valid JSON: " in said
        assert "  line 122: no messages\n  line 123: scenario is '\\ud800', not a name\n" in said
    with SQLiteStore.open(path) as db:
        found = list(db.read_episodes())
        assert [e.metadata["n"] for e in found] == list(range(250))
        assert db.counts()["dropped"] == {}


def test_an_import_lists_twenty_broken_lines_and_counts_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.jsonl", *["{"] * 23)
    assert main(["import", file, "--store", str(tmp_path / "s.db")]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("; 23 broken lines")
    assert (len(said), said[-1]) == (22, "  and 3 more")


def test_an_import_with_wrong_tools_imports_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.jsonl", json.dumps(ROW))
    tools = write(tmp_path / "tools.json", '[{"type": "function"}]')
    path = tmp_path / "s.db"
    assert main(["import", file, "--store", str(path), "--tools", tools]) == 1
    said = capsys.readouterr().err
    assert said == f"understudy: {tools} has a function 0 without a name\n"
    assert not path.exists()


def test_wrong_usage_is_exit_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["episodes", "--limit", "none"]) == 2
    assert main(["no-such-command"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_of_things_that_fail_side_by_side_the_first_says_why() -> None:
    first = ValueError("no luck")
    assert cause_of(ExceptionGroup("all", [ExceptionGroup("some", [first]), OSError()])) is first
    assert cause_of(first) is first


def test_a_run_goes_on_with_the_files_that_it_began_with(tmp_path: Path) -> None:
    check, tools = tmp_path / "check.py", tmp_path / "tools"
    check.write_text("def check(messages, ticket): return 1\n")
    tools.mkdir()
    (tools / "a.json").write_text("[]")
    given = {"--check": check, "--tools": tools, "--second": None}
    with pytest.raises(KeyboardInterrupt), opened_run(tmp_path / "r", SftConfig(), given):
        raise KeyboardInterrupt
    (tools / "a.json").rename(tools / "b.json")
    with pytest.raises(RunError, match="begun with another --tools"):
        opened_run(tmp_path / "r", SftConfig(), given).__enter__()
    (tools / "b.json").rename(tools / "a.json")
    with opened_run(tmp_path / "r", SftConfig(), given) as run:
        assert run.state == "running"


def test_a_gateways_file_says_where_it_listens_and_writes(tmp_path: Path) -> None:
    upstream = {"base_url": "http://127.0.0.1:1"}
    told = {"store": str(tmp_path / "own.db"), "port": 0, "upstreams": {"u": upstream}}
    (tmp_path / "gateway.json").write_text(json.dumps(told))
    command = [sys.executable, "-m", "understudy.cli", "up", "--config", "gateway.json"]
    environment = {k: v for k, v in os.environ.items() if k != "UNDERSTUDY_STORE"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    ) as up:
        assert up.stdout is not None
        ready = json.loads(up.stdout.readline())
        up.terminate()
        assert up.wait(30) == 0
    assert not ready["url"].endswith(":8400")
    assert (tmp_path / "own.db").exists()
    assert not (tmp_path / "understudy.db").exists()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("up --config g.json --model gpt-4o", "--model goes with --upstream"),
        ("up --config g.json --engine-url http://127.0.0.1:1", "--engine-url goes with --upstream"),
        ("train ppo run --tools t.json", "--tools are shown in a world"),
        ("train ppo run --second s", "--second guards what is played in a world"),
        ("train sft run --world w", "evaluate_every=STEPS"),
    ],
)
def test_an_option_that_would_be_passed_over_is_refused(
    command: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 1
    assert why in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
