"""A world's things as staging data: JSON lines and a SQLite file, with a manifest of what they hold
and what was left out."""

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from understudy.world.data.scrub import Scrub
from understudy.world.data.values import escape, kind_of, unescape
from understudy.world.model import World
from understudy.world.serving.entities import Reference, Type, entities, type_names
from understudy.world.serving.staging import Link, cell_of, write_sqlite

FORMATS = ("jsonl", "sqlite")
SQLITE_FILE = "staging.db"
MANIFEST = "manifest.json"
TAKEN = "the latest episode's, completed by fields that only earlier ones showed"


def export(
    world: World,
    folder: Path,
    formats: Collection[str] = FORMATS,
    scrub: Scrub | None = None,
) -> dict[str, Any]:
    """Write what a world remembers into a new or empty folder; returns the manifest.

    `TYPE.jsonl` has one thing a line, its id first. `staging.db` has one table a type, ids as
    primary keys, nested values as JSON text; a field that always holds ids of another type's things
    is a foreign key, one that holds them inside lists or objects has a table of pairs beside it.
    `manifest.json` counts all of it. Raises ValueError for a folder that holds files, and where the
    world remembers nothing.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: name a new folder")
    types = entities(world)
    if not types:
        raise ValueError("this world remembers no things: none of its tools' results has an id")
    folder.mkdir(parents=True, exist_ok=True)
    counts = [_make_plain(t) for t in types]
    changed, lost = sum(c for c, _ in counts), sum(n for _, n in counts)
    if scrub is not None:
        _scrub(types, scrub)
    links, names = find_links(types), type_names(world.ids)
    manifest: dict[str, Any] = {
        "world": {"episodes": len(world.episode_ids), "tools": sorted(world.models)},
        "scrubbed": None if scrub is None else _scrubbed(scrub),
        "types": [_described(t) for t in types],
        "references": [_link_described(link, names) for link in links],
        "left_out": left_out(world, types, changed, lost),
    }
    if "jsonl" in formats:
        for t in types:
            with open(folder / f"{t.name}.jsonl", "w", encoding="utf-8") as file:
                for item in t.things:
                    file.write(json.dumps(t.row(item), ensure_ascii=False) + "\n")
    if "sqlite" in formats:
        manifest["tables"] = write_sqlite(folder / SQLITE_FILE, types, links)
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def find_links(types: list[Type]) -> list[Link]:
    """The references of all types, each with how many of its values no remembered thing has."""
    known = {t.domain: t for t in types}
    found = []
    for own in types:
        for reference in own.references:
            to = known.get(reference.to)
            values = [
                v
                for fields in own.things.values()
                for v in reference.ids(fields.get(reference.field))
            ]
            if values:
                things: Collection[Any] = to.things if to is not None else ()
                dangling = sum(not isinstance(v, (str, int)) or v not in things for v in values)
                found.append(Link(own, reference, to, len(values), dangling))
    return found


def left_out(world: World, types: list[Type], changed: int, lost: int) -> list[dict[str, Any]]:
    """What a world knows, or is known to have dropped, that the export does not hold."""
    known = {t.domain for t in types}
    found: list[dict[str, Any]] = []

    def note(what: str, count: int, reason: str) -> None:
        if count:
            found.append({"what": what, "count": count, "reason": reason})

    for domain, name in sorted(type_names(world.ids).items()):
        if domain not in known:
            note(f"type {name}", 1, "its ids are named, or made by calls, but no record was seen")
    for tool, model in sorted(world.models.items()):
        if model.query is not None and model.query.key is None:
            note(f"records that {tool} lists", len(model.query.rows), "they have no id")
    for t in types:
        reason = "other episodes showed other values; not taken"
        note(f"other versions of {t.name}", sum(t.differing.values()), reason)
        reason = f"of each field of a thing a world keeps the last {world.memory.limit}"
        note(f"older values of {t.name}", world.memory.dropped.get(t.domain, 0), reason)
    note("things written otherwise", changed, "values that are not finite or not Unicode, as text")
    note("things", lost, "written, their id is the same as another's")
    return found


def _make_plain(own: Type) -> tuple[int, int]:
    """Make a type's things what JSON, UTF-8 and SQLite can hold; returns how many were not, and
    how many are left out since their id is then another's too."""
    plain: dict[Any, dict[str, Any]] = {}
    written: set[Any] = set()
    changed = lost = 0
    for item, fields in own.things.items():
        name, own_fields = _plain(item), _plain(fields)
        cell = cell_of(name)
        lost += cell in written
        if cell not in written:
            changed += (name, own_fields) != (item, fields)
            plain[name] = own_fields
        written.add(cell)
    own.things = plain
    return changed, lost


def _plain(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False).encode(errors="replace").decode()
    return json.loads(text, parse_constant=str)


def _scrub(types: list[Type], scrub: Scrub) -> None:
    for t in types:
        scrub.collect(t.row(item) for item in t.things)
    for t in types:
        rows = {scrub.of(item): scrub.of(fields) for item, fields in t.things.items()}
        if len(rows) < len(t.things):
            raise ValueError(f"two ids of {t.name} became one: give another --scrub-key")
        t.things = rows
        t.differing = {scrub.of(n): k for n, k in t.differing.items()}
        t.key = scrub.of(t.key)
        t.references = [
            Reference(scrub.of(r.field), r.to, [_scrubbed_path(p, scrub) for p in r.paths])
            for r in t.references
        ]


def _scrubbed_path(path: str, scrub: Scrub) -> str:
    """Fields' names may be ids, and are replaced where those are."""
    return "/".join(escape(scrub.of(unescape(part))) for part in path.split("/"))


def _scrubbed(scrub: Scrub) -> dict[str, Any]:
    return {
        "mails": scrub.kinds["mail"],
        "numbers": scrub.kinds["number"],
        "texts_of_fields": scrub.kinds["field"],
        "fields": sorted(scrub.fields),
        "numbers_left_in_fields": scrub.numbers_left,
        "not_looked_for": "names, addresses and other texts in fields that were not named",
    }


def _described(own: Type) -> dict[str, Any]:
    present: Counter[str] = Counter()
    kinds: dict[str, set[str]] = {}
    for fields in own.things.values():
        for name, value in fields.items():
            present[name] += 1
            kinds.setdefault(name, set()).add("string" if value == "" else kind_of(value))
    return {
        "name": own.name,
        "key": own.key,
        "things": len(own.things),
        "fields": {n: {"things": present[n], "kinds": sorted(kinds[n])} for n in sorted(present)},
        "version": TAKEN,
        "of_several_versions": own.several,
        "differing": own.differing,
    }


def _link_described(link: Link, names: dict[str, str]) -> dict[str, Any]:
    return {
        "from": f"{link.own.name}.{link.reference.field}",
        "to": names.get(link.reference.to, link.reference.to),
        "values": link.values,
        "dangling": link.dangling,
        "constraint": link.holds,
    }
