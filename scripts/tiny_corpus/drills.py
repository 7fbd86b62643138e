"""Dense drills: look-ups by key (induction) and choices over one list (arg-min)."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from . import words as w
from .script import Json, Script, param, tool
from .types import Dialogue, Split

# Field -> (words for its smallest value, words for its largest value).
SUPERLATIVES: dict[str, tuple[list[str], list[str]]] = {
    **{f: (["cheapest"], ["most expensive", "priciest"]) for f in w.PRICE[:8]},
    **{f: (["worst rated"], ["best rated", "top rated"]) for f in ("rating", "score", "stars")},
    "weight": (["lightest"], ["heaviest"]),
    "length": (["shortest"], ["longest"]),
    "distance": (["closest", "nearest"], ["farthest"]),
    "size": (["smallest"], ["largest", "biggest"]),
    "age": (["newest", "youngest"], ["oldest"]),
    "height": (["lowest"], ["tallest"]),
    "speed": (["slowest"], ["fastest"]),
    "width": (["narrowest"], ["widest"]),
    "duration": (["shortest", "quickest"], ["longest"]),
    "capacity": (["smallest"], ["largest"]),
}


def superlative(rng: Random, field: str, low: bool, natural: bool = True) -> str:
    """Words that ask for the smallest (`low`) or largest value of a field."""
    if natural and field in SUPERLATIVES and rng.random() < 0.55:
        return rng.choice(SUPERLATIVES[field][0 if low else 1])
    words = ["lowest", "lowest", "smallest", "least", "min"] if low else ["highest", "highest"]
    if not low:
        words += ["largest", "most", "max"]
    return f"{rng.choice(words)} {field}"


def numbers(rng: Random, count: int, kind: str = "num") -> list[int | float]:
    """`count` different values of one range: 1 to 4 digits, or decimals."""
    if kind == "good" and rng.random() < 0.7:
        top = rng.choice((50, 50, 100))
        return [v / 10 for v in rng.sample(range(10 if top == 50 else 20, top), count)]
    roll = rng.random()
    if roll < 0.10 and count <= 8:
        return list(rng.sample(range(1, 10), count))
    if roll < 0.44:
        return list(rng.sample(range(10, 100), count))
    if roll < 0.68:  # two and three digits mixed
        return list(rng.sample(range(rng.choice((5, 20, 40)), rng.choice((160, 300, 450))), count))
    if roll < 0.80:
        return list(rng.sample(range(100, 1000), count))
    if roll < 0.85:  # close together: the first digits agree
        low = rng.randrange(100, 900)
        return list(rng.sample(range(low, low + 60), count))
    if roll < 0.92:
        return list(rng.sample(range(1000, 10000), count))
    if roll < 0.96:
        return [v / 10 for v in rng.sample(range(10, 100), count)]
    return [v / 100 for v in rng.sample(range(100, 10000), count)]


def _value(rng: Random, split: Split) -> str | int | float:
    roll = rng.random()
    if roll < 0.25:
        return rng.randrange(1, 10 ** rng.choice((1, 2, 3, 4, 5)))
    if roll < 0.35:
        return rng.randrange(100, 99999) / rng.choice((10, 100))
    if roll < 0.55:
        return w.place_name(rng, split)
    if roll < 0.7:
        return w.person_name(rng, split)
    if roll < 0.85:
        return str(w.IdStyle(rng).new())
    return rng.choice(w.ATTRIBUTES[rng.choice(list(w.ATTRIBUTES))])


def induction(rng: Random, split: Split) -> Dialogue:
    """Records by key in the prompt or a tool's result, then look-ups by key."""
    s = Script(rng, split, "induction")
    count = rng.choice((2, 3, 4, 5, 6, 8))
    if rng.random() < 0.35:
        keys: list[Any] = [w.invented(rng, split, 2) for _ in range(count)]
    elif rng.random() < 0.4:
        keys = list(rng.sample(w.pool(w.NOUNS, split), count))
    else:
        ids = w.IdStyle(rng, short=rng.random() < 0.4)
        keys = [str(ids.new()) for _ in range(count)]
    keys = list(dict.fromkeys(keys))
    same = rng.random() < 0.5
    ids = w.IdStyle(rng)
    values: list[Any] = [ids.new() if same else _value(rng, split) for _ in keys]
    table = dict(zip(keys, values, strict=True))
    form = rng.randrange(5)
    key_name, value_name = w.word(rng, w.ID, split), w.word(rng, w.NOUNS, split)
    if form == 0:
        shown = "\n".join(f"{k}: {v}" for k, v in table.items())
    elif form == 1:
        shown = "; ".join(f"{k} = {v}" for k, v in table.items())
    elif form == 2:
        shown = "\n".join(f"- {k} | {v}" for k, v in table.items())
    else:
        shown = ""
    verb = w.word(rng, w.VERBS["lookup"], split)
    use = f"{w.word(rng, w.VERBS['create'], split)}_{value_name}"
    acts = rng.random() < 0.35
    kind = "integer" if all(isinstance(v, int) for v in values) else "string"
    if acts:
        s.tools.append(tool(use, {value_name: param(kind)}, [value_name]))
    if shown:
        s.user(f"{rng.choice(('Note this', 'Here is the list', 'Remember', 'Data'))}:\n{shown}")
        s.say(rng.choice(("Noted.", "OK.", "Got it.")))
    else:
        listing = f"{verb}_{w.plural(value_name)}"
        s.tools.append(tool(listing, {}, []))
        s.user(
            rng.choice(("Load the {n}.", "get the {n}", "Show me all {n}")).format(
                n=w.plural(value_name)
            )
        )
        s.call(listing, {})
        records = [{key_name: k, value_name: v} for k, v in table.items()]
        s.result(table if form == 3 else records)
        s.say(rng.choice(("Ready.", f"{len(keys)} found.", "Loaded.")))
    ask = rng.choice(("{k}?", "{k}", "What is {k}?", f"{value_name} of {{k}}?", "value for {k}"))
    back = rng.choice((f"{key_name} of {{v}}?", "which one has {v}?", "who has {v}?"))
    unique = len({str(v) for v in values}) == len(values)
    rounds = rng.randrange(min(4, len(keys)), max(5, min(10, 2 * len(keys))))
    asked = [*rng.sample(keys, len(keys)), *rng.sample(keys, len(keys))]
    for key in asked[:rounds]:
        value = table[key]
        roll = rng.random()
        if acts and roll < 0.4:
            s.user(rng.choice(("use {k}", f"{use.split('_')[0]} {{k}}", "take {k}")).format(k=key))
            s.call(use, {value_name: value if kind == "integer" else str(value)}, "copy")
            s.result({"ok": True})
            s.say("Done.")
        elif unique and roll > 0.85:
            s.user(back.format(v=value))
            s.say(str(key), "copy")
        else:
            s.user(ask.format(k=key))
            s.say(str(value), "copy")
    return s.done()


