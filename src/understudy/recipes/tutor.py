"""What is taught at one turn: replies of the student and of the teacher, as rows with entries."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from understudy.core.protocols import Renderer
from understudy.core.rows import Row, SampledRow, Span, echo_entries
from understudy.core.teaching import anchored_row, imitated_row, reverse_row
from understudy.core.turns import FormatError
from understudy.core.types import Completion, ModelRef, Sampling
from understudy.engine.torch_engine import TorchEngine
from understudy.recipes.corrections import Correction, hindsight
from understudy.recipes.rehearsal import gather
from understudy.recipes.teacher import Teacher

if TYPE_CHECKING:
    from understudy.recipes.correct import CorrectConfig


@dataclass(frozen=True, slots=True)
class Lesson:
    """A corrected turn: its rows; for each of the student's replies how much likelier it is to the
    student than to the teacher, in nats."""

    rows: list[Row]
    gaps: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Held:
    """A replayed turn: its row, and for each token an estimate of KL(student || policy before) that
    is never negative (k3). Or why it is not held."""

    rows: list[Row]
    drifts: list[float] = field(default_factory=list)
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Tutor:
    """Asks the student, and the policy as it was `before`: the teacher, where it has read a
    correction."""

    engine: TorchEngine
    renderer: Renderer
    before: ModelRef
    config: "CorrectConfig"

    def fits(self, c: Correction) -> bool:
        """Whether a reply has room behind the correction's turn in the engine's context."""
        longest = max(map(len, (self._prompt(c.turn), self._prompt(c.turn, c))))
        return longest + self.config.max_tokens < self.engine.context

    async def lesson(
        self, c: Correction, now: ModelRef, seed: int, measured: bool = False
    ) -> Lesson:
        """The turn's rows; `measured`: only one reply of the student, and no rows."""
        prompt, rows = self._prompt(c.turn), list[Row]()
        if c.shown is not None and self.config.shown and not measured:
            output = self.renderer.assistant_ids(c.shown)
            rows.append(imitated_row(prompt, output, self.config.shown, c.id))
        if c.told is None:
            return Lesson(rows)
        reading = self._prompt(c.turn, c)
        count = 1 if measured else self.config.samples
        own = await gather([self._reply(prompt, now, seed + i) for i in range(count)])
        told = await gather([self._teacher.told(row, reading) for row in own])
        gaps = [_total(row) - math.fsum(t.logprobs) for row, t in zip(own, told, strict=True)]
        if measured:
            return Lesson([], gaps)
        rows += [reverse_row(row, t.logprobs, weight=self.config.reverse, sample_id=f"{c.id}/{i}")
                 for i, (row, t) in enumerate(zip(own, told, strict=True), seed)]  # fmt: skip
        if self.config.imitate:
            better = await gather(
                [self._reply(reading, self.before, seed + i) for i in range(count)]
            )
            rows += [imitated_row(prompt, r.ids[len(reading):], self.config.imitate, c.id)
                     for r in better]  # fmt: skip
        return Lesson(rows, gaps)

    async def held(self, turn: Completion, c: Correction, now: ModelRef, seed: int) -> Held:
        """The turn's row, unless the correction speaks of it."""
        prompt = self._prompt(turn)
        reading = self._prompt(turn, c) if c.told and self.config.speaks else None
        if max(len(prompt), len(reading or ())) + self.config.max_tokens >= self.engine.context:
            return Held([], why="longer than the context")
        row = await self._reply(prompt, now, seed)
        anchors = (await self._teacher.told(row)).logprobs
        if reading is not None and self.config.speaks is not None:
            read = (await self._teacher.told(row, reading)).logprobs
            if abs(math.fsum(anchors) - math.fsum(read)) > self.config.speaks:
                return Held([], why="a correction may speak of it")
        (span,) = row.spans
        apart = [before - own for before, own in zip(anchors, span.logprobs, strict=True)]
        drifts = [math.expm1(min(gap, 50.0)) - gap for gap in apart]
        if not self.config.hold:
            return Held([], drifts)
        return Held([anchored_row(row, anchors, self.config.hold, turn.id)], drifts)

    def heard(self, turn: Completion) -> list[Row]:
        """With `echo` (core.rows), what tools and users said between the reply before the turn and
        the turn. Nothing where there is no such reply, where the format writes it anew in the
        turn's prompt, or where that is longer than the context."""
        messages, tools = turn.request.messages, turn.request.tools
        last = max((n for n, m in enumerate(messages) if m["role"] == "assistant"), default=0)
        if not self.config.echo or not last:
            return []
        prompt, reply = self._prompt(turn), self.renderer.assistant_ids(messages[last])
        try:
            before = [*self.renderer.prompt_ids(messages[:last], tools), *reply]
        except FormatError:  # no conversation of the format's begins so
            return []
        if len(prompt) >= self.engine.context or prompt[: len(before)] != before:
            return []
        spans = (Span(len(before) - len(reply), len(before), (), ""),
                 Span(len(prompt), len(prompt), (), ""))  # fmt: skip
        entries = echo_entries(SampledRow(tuple(prompt), spans), self.config.echo, turn.id)
        return [Row(tuple(prompt), tuple(entries))]

    @property
    def _teacher(self) -> Teacher:
        return Teacher(self.engine, self.before)

    def _prompt(self, turn: Completion, c: Correction | None = None) -> list[int]:
        """The turn's prompt, as one reads it who has read the correction `c`."""
        messages = turn.request.messages
        if c is not None and c.told is not None:
            messages = hindsight(messages, c, self.config.place, self.config.form)
        return self.renderer.prompt_ids(messages, turn.request.tools)

    async def _reply(self, prompt: Sequence[int], model: ModelRef, seed: int) -> SampledRow:
        sampling = Sampling(max_tokens=self.config.max_tokens, seed=seed)
        sample = await self.engine.sample(prompt, model, sampling)
        start, ids = len(prompt), (*prompt, *sample.ids)
        return SampledRow(ids, (Span(start, len(ids), sample.logprobs, ""),))


def _total(row: SampledRow) -> float:
    return math.fsum(value for span in row.spans for value in span.logprobs)
