"""Mining listings: which arguments select, bound, order, cut or scale the listed records."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from understudy.world.data.formats import formats
from understudy.world.data.matching import equal_values
from understudy.world.data.values import call_key, escape, is_number
from understudy.world.known.memory import Memory
from understudy.world.lists.lacks import mine_lacks
from understudy.world.lists.mine_elsewhere import mine_elsewhere
from understudy.world.lists.mine_order import mine_limit, mine_order
from understudy.world.lists.mine_search import mine_search
from understudy.world.lists.query import Query, Row
from understudy.world.lists.spans import bury, siblings, spans, there
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Step

Rows = list[tuple[Step, list[dict[str, Any]]]]


def list_in(value: Any) -> tuple[str, list[dict[str, Any]]] | None:
    """Where a result holds its one list of records, and the list."""
    if isinstance(value, list):
        return ("", value) if all(isinstance(r, dict) for r in value) else None
    if not isinstance(value, dict):
        return None
    lists = [(k, v) for k, v in value.items() if isinstance(v, list)]
    if len(lists) == 1 and all(isinstance(r, dict) for r in lists[0][1]):
        return lists[0]
    return None


def mine(steps: Sequence[Step], ids: Ids, memory: Memory) -> Query | None:
    """The listing that a tool's successful calls are, or None."""
    lists = [(s, list_in(s.value)) for s in steps if not s.failed]
    good: Rows = [(s, found[1]) for s, found in lists if found is not None]
    full = [(s, r) for s, r in good if r]
    if len(full) < 3 or len(good) < 0.8 * len(lists):
        return None
    if sum(_repeats(s, rows) for s, rows in full) > 0.5 * len(full):
        return None  # it repeats what it was given, or tells more of it
    where = Counter(f[0] for _, f in lists if f is not None and f[1]).most_common(1)[0][0]
    tool = full[0][0].name
    if where and "" in ids.keys.get(tool, {}):
        return None  # a record that has a list, not a listing
    keyed = ids.keys.get(tool, {}).get(f"/{escape(where)}/#" if where else "/#", {})
    key = next(iter(keyed), None) or _own_key(full)
    query = Query(where, key, keyed.get(key or ""), tool)
    _collect(query, full)
    names = sorted({p for s, _ in good for p in s.args})
    _mine_varying(query, full, names)
    _mine_derived(query, full, names)
    _mine_repeats(query, good)
    _mine_equal(query, full, names)
    mine_limit(query, full, names)
    taken = {query.vary, query.limit_by, *(p for p, _ in query.equal)}
    free = [p for p in names if p not in taken]
    mine_search(query, good, free)
    searched = {s.argument for s in query.searches}
    mine_elsewhere(query, good, [p for p in free if p not in searched], memory)
    mine_order(query, full, names)
    taken |= searched | query.elsewhere.keys() | query.order.keys()
    _mine_total(query, good)
    free = [p for p in names if p not in taken]
    _mine_under(query, full, [p for p in free if p != query.limit_by])
    _mine_bounds(query, full, [p for p in free if p not in query.under and p != query.limit_by])
    if query.searches or query.elsewhere:
        bury(query, good)
    mine_presence(query, good)
    _mine_unseen(query, good)
    if query.searches or query.elsewhere:
        mine_lacks(query, good)
    return query


def _repeats(s: Step, rows: list[dict[str, Any]]) -> bool:
    """Whether records are those of an argument, with all that it says of them."""
    given = [v for v in s.args.values() if isinstance(v, list) and len(v) == len(rows)]
    return any(
        all(isinstance(e, dict) and e.items() <= r.items() for e, r in zip(v, rows, strict=True))
        for v in given
    )


