"""A second world that looks over what was played in a first one.

Both are learned from the same traffic, each from the scenarios that the other has not seen. What
an episode rests on should hold in both: a reward that falls without an outcome which the second
world has for all but impossible, without a number outside all that it saw, or with a record as it
knows it, comes from a fault of the first (for policies that exploit such faults see ToolEmu, arXiv
2309.15817, and world models' own, arXiv 1809.01999, section 4.3).

What counts as a sign is settled by reality: signs that real episodes of the first half show more
often than a stated share are signs of the second world's own faults, and are not used.
"""

import copy
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy.core.chatml import call_error
from understudy.core.types import Episode, ToolCall
from understudy.runs.directory import write_json
from understudy.world.data.masking import hidden
from understudy.world.data.values import is_number, leaves
from understudy.world.known.context import Context
from understudy.world.known.memory import Key
from understudy.world.known.state import State
from understudy.world.model import World, WorldSession
from understudy.world.tools import conditions
from understudy.world.traffic.transitions import Step, steps, transitions
from understudy.world.users.wording import kind

FILE = "guard.json"
UNLIKELY = 0.02  # an outcome of less is not explained by chance
TOLERATED = 0.01  # of the real episodes may show a sign that is used

OTHER = "an unlikely outcome"

Class = tuple[str, str]  # tool, outcome class; the unlikely ones together are OTHER


@dataclass(frozen=True, slots=True)
class Look:
    """What the second world says of one episode."""

    signs: tuple[str, ...]  # of disagreement that reality does not show, each once
    instead: dict[str, str]  # by call: results with signs as the second world has them
    steps: int
    novel: int  # steps that nothing in its traffic is like
    came: dict[Class, tuple[float, int]]  # how often a class was to come, and how often it came

    @property
    def novelty(self) -> float:
        """The share of novel steps."""
        return self.novel / max(1, self.steps)


