"""A world as files: one JSON document, compressed where it is large. Never pickle."""

import json
from pathlib import Path
from typing import Any

import zstandard

from understudy.world import retrieval
from understudy.world.calibration import Doubts
from understudy.world.data import layouts
from understudy.world.data.envelope import Envelope
from understudy.world.data.search import Search
from understudy.world.known import evidence, lives
from understudy.world.known.context import Overlap, ToolFacts, tuplify
from understudy.world.known.memory import Memory
from understudy.world.known.order import Moments
from understudy.world.known.versions import Version
from understudy.world.lists.query import Query, Row
from understudy.world.model import World
from understudy.world.outcomes.templates import Template
from understudy.world.outcomes.tree import tuples
from understudy.world.results import draws, gone, rules
from understudy.world.results.shapes import Shape
from understudy.world.tools import After, Hard, ToolModel
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Failures
from understudy.world.users.clauses import Exchange
from understudy.world.users.profiles import Population, Profile
from understudy.world.users.scenarios import Book, Opening
from understudy.world.users.situations import Reply, Situation
from understudy.world.users.wording import Part, Votes

FORMAT = 19
_LARGE = 1_000_000
_BOMB = 2**31


def write(world: World, folder: Path) -> None:
    """Replace the folder's world."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(to_json(world), ensure_ascii=False).encode(errors="surrogatepass")
    plain, packed = folder / "world.json", folder / "world.json.zst"
    target, other = (packed, plain) if len(text) > _LARGE else (plain, packed)
    data = zstandard.ZstdCompressor(level=6).compress(text) if target is packed else text
    partial = target.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(target)
    other.unlink(missing_ok=True)
    report = folder / "fidelity.json"
    report.unlink(missing_ok=True)  # of the world that was here before
    if world.fidelity is not None:
        report.write_text(json.dumps(world.fidelity, ensure_ascii=False, indent=1) + "\n")


def read(folder: Path) -> World:
    """Raises FileNotFoundError where there is no world, ValueError for one that is damaged or of
    a newer format."""
    files = [f for f in (folder / "world.json.zst", folder / "world.json") if f.exists()]
    if not files:
        raise FileNotFoundError(f"no world in {folder}: write one with `understudy world learn`")
    data = document(files[0])
    if data.get("format") != FORMAT:
        raise ValueError(
            f"the world in {folder} has format {data.get('format')}, not {FORMAT}: learn it again"
        )
    world = from_json(data)
    report = folder / "fidelity.json"
    world.fidelity = document(report) if report.exists() else None
    return world


def document(file: Path) -> Any:
    """What a saved world's file says. Raises ValueError where it is cut off or no JSON."""
    raw = file.read_bytes()
    try:
        if file.suffix == ".zst":
            raw = zstandard.ZstdDecompressor().decompress(raw, max_output_size=_BOMB)
        return json.loads(raw)
    except (ValueError, zstandard.ZstdError) as damage:
        raise ValueError(f"{file} is damaged ({damage}): learn the world again") from damage


def _fields(thing: Any, *skip: str) -> dict[str, Any]:
    return {n: getattr(thing, n) for n in thing.__slots__ if n not in skip}


def to_json(world: World) -> dict[str, Any]:
    """The document of a world."""
    return {
        "format": FORMAT,
        "ids": _fields(world.ids),
        "memory": [
            [d, [[key, held] for key, held in things.items()]]
            for d, things in world.memory.versions.items()
        ],
        "kept": [world.memory.limit, world.memory.dropped, world.memory.receipts],
        "lasts": world.memory.lasts,
        "lives": lives.to_json(world.memory.lives),
        "times": [world.moments.times, *world.moments.sights],
        "versions": {tool: _fields(v) for tool, v in world.versions.items()},
        "mentions": world.memory.mentions,
        "words": world.memory.words,
        "models": [_tool(m) for m in world.models.values()],
        "declared": world.declared,
        "pooled": world.pooled,
        "unknown": {k: t.to_json() for k, t in world.unknown.items()},
        "book": {
            "openings": [_fields(o) for o in world.book.openings],
            "groups": world.book.groups,
            "situations": [
                {"words": s.words, "replies": [_fields(r) for r in s.replies]}
                for s in world.book.situations
            ],
            "population": _population(world.book.population),
            "exchanges": [_fields(e) for e in world.book.exchanges],
            "kinds": world.book.kinds,
            "votes": [[*key, n] for key, n in world.book.votes.counts.items()],
            "heard": [[*key, n] for key, n in world.book.votes.words.items()],
            "implied": world.book.implied,
            "totals": [[key, n] for key, n in world.book.votes.totals.items()],
        },
        "failures": _fields(world.failures, "envelope", "layouts"),
        "envelope": _fields(world.failures.envelope, "layout"),
        "layouts": {t: layouts.to_json(own) for t, own in world.failures.layouts.items()},
        "episodes": world.episode_ids,
        "doubts": None if world.doubts is None else _fields(world.doubts),
        "left_out": world.left_out,
    }


