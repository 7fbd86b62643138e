"""Bodies: each message stored once, as a node under the message before it.

A request is the id of its last node; its root holds the tools. Equal keys mean equal histories,
so whatever conversations share is shared in the file too. Bodies lie in a content-addressed
table, compressed with zstd where that pays.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, cast

import zstandard

from understudy.core.types import Message, Tool

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
_EXACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_RAW, _ZSTD = b"\x00", b"\x01"
_COMPRESS_FROM = 256  # bytes; shorter bodies gain nothing
_CACHE = 200_000  # node keys remembered by a writer, about 30 MB


def _hash(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"".join(parts), digest_size=16).digest()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON may hold lone surrogates


def root_key(tools: Sequence[Tool]) -> bytes:
    """The key of a conversation's root. The order of a schema's properties is part of it."""
    return _hash(b"tools\x00", _utf8(_EXACT(list(tools))))


def child_key(parent_key: bytes, message: Message) -> bytes:
    """The key of a message under its parent; 16 bytes."""
    return _hash(parent_key, _utf8(_CANONICAL(message)))


def pack(data: bytes, compressor: zstandard.ZstdCompressor) -> bytes:
    if len(data) < _COMPRESS_FROM:
        return _RAW + data
    packed = compressor.compress(data)
    return _ZSTD + packed if len(packed) < len(data) else _RAW + data


def unpack(data: bytes, decompressor: zstandard.ZstdDecompressor) -> bytes:
    return decompressor.decompress(data[1:]) if data[:1] == _ZSTD else data[1:]


class BodyWriter:
    """Adds messages to the forest of one connection. Used by the writer thread alone."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._ids: dict[bytes, int] = {}
        self.compressor = zstandard.ZstdCompressor(level=1)

    def forget(self) -> None:
        """Drop remembered ids: after a rollback, or when another process erased something."""
        self._ids.clear()

    def conversation(self, tools: Sequence[Tool], messages: Sequence[Message]) -> tuple[int, bytes]:
        """(id, key) of the last message's node, adding what is new."""
        key = root_key(tools)
        node = self._ids.get(key) or self._add(key, None, list(tools))
        for message in messages:
            node, key = self.reply(node, key, message)
        return node, key

    def reply(self, parent: int, parent_key: bytes, message: Message) -> tuple[int, bytes]:
        key = child_key(parent_key, message)
        return self._ids.get(key) or self._add(key, parent, message), key

    def _add(self, key: bytes, parent: int | None, body: Any) -> int:
        node: int | None
        found = self._connection.execute("SELECT id FROM nodes WHERE key = ?", (key,)).fetchone()
        if found is None:
            blob = self._blob(_utf8(_EXACT(body)))
            node = self._connection.execute(
                "INSERT INTO nodes (key, parent, blob) VALUES (?, ?, ?)", (key, parent, blob)
            ).lastrowid
        else:
            node = found[0]
        if len(self._ids) >= _CACHE:
            self._ids.clear()
        assert node is not None
        self._ids[key] = node
        return node

    def _blob(self, data: bytes) -> int:
        digest = _hash(data)
        found = self._connection.execute(
            "SELECT id FROM blobs WHERE hash = ?", (digest,)
        ).fetchone()
        if found is not None:
            return int(found[0])
        added = self._connection.execute(
            "INSERT INTO blobs (hash, data) VALUES (?, ?)", (digest, pack(data, self.compressor))
        ).lastrowid
        assert added is not None
        return added


class BodyReader:
    """Reads conversations of one batch of completions; messages they share are one object."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._decompressor = zstandard.ZstdDecompressor()
        self._nodes: dict[int, tuple[int | None, Any]] = {}
        self._chains: dict[int, tuple[tuple[Tool, ...], tuple[Message, ...]]] = {}

    def load(self, ids: Iterable[int]) -> None:
        """Fetch these nodes and everything above them, level by level."""
        wanted = {i for i in ids if i not in self._nodes}
        while wanted:
            some = list(wanted)[:500]
            marks = ",".join("?" * len(some))
            rows = self._connection.execute(
                "SELECT n.id, n.parent, b.data FROM nodes n JOIN blobs b ON b.id = n.blob "
                f"WHERE n.id IN ({marks})",
                some,
            ).fetchall()
            if len(rows) != len(some):
                raise sqlite3.DatabaseError("a conversation's messages are missing from the store")
            for node, parent, data in rows:
                text = unpack(data, self._decompressor).decode("utf-8", "surrogatepass")
                self._nodes[node] = parent, json.loads(text)
                if parent is not None and parent not in self._nodes:
                    wanted.add(parent)
            wanted.difference_update(some)

    def conversation(self, node: int) -> tuple[tuple[Tool, ...], tuple[Message, ...]]:
        """(tools, messages) down to this loaded node."""
        found = self._chains.get(node)
        if found is not None:
            return found
        path: list[Message] = []
        at = node
        while True:
            if at in self._chains:
                tools, above = self._chains[at]
                break
            parent, body = self._nodes[at]
            if parent is None:
                tools, above = tuple(body), ()
                break
            path.append(body)
            at = parent
        self._chains[node] = tools, (*above, *reversed(path))
        return self._chains[node]

    def message(self, node: int) -> Message:
        return cast(Message, self._nodes[node][1])

    def unpack(self, data: bytes) -> bytes:
        return unpack(data, self._decompressor)