@dataclass(slots=True)
class Guard:
    """The second world, with what real episodes that it has not seen show of it."""

    world: World
    usual: dict[str, float] = field(default_factory=dict)  # sign -> share of real episodes
    ratios: dict[Class, float] = field(default_factory=dict)  # real count to the expected one
    novelty: float = 0.0  # mean share of novel steps in real episodes
    episodes: int = 0
    _ranges: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict, repr=False)

    @classmethod
    def learn(cls, world: World, real: Sequence[Episode]) -> "Guard":
        """`world` with what it says of real episodes of scenarios that it has not learned from.

        Raises ValueError where none of them has a call with a result.
        """
        guard = cls(world)
        looks = [look for e in real if (look := guard.look(e, every=True)).steps]
        if not looks:
            raise ValueError("no real episode with a tool call: the second world is unmeasured")
        seen = Counter(sign for look in looks for sign in look.signs)
        usual = {sign: n / len(looks) for sign, n in sorted(seen.items())}
        novelty = sum(look.novelty for look in looks) / len(looks)
        return cls(world, usual, _ratios(looks), novelty, len(looks))

    def look(self, episode: Episode, every: bool = False) -> Look:
        """Replay an episode in the second world, step by step, each with what really came before.

        With `every`, signs that real episodes show too are among them.
        """
        session = self.world.session(at=self.world.moment(episode))
        signs: list[str] = []
        instead: dict[str, str] = {}
        count, novel = 0, 0
        came: dict[Class, tuple[float, int]] = {}
        for call, s in _answered(episode, self.world):
            count += 1
            model = self.world.models.get(s.name)
            if model is None or s.bad_json:
                novel += 1
                continue
            c = model.context(session.state, s.args)
            label = self.world.classify(c, s.content, s.failed)
            chances, _ = model.chances(c, self.world.pooled)
            found, value = self._signs(session, s, c, label, chances, every)
            if found:
                signs += found
                instead[call] = json.dumps(value, ensure_ascii=False)
            wrong = bool(conditions(c))
            likely = {k for k, p in chances.items() if p >= UNLIKELY}
            novel += wrong or c.unseen is True or label not in likely
            for name in likely | {OTHER} if not wrong else ():
                expected, times = came.get((s.name, name), (0.0, 0))
                p = chances[name] if name != OTHER else UNLIKELY
                hit = name == (label if label in likely else OTHER)
                came[s.name, name] = expected + p, times + hit
            session.observe(s.name, s.args, s.content, s.flag)
        fitted = {k: (p * self.ratios.get(k, 1.0), n) for k, (p, n) in came.items()}
        return Look(tuple(dict.fromkeys(signs)), instead, count, novel, fitted)

    def _signs(
        self,
        session: WorldSession,
        s: Step,
        c: Context,
        label: str,
        chances: dict[str, float],
        every: bool,
    ) -> tuple[list[str], Any]:
        """The signs of one step, before the session has seen its result; and the result as the
        second world has it."""

        def used(sign: str) -> bool:
            return every or self.usual.get(sign, 0.0) <= TOLERATED

        before = session.state.same.get(c.key)
        again = before is not None and session.state.calls[before].outcome == label
        unlikely = f"{s.name}: unlikely {label}"
        if chances.get(label, 0.0) < UNLIKELY and not again and used(unlikely):
            return [unlikely], hidden(s.value)
        if s.failed:
            return [], s.value
        signs: list[str] = []
        value = copy.deepcopy(s.value)
        for domain, item, record in self.world.ids.of_result(s.name, value):
            for name, known in _otherwise(session.state, (domain, item), record):
                if used(sign := f"{s.name}: {name} known otherwise"):
                    signs.append(sign)
                    record[name] = known
        ranges = self._range(s.name)
        for path, number in list(leaves(value)):
            low, high = ranges.get(kind(path), (-math.inf, math.inf))
            beyond = is_number(number) and not low <= number <= high
            if beyond and used(sign := f"{s.name}: {kind(path)} out of range"):
                signs.append(sign)
                value = hidden(value, path)
        return signs, value

    def _range(self, tool: str) -> dict[str, tuple[float, float]]:
        """The least and the greatest number in each column of a tool's successful results."""
        if tool not in self._ranges:
            found: dict[str, list[float]] = defaultdict(list)
            for held in self.world.models[tool].recall.values():
                for _, value in held:
                    for path, item in leaves(value):
                        if is_number(item):
                            found[kind(path)].append(item)
            self._ranges[tool] = {path: (min(v), max(v)) for path, v in found.items()}
        return self._ranges[tool]

    def save(self, folder: Path) -> None:
        """The world and, beside it, what real episodes showed."""
        self.world.save(folder)
        ratios = [[*k, r] for k, r in self.ratios.items()]
        data = {"usual": self.usual, "ratios": ratios, "novelty": self.novelty}
        data["episodes"] = self.episodes
        write_json(folder / FILE, data)

    @classmethod
    def load(cls, folder: str | Path) -> "Guard":
        """Read a saved guard. Raises FileNotFoundError or ValueError with what to do."""
        file = Path(folder) / FILE
        if not file.exists():
            raise FileNotFoundError(
                f"{folder} holds no second world: write one with `understudy world learn --second`"
            )
        data = json.loads(file.read_text())
        ratios = {(tool, label): r for tool, label, r in data["ratios"]}
        world = World.load(folder)
        return cls(world, data["usual"], ratios, data["novelty"], data["episodes"])


def _answered(episode: Episode, world: World) -> Iterator[tuple[str, Step]]:
    """The calls that the environment answered, with their ids: a call against its schema is
    answered by the rollout."""
    found = transitions(episode)
    ids = [
        call["id"]
        for c in episode.completions
        if c.message
        for call in c.message.get("tool_calls") or []
        if call["id"] in episode.results
    ]
    named = ids if len(ids) == len(found) else [""] * len(found)
    for call_id, s, t in zip(named, steps(found, 0, world.failures), found, strict=True):
        call: ToolCall = {
            "id": call_id, "type": "function",
            "function": {"name": t.name, "arguments": t.arguments},
        }  # fmt: skip
        if not episode.tools or call_error(call, episode.tools) is None:
            yield call_id, s


def _ratios(looks: Sequence[Look]) -> dict[Class, float]:
    """How often each class really came for each time that it was to come; one time is added to
    both. For OTHER, whose expected count is a limit, it is 1 at least."""
    totals: dict[Class, tuple[float, int]] = {}
    for look in looks:
        for key, (expected, times) in look.came.items():
            before = totals.get(key, (0.0, 0))
            totals[key] = before[0] + expected, before[1] + times
    found = {key: (n + 1) / (p + 1) for key, (p, n) in sorted(totals.items())}
    return {key: max(1.0, r) if key[1] == OTHER else r for key, r in found.items()}


def _otherwise(state: State, key: Key, record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of a record that session and traffic know with other values alone, with one."""
    versions = state.memory.versions.get(key[0], {}).get(key[1], ())
    for name, value in list(record.items()):
        held = state.field(key, name)
        if isinstance(value, (dict, list)) or held is None or held[0] == value:
            continue
        if all(fields.get(name) != value for _, fields in versions):
            yield name, held[0]
