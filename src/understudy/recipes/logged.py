"""Logged episodes as what policy gradients learn from: sampled ids, their logprobs, a reward.

An episode counts as logged where every completion of its agent carries the ids that were fed and
sampled and a logprob for each, of the distribution that is trained (one temperature, nothing cut
off). The reward is a named selection over feedback, or a check's verdict. What was said of a single
completion rewards that turn, what was said of the episode its last turn.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from understudy.core.rows import Entry, Row, rows_of
from understudy.core.types import (
    Completion,
    Episode,
    JudgeFailed,
    Split,
    select_reward,
    split_of,
    why_no_reward,
)
from understudy.judges.check import Check
from understudy.runs.config import Config

NEEDED = "ids and logprobs are needed: let the engine record them (`understudy engine serve`)"


class LogConfig(Config):
    """Which logged episodes are learned from, and what rewards them."""

    split: Split | Literal["all"] = "train"  # `heldout` is what `eval` plays
    reward: str = "thumb"  # the feedback's name; with a check, its verdict instead
    temperature: float = 1.0  # that episodes were sampled at
    max_tokens: int = 4096  # of a row; an episode with a longer one is left out


@dataclass(frozen=True, slots=True)
class Turn:
    """The entries `start` to `stop` of a row: one completion's tokens."""

    row: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Logged:
    """An episode with what its agent sampled. `rows` have an `rl` entry of weight 1 for each
    sampled token; `turns` are in the order in which they were sampled, one reward each."""

    id: str
    scenario: str
    version: int | None  # of the adapter that sampled its first turn
    rows: tuple[Row, ...]
    turns: tuple[Turn, ...]
    rewards: tuple[float, ...]

    @property
    def reward(self) -> float:
        return math.fsum(self.rewards)

    @property
    def lengths(self) -> list[int]:
        """Sampled tokens of each turn."""
        return [t.stop - t.start for t in self.turns]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def start(self) -> Row:
        """The first prompt, with one entry: where the first token was sampled."""
        first = self.turns[0]
        entry = self.rows[first.row].entries[first.start]
        return Row(self.rows[first.row].ids[: entry.position + 1], (entry,))

    @property
    def logprobs(self) -> list[float]:
        """The recorded ones, in the order of sampling."""
        return self.in_turns([[e.anchor or 0.0 for e in row.entries] for row in self.rows])

    def in_turns(self, by_row: Sequence[Sequence[float]]) -> list[float]:
        """Numbers of the rows' entries, in the order in which the tokens were sampled."""
        return [x for t in self.turns for x in by_row[t.row][t.start : t.stop]]

    def weighted(
        self,
        advantages: Sequence[float],
        returns: Sequence[float] | None = None,
        before: Sequence[float] | None = None,
    ) -> list[Row]:
        """The rows with these advantages, one a token in sampled order; with `returns` also a
        `value` entry for each, `before` being what the value head said then."""
        new: list[list[Entry]] = [[] for _ in self.rows]
        at = 0
        for turn in self.turns:
            for entry in self.rows[turn.row].entries[turn.start : turn.stop]:
                new[turn.row].append(entry._replace(weight=float(advantages[at])))
                if returns is not None:
                    was = None if before is None else float(before[at])
                    value = Entry(entry.position, 0, "value", 1.0, float(returns[at]), self.id, was)
                    new[turn.row].append(value)
                at += 1
        return [replace(row, entries=tuple(own)) for row, own in zip(self.rows, new, strict=True)]


def in_split(episodes: Sequence[Episode], config: LogConfig) -> tuple[list[Episode], int]:
    """The episodes of the split, and how many are of another."""
    given = [e for e in episodes if config.split in ("all", split_of(e.scenario_id or e.id))]
    return given, len(episodes) - len(given)


def logged(
    episodes: Sequence[Episode], config: LogConfig, check: Check | None = None
) -> tuple[list[Logged], Counter[str]]:
    """The episodes that can be learned from, and why others are left out."""
    found: list[Logged] = []
    left_out: Counter[str] = Counter()
    for episode in episodes:
        taken = logged_episode(episode, config, check)
        if isinstance(taken, Logged):
            found.append(taken)
        else:
            left_out[taken] += 1
    return found, left_out