def _mine_varying(query: Query, full: Rows, names: list[str]) -> None:
    """An argument given which a record is always the same, where else it is not."""
    if query.key is None:
        return

    for p in names:
        values = [s.args.get(p) for s, _ in full]
        if not all(isinstance(v, (str, int)) for v in values):
            continue
        seen: dict[Any, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        again: Counter[tuple[Any, str]] = Counter()
        shown: dict[tuple[Any, str], int] = {}
        for s, rows in full:
            for r in rows:
                known = query.key_of(r), repr(s.args[p])
                if shown.get(known) == s.episode:
                    continue  # what calls in between did may show
                shown[known] = s.episode
                seen[known[0]][known[1]].add(call_key("", r))
                again[known] += 1
        several = [v for v in seen.values() if len(v) > 1]
        differ = sum(len(set.union(*v.values())) > 1 for v in several)
        pairs = sum(n > 1 for n in again.values())
        unsettled = sum(len(forms) > 1 for v in seen.values() for forms in v.values())
        if len(several) >= 5 and differ >= 0.6 * len(several) and unsettled <= 0.2 * pairs >= 1:
            query.vary = p
            _collect(query, full)
            query.under.append(p)
            return


def _mine_repeats(query: Query, good: Rows) -> None:
    """How surely a listing repeats itself, in an episode (the same records in the same order:
    what calls in between did may show) and across episodes (to the letter)."""
    inside: list[bool] = []
    across: list[bool] = []
    last: dict[str, tuple[int, str]] = {}
    own: dict[tuple[int, str], Any] = {}
    for s, rows in good:
        key, answer = call_key("", s.args), call_key("", s.value)
        listed = [query.key_of(r) for r in rows] if query.key else answer
        if (s.episode, key) in own:
            inside.append(own[s.episode, key] == listed)
        elif key in last and last[key][0] != s.episode:
            across.append(last[key][1] == answer)
        own[s.episode, key] = listed
        last[key] = (s.episode, answer)
    query.repeats = sum(inside) / len(inside) if len(inside) > 2 else 0.0
    query.recalls = sum(across) / len(across) if len(across) > 2 else 0.0


def _own_key(full: Rows) -> str | None:
    """A field whose values differ within every list."""
    for name in full[0][1][0]:
        values = [[r.get(name) for r in rows] for _, rows in full]
        if all(isinstance(v, (str, int)) for vs in values for v in vs) and all(
            len(set(vs)) == len(vs) for vs in values
        ):
            return name
    return None


def _collect(query: Query, full: Rows) -> None:
    """The records as the latest episodes first showed them: later in an episode they are as its
    calls have left them."""
    rows: dict[Any, Row] = {}
    shown: dict[Any, int] = {}
    origins: dict[int, set[int]] = defaultdict(set)
    for s, listed in full:
        for record in listed:
            key = query.key_of(record) if query.key else call_key("", record)
            place = key if query.vary is None else (key, repr(s.args.get(query.vary)))
            row = rows.setdefault(place, Row(key, record))
            if shown.get(place) != s.episode:
                row.fields, shown[place] = record, s.episode
            if s.origin not in origins[id(row)] and len(row.episodes) < 3:
                origins[id(row)].add(s.origin)
                row.episodes.append(s.episode)
            for p, v in s.args.items():
                seen = row.under.setdefault(p, [])
                if isinstance(v, (str, int, float)) and v not in seen and len(seen) < 40:
                    seen.append(v)
    query.rows = list(rows.values())


def _mine_equal(query: Query, full: Rows, names: list[str]) -> None:
    for p in names:
        asked = [(s.args[p], rows) for s, rows in full if s.args.get(p) is not None]
        if len(asked) < 3 or len({repr(v) for v, _ in asked}) < 2:
            continue
        for name in full[0][1][0]:
            hits = sum(all(equal_values(v, r.get(name)) for r in rows) for v, rows in asked)
            if hits >= 0.98 * len(asked):
                query.equal.append((p, name))


def _mine_derived(query: Query, full: Rows, names: list[str]) -> None:
    """Fields that are another field times an argument (a total of a price and a count)."""
    if query.key is None:
        return
    for name, item in full[0][1][0].items():
        if not is_number(item):
            continue
        seen: dict[Any, set[Any]] = defaultdict(set)
        for _, rows in full:
            for r in rows:
                value = r.get(name)
                seen[query.key_of(r)].add(value if is_number(value) else repr(value))
        if sum(len(v) > 1 for v in seen.values()) < 0.3 * len(seen):
            continue
        for other, p in ((o, p) for o in full[0][1][0] if o != name for p in names):
            tried = [
                (r[name], r[other] * s.args[p])
                for s, rows in full[:200]
                for r in rows
                if is_number(s.args.get(p)) and is_number(r.get(other)) and is_number(r.get(name))
            ]
            if len(tried) > 10 and sum(abs(a - b) < 0.011 for a, b in tried) > 0.97 * len(tried):
                query.derived[name] = (other, p)
                break


def _mine_total(query: Query, good: Rows) -> None:
    """The key beside a list that counts what was selected, also where the list was cut."""
    wholes = [(s, s.value, len(rows)) for s, rows in good if isinstance(s.value, dict)]
    for name in wholes[-1][1] if wholes and query.where else ():
        counts = [(s, v.get(name), n) for s, v, n in wholes]
        if not all(isinstance(v, int) and not isinstance(v, bool) and v >= n for _, v, n in counts):
            continue
        whole = [v == n for s, v, n in counts if not query.cuts(n, s.args)]
        more = sum(v != n for _, v, n in counts)
        if more >= 3 and len(whole) >= 3 and sum(whole) >= 0.98 * len(whole):
            query.total = name
            return


def _mine_under(query: Query, full: Rows, names: list[str]) -> None:
    """Arguments whose different values list different records."""
    for p in names:
        asked = [s.args[p] for s, _ in full if s.args.get(p) is not None]
        if len(asked) < 3 or any(isinstance(v, (list, dict, bool)) for v in asked):
            continue
        counts = Counter(asked)
        alone = 1 - sum((n / len(asked)) ** 2 for n in counts.values())
        often: Counter[Any] = Counter()
        for s, rows in full:
            if s.args.get(p) is not None:
                often.update(query.key_of(r) if query.key else "" for r in rows)
        again = [r for r in query.rows if often[r.key] > 1]
        if len(counts) < 2 or alone < 0.02:
            continue
        mixed = sum(len(r.under.get(p, ())) > 1 for r in again)
        expected = sum(1 - (1 - alone) ** (often[r.key] - 1) for r in again)
        if mixed <= 0.15 * expected if expected >= 3 else isinstance(asked[0], str):
            query.under.append(p)


def _mine_bounds(query: Query, full: Rows, names: list[str]) -> None:
    """Numeric arguments that bound a field, where the bound is seen to exclude records."""
    pools: dict[int, list[dict[str, Any]]] = {}
    for p in names:
        asked = [i for i, (s, _) in enumerate(full) if is_number(s.args.get(p))][:300]
        if len(asked) < 4:
            continue
        for name, item in full[0][1][0].items():
            if not is_number(item):
                continue
            for pairs, sign in ((query.most, 1), (query.least, -1)):
                broken = total = 0
                expected = 0.0
                for i in asked:
                    step, rows = full[i]
                    bound = step.args[p]
                    if i not in pools:
                        near = query.narrowed(step.args)
                        pools[i] = [r.fields for r in near if query.chooses(r, step.args)]
                    total += len(rows)
                    broken += sum(sign * (_num(r, name, bound) - bound) > 1e-9 for r in rows)
                    pool = pools[i] or [{}]
                    out = sum(
                        sign * (_num({name: query.value(r, name, step.args)}, name, bound) - bound)
                        > 1e-9
                        for r in pool
                    )
                    expected += len(rows) * out / len(pool)
                if broken <= 0.01 * total and expected >= 5 and expected > 0.04 * total:
                    pairs.append((p, name))


def _num(record: dict[str, Any], name: str, default: float) -> float:
    value = record.get(name)
    return value if is_number(value) and value is not None else default


def _mine_unseen(query: Query, good: Rows) -> None:
    """How often calls list something that no record of other scenarios answers."""
    siblings: dict[int, set[int]] = defaultdict(set)
    texts: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for s, rows in good:
        siblings[s.origin].add(s.episode)
        for p in [*query.under, *(p for p, _ in query.equal)] if rows else ():
            if isinstance(s.args.get(p), str):
                texts[p].append((s.args[p], s.origin))
    query.forms = {p: forms for p, own in texts.items() if (forms := formats(own))}
    lengths: dict[bool, list[int]] = {True: [], False: []}  # whether a value alone is unknown
    for s, rows in good[:400]:
        without = frozenset(siblings[s.origin])
        if query.new(s.args, without):
            lengths[query.unseen(s.args, without)].append(len(rows))
    enough = {k: found for k, found in lengths.items() if len(found) >= 5}
    shares = {k: sum(n > 0 for n in found) / len(found) for k, found in enough.items()}
    query.filled, query.paired = shares.get(True, 0.0), shares.get(False, 0.0)
    some = sorted(n for found in enough.values() for n in found if n)
    query.typical = some[len(some) // 2] if some else 0


def mine_presence(query: Query, good: Rows) -> None:
    """How surely a record that the rule selects is listed."""
    got = could = 0
    life = spans(query, good) if query.searches or query.elsewhere else None
    own = siblings(good) if life is not None else {}
    for s, rows in good[:400]:
        found = query.matches(s.args)
        if query.cuts(len(found), s.args):
            continue
        if life is not None:
            found = [r for r in found if there(life.get(r.key), own[s.origin])]
            rows = [r for r in rows if there(life.get(query.key_of(r)), own[s.origin])]
        got, could = got + min(len(rows), len(found)), could + len(found)
    query.present = got / could if could else 1.0
