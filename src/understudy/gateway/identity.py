"""Which episode a request belongs to: what the client says, else the conversation itself.

A request without an episode id joins the episode whose conversation it continues: the one with a
captured reply at which the request's history, up to one of its assistant messages, ends. Clients
echo replies with fields added or left out, so histories are compared by what was said and called.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from understudy.core.ids import uuid7
from understudy.core.meter import purpose_of
from understudy.core.openai_wire import WireError, parse_json
from understudy.core.types import Message, Purpose, call_parts

HEADER = "x-understudy-"
_REMEMBERED = 100_000
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode


@dataclass(frozen=True, slots=True)
class Asked:
    """What the client says of a request, in headers or in the body's `metadata`."""

    episode_id: str | None
    workload: str
    scenario_id: str | None
    caused_by: str | None
    metadata: dict[str, Any]
    purpose: Purpose = "agent"


def asked_of(headers: Mapping[str, str], body_metadata: Mapping[str, Any]) -> Asked:
    """Headers hold over the body's `metadata`, whose keys episode_id, workload, scenario_id and
    caused_by mean the same; its other keys are the episode's metadata. What a call is made for is
    in a header alone. Raises WireError."""
    metadata = dict(body_metadata)
    said = {
        k: metadata.pop(k, None) for k in ("episode_id", "workload", "scenario_id", "caused_by")
    }
    for name, header in (
        ("episode_id", "episode"),
        ("workload", "workload"),
        ("scenario_id", "scenario"),
        ("caused_by", "caused-by"),
    ):
        value = headers.get(HEADER + header) or said[name]
        if value is not None and not (
            isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable()
        ):
            line = f"{name} must be text of at most 256 characters, all of them printable"
            raise WireError(line, param=name)
        said[name] = value
    given = headers.get(HEADER + "metadata")
    if given is not None:
        try:
            extra = parse_json(given)
        except WireError as error:
            raise WireError(f"the header {HEADER}metadata is not JSON: {error}") from error
        if not isinstance(extra, dict):
            raise WireError(f"the header {HEADER}metadata must be a JSON object")
        metadata.update(extra)
    return Asked(
        said["episode_id"],
        said["workload"] or "default",
        said["scenario_id"],
        said["caused_by"],
        metadata,
        _purpose(headers),
    )


def _purpose(headers: Mapping[str, str]) -> Purpose:
    try:
        return cast(Purpose, purpose_of(headers))
    except ValueError as error:
        raise WireError(str(error), param="purpose") from None


def _said(message: Mapping[str, Any]) -> bytes:
    """What a message says and calls, whatever else its sender put in or left out."""
    calls = [[call.get("id"), *call_parts(call)] for call in message.get("tool_calls") or ()]
    parts = [message["role"], message.get("content") or "", message.get("tool_call_id"), calls]
    return _encode(parts).encode()


@dataclass(frozen=True, slots=True)
class Thread:
    """A history as two hex keys: with system messages, and without (prompts that carry the time
    change from turn to turn)."""

    full: str
    loose: str


class _Chain:
    """The keys of a growing history."""

    def __init__(self, workload: str) -> None:
        self._full = self._loose = hashlib.blake2b(workload.encode(), digest_size=16).digest()

    def add(self, message: Mapping[str, Any]) -> None:
        said = _said(message)
        self._full = hashlib.blake2b(self._full + said, digest_size=16).digest()
        if message["role"] not in ("system", "developer"):
            self._loose = hashlib.blake2b(self._loose + said, digest_size=16).digest()

    @property
    def thread(self) -> Thread:
        return Thread(self._full.hex(), self._loose.hex())


@dataclass(slots=True)
class _Known:
    open: list[str]  # episodes whose conversation ends here, oldest first
    last: str  # the episode that went on from here last


class Threads:
    """Captured histories and their episodes, the latest hundred thousand."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._ends: OrderedDict[str, tuple[str, str]] = OrderedDict()  # where an episode is open

    def histories(
        self, workload: str, messages: Sequence[Message]
    ) -> tuple["_Chain", list[Thread]]:
        """The whole history's chain, and its threads at each assistant message, latest first."""
        chain = _Chain(workload)
        ends = []
        for message in messages:
            chain.add(message)
            if message["role"] == "assistant":
                ends.append(chain.thread)
        return chain, ends[::-1]

    def find(self, ends: Sequence[Thread]) -> str | None:
        """The episode that this history continues. Where several conversations are word for
        word the same so far, each continuation takes one that none has taken yet."""
        for key in (*(t.full for t in ends), *(t.loose for t in ends)):
            known = self._known.get(key)
            if known is not None:
                return self._go_on(known)
        return None

    def _go_on(self, known: _Known) -> str:
        if known.open:
            known.last = known.open.pop(0)
            for key in self._ends.pop(known.last, ()):
                other = self._known.get(key)
                if other is not None and known.last in other.open:
                    other.open.remove(known.last)
        return known.last

    def ended_at(self, thread: Thread, episode_id: str) -> None:
        """A captured reply of this episode ends this history."""
        self._ends[episode_id] = thread.full, thread.loose
        self._ends.move_to_end(episode_id)
        for key in {thread.full, thread.loose}:
            known = self._known.get(key)
            if known is None:
                self._known[key] = _Known([episode_id], episode_id)
            elif episode_id not in known.open:
                known.open.append(episode_id)
            self._known.move_to_end(key)
        while len(self._known) > self._remembered:
            self._known.popitem(last=False)
        while len(self._ends) > self._remembered:
            self._ends.popitem(last=False)


def new_episode_id() -> str:
    return uuid7()
