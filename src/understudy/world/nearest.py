"""Answers of a tool as its nearest remembered call was answered (world.retrieval)."""

import copy
import json
from typing import TYPE_CHECKING, Any

from understudy.world.data.values import escape, parse
from understudy.world.known.context import Context, kind_at
from understudy.world.known.state import Mark
from understudy.world.lists.listings import list_in
from understudy.world.lists.query import Query
from understudy.world.retrieval import FAR, FEW, Retrieval, things_of
from understudy.world.tools import Prediction, ToolModel, conditions

if TYPE_CHECKING:
    from understudy.world.model import World


def answer(
    world: "World", model: ToolModel, how: Retrieval, c: Context, p: Prediction
) -> tuple[int, bool] | None:
    """Replace a prediction's result by that of the nearest call; its level of nearness, and whether
    the outcome class is that call's too. None, the prediction as it was, where the session
    knows better, the rules say that the call fails and are to be believed, or nothing near is
    remembered."""
    if _session_knows(model, c):
        return None
    whole = how.whole and not _decided(world, model, c)
    if not whole and not p.outcome.startswith("ok"):
        return None
    found = how.best(c, not whole)
    if found is None or (found[1] == FAR and not how.far):
        return None
    call, level = found
    around = world.failures.around(model.facts.name)
    if isinstance(call, int):
        past = c.state.calls[call]
        value, failed, args = copy.deepcopy(past.value), not past.ok, past.args
        text = value if isinstance(value, str) else json.dumps(value) if failed else None
        marks = {"": Mark(kind_at(past, ""), f"call {call}")}
        flag = _flag(model, past.outcome)
    else:
        failed, args, flag = call.failed, call.args, call.flag
        value = parse(call.content) if failed else around.read(call.content)
        text = call.content if failed else value if isinstance(value, str) else None
        marks = {"": Mark("remembered", f"episode {call.episode} call {call.step}")}
    if failed == p.outcome.startswith("ok"):
        content = text if text is not None else around.text(value)
        p.outcome = world.classify(c, content, failed)
    if how.current and not failed and isinstance(value, (dict, list)):
        marks |= _update(c, args, value)
        _unlist(model.query, c, value)
    p.value, p.text, p.flag, p.marks = value, text, flag, marks
    p.doubt = how.levels[level].doubt
    p.least = p.doubt if how.levels[level].calls < FEW else 0.0
    if whole:
        p.chances = sure_of(p.chances, p.outcome, how.levels[level].sure)
        p.failure = sum(v for k, v in p.chances.items() if k.startswith("err"))
    return level, whole


def sure_of(chances: dict[str, float], outcome: str, sure: float) -> dict[str, float]:
    """The chances with that of one outcome class set, the others sharing what is left."""
    rest = {k: v for k, v in chances.items() if k != outcome}
    total = sum(rest.values())
    if total <= 0:
        return {outcome: 1.0}
    return {outcome: sure, **{k: (1 - sure) * v / total for k, v in rest.items()}}


def _session_knows(model: ToolModel, c: Context) -> bool:
    """Whether the session's own calls tell what a call will be answered: it made this very call
    before, or something that listings show now and no memory of them does."""
    made = c.state.relisted >= 0 and (model.query is not None or not c.ids)
    return made or c.key in c.state.same


def _decided(world: "World", model: ToolModel, c: Context) -> bool:
    """Whether the call itself, or what other tools' calls of the session did with its things, may
    decide whether it goes well: of that memory knows nothing."""
    for _, domain, item in c.ids:
        thing = c.state.things.get((domain, item))
        if thing is not None and thing.touched.keys() - {c.tool.name}:
            return True
    return model.wrong(conditions(c), world.pooled) is not None


def _flag(model: ToolModel, outcome: str) -> bool:
    if outcome in model.texts:
        return model.texts[outcome].flag > 0.5
    return model.flags.get(outcome, float(outcome.startswith("err"))) > 0.5


def _update(c: Context, args: dict[str, Any], value: Any) -> dict[str, Mark]:
    """Write into a remembered result's records what the session knows of their things; where the
    nearest call named another thing, this call's and what is known of it. Their provenance, by
    path, where the result is one record."""
    marks: dict[str, Mark] = {}
    named = {p for p, _, _ in c.ids}
    told = {_text(v): c.args[p] for p, v in args.items() if p in named and v != c.args.get(p)}
    for (domain, item), record in list(things_of(c.state.ids, c.tool.name, args, value)):
        other = told.get(_text(item), item)
        key = domain, item if isinstance(other, (dict, list)) else other  # a wrong type
        thing = c.state.things.get(key)
        for name, old in record.items():
            known = thing.fields.get(name) if thing is not None else None
            if known is None and key[1] != item:
                known = c.state.field(key, name)
            if _text(old) in told:
                known = told[_text(old)], "observed", "arguments"
            if known is None:
                continue
            record[name] = known[0]
            if record is value:
                marks[f"/{escape(name)}"] = Mark(known[1], known[2])
    return marks


def _unlist(query: Query | None, c: Context, value: Any) -> None:
    """Take out of a remembered listing what the session's calls took out of it."""
    if query is None or query.domain is None or not c.state.unlisted:
        return
    _, shown = list_in(value) or ("", [])
    kept = [
        r for r in shown
        if not c.state.hides((query.domain, query.key_of(r)), c.tool.name, c.args)
    ]  # fmt: skip
    if len(kept) < len(shown):
        for name in [n for n in value if type(value[n]) is int] if isinstance(value, dict) else ():
            value[name] -= (len(shown) - len(kept)) * (value[name] == len(shown))
        shown[:] = kept


def _text(value: Any) -> str:
    """A value as JSON, so that true is not 1."""
    return json.dumps(value, sort_keys=True)
