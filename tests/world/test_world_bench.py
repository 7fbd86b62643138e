"""`understudy world bench`: recorded episodes in, one prediction a call out."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import test_world_relations as relations
from typer.testing import CliRunner

from understudy.cli import app
from understudy.world.fidelity.bench import bench, replay_rows
from understudy.world.traffic.renaming import Renaming


def _row(seed: int, split: str) -> dict[str, Any]:
    (completion,) = relations.played(seed).completions
    failed = {k for k, r in relations.played(seed).results.items() if r.is_error}
    messages = [
        {**m, "is_error": m["tool_call_id"] in failed} if m["role"] == "tool" else m
        for m in completion.request.messages[1:]
    ]
    return {"episode": f"e{seed}", "split": split, "messages": messages}


def test_each_call_of_the_test_split_gets_a_prediction(tmp_path: Path) -> None:
    rows = [_row(seed, "train") for seed in range(60)] + [_row(s, "test") for s in range(60, 66)]
    with gzip.open(tmp_path / "replays.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    out = tmp_path / "made" / "out.jsonl"
    result = CliRunner().invoke(app, ["world", "bench", str(tmp_path), "--predictions", str(out)])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.output)
    found = {(p["episode"], p["step"]): p for p in map(json.loads, out.read_text().splitlines())}
    told = {
        (row["episode"], step): message
        for row in rows[60:]
        for step, message in enumerate(m for m in row["messages"] if m["role"] == "tool")
    }
    assert found.keys() == told.keys()
    assert figures["calls"] == len(told)
    again = [k for k, m in told.items() if found[k]["content"] == m["content"]]
    assert len(again) > 0.5 * len(told)
    assert all(0 <= p["doubt"] <= 1 for p in found.values())
    sure = [found[k]["doubt"] for k in again]
    unsure = [p["doubt"] for k, p in found.items() if k not in set(again)]
    assert sum(sure) / len(sure) < sum(unsure) / len(unsure)


def test_random_names_change_nothing_but_the_names(tmp_path: Path) -> None:
    rows = [_row(seed, "train") for seed in range(60)] + [_row(s, "test") for s in range(60, 70)]
    names = Renaming(rows, 3)
    for row in rows:
        renamed = json.dumps(names.row(row))
        for known in ("set_bags", '\\"lines\\"', '\\"ledger\\"', '\\"card\\"'):
            assert known not in renamed
        for message in row["messages"]:
            if message.get("content"):
                assert names.back(names.text(message["content"])) == message["content"]
    with gzip.open(tmp_path / "replays.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    found = {}
    for seed in (None, 3):
        bench(tmp_path, tmp_path / "out.jsonl", rename=seed)
        lines = (tmp_path / "out.jsonl").read_text().splitlines()
        found[seed] = [json.loads(line)["content"] for line in lines]
    same = [a == b for a, b in zip(found[None], found[3], strict=True)]
    assert sum(same) >= 0.97 * len(same)


def test_a_name_that_differs_by_a_letter_still_does() -> None:
    def row(tool: str, content: str) -> dict[str, Any]:
        call = {"id": "c", "type": "function", "function": {"name": tool, "arguments": "{}"}}
        told = {"role": "tool", "tool_call_id": "c", "content": content}
        return {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}, told]}

    rows = [row("get_box", '{"lid": 1, "id_42": "lid"}'), row("get_boxs", "no 'get_boxs'")]
    names = Renaming([*rows, row("get-box", "no 'get-box' in lid")], 0)
    new = names.new["get_box"]
    assert names.new["get_boxs"] == new + "s"
    assert names.new["get-box"] == new.replace("_", "-")
    assert names.text("no 'get_boxs' of get_box() in a lid") == f"no '{new}s' of {new}() in a lid"
    assert json.loads(names.text('{"lid": 1, "id_42": 2}')) == {"lid": 1, "id_42": 2}  # a value


def test_a_folder_without_recordings_is_refused_in_a_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["world", "bench", str(tmp_path), "--predictions", "x"])
    assert result.exit_code != 0
    assert "replays.jsonl.gz" in str(result.exception) + result.output


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[]", "line 2: no JSON object"),
        ("{", "line 2: no JSON object"),
        ('{"episode": "e", "split": "test"}', "line 2: without messages"),
        ('{"split": "test", "messages": [{}]}', "line 2: without episode"),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path: Path, line: str, why: str) -> None:
    good = {"episode": "e", "split": "train", "messages": [{"role": "user", "content": "?"}]}
    with gzip.open(tmp_path / "replays.jsonl.gz", "wt") as file:
        file.write(json.dumps(good) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=why):
        replay_rows(tmp_path)
