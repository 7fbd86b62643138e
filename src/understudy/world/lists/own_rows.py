"""The records of a listing that a session's own calls showed or made."""

from collections.abc import Iterator
from typing import Any

from understudy.world.data.matching import values_of
from understudy.world.known.state import State
from understudy.world.lists.query import Query, Row


def session_rows(query: Query, tool: str, state: State) -> list[Row]:
    """The records that the session's calls of a listing tool showed, as the last of them did, and
    those that its calls made, as they are known."""
    rows: dict[tuple[Any, str], Row] = {}
    for domain, name in state.enlisted if query.key is not None and query.rows else ():
        fields, columns = state.fields((domain, name)), query.rows[-1].fields
        if domain == query.domain and columns.keys() <= {*fields, query.key}:
            under = {p: values_of(fields[n]) for p, n in query.elsewhere.items() if n in fields}
            row = Row(name, {n: fields.get(n, name) for n in columns}, under)
            rows[query._place(row)] = row
    told = {row.key: row for row in _told(query, state)} if query.elsewhere else {}
    rows |= {query._place(row): row for row in told.values()}
    for past in state.calls if query.key is not None and tool in state.last else ():
        if not past.ok or past.name != tool:
            continue
        whole = past.value if isinstance(past.value, dict) else {}
        shown = whole.get(query.where) if query.where else past.value
        for record in shown if isinstance(shown, list) else ():
            if isinstance(record, dict) and query.key in record:
                key = query.key_of(record)
                under = {p: [v] for p, v in past.args.items() if isinstance(v, (str, int, float))}
                known = [told[key]] if key in told else query.by_key(key)
                under |= {p: v for r in known for p, v in r.under.items() if p in query.elsewhere}
                row = Row(key, record, under)
                rows[query._place(row)] = row
    return list(rows.values())


def _told(query: Query, state: State) -> Iterator[Row]:
    """Remembered records with what the session told of fields that the listing does not show."""
    for (domain, key), thing in state.things.items():
        told = {p: values_of(thing.fields[n][0]) for p, n in query.elsewhere.items()
                if n in thing.fields}  # fmt: skip
        for row in query.by_key(key) if told and domain == query.domain else ():
            yield Row(key, row.fields, {**row.under, **told}, row.episodes)
