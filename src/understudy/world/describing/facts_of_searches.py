"""What a listing's arguments look for in its records."""

from collections.abc import Iterator, Sequence
from typing import Any

from understudy.world.data.search import Search
from understudy.world.describing.facts import Case, Fact, tally
from understudy.world.known.sources import quoted
from understudy.world.lists.query import Query

_WORDED = {
    "is": "is this text",
    "in": "contains this text",
    "starts": "starts with this text",
    "word starts": "has words that start with this text",
    "words": "has these words one after another",
    "cased": "contains this text, capitals alike",
    "all": "contains each of these words",
    "all words": "has each of these words",
    "any": "contains one of these words",
}


def facts_of_searches(
    case: Case, query: Query, full: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]]
) -> Iterator[Fact]:
    """The texts that listed records have, the fields of other tools by which they are chosen, and
    what counts them. `full`: arguments and records of calls that listed some."""
    for search in query.searches:
        p = search.argument
        text = f"Only records are listed in which {_read(search)} {_WORDED[search.mode]}."
        right = tally(all(search.holds(r, a) for r in rows) for a, rows in full if a.get(p))
        yield from case.fact("takes", p, text, right)
    for p, name in query.elsewhere.items():
        text = f"Only records with this `{name}`, which other tools show, are listed."
        right = tally(
            all(a[p] in row.under.get(p, ()) for r in rows for row in query.by_key(query.key_of(r)))
            for a, rows in full
            if a.get(p) is not None
        )
        yield from case.fact("takes", p, text, right)
    if query.total is not None:
        wholes = [v for _, v in case.calls if isinstance(v, dict) and query.where in v]
        text = f"`{query.total}` counts the records that are chosen, also those that are cut off."
        least = tally(v.get(query.total, -1) >= len(v[query.where]) for v in wholes)
        yield from case.fact("gives", query.total, text, least)


def _read(search: Search) -> str:
    if search.across and len(search.fields) > 1:
        return f"the text of {quoted(search.fields)} together"
    return " or ".join(f"`{name}`" for name in search.fields)
