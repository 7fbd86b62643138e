"""Scenarios mined from captured episodes and recombined: one episode's wording, its clauses
exchanged for others', with another's values, drawn together where they depend on each other."""

import copy
import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.core.types import (
    Episode,
    Message,
    Scenario,
    Split,
    Tool,
    Transition,
    canonical_json,
    split_of,
    text_of,
)
from understudy.world.data.dependence import coded, dependent
from understudy.world.data.values import WORD, chance, is_number, leaves, parse, put, unescape
from understudy.world.users.clauses import (
    Exchange,
    Exchanger,
    Implied,
    mine_exchanges,
    mine_implied,
)
from understudy.world.users.profiles import Population, mine_population, mine_slips
from understudy.world.users.situations import Situation, left_at, mine_situations
from understudy.world.users.wording import (
    Part,
    Votes,
    flat,
    join,
    kind,
    occurrences,
    say,
    slots,
    split_text,
)


@dataclass(slots=True)
class Opening:
    """How an episode began: messages before the user's first, the first as parts, the ticket."""

    origin: str
    split: Split
    before: list[Message]
    parts: list[Part]
    metadata: dict[str, Any]
    tools: list[Tool]
    free: list[str]  # the fields that may change: said in some user turn
    hidden: dict[str, Any] = field(default_factory=dict)  # values said that no ticket holds

    @property
    def fields(self) -> dict[str, Any]:
        """The ticket's fields and the hidden ones, by their paths."""
        return {**flat(self.metadata), **self.hidden}


@dataclass(slots=True)
class Book:
    """What scenarios and users are made of."""

    openings: list[Opening] = field(default_factory=list)
    groups: list[list[str]] = field(default_factory=list)  # fields that depend on each other
    situations: list[Situation] = field(default_factory=list)
    population: Population = field(default_factory=Population)  # one profile for each opening
    exchanges: list[Exchange] = field(default_factory=list)  # clauses for each other
    kinds: list[str] = field(default_factory=list)  # fields that are slots, without item numbers
    votes: Votes = field(default_factory=Votes)  # where each stands in a text
    implied: Implied = field(default_factory=dict)  # what clauses say without its words


def mine_book(episodes: Sequence[Episode], found: Sequence[Sequence[Transition]]) -> Book:
    """Openings, dependent fields and later user turns of a traffic."""
    told = [(e, ticket_of(e, ts), _users(e)) for e, ts in zip(episodes, found, strict=True)]
    calls = [ts for (_, _, u), ts in zip(told, found, strict=True) if u]
    told = [(e, t, u) for e, t, u in told if u]
    _name_known(told)
    speakable = _speakable(told)
    votes = Votes()
    for take in (votes.hear, votes.learn):
        for _, ticket, said in told:
            for text in said:
                take(text, {p: v for p, v in ticket.items() if kind(p) in speakable})
    groups = _groups([t for _, t, _ in told], speakable)
    book = Book(groups=groups, kinds=sorted(speakable), votes=votes)
    talks: list[tuple[Episode, dict[str, Any]]] = []
    for e, ticket, said in told:
        fields = {p: v for p, v in ticket.items() if kind(p) in speakable}
        parts = split_text(said[0], fields, votes)
        spoken = set(slots(parts))
        for text in said[1:]:
            spoken |= set(slots(split_text(text, fields, votes)))
        origin = e.scenario_id or e.id
        first = next(i for i, m in enumerate(e.messages) if m["role"] == "user")
        book.openings.append(
            Opening(
                origin,
                split_of(origin),
                list(e.messages[:first]),
                parts,
                dict(e.metadata),
                list(e.tools),
                sorted(spoken),
                {p: v for p, v in fields.items() if p not in flat(e.metadata)},
            )
        )
        talks.append((e, fields))
    slips = mine_slips(*_spoken(talks))
    book.situations = mine_situations(talks, votes, right={wrong: w for w, wrong, _ in slips})
    book.population = mine_population(talks, votes, left_at(talks), slips)
    trained = [(o, ts) for o, ts in zip(book.openings, calls, strict=True) if o.split == "train"]
    book.exchanges = mine_exchanges(
        [(o.parts, o.fields) for o, _ in trained],
        [_decided(o, ts, speakable) for o, ts in trained],
    )
    book.implied = mine_implied(
        [o.parts for o, _ in trained],
        [_decided(o, (), speakable) | o.fields for o, _ in trained],
    )
    return book