def none_left(left_out: Counter[str]) -> ValueError:
    """What is wrong where no episode is left."""
    unrecorded = left_out["without token ids"] + left_out["without logprobs"]
    advice = f"; {NEEDED}" if unrecorded else ""
    return ValueError(
        f"no episode is left to learn from: {dict(+left_out) or 'none given'}{advice}"
    )


def logged_episode(episode: Episode, config: LogConfig, check: Check | None = None) -> Logged | str:
    """The episode as logged, or why it cannot be learned from."""
    mine = agents_turns(episode)
    unfit = why_unfit(mine, config.temperature)
    if unfit is not None:
        return unfit
    rewards = _rewards(episode, mine, config, check)
    if isinstance(rewards, str):
        return rewards
    sampled, _ = rows_of(mine)
    if any(len(row.ids) > config.max_tokens for row in sampled):
        return "longer than max_tokens"
    places: dict[str, Turn] = {}
    rows: list[Row] = []
    for number, row in enumerate(sampled):
        entries: list[Entry] = []
        for span in row.spans:
            places[span.completion_id] = Turn(
                number, len(entries), len(entries) + len(span.logprobs)
            )
            entries += [
                Entry(t - 1, row.ids[t], "rl", 1.0, logprob, episode.id)
                for t, logprob in zip(range(span.start, span.end), span.logprobs, strict=True)
            ]
        rows.append(Row(row.ids, tuple(entries)))
    served = mine[0].served or mine[0].request.model
    return Logged(
        episode.id,
        episode.scenario_id or episode.id,
        served.version,
        tuple(rows),
        tuple(places[c.id] for c in mine),
        tuple(rewards),
    )


def agents_turns(episode: Episode) -> list[Completion]:
    """What the episode's agent completed."""
    return [c for c in episode.completions if c.request.purpose == "agent" and c.status == "ok"]


def why_unfit(turns: Sequence[Completion], temperature: float = 1.0) -> str | None:
    """Why an agent's turns are not those of the distribution that is trained, at this temperature,
    with its logprobs; None where they are."""
    if not turns:
        return "without a completion of its agent"
    if any(c.prompt_ids is None or not c.output_ids for c in turns):
        return "without token ids"
    if any(not c.logprobs or len(c.logprobs) != len(c.output_ids or ()) for c in turns):
        return "without logprobs"
    if not all(math.isfinite(p) for c in turns for p in c.logprobs or ()):
        return "with logprobs that are not finite"
    sampling = [c.request.sampling for c in turns]
    if any(s.temperature != temperature for s in sampling):
        return f"sampled at another temperature than {temperature:g}"
    if any(s.top_p != 1.0 or s.top_k for s in sampling):
        return "sampled with top_p or top_k, which logprobs do not show"
    return None


def _rewards(
    episode: Episode, completions: Sequence[Completion], config: LogConfig, check: Check | None
) -> list[float] | str:
    """The reward of each turn, or why there is none."""
    rewards = [0.0] * len(completions)
    if check is not None:
        verdict = check.judge_episode(episode)
        if isinstance(verdict, JudgeFailed):
            return f"check failed: {verdict.reason}"
        whole = select_reward([verdict], check.name)
        of_turns: list[float | None] = []
    else:
        said = episode.feedback
        whole = select_reward([f for f in said if f.completion_id is None], config.reward)
        of_turns = [
            select_reward([f for f in said if f.completion_id == c.id], config.reward)
            for c in completions
        ]
    if whole is None and not any(r is not None for r in of_turns):
        return why_no_reward(episode.feedback, config.reward)
    for n, reward in enumerate(of_turns):
        rewards[n] += reward or 0.0
    rewards[-1] += whole or 0.0
    return rewards if all(map(math.isfinite, rewards)) else "a reward that is not finite"
