"""Schema validity: the forms that the traffic shows of each tool's results, by outcome class."""

from collections.abc import Iterator
from typing import Any

from understudy.world.data.values import kind_of
from understudy.world.known.context import Context
from understudy.world.model import World

Node = tuple[str, str]  # collapsed path, JSON type


class Forms:
    """What results of a world's tools look like, as the world's files keep it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._forms: dict[tuple[str, str], tuple[set[Node], set[str]]] = {}

    def valid(self, c: Context | None, text: str, fails: bool) -> bool | None:
        """Whether a result has a form that the traffic shows for this tool and outcome: words of
        a known failure, or fields of known names and types, none missing that always stand there.
        None for a tool that the traffic does not show."""
        model = self.world.models.get(c.tool.name) if c is not None else None
        if model is None or c is None:
            return None
        label = self.world.classify(c, text, fails)
        if label in model.texts:
            return True
        if label not in model.shapes:
            return False
        seen, always = self._of(c.tool.name, label)
        own = set(_nodes(self.world.failures.around(c.tool.name).read(text)))
        return own <= seen and always <= {path for path, _ in own}

    def _of(self, tool: str, label: str) -> tuple[set[Node], set[str]]:
        """The nodes of a class's results, and the paths that all of them have."""
        if (tool, label) not in self._forms:
            donors = [set(_nodes(d)) for d in self.world.models[tool].shapes[label].donors]
            paths = [{p for p, _ in nodes if "#" not in p} for nodes in donors]
            always = set.intersection(*paths) if paths else set()
            self._forms[tool, label] = set().union(*donors), always
        return self._forms[tool, label]


def _nodes(value: Any, path: str = "") -> Iterator[Node]:
    kind = kind_of(value)
    yield path, "string" if kind == "empty" else kind
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _nodes(item, f"{path}/{key}")
    elif isinstance(value, list):
        for item in value:
            yield from _nodes(item, f"{path}/#")
