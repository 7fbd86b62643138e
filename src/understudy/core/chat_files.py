"""OpenAI chat JSONL in and out. Files ending in .gz are gzip.

A row in: `messages` (OpenAI chat), optionally `tools` (a list, or the list as JSON text),
`metadata`, a scenario column and columns of outcomes; every other column becomes metadata. An
assistant turn becomes a completion whose request is what came before it.
A row out: `messages` and `tools`, the conversational format that trl's SFTTrainer reads, with
`tools` as JSON text because Arrow cannot hold schemas of different shapes in one column.
"""

import errno
import gzip
import hashlib
import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from understudy.core import strict_json
from understudy.core.forest import final_conversations
from understudy.core.openai_wire import message_problem, tools_problem
from understudy.core.types import (
    Completion,
    Episode,
    Feedback,
    Message,
    ModelRef,
    Request,
    Tool,
    ToolResult,
    canonical_json,
    is_number,
)

_LONGEST_S = 1e9  # that a call may have taken


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How columns are read. `feedback` maps a column of outcomes (boolean or number) to the
    name of the feedback that it becomes; rows may lack it."""

    workload: str = "default"
    model: str = "unknown"
    scenario: str = "scenario"
    feedback: Mapping[str, str] = field(default_factory=lambda: {"reward": "outcome"})
    tools: tuple[Tool, ...] = ()  # for rows that carry none
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """A line that was left out, and why. Lines count from 1."""

    line: int
    reason: str


@dataclass(slots=True)
class ImportReport:
    """What an import has read so far."""

    episodes: int = 0
    completions: int = 0
    feedback: int = 0
    broken: list[BrokenLine] = field(default_factory=list)


@contextmanager
def open_lines(path: str | Path) -> Iterator[Iterator[bytes]]:
    """The lines of a file, unpacked where its name ends in .gz."""
    with _open(path) as file:
        yield iter(file)


def _open(path: str | Path) -> IO[bytes]:
    if str(path).endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    return Path(path).open("rb")


def import_file(
    path: str | Path, options: ImportOptions | None = None, report: ImportReport | None = None
) -> Iterator[Episode]:
    """The episodes of a chat JSONL file. Broken lines go to `report`, the rest is read on."""
    with open_lines(path) as lines:
        yield from import_lines(lines, options or ImportOptions(), report or ImportReport())


def import_lines(
    lines: Iterable[bytes | str], options: ImportOptions, report: ImportReport
) -> Iterator[Episode]:
    """An episode for each row. Ids derive from the row, so that importing again adds nothing."""
    seen: Counter[str] = Counter()
    number = 0
    iterator = iter(lines)
    while True:
        number += 1
        try:
            line = next(iterator)
        except StopIteration:
            return
        except (OSError, EOFError, zlib.error) as error:  # a cut or damaged gzip file
            report.broken.append(BrokenLine(number, f"the file cannot be read on: {error}"))
            return
        if not line.strip():
            continue
        try:
            row = strict_json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not a JSON object")
            text = canonical_json([options.workload, row])
            seen[text] += 1
            episode = episode_from_row(row, options, f"{seen[text]}:{text}")
        except (ValueError, RecursionError) as error:
            report.broken.append(BrokenLine(number, _reason(error)))
            continue
        report.episodes += 1
        report.completions += len(episode.completions)
        report.feedback += len(episode.feedback)
        yield episode


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error.msg} at column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"not valid UTF-8: {error.reason} at byte {error.start}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def episode_from_row(row: Mapping[str, Any], options: ImportOptions, origin: str) -> Episode:
    """Raises ValueError that says what is wrong with the row."""
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("no messages")
    for i, message in enumerate(messages):
        problem = message_problem(message)
        if problem is not None:
            raise ValueError(f"message {i} {problem}")
    if not any(m["role"] == "assistant" for m in messages):
        raise ValueError("no assistant message")
    tools = _tools_of(row, options)
    metadata = _metadata_of(row, options)
    scenario = row.get(options.scenario)
    scenario_id = None if scenario is None else _name(options.scenario, scenario)
    model = ModelRef(_name("model", row.get("model") or options.model))
    ids = _Ids(origin)
    episode_id = ids.new()
    said, results = _split_results(messages)
    completions = tuple(
        Completion(
            id=ids.new(),
            request=Request(
                messages=tuple(said[:i]),
                model=model,
                tools=tools,
                workload=options.workload,
                episode_id=episode_id,
                scenario_id=scenario_id,
            ),
            status="ok",
            message=message,
            finish_reason="tool_calls" if message.get("tool_calls") else "stop",
            started_at=options.created_at,
        )
        for i, message in enumerate(said)
        if message["role"] == "assistant"
    )
    last = max(i for i, m in enumerate(said) if m["role"] == "assistant")
    feedback = tuple(
        Feedback(
            id=ids.new(),
            episode_id=episode_id,
            name=name,
            value=_outcome(column, row[column]),
            source="outcome",
            source_version="import",
            created_at=options.created_at,
        )
        for column, name in options.feedback.items()
        if row.get(column) is not None
    )
    return Episode(
        id=episode_id,
        completions=completions,
        scenario_id=scenario_id,
        workload=options.workload,
        metadata=metadata,
        feedback=feedback,
        results=results,
        tail=tuple(said[last + 1 :]),
    )


def _tools_of(row: Mapping[str, Any], options: ImportOptions) -> tuple[Tool, ...]:
    tools = row.get("tools")
    if tools is None:
        return options.tools
    if isinstance(tools, str):
        tools = strict_json.loads(tools)
    problem = tools_problem(tools)
    if problem is not None:
        raise ValueError(f"tools {problem}")
    return tuple(tools)


def _metadata_of(row: Mapping[str, Any], options: ImportOptions) -> dict[str, Any]:
    given = row.get("metadata")
    if given is not None and not isinstance(given, dict):
        raise ValueError("metadata is not an object")
    read = {"messages", "tools", "metadata", "model", options.scenario, *options.feedback}
    return {**{k: v for k, v in row.items() if k not in read}, **(given or {})}


def _name(column: str, value: Any) -> str:
    if not isinstance(value, (str, int, float)) or not strict_json.is_unicode(str(value)):
        raise ValueError(f"{column} is {str(value)[:40]!r}, not a name")
    return str(value)


def _outcome(column: str, value: Any) -> bool | float:
    if not is_number(value) or abs(value) > 2**53:
        raise ValueError(f"{column} is {str(value)[:40]!r}, not a boolean or a number")
    return value


def _split_results(
    messages: Sequence[dict[str, Any]],
) -> tuple[list[Message], dict[str, ToolResult]]:
    """Messages without the fields that no chat message has, and what those said of results.

    A result is known beyond its message only where the row flags errors or times the call; and
    only under an id that the conversation uses once. Raises ValueError where they say it wrongly.
    """
    uses = Counter(m["tool_call_id"] for m in messages if m["role"] == "tool")
    said: list[Message] = []
    results: dict[str, ToolResult] = {}
    for i, message in enumerate(messages):
        extra = {"is_error", "latency_s"} & message.keys() if message["role"] == "tool" else set()
        if extra:
            flag, seconds = message.get("is_error"), message.get("latency_s")
            if not isinstance(flag, (bool, type(None))):
                raise ValueError(f"message {i} has the is_error {str(flag)[:40]!r}, not a boolean")
            if seconds is not None and not _is_duration(seconds):
                raise ValueError(f"message {i} has the latency_s {str(seconds)[:40]!r}, no seconds")
        if extra and uses[message["tool_call_id"]] == 1:
            content = message.get("content")
            results[message["tool_call_id"]] = ToolResult(
                content=content if isinstance(content, str) else json.dumps(content),
                is_error=bool(message.get("is_error")),
                latency_s=message.get("latency_s"),
            )
        said.append(cast(Message, {k: v for k, v in message.items() if k not in extra}))
    return said, results


def _is_duration(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value < _LONGEST_S


class _Ids:
    """UUIDs of version 8 (RFC 9562, section 5.8) that derive from the row alone, whenever its file
    was written: the same row, the same ids, in order."""

    def __init__(self, origin: str) -> None:
        digest = hashlib.sha256(origin.encode("utf-8", "surrogatepass")).digest()
        self._head = int.from_bytes(digest[8:13])  # 40 bits; 20 that count follow them
        self._tail = int.from_bytes(digest[:8]) & ((1 << 62) - 1)
        self._n = 0

    def new(self) -> str:
        high, low = self._n >> 12, self._n & 0xFFF
        self._n += 1
        value = self._head << 88 | high << 80 | 0x8 << 76 | low << 64 | 0b10 << 62 | self._tail
        h = f"{value:032x}"
        return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def training_rows(episodes: Iterable[Episode]) -> Iterator[dict[str, Any]]:
    """`messages` and `tools` of what each agent of an episode said, as it ended, up to its last
    message. Replies that were cut are left out; an episode without any other has no row."""
    for episode in episodes:
        for said in final_conversations(episode.completions):
            row: dict[str, Any] = {"messages": [dict(m) for m in said.messages]}
            if said.tools:
                row["tools"] = json.dumps(list(said.tools), ensure_ascii=False)
            yield row


def episode_rows(episodes: Iterable[Episode]) -> Iterator[dict[str, Any]]:
    """Whole conversations as `import_lines` reads them: messages with their tail, tools,
    scenario, metadata and the latest value of each boolean or numeric feedback."""
    for episode in episodes:
        row: dict[str, Any] = {"messages": list(episode.messages)}
        if episode.tools:
            row["tools"] = list(episode.tools)
        if episode.scenario_id is not None:
            row["scenario"] = episode.scenario_id
        if episode.metadata:
            row["metadata"] = dict(episode.metadata)
        for f in sorted(episode.feedback, key=lambda f: (f.created_at, f.id)):
            if is_number(f.value):
                row[f.name] = f.value
        yield row


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write JSON lines (gzip by suffix); returns how many.

    They take the place of what was at `path` when the last one is written, not before. Only what
    is no file (a pipe, a device) is written to at once.
    """
    path = Path(path)
    n = 0
    with _replacing(path) as raw, _packing(raw, path) as file:
        for row in rows:
            file.write(json.dumps(row).encode() + b"\n")
            n += 1
    return n


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A partial file beside `path`, renamed to it when the block succeeds, else removed."""
    target = path.resolve()  # a link stays one
    if target.exists() and not target.is_file():
        with target.open("wb") as file:
            yield file
        return
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            if target.exists():
                shutil.copymode(target, partial)
            yield file
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _packing(raw: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    """What is written packs into `raw` where the path's name ends in .gz."""
    if path.name.endswith(".gz"):
        with gzip.GzipFile(path.name, "wb", fileobj=raw) as file:
            yield cast(IO[bytes], file)
    else:
        yield raw
