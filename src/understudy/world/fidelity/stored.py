"""The entity store alone, without induced rules: the ablation row between floor and world.

What the floor says is taken as a form: where a record there says what that call's argument did, it
says what this call's does; its other fields are what the session showed of the thing, or, of a
thing that the call names, what the traffic did. Nothing says which calls fail, what they change or
how values hang together.
"""

import copy
import json
from typing import Any

from understudy.world.data.values import call_key, parse
from understudy.world.fidelity.compare import failed
from understudy.world.fidelity.floor import Floor, Said
from understudy.world.model import World
from understudy.world.retrieval import things_of


class Stored:
    """Answers the calls of one episode; `observe` tells it what became of each."""

    def __init__(self, world: World, floor: Floor, seed: int = 0, at: int | None = None) -> None:
        self.ids, self.failures, self.floor = world.ids, world.failures, floor
        self.state = world.session(seed, at=at).state
        self._shown: dict[str, Said] = {}

    def copy(self) -> "Stored":
        """An independent copy, as it is now."""
        other = copy.copy(self)
        other.state, other._shown = self.state.copy(), dict(self._shown)
        return other

    def answer(self, name: str, args: dict[str, Any]) -> Said:
        """What it says to a call."""
        nearest = self.floor.nearest(name, args)
        again = self._shown.get(call_key(name, args))
        text, flag = again or nearest.said
        before = args if again else nearest.args
        if failed(self.failures, name, text, flag):
            return text, flag
        around = self.failures.around(name)
        value = around.read(text)
        filled = self._filled(name, before, args, value)
        if filled == value:
            return text, flag
        if isinstance(filled, str) and not self.failures.envelope.inside:
            return filled, flag
        return around.text(filled), flag

    def observe(self, name: str, args: dict[str, Any], text: str, flag: bool) -> None:
        """Take a result as history."""
        self._shown[call_key(name, args)] = text, flag
        fails = failed(self.failures, name, text, flag)
        value = parse(text) if fails else self.failures.around(name).read(text)
        self.state.observe(name, args, "err:" if fails else "ok:", value)

    def _filled(self, name: str, before: dict[str, Any], args: dict[str, Any], value: Any) -> Any:
        """The result of the call with the arguments `before`, with the things of this one."""
        if isinstance(value, str):
            key = self.ids.read(name, args) if name in self.ids.written else None
            found = self.state.field(key, name) if key is not None else None
            return value if found is None else found[0]
        if not isinstance(value, (dict, list)):
            return value
        value = copy.deepcopy(value)
        named = {(domain, item) for _, domain, item in self.ids.of_args(name, args)}
        told = {_text(before[p]): args[p] for p in before if p in args}
        for (domain, item), record in list(things_of(self.ids, name, args, value)):
            other = told.get(_text(item), item)
            key = domain, item if isinstance(other, (dict, list)) else other  # a wrong type
            thing = self.state.things.get(key)
            for n, old in record.items():
                known = self.state.field(key, n) if key in named else None
                if thing is not None and n in thing.fields:
                    known = thing.fields[n]
                if _text(old) in told:
                    record[n] = told[_text(old)]
                elif known is not None:
                    record[n] = known[0]
        return value


def _text(value: Any) -> str:
    """A value as JSON, so that true is not 1."""
    return json.dumps(value, sort_keys=True)
