import gzip
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddities import variants
from understudy.core.chat_files import (
    ImportOptions,
    ImportReport,
    episode_rows,
    import_file,
    import_lines,
    training_rows,
    write_rows,
)
from understudy.core.types import ToolResult
from understudy.store import SQLiteStore

CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
SYSTEM = {"role": "system", "content": "be kind"}
MESSAGES: list[dict[str, Any]] = [
    SYSTEM,
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "42", "is_error": True, "latency_s": 0.5},
    {"role": "assistant", "content": "it is 42"},
    {"role": "user", "content": "bye"},
]
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


def row(**fields: Any) -> str:
    return json.dumps({"messages": MESSAGES, **fields})


def told(**result: Any) -> str:
    """A row in which the result of the call says this of itself."""
    return json.dumps({"messages": [*MESSAGES[:3], {**MESSAGES[3], **result}, *MESSAGES[4:]]})


def read(*lines: str, **options: Any) -> tuple[list[Any], ImportReport]:
    report = ImportReport()
    return list(import_lines(lines, ImportOptions(**options), report)), report


def test_a_row_becomes_an_episode() -> None:
    (episode,), report = read(
        row(scenario=7, trial=2, reward=1.0, tools=[TOOL], metadata={"ticket": 3}), workload="w"
    )
    clean = [{k: v for k, v in m.items() if k not in ("is_error", "latency_s")} for m in MESSAGES]
    first, second = episode.completions
    assert list(first.request.messages) == clean[:2]
    assert first.message == clean[2]
    assert first.finish_reason == "tool_calls"
    assert list(second.request.messages) == clean[:4]
    assert second.message == clean[4]
    assert list(episode.tail) == clean[5:]
    assert list(episode.messages) == clean
    assert episode.tools == (TOOL,)
    assert (episode.scenario_id, episode.workload) == ("7", "w")
    assert episode.metadata == {"trial": 2, "ticket": 3}
    assert episode.results == {"c1": ToolResult("42", True, 0.5)}
    (said,) = episode.feedback
    assert (said.name, said.value, said.source) == ("outcome", 1.0, "outcome")
    assert (report.episodes, report.completions, report.feedback) == (1, 2, 1)


def test_a_repeated_tool_call_id_says_nothing_of_results() -> None:
    twice = [*MESSAGES[:4], *MESSAGES[2:]]
    (episode,), _ = read(json.dumps({"messages": twice}))
    assert episode.results == {}


def test_a_result_may_leave_open_whether_it_failed_and_how_long_it_took() -> None:
    (episode,), _ = read(told(is_error=None, latency_s=None))
    assert episode.results == {"c1": ToolResult("42")}


def test_other_outcome_columns() -> None:
    (episode,), _ = read(row(solved=True), feedback={"solved": "outcome", "stars": "stars"})
    assert [(f.name, f.value) for f in episode.feedback] == [("outcome", True)]


BROKEN = [
    ("{", "not valid JSON"),
    ("[]", "not a JSON object"),
    ("{}", "no messages"),
    (json.dumps({"messages": [{"role": "robot", "content": ""}]}), "robot"),
    (json.dumps({"messages": [SYSTEM]}), "no assistant message"),
    (row(reward="good"), "reward is 'good'"),
    (row(tools="{"), "not valid JSON"),
    (row(tools=[{}]), "tools"),
    (row(metadata=3), "metadata is not an object"),
    (row(reward=10**400), "not a boolean or a number"),
    (row(scenario="\ud800"), "not a name"),
    (row(model=["m"]), "not a name"),
    (told(latency_s="0.7"), "message 3 has the latency_s '0.7', no seconds"),
    (told(latency_s=-1), "message 3 has the latency_s '-1', no seconds"),
    (told(latency_s=True), "no seconds"),
    (told(latency_s=10**400), "no seconds"),
    (told(is_error="false"), "message 3 has the is_error 'false', not a boolean"),
    (told(is_error=0), "not a boolean"),
    (row()[:-1] + ', "reward": NaN}', "NaN is not JSON"),
    (row()[:-1] + ', "x": ' + "[" * 5000, "nested too deeply"),
]


def test_broken_lines_are_counted_and_listed_and_the_rest_is_imported() -> None:
    lines = [row(n=0), "", *(line for line, _ in BROKEN), row(n=1)]
    episodes, report = read(*lines)
    assert [e.metadata["n"] for e in episodes] == [0, 1]
    assert [b.line for b in report.broken] == list(range(3, 3 + len(BROKEN)))
    for broken, (_, why) in zip(report.broken, BROKEN, strict=True):
        assert why in broken.reason


def test_a_line_that_is_not_text_is_broken() -> None:
    report = ImportReport()
    found = list(import_lines([b'"\xff"', row().encode()], ImportOptions(), report))
    assert len(found) == 1
    assert [b.reason for b in report.broken] == ["not valid UTF-8: invalid start byte at byte 1"]