@dataclass
class Table:
    """A list of records with numeric fields of different values."""

    key: str
    fields: list[str]
    attribute: str | None
    records: list[Json]


def make_table(rng: Random, split: Split, short_ids: bool) -> Table:
    count = rng.choice((2, 2, 3, 3, 3, 4, 4, 5, 6))
    kinds = rng.choice((["price"], ["price", "good"], ["num"], ["num", "price"], ["good"]))
    pools = {"price": w.PRICE, "good": w.GOOD, "num": w.NUMERIC}
    fields = [w.word(rng, pools[kind], split) for kind in kinds]
    columns = [numbers(rng, count, kind) for kind in kinds]
    ids = w.IdStyle(rng, short=short_ids)
    key = rng.choice(w.pool(w.ID, split))
    attribute = None
    if rng.random() < 0.35:
        attribute = w.word(rng, list(w.ATTRIBUTES), split)
    values = w.ATTRIBUTES.get(attribute or "", ["a", "b", "c", "d", "e", "f", "g", "h"])
    values = rng.sample(values, min(len(values), max(2, count - rng.randrange(2))))
    records: list[Json] = []
    for i in range(count):
        record: Json = {key: ids.new()}
        for name, column in zip(fields, columns, strict=True):
            record[name] = column[i]
        if attribute:
            record[attribute] = values[i] if i < len(values) else rng.choice(values)
        records.append(record)
    if rng.random() < 0.3:
        records = [dict(sorted(r.items())) for r in records]
    return Table(key, fields, attribute, records)


def _question(
    rng: Random, t: Table, left: list[Json], seen: set[Any]
) -> tuple[str, list[Json], str] | None:
    """A question over `left`, the records that answer it (best first), and the field.

    None if the draw makes no sense or was asked before (its answer would be a copy).
    """
    asked = _draw_question(rng, t, left)
    if asked is None or not asked[1]:
        return None
    key = (asked[2], tuple(str(r[t.key]) for r in asked[1]))
    if key in seen:
        return None
    seen.add(key)
    return asked


