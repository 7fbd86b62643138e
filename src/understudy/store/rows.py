"""Records to rows and back."""

import json
import sqlite3
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from understudy.core.meter import METERED
from understudy.core.serial import (
    model_ref_from_json,
    model_ref_to_json,
    sampling_from_json,
    sampling_to_json,
    tool_result_from_json,
    tool_result_to_json,
)
from understudy.core.strict_json import is_finite
from understudy.core.types import Completion, Episode, Feedback, Request, Usage
from understudy.store.bodies import BodyReader, BodyWriter, pack

_ASKED = ("tool_choice", "parallel_tool_calls", "response_format")  # of a request, where given
_TOKENS = {"prompt_ids": "q", "output_ids": "q", "logprobs": "d"}

COMPLETION_COLUMNS = (
    "id, episode_id, workload, scenario_id, purpose, caused_by, alias, model, served, status, "
    "finish_reason, error, prompt_tokens, cached_tokens, completion_tokens, estimated, "
    "started_at, first_token_at, finished_at, node, reply, request, tokens, metadata, extra, "
    "metered"
)
_NAMES = COMPLETION_COLUMNS.split(", ")
# a started row is finalised once; whatever comes for a final row later changes nothing
INSERT_COMPLETION = (
    f"INSERT INTO completions ({COMPLETION_COLUMNS}) VALUES ({','.join('?' * len(_NAMES))}) "
    "ON CONFLICT (id) DO UPDATE SET "
    + ", ".join(f"{n} = excluded.{n}" for n in _NAMES[1:])
    + " WHERE completions.status = 'started' AND excluded.status <> 'started'"
)
INSERT_FEEDBACK = (
    "INSERT INTO feedback (id, episode_id, completion_id, name, value, number, source, "
    "source_version, comment, created_at) VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO NOTHING"
)
SEE_EPISODE = (
    "INSERT INTO episodes (id, workload, scenario_id, created_at, recorded) VALUES (?,?,?,?,0) "
    "ON CONFLICT (id) DO UPDATE SET scenario_id = excluded.scenario_id "
    "WHERE episodes.scenario_id IS NULL AND excluded.scenario_id IS NOT NULL AND recorded = 0"
)
RECORD_EPISODE = (
    "INSERT INTO episodes (id, workload, scenario_id, created_at, recorded, metadata, ended, body) "
    "VALUES (?,?,?,?,1,?,?,?) ON CONFLICT (id) DO UPDATE SET workload = excluded.workload, "
    "scenario_id = excluded.scenario_id, recorded = 1, metadata = excluded.metadata, "
    "ended = excluded.ended, body = excluded.body WHERE episodes.recorded = 0"
)


def json_or_none(value: Mapping[str, Any]) -> str | None:
    return json.dumps(dict(value)) if value else None


def write_completion(connection: sqlite3.Connection, bodies: BodyWriter, c: Completion) -> None:
    """Insert or finalise one completion, its messages and its episode's row."""
    r = c.request
    node, key = bodies.conversation(r.tools, r.messages)
    reply = None if c.message is None else bodies.reply(node, key, c.message)[0]
    request = {"model": model_ref_to_json(r.model), "sampling": sampling_to_json(r.sampling)}
    asked = {n: getattr(r, n) for n in _ASKED}
    request |= {n: value for n, value in asked.items() if value is not None}
    u, metered = c.usage, c.extra.get(METERED)
    connection.execute(
        INSERT_COMPLETION,
        (
            c.id, r.episode_id, r.workload, r.scenario_id, r.purpose, r.caused_by, c.alias,
            str(r.model), None if c.served is None else json.dumps(model_ref_to_json(c.served)),
            c.status, c.finish_reason, c.error, u.prompt_tokens, u.cached_tokens,
            u.completion_tokens, u.estimated, c.started_at, c.first_token_at, c.finished_at,
            node, reply, json.dumps(request), _tokens_of(c, bodies), json_or_none(r.metadata),
            json_or_none(c.extra), json_or_none(metered) if isinstance(metered, dict) else None,
        ),
    )  # fmt: skip
    if r.episode_id is not None:
        connection.execute(SEE_EPISODE, (r.episode_id, r.workload, r.scenario_id, c.started_at))
        connection.execute(
            "UPDATE feedback SET episode_id = ? WHERE completion_id = ? AND episode_id = ''",
            (r.episode_id, c.id),
        )


def write_feedback(connection: sqlite3.Connection, f: Feedback) -> None:
    """Insert one piece of feedback. Without an episode id it joins its completion's, now or
    when that completion comes.

    Raises ValueError for a number that is not finite.
    """
    if not is_finite(f.value):
        raise ValueError(f"the feedback {f.name} is {f.value}, no finite number")
    episode_id = f.episode_id
    if not episode_id and f.completion_id is not None:
        found = connection.execute(
            "SELECT episode_id FROM completions WHERE id = ?", (f.completion_id,)
        ).fetchone()
        episode_id = (found and found[0]) or ""
    number = float(f.value) if isinstance(f.value, (bool, int, float)) else None
    connection.execute(
        INSERT_FEEDBACK,
        (
            f.id, episode_id, f.completion_id, f.name, json.dumps(f.value), number, f.source,
            f.source_version, f.comment, f.created_at,
        ),
    )  # fmt: skip