def test_whatever_stands_in_a_row_is_kept_or_listed_in_one_line(tmp_path: Path) -> None:
    whole = json.loads(row(tools=[TOOL], metadata={"a": 1}, scenario="s", reward=1, model="m"))
    made = [json.dumps(v) for v in variants(whole)]
    episodes, report = read(*made)
    assert len(episodes) + len(report.broken) == len(made)
    assert len(episodes) > 100
    assert len(report.broken) > 100
    assert all(b.reason and "\n" not in b.reason for b in report.broken)
    with SQLiteStore.open(tmp_path / "s.db") as store:
        store.write(episodes)  # as one batch: a single one that is refused would take the others
        assert store.counts()["episodes"] == len(episodes)
    assert write_rows(tmp_path / "sft.jsonl", training_rows(episodes)) >= len(episodes)


def test_importing_again_gives_the_same_ids_and_equal_rows_stay_apart() -> None:
    lines = [row(n=0), row(n=0), row(n=1)]
    once, _ = read(*lines)
    again, _ = read(*lines)
    assert once == again
    assert len({e.id for e in once}) == 3
    assert len({c.id for e in once for c in e.completions}) == 6
    other, _ = read(*lines, workload="other")
    assert not {e.id for e in once} & {e.id for e in other}


def test_derived_ids_are_in_order_and_know_nothing_of_the_files_time() -> None:
    (episode,), _ = read(row(), created_at=1_700_000_000.0)
    made = [episode.id, *(c.id for c in episode.completions)]
    assert made == sorted(made)
    assert uuid.UUID(episode.id).version == 8
    (copied,), _ = read(row(), created_at=1_800_000_000.0)
    assert [copied.id, *(c.id for c in copied.completions)] == made


@pytest.mark.parametrize("name", ["chats.jsonl", "chats.jsonl.gz"])
def test_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert write_rows(path, [json.loads(row(n=i)) for i in range(3)]) == 3
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")
    assert len(list(import_file(path))) == 3


def test_a_cut_gzip_file_gives_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=0) as file:
        file.write("".join(row(n=i) + "\n" for i in range(400)).encode())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    report = ImportReport()
    episodes = list(import_file(path, report=report))
    assert 0 < len(episodes) < 400
    assert "cannot be read" in report.broken[-1].reason


def test_training_rows_end_with_the_assistant_and_hold_tools_as_text() -> None:
    episodes, _ = read(row(tools=[TOOL]), row())
    with_tools, without = training_rows(episodes)
    assert with_tools["messages"][-1] == {"role": "assistant", "content": "it is 42"}
    assert json.loads(with_tools["tools"]) == [TOOL]
    assert "tools" not in without


@given(st.lists(st.sampled_from(["user", "assistant", "tool"]), min_size=1), st.booleans())
def test_export_and_import_keep_conversations(roles: list[str], solved: bool) -> None:
    messages = [
        {"role": r, "content": f"say {i}", **({"tool_call_id": "x"} if r == "tool" else {})}
        for i, r in enumerate([*roles, "assistant"])
    ]
    first = {"messages": messages, "scenario": "s", "metadata": {"a": 1}, "outcome": solved}
    feedback = {"outcome": "outcome"}
    (episode,), _ = read(json.dumps(first), feedback=feedback)
    (out,) = episode_rows([episode])
    assert out == first
    (back,), _ = read(json.dumps(out), feedback=feedback)
    assert back == episode


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_file_is_replaced_when_all_rows_are_written_and_not_before(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    path, link = folder / name, tmp_path / f"link-{name}"
    write_rows(path, [{"n": 0}])
    path.chmod(0o600)
    before = path.read_bytes()

    def rows(*, fail: bool) -> Iterator[dict[str, Any]]:
        yield {"n": 1}
        assert path.read_bytes() == before
        if fail:
            raise ValueError("the store is damaged")

    with pytest.raises(ValueError, match="the store is damaged"):
        write_rows(path, rows(fail=True))
    assert [(f.name, f.read_bytes()) for f in folder.iterdir()] == [(name, before)]
    link.symlink_to(path)
    assert write_rows(link, rows(fail=False)) == 1
    assert link.is_symlink()
    assert [f.name for f in folder.iterdir()] == [name]
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_bytes()
    assert json.loads(gzip.decompress(text) if name.endswith(".gz") else text) == {"n": 1}


def test_rows_go_into_a_device_at_once_and_into_no_missing_folder(tmp_path: Path) -> None:
    assert write_rows("/dev/null", [{"n": 1}]) == 1
    assert not Path("/dev/null").is_file()
    with pytest.raises(FileNotFoundError) as caught:
        write_rows(tmp_path / "none" / "rows.jsonl", [])
    assert caught.value.filename == str(tmp_path / "none")