def _draw_question(rng: Random, t: Table, left: list[Json]) -> tuple[str, list[Json], str] | None:
    roll = rng.random()
    field = rng.choice(t.fields)
    low = rng.random() < 0.5
    ranked = sorted(left, key=lambda r: r[field], reverse=not low)
    if roll < 0.66:
        return superlative(rng, field, low), ranked, field
    if roll < 0.76 and len(ranked) > 1:
        form = rng.choice(("second {s}", "next after the {s}"))
        return form.format(s=superlative(rng, field, low)), ranked[1:], field
    if (roll < 0.90 and len(t.fields) > 1) or (roll < 0.84 and len(ranked) > 2):
        cut = sorted(r[field] for r in left)[rng.randrange(1, len(left))] if len(left) > 1 else None
        if cut is None:
            return None
        if len(t.fields) > 1:
            other = next(f for f in t.fields if f != field)
            fitting = [r for r in left if r[field] < cut]
            best = sorted(fitting, key=lambda r: r[other], reverse=not low)
            form = rng.choice(("{s} with {f} under {c}", "{s}, {f} below {c}"))
            return form.format(s=superlative(rng, other, low), f=field, c=cut), best, other
        under = rng.random() < 0.5
        fitting = [r for r in left if (r[field] < cut if under else r[field] >= cut)]
        best = sorted(fitting, key=lambda r: r[field], reverse=under)
        words = ("highest", "under") if under else ("lowest", "at least")
        return f"{words[0]} {field} {words[1]} {cut}", best, field
    if t.attribute:
        value = rng.choice(left)[t.attribute]
        fitting = [r for r in left if r[t.attribute] == value]
        if len(fitting) == 1 and rng.random() < 0.6:
            form = rng.choice(("the {v} one", "{a} {v}", "which is {v}"))
            return form.format(v=value, a=t.attribute), fitting, t.attribute
        best = sorted(fitting, key=lambda r: r[field], reverse=not low)
        return f"{superlative(rng, field, low)}, {t.attribute} {value}", best, field
    return None


def choice_drill(rng: Random, split: Split) -> Dialogue:
    """One unsorted list, then several questions that each need a choice."""
    s = Script(rng, split, "choice_drill")
    t = make_table(rng, split, short_ids=rng.random() < 0.45)
    thing = w.noun(rng, split)
    pick = f"{w.word(rng, w.VERBS['act'], split)}_{thing}"
    arg = rng.choice((t.key, f"{thing}_{t.key}"))
    kind = "integer" if isinstance(t.records[0][t.key], int) else "string"
    mode = rng.choices(("text", "value", "call"), (0.4, 0.2, 0.4))[0]
    in_prompt = rng.random() < 0.35
    if mode == "call":
        s.tools.append(tool(pick, {arg: param(kind)}, [arg]))
    if in_prompt:
        shape = rng.randrange(3)
        if shape == 0:
            text = "\n".join(", ".join(f"{k} {v}" for k, v in r.items()) for r in t.records)
        elif shape == 1:
            text = " | ".join(t.records[0]) + "\n"
            text += "\n".join(" | ".join(str(v) for v in r.values()) for r in t.records)
        else:
            text = "\n".join(str(r).replace("'", '"') for r in t.records)
        s.user(f"{w.plural(thing).capitalize()}:\n{text}")
        s.say(rng.choice(("OK.", "Noted.", "Got them.")))
    else:
        search = f"{w.word(rng, w.VERBS['search'], split)}_{w.plural(thing)}"
        s.tools.append(tool(search, {}, []))
        s.user(
            rng.choice(("show the {n}", "List the {n}.", "{n}?", "Get me all {n}")).format(
                n=w.plural(thing)
            )
        )
        s.call(search, {})
        listed: Any = t.records
        if rng.random() < 0.6:
            listed = {rng.choice((w.word(rng, w.LIST, split), w.plural(thing))): t.records}
        s.result(listed)
        s.say(rng.choice((f"{len(t.records)} {w.plural(thing)}.", "Here they are.", "OK.")))
    frame = rng.choice(
        ("{q}?", "{q}", "Which has the {q}?", "take: {q}", "The {q}, please.", "{q}!")
    )
    left = list(t.records)
    seen: set[Any] = set()
    rounds = rng.randrange(4, 9)
    for turn in range(rounds):
        if len(left) > 1 and rng.random() < 0.08:  # sort all of them
            field, low = rng.choice(t.fields), rng.random() < 0.5
            order = sorted(left, key=lambda r: r[field], reverse=not low)
            way = (
                rng.choice((f"lowest {field} first", f"by {field}, ascending"))
                if low
                else rng.choice((f"highest {field} first", f"by {field}, descending"))
            )
            s.user(f"sort: {way}")
            s.say(", ".join(str(r[t.key]) for r in order), "choice")
            continue
        if len(left) > 2 and rng.random() < 0.1:  # compare two of them
            a, b = rng.sample(left, 2)
            field, low = rng.choice(t.fields), rng.random() < 0.5
            better = min(a, b, key=lambda r: r[field] if low else -r[field])
            s.user(f"{a[t.key]} or {b[t.key]}: {'lower' if low else 'higher'} {field}?")
            s.say(str(better[t.key]), "choice")
            continue
        asked = next((q for q in (_question(rng, t, left, seen) for _ in range(6)) if q), None)
        if asked is None:
            break
        text, best, field = asked
        winner = best[0]
        s.user(frame.format(q=text))
        if mode == "call":
            s.call(pick, {arg: winner[t.key]}, "choice")
            gone = len(left) > 2 and turn + 1 < rounds and rng.random() < 0.2
            if gone and len(best) > 1:
                s.result(
                    {"error": rng.choice(("taken", "gone", "no longer available", "sold out"))}
                )
                s.call(pick, {arg: best[1][t.key]}, "choice")
                left.remove(winner)
                winner = best[1]
            s.result({"ok": True} if rng.random() < 0.8 else "ok")
            s.say(rng.choice(("Done.", str(winner[t.key]), f"Took {winner[t.key]}.")))
        elif mode == "value":
            s.say(f"{winner[field]}: {winner[t.key]}", "choice")
            if len(left) > 2 and rng.random() < 0.15:
                left = _drop(s, t, left, winner, best)
        else:
            s.say(str(winner[t.key]), "choice")
            if len(left) > 2 and rng.random() < 0.15:
                left = _drop(s, t, left, winner, best)
    return s.done()