def write_episode(connection: sqlite3.Connection, bodies: BodyWriter, e: Episode) -> None:
    """Insert a whole episode. Its completions and feedback carry its id.

    Raises ValueError when one of them carries another.
    """
    results = {k: tool_result_to_json(v) for k, v in e.results.items()}
    body = None
    if results or e.tail:
        text = json.dumps({"results": results, "tail": list(e.tail)})
        body = pack(text.encode(), bodies.compressor)
    for c in e.completions:
        if c.request.episode_id is None:
            c = replace(c, request=replace(c.request, episode_id=e.id))
        elif c.request.episode_id != e.id:
            raise ValueError(f"episode {e.id} holds a completion of episode {c.request.episode_id}")
        write_completion(connection, bodies, c)
    for f in e.feedback:
        if f.episode_id not in (e.id, ""):
            raise ValueError(f"episode {e.id} holds feedback on episode {f.episode_id}")
        write_feedback(connection, replace(f, episode_id=e.id))
    started = min((c.started_at for c in e.completions), default=0.0)
    metadata = json.dumps(dict(e.metadata))
    connection.execute(
        RECORD_EPISODE, (e.id, e.workload, e.scenario_id, started, metadata, e.ended, body)
    )


def _tokens_of(c: Completion, bodies: BodyWriter) -> bytes | None:
    """The three token columns as one compressed blob: counts as JSON, then the arrays."""
    given = {n: getattr(c, n) for n in _TOKENS if getattr(c, n) is not None}
    if not given:
        return None
    head = json.dumps({n: len(values) for n, values in given.items()}).encode()
    arrays = b"".join(array(_TOKENS[n], values).tobytes() for n, values in given.items())
    return pack(head + b"\n" + arrays, bodies.compressor)


def _tokens_from(data: bytes | None, bodies: BodyReader) -> dict[str, tuple[Any, ...]]:
    if data is None:
        return {}
    head, _, rest = bodies.unpack(data).partition(b"\n")
    out: dict[str, tuple[Any, ...]] = {}
    at = 0
    for name, n in json.loads(head).items():
        out[name] = tuple(array(_TOKENS[name], rest[at : at + 8 * n]))
        at += 8 * n
    return out


def load_bodies(bodies: BodyReader, rows: Sequence[sqlite3.Row]) -> None:
    bodies.load([r["node"] for r in rows])
    bodies.load([r["reply"] for r in rows if r["reply"] is not None])


def completion_from(row: sqlite3.Row, bodies: BodyReader) -> Completion:
    """The completion of a row whose bodies are loaded."""
    tools, messages = bodies.conversation(row["node"])
    asked = json.loads(row["request"])
    request = Request(
        messages=messages,
        model=model_ref_from_json(asked["model"]),
        tools=tools,
        sampling=sampling_from_json(asked["sampling"]),
        **{n: asked.get(n) for n in _ASKED},
        purpose=row["purpose"],
        workload=row["workload"],
        episode_id=row["episode_id"],
        scenario_id=row["scenario_id"],
        caused_by=row["caused_by"],
        metadata=json.loads(row["metadata"] or "{}"),
    )
    return Completion(
        id=row["id"],
        request=request,
        status=row["status"],
        message=None if row["reply"] is None else bodies.message(row["reply"]),
        finish_reason=row["finish_reason"],
        served=None if row["served"] is None else model_ref_from_json(json.loads(row["served"])),
        alias=row["alias"],
        usage=Usage(
            row["prompt_tokens"],
            row["cached_tokens"],
            row["completion_tokens"],
            bool(row["estimated"]),
        ),
        error=row["error"],
        started_at=row["started_at"],
        first_token_at=row["first_token_at"],
        finished_at=row["finished_at"],
        extra=json.loads(row["extra"] or "{}"),
        **_tokens_from(row["tokens"], bodies),
    )


def value_from(text: str) -> Any:
    """A feedback's value. What JSON cannot hold, which older stores may have, is read as text."""
    return json.loads(text, parse_constant=str)


def feedback_from(row: sqlite3.Row) -> Feedback:
    return Feedback(
        id=row["id"],
        episode_id=row["episode_id"],
        name=row["name"],
        value=value_from(row["value"]),
        source=row["source"],
        source_version=row["source_version"],
        completion_id=row["completion_id"],
        comment=row["comment"],
        created_at=row["created_at"],
    )


def episode_from(
    row: sqlite3.Row,
    completions: Sequence[Completion],
    feedback: Sequence[Feedback],
    bodies: BodyReader,
) -> Episode:
    """An episode from its row and parts. What was recorded with it holds; otherwise the
    metadata of its completions, later ones over earlier ones."""
    body = {} if row["body"] is None else json.loads(bodies.unpack(row["body"]))
    if row["recorded"]:
        metadata = json.loads(row["metadata"])
    else:
        metadata = {k: v for c in completions for k, v in c.request.metadata.items()}
    return Episode(
        id=row["id"],
        completions=tuple(completions),
        scenario_id=row["scenario_id"],
        workload=row["workload"],
        metadata=metadata,
        feedback=tuple(feedback),
        results={k: tool_result_from_json(v) for k, v in body.get("results", {}).items()},
        tail=tuple(body.get("tail", ())),
        ended=row["ended"],
    )