def _spoken(talks: Sequence[tuple[Episode, Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
    """What users wrote, and what others did."""
    texts: tuple[list[str], list[str]] = ([], [])
    for episode, _ in talks:
        for m in episode.messages:
            texts[m["role"] != "user"].append(text_of(m.get("content")))
    return texts


def _decided(opening: Opening, calls: Sequence[Transition], speakable: set[str]) -> dict[str, Any]:
    """What may depend on how something was put: the tools called, the fields that are no slots."""
    chosen = {p: v for p, v in flat(opening.metadata).items() if kind(p) not in speakable}
    return chosen | {t.name: True for t in calls}


def _users(e: Episode) -> list[str]:
    return [text_of(m.get("content")) for m in e.messages if m["role"] == "user"]


def ticket_of(e: Episode, found: Sequence[Transition]) -> dict[str, Any]:
    """The fields of an episode's ticket, by their paths: the client's metadata and, beside it,
    argument values that the user said before a tool did."""
    ticket = flat(dict(e.metadata))
    held = {say(v, "plain") for v in ticket.values()}
    first_said = _first_said(e)
    for t in found:
        for path, value in leaves(parse(t.arguments)):
            if not isinstance(value, str) or len(value) < 4 or path in ticket or not path:
                continue
            known = value in held or unescape(path.split("/")[1]) in e.metadata
            if not known and any(ch.isdigit() for ch in value) and first_said(value):
                ticket[path] = value
    return ticket


def _first_said(e: Episode) -> Callable[[str], bool]:
    """Whether a user turn holds a text before any tool result does: what the user knew, though
    the agent may have guessed it and the user said yes."""
    told = [
        (m["role"] == "user", text_of(m.get("content")))
        for m in e.messages
        if m["role"] in ("user", "tool")
    ]
    return lambda value: next((user for user, text in told if value in text), False)


def _name_known(told: Sequence[tuple[Episode, dict[str, Any], Sequence[str]]]) -> None:
    """Add to the tickets what users said and only another episode's calls used: said by a user
    who is asked for it, it must not stay one customer's own."""
    known = {v: p for e, t, _ in told for p, v in t.items() if p not in flat(dict(e.metadata))}
    for e, ticket, said in told:
        for value in dict.fromkeys(WORD.findall("\n".join(said))):
            path = known.get(value)
            if path and path not in ticket and unescape(path.split("/")[1]) not in e.metadata:
                ticket[path] = value


def _speakable(told: Sequence[tuple[Episode, Mapping[str, Any], Sequence[str]]]) -> set[str]:
    """Fields that users put into words as they stand: nearly every value is found in the text
    of nearly every episode that has it. Others (choices that select a phrasing) are not slots."""
    seen: dict[str, Counter[Any]] = defaultdict(Counter)
    hit: dict[str, Counter[Any]] = defaultdict(Counter)
    for _, ticket, said in told:
        text = "\n".join(said)
        for path, value in ticket.items():
            if value is None or isinstance(value, bool) or value == "":
                continue
            seen[kind(path)][value] += 1
            hit[kind(path)][value] += bool(occurrences(text, {path: value}))
    found = set()
    for path, values in seen.items():
        n, k = sum(values.values()), sum(hit[path].values())
        often = [v for v, c in values.items() if c >= 5 and len(values) <= 8]
        texts = any(isinstance(v, str) for v in values)
        if k >= 0.5 * n and not (texts and any(hit[path][v] < 0.4 * values[v] for v in often)):
            found.add(path)
    return found


def _groups(tickets: Sequence[Mapping[str, Any]], speakable: set[str]) -> list[list[str]]:
    """Fields whose values depend on each other (G test against independence), as groups."""
    paths = sorted({p for t in tickets for p in t if kind(p) in speakable})
    fields = sorted({p for t in tickets for p in t if not isinstance(t[p], bool)})
    parent = {p: p for p in fields}

    def find(p: str) -> str:
        while parent[p] != p:
            p = parent[p]
        return p

    codes = {p: coded([t.get(p) for t in tickets]) for p in fields}
    for i, a in enumerate(paths):
        for b in paths[i + 1 :]:
            if dependent(codes[a], codes[b]):
                parent[find(a)] = find(b)
    groups: dict[str, list[str]] = defaultdict(list)
    for p in paths:
        groups[find(p)].append(p)
    return sorted(groups.values())


def draw_scenarios(book: Book, n: int, seed: int, split: Split) -> list[Scenario]:
    """New scenarios: a wording of the split with values of the split's tickets, none twice.

    Clauses are exchanged in the split `train` alone: held-out wordings stay as they were said.
    Fewer than n where the traffic holds no more combinations.
    """
    openings = [o for o in book.openings if o.split == split]
    if not openings:
        raise ValueError(f"no captured episode belongs to the split {split!r}")
    rng = random.Random(f"scenarios:{seed}")
    tickets = [o.fields for o in openings]
    exchanger = Exchanger(book.exchanges if split == "train" else [])
    found: dict[str, Scenario] = {}
    for _ in range(20 * n + 100):
        if len(found) >= n:
            break
        scenario = _recombine(book, rng.choice(openings), openings, tickets, exchanger, rng)
        if scenario is not None:
            found.setdefault(scenario.id, scenario)
    return list(found.values())


def _recombine(
    book: Book,
    opening: Opening,
    openings: Sequence[Opening],
    tickets: Sequence[Mapping[str, Any]],
    exchanger: Exchanger,
    rng: random.Random,
) -> Scenario | None:
    own = opening.fields
    fields = dict(own)
    for group in _free_groups(book, opening):
        for _ in range(12):
            donor = rng.choice(tickets)
            if all(fits(donor.get(p), own[p]) for p in group):
                fields.update((p, donor[p]) for p in group)
                break
    text = join(exchanger.say(opening.parts, own, rng), fields)
    if text is None:
        return None
    metadata = copy.deepcopy(opening.metadata)
    for path, value in fields.items():
        if path not in opening.hidden:
            _put(metadata, path, value)
    goal = copy.deepcopy(metadata)
    for path in opening.hidden:
        put(goal, path, fields[path])
    message: Message = {"role": "user", "content": text}
    body = canonical_json([opening.origin, text, goal])
    digest = hashlib.sha256(body.encode(errors="surrogatepass")).hexdigest()[:24]
    return Scenario(
        id=f"scn_{digest}",
        messages=(*opening.before, message),
        goal=goal,
        seed=int(digest[:8], 16) % 2**31,
        split=opening.split,
        tools=tuple(opening.tools),
        metadata=metadata,
        origin=opening.origin,
    )


def _free_groups(book: Book, opening: Opening) -> list[list[str]]:
    """The fields of an opening that may change, by groups that change together: values without a
    ticket belong to one person and thing, so all of them do, with what they depend on."""
    free = set(opening.free)
    groups = [g for g in ([p for p in g if p in free] for g in book.groups) if g]
    together = [g for g in groups if any(p in opening.hidden for p in g)]
    apart = [g for g in groups if not any(p in opening.hidden for p in g)]
    return [*apart, sorted(p for g in together for p in g)] if together else apart


def fits(new: Any, old: Any) -> bool:
    """Whether a value can stand where another stood: same kind, same grammatical number."""
    if new is None or isinstance(new, (dict, list)):
        return False
    if is_number(old):
        return is_number(new) and (new == 1) == (old == 1) and say(new, "plain") is not None
    return isinstance(new, str) == isinstance(old, str)


def _put(target: Any, path: str, value: Any) -> None:
    parts = [unescape(p) for p in path.split("/")[1:]]
    for part in parts[:-1]:
        target = target[int(part)] if isinstance(target, list) else target[part]
    if isinstance(target, list):
        target[int(parts[-1])] = value
    else:
        target[parts[-1]] = value


def user_seed(scenario: Scenario, seed: int) -> int:
    return int(chance(seed, scenario.id) * 2**31)
