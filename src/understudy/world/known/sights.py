"""What a session knows of a value since an earlier sight of it: what calls on other things did to
it, as their learned effects say."""

from understudy.world.data.values import at, columns, leaves, unescape
from understudy.world.known.context import Context, Found, Source
from understudy.world.known.memory import Key

_SIGHTS = ("repeat", "still", "last")  # sources that copy an earlier result of the session


def since(path: str, source: Source, c: Context) -> Found | None:
    """The value at `path` of a call's result, where a source would copy it from an earlier sight
    of the call's thing and an effect has changed it after that; None where none has."""
    if source[0] not in _SIGHTS or source[-1] != path or not path:
        return None
    n = _sight(source, c)
    if n is None:
        return None
    name, _, inner = path[1:].partition("/")
    name = unescape(name)
    for key in _shown(n, name, c):
        thing = c.state.things.get(key)
        held = thing.fields.get(name) if thing is not None else None
        if held is not None and held[1] == "inferred" and _stands(held, name, n, c):
            try:
                return at(held[0], f"/{inner}" if inner else ""), held[1], held[2]
            except KeyError:
                return None
    return None


def _sight(source: Source, c: Context) -> int | None:
    """The call of the same tool that a source copies; of equal calls the last that went well."""
    if source[0] == "last":
        return c.state.last.get(c.tool.name) if source[1] == c.tool.name else None
    if c.key not in c.state.same:
        return None
    calls = c.state.calls
    numbers = range(c.state.same[c.key], -1, -1)
    return next((n for n in numbers if calls[n].ok and calls[n].key == c.key), None)


def _shown(n: int, name: str, c: Context) -> list[Key]:
    """The things of the call of whose field `name` call `n` of its tool tells: those that its
    result is the record of, or the only one that is named where it has no record."""
    value, ids = c.state.calls[n].value, c.state.ids
    if not isinstance(value, dict) or name not in c.state.memory.of_thing(c.tool.name, value):
        return []
    named = [(domain, item) for _, domain, item in c.ids]
    records = list(ids.of_result(c.tool.name, value))
    if not records and len(named) == 1:
        return named if not c.state.elsewhere(n, c.ids) else []
    return [(d, item) for d, item, record in records if record is value and (d, item) in named]


def _stands(held: Found, name: str, n: int, c: Context) -> bool:
    """Whether a field was set by the effect of a call after call `n`, whose result does not tell
    it, and still holds: no call since has named a part of its value, of which it may have changed
    what no effect was learned of."""
    if not held[2].startswith("call ") or (by := int(held[2].removeprefix("call "))) <= n:
        return False
    result = c.state.calls[by].value
    if isinstance(result, dict) and name in result:
        return False
    parts = [v for _, v in columns(held[0])] if isinstance(held[0], (dict, list)) else []
    later = (past for past in c.state.calls[by + 1 :] if past.ok)
    return not any(v in parts for past in later for _, v in leaves(past.args))