def _tool(m: ToolModel) -> dict[str, Any]:
    apart = "facts", "shapes", "texts", "query", "listings", "hard", "effects", "draws", "after"
    plain = _fields(m, *apart, "takings", "evidence", "retrieval")
    plain["facts"] = _fields(m.facts)
    plain["facts"]["overlaps"] = [list(_fields(o).values()) for o in m.facts.overlaps]
    plain["shapes"] = {k: s.to_json() for k, s in m.shapes.items()}
    plain["texts"] = {k: t.to_json() for k, t in m.texts.items()}
    plain["hard"] = {k: _fields(h) for k, h in m.hard.items()}
    plain["effects"] = rules.to_json(m.effects)
    plain["takings"] = gone.to_json(m.takings)
    plain["draws"] = [_fields(d) for d in m.draws]
    plain["after"] = {k: _fields(a) for k, a in m.after.items()}
    plain["evidence"] = _fields(m.evidence)
    plain["retrieval"] = None if m.retrieval is None else m.retrieval.to_json()
    plain["query"] = None
    if m.query is not None:
        plain["query"] = _fields(m.query, "rows", "_keyed", "_index")
        plain["query"]["searches"] = [_fields(s) for s in m.query.searches]
        plain["query"]["rows"] = [_fields(r) for r in m.query.rows]
    return plain


def from_json(data: dict[str, Any]) -> World:
    """The world of a document."""
    versions = {
        d: {key: [(e, fields) for e, fields in held] for key, held in things}
        for d, things in data["memory"]
    }
    limit, dropped, receipts = data["kept"]
    times, left, anew = data["times"]
    book = data["book"]
    openings = [Opening(**{**o, "parts": _parts(o["parts"])}) for o in book["openings"]]
    situations = [
        Situation(
            s["words"],
            [
                Reply(None if r["parts"] is None else _parts(r["parts"]), r["n"], r["last"])
                for r in s["replies"]
            ],
        )
        for s in book["situations"]
    ]
    exchanges = [
        Exchange(
            tuple((path, one) for path, one in e["saying"]),
            [(_parts(clause), n) for clause, n in e["clauses"]],
        )
        for e in book["exchanges"]
    ]
    models = [_read_tool(m) for m in data["models"]]
    listings = [m.query for m in models if m.query is not None]
    for m in models:
        m.listings = listings
    return World(
        Ids(**data["ids"]),
        Memory(
            versions,
            limit,
            dropped,
            receipts,
            data["mentions"],
            data["words"],
            data["lasts"],
            lives.from_json(data["lives"]),
        ),
        {m.facts.name: m for m in models},
        data["declared"],
        data["pooled"],
        {k: Template.from_json(t) for k, t in data["unknown"].items()},
        Book(
            openings,
            book["groups"],
            situations,
            _read_population(book["population"]),
            exchanges,
            book["kinds"],
            _votes(book["votes"], book["totals"], book["heard"]),
            {w: [(path, value) for path, value in own] for w, own in book["implied"].items()},
        ),
        Failures(
            **data["failures"],
            envelope=Envelope(**data["envelope"]),
            layouts={tool: layouts.from_json(own) for tool, own in data["layouts"].items()},
        ),
        data["episodes"],
        doubts=_doubts(data["doubts"]),
        left_out=data.get("left_out", {}),
        moments=Moments(times, (left, anew)),
        versions={tool: Version(**v) for tool, v in data["versions"].items()},
    )


def _doubts(data: dict[str, Any] | None) -> Doubts | None:
    return (
        None
        if data is None
        else Doubts(tuples(data["given"]), tuples(data["whole"]), tuple(data["outside"]))
    )


def _parts(parts: list[Any]) -> list[Part]:
    return [p if isinstance(p, str) else (p[0], p[1]) for p in parts]


def _population(p: Population) -> dict[str, Any]:
    return {**_fields(p, "_pools"), "profiles": [_fields(own) for own in p.profiles]}


def _read_population(data: dict[str, Any]) -> Population:
    profiles = [Profile(**own) for own in data["profiles"]]
    slips = [(word, wrong, n) for word, wrong, n in data["slips"]]
    return Population(**{**data, "profiles": profiles, "slips": slips})


def _votes(counts: list[Any], totals: list[Any], heard: list[Any]) -> Votes:
    votes = Votes()
    votes.counts.update({(name, (side, words)): n for name, (side, words), n in counts})
    votes.totals.update({(side, words): n for (side, words), n in totals})
    votes.words.update({(word, held, (side, words)): n for word, held, (side, words), n in heard})
    return votes


def _read_tool(data: dict[str, Any]) -> ToolModel:
    query = data.pop("query")
    if query is not None:
        rows = [Row(**r) for r in query.pop("rows")]
        for name in ("equal", "most", "least"):
            query[name] = [tuple(x) for x in query[name]]
        query["searches"] = [Search(**s) for s in query["searches"]]
        query["order"] = {p: [tuple(r) for r in rules] for p, rules in query["order"].items()}
        query["default"] = tuple(query["default"]) if query["default"] else None
        query["derived"] = {k: tuple(v) for k, v in query["derived"].items()}
        query = Query(**query, rows=rows)
    facts = ToolFacts(**data["facts"])
    facts.overlaps = [Overlap(*tuplify(o)) for o in data["facts"]["overlaps"]]
    facts.owners = [(p, name, part, path) for p, name, part, path in facts.owners]
    return ToolModel(
        **{
            **data,
            "facts": facts,
            "tree": tuples(data["tree"]),
            "shapes": {k: Shape.from_json(s) for k, s in data["shapes"].items()},
            "texts": {k: Template.from_json(t) for k, t in data["texts"].items()},
            "hard": {k: Hard(**h) for k, h in data["hard"].items()},
            "effects": rules.from_json(data["effects"]),
            "takings": gone.from_json(data["takings"]),
            "draws": [draws.read(d) for d in data["draws"]],
            "after": {k: After(**a) for k, a in data["after"].items()},
            "recall": {k: [(e, v) for e, v in held] for k, held in data["recall"].items()},
            "query": query,
            "evidence": evidence.read(data.get("evidence", {})),
            "retrieval": retrieval.read(data["retrieval"]),
        }
    )
