"""Types of things as tables of a SQLite file."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.world.serving.entities import Reference, Type, unique

COLUMNS = 400  # fields of a type that get a column of their own; SQLite takes 2,000
_LARGEST, _EXACT = 2**63 - 1, 2**53  # of integers, and of those that a float holds exactly
Cell = None | int | float | str


@dataclass(slots=True)
class Link:
    """A reference from one type to another; `to` is None where the world remembers none of them.
    `dangling` of its `values` are ids of no remembered thing."""

    own: Type
    reference: Reference
    to: Type | None
    values: int
    dangling: int

    @property
    def inside(self) -> bool:
        """Whether the ids stand inside lists or objects of the field."""
        return self.reference.paths != [""]

    @property
    def holds(self) -> bool:
        """Whether SQLite is told to hold the reference: it does for every value."""
        return self.to is not None and not self.dangling


@dataclass(slots=True)
class _Table:
    name: str
    parts: list[str]  # columns and constraints
    rows: list[list[Cell]]
    described: dict[str, Any]


def write_sqlite(file: Path, types: list[Type], links: list[Link]) -> list[dict[str, Any]]:
    """Write the tables; returns for each its name, rows, columns by field, and what went into the
    column of rare fields. SQLite itself checks ids and references. Raises sqlite3.Error.

    The references are checked when all is written: row by row SQLite would look through the tables.
    """
    taken: set[str] = set()
    names = {t.domain: _named(t.name, taken) for t in types}
    tables = []
    for t in types:
        own = [link for link in links if link.own is t and not link.inside and link.holds]
        tables.append(_of_type(t, names, own))
    for link in links:
        if link.inside and link.to is not None:
            name = f"{names[link.own.domain]}__{link.reference.field}"
            if name.lower() in taken:
                name = f"{name}__{link.to.name}"
            name = _named(name, taken)
            tables.append(_of_pairs(name, link, link.to, names))
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")  # a new file: there is nothing to lose
        db.execute("BEGIN")
        for table in tables:
            db.execute(f"CREATE TABLE {_quoted(table.name)} ({', '.join(table.parts)})")
        for table in tables:
            places = ", ".join("?" * len(table.rows[0])) if table.rows else ""
            insert = f"INSERT INTO {_quoted(table.name)} VALUES ({places})"
            db.executemany(insert, table.rows)
        db.execute("COMMIT")
        broken = db.execute("PRAGMA foreign_key_check").fetchall()
        if broken:
            raise sqlite3.IntegrityError(f"references that do not hold: {broken[:3]}")
    return [{"name": t.name, "rows": len(t.rows), **t.described} for t in tables]


def _of_type(own: Type, names: dict[str, str], links: list[Link]) -> _Table:
    columns, rest = _columns(own)
    rows = [list(_cells(own, item, columns, rest)) for item in own.things]
    parts = [
        f"{_quoted(column)} {_affinity([row[n] for row in rows])}".strip()
        for n, column in enumerate(columns.values())
    ]
    parts[0] += " PRIMARY KEY NOT NULL"
    described: dict[str, Any] = {"columns": columns}
    if rest is not None:
        parts.append(f"{_quoted(rest)} TEXT")
        rare = {n for fields in own.things.values() for n in fields} - columns.keys()
        described |= {"column_of_rare_fields": rest, "rare_fields": len(rare)}
    parts += [
        _foreign(columns[link.reference.field], link.to, names)
        for link in links
        if link.to is not None and link.reference.field in columns
    ]
    return _Table(names[own.domain], parts, rows, described)


def _of_pairs(name: str, link: Link, to: Type, names: dict[str, str]) -> _Table:
    """Which things name which in a field, each pair once."""
    taken: set[str] = set()
    one, other = _named(link.own.name, taken), _named(to.name, taken)
    pairs = dict.fromkeys(
        (cell_of(item), cell_of(v))
        for item, fields in link.own.things.items()
        for v in link.reference.ids(fields.get(link.reference.field))
    )
    parts = [
        f"{_quoted(one)} {_affinity([a for a, _ in pairs])} NOT NULL",
        f"{_quoted(other)} {_affinity([b for _, b in pairs])} NOT NULL",
        f"PRIMARY KEY ({_quoted(one)}, {_quoted(other)})",
        _foreign(one, link.own, names),
    ]
    if link.holds:
        parts.append(_foreign(other, to, names))
    described = {"pairs": {"of": one, "in": link.reference.field, "to": other}}
    return _Table(name, parts, [list(pair) for pair in pairs], described)


def _foreign(column: str, to: Type, names: dict[str, str]) -> str:
    """A reference that is checked when all tables are written."""
    key = next(iter(_columns(to)[0].values()))
    return (
        f"FOREIGN KEY ({_quoted(column)}) REFERENCES {_quoted(names[to.domain])}"
        f" ({_quoted(key)}) DEFERRABLE INITIALLY DEFERRED"
    )


def _columns(own: Type) -> tuple[dict[str, str], str | None]:
    """The column of each field, the id's first; and one for the rarest fields, where they are too
    many."""
    counts = Counter(n for fields in own.things.values() for n in fields if n != own.key)
    kept = [n for n, _ in counts.most_common(COLUMNS)]
    taken: set[str] = set()
    columns = {n: _named(n, taken) for n in (own.key, *kept)}
    return columns, _named("rare_fields", taken) if len(counts) > COLUMNS else None


def _cells(own: Type, item: Any, columns: dict[str, str], rest: str | None) -> Iterator[Cell]:
    row = own.row(item)
    yield from (cell_of(row.get(n)) for n in columns)
    if rest is not None:
        yield cell_of({n: v for n, v in row.items() if n not in columns})


def cell_of(value: Any) -> Cell:
    """A value as SQLite holds it: booleans as 0 and 1, integers beyond 64 bits as text, nested
    values as JSON text."""
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and abs(value) > _LARGEST:
        return str(value)
    return int(value) if isinstance(value, bool) else value


def _affinity(cells: list[Cell]) -> str:
    """The declared type of a column: none where it would turn some value into another."""
    kinds = {type(c) for c in cells if c is not None}
    if kinds == {str}:
        return "TEXT"
    if kinds == {int}:
        return "INTEGER"
    exact = all(abs(c) < _EXACT for c in cells if isinstance(c, int))
    return "REAL" if kinds <= {int, float} and kinds and exact else ""


def _named(name: str, taken: set[str]) -> str:
    """A name that SQLite takes beside those that are taken."""
    plain = name.replace("\0", "_") or "_"
    return unique(f"t_{plain}" if plain.lower().startswith("sqlite_") else plain, taken)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
