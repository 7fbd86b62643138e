"""What calls that went well do to listings: what is deleted is listed no longer, what is
restored is again, what is made is from then on. Mined by world.results.mine_gone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.world.known.context import Context
from understudy.world.known.state import Where
from understudy.world.results import settings
from understudy.world.results.settings import Setting


@dataclass(slots=True)
class Taking:
    """What a tool's successful calls do to the thing that `argument` names ("": that they make): it
    is taken out of the listings `where`, or comes into them (`back`). `when`: what the call must
    say, and `values` (JSON) one of which it must be. `seen`: the listings that show it."""

    argument: str
    where: Where = field(default_factory=list)
    back: bool = False
    when: Setting | None = None
    values: list[str] = field(default_factory=list)
    seen: int = 0

    def says(self, said: Mapping[Setting, Any]) -> bool:
        """Whether it is one of such calls."""
        return self.when is None or text(said.get(self.when)) in self.values


def apply(takings: Sequence[Taking], c: Context, result: Any) -> None:
    """Write what a successful call did to listings into the state, which has seen the call."""
    said = settings.said(c.args, result, {}) if takings else {}
    for taking in takings:
        if not taking.says(said):
            continue
        if not taking.argument:
            for made, _ in settings.made(c.state.ids, c.tool.name, c.args, result):
                c.state.enlist(made)
        elif (key := c.id_of(taking.argument)) is not None:
            if taking.back:
                c.state.relist(key)
            else:
                c.state.unlist(key, taking.where)


def text(value: Any) -> str:
    """What a call says, to compare."""
    return json.dumps(value, sort_keys=True)


def to_json(takings: Sequence[Taking]) -> list[Any]:
    return [[t.argument, t.where, t.back, t.when, t.values, t.seen] for t in takings]


def from_json(data: Sequence[Any]) -> list[Taking]:
    return [_taking(*own) for own in data]


def _taking(
    argument: str, where: list[Any], back: bool, when: Any, values: list[str], seen: int
) -> Taking:
    told = [(listing, p, value, gone) for listing, p, value, gone in where]
    return Taking(argument, told, back, None if when is None else (when[0], when[1]), values, seen)