def _drop(s: Script, t: Table, left: list[Json], winner: Json, best: list[Json]) -> list[Json]:
    """The winner is gone: the user asks for the next best, and it stays gone."""
    remaining = [r for r in left if r is not winner]
    if len(best) > 1:
        s.user(
            s.rng.choice(
                ("{k} is gone, next?", "{k} is taken. Next best?", "not {k}, the next")
            ).format(k=winner[t.key])
        )
        s.say(str(best[1][t.key]), "choice")
    else:
        s.user(f"{winner[t.key]} is gone")
        s.say("OK.")
    return remaining


def number_drill(rng: Random, split: Split) -> Dialogue:
    """Many tiny lists, one a turn: the smallest or largest number, or its key."""
    s = Script(rng, split, "number_drill")
    keyed = rng.random() < 0.6
    length = rng.choice((2, 2, 3, 3, 4, 5))
    if rng.random() < 0.4:
        s.system(rng.choice(("Answer with the number alone.", "Be brief.", "Pick the right one.")))
        if keyed:
            s.messages[0]["content"] = rng.choice(("Answer with the key alone.", "Be brief."))
    form = rng.choice(("{k} {v}", "{k}: {v}", "{k}={v}", '{{"id": "{k}", "FIELD": {v}}}'))
    form = form.replace("FIELD", rng.choice(w.pool(w.PRICE + w.NUMERIC, split)))
    glue = rng.choice((", ", " ", "; ", "\n")) if not keyed else rng.choice((", ", "; ", "\n"))
    after = rng.random() < 0.5
    for _ in range(rng.randrange(6, 12)):
        values = numbers(rng, length)
        low = rng.random() < 0.5
        ask = rng.choice(
            ("lowest", "smallest", "min", "least") if low else ("highest", "largest", "max", "most")
        )
        best = min(values) if low else max(values)
        ids = w.IdStyle(rng, short=True)
        keys = [ids.new() for _ in values]
        if keyed:
            shown = glue.join(form.format(k=k, v=v) for k, v in zip(keys, values, strict=True))
        else:
            shown = glue.join(str(v) for v in values)
        s.user(f"{shown}\n{ask}?" if after else f"{ask}: {shown}")
        s.say(str(keys[values.index(best)] if keyed else best), "choice")
    return s.done()
