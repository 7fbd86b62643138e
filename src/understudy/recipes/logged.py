"""Logged episodes as what policy gradients learn from: sampled ids, their logprobs, a reward.

An episode counts as logged where every completion of its agent carries the ids that were fed and
sampled and a logprob for each, of the distribution that is trained (one temperature, nothing cut
off). The reward is a named selection over feedback, or a check's verdict. What was said of a single
completion rewards that turn, what was said of the episode its last turn. A turn's reward outside of
the bound counts as its nearer end: one slip of whoever gave it, 1e6 for 1, would be all that a
batch's advantages are of.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import PositiveInt

from understudy.core.answer_form import FormError, form_of
from understudy.core.rows import Entry, Row, SampledRow, TooLong, echo_entries, rows_of
from understudy.core.types import (
    Completion,
    Episode,
    JudgeFailed,
    Request,
    Split,
    select_reward,
    split_of,
    why_no_reward,
)
from understudy.judges.check import Check
from understudy.recipes.rewards import BOUND, Bound, clipped
from understudy.runs.config import Config

NEEDED = "ids and logprobs are needed: let the engine record them (`understudy engine serve`)"


class LogConfig(Config):
    """Which logged episodes are learned from, and what rewards them."""

    split: Split | Literal["all"] = "train"  # `heldout` is what `eval` plays
    reward: str = "thumb"  # the feedback's name; with a check, its verdict instead
    reward_bound: Bound = BOUND  # a turn's reward outside counts as the nearer end
    temperature: float = 1.0  # that episodes were sampled at
    max_tokens: PositiveInt = 4096  # of a row
    long_rows: TooLong = "refuse"  # an episode with a longer row is left out; `cut`: the row's end


@dataclass(frozen=True, slots=True)
class Turn:
    """The entries `start` to `stop` of a row: one completion's tokens."""

    row: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Logged:
    """An episode with what its agent sampled. `rows` have an `rl` entry of weight 1 for each
    sampled token; `turns` are in the order in which they were sampled, one reward each. `heard` has
    each row's `ce` entries of what tools and users said, where they are asked for. `changed` counts
    what is not as it was logged: rewards clipped, rows cut."""

    id: str
    scenario: str
    version: int | None  # of the adapter that sampled its first turn
    rows: tuple[Row, ...]
    turns: tuple[Turn, ...]
    rewards: tuple[float, ...]
    changed: Mapping[str, int] = field(default_factory=dict)
    heard: tuple[tuple[Entry, ...], ...] = ()

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
        imitate: float = 0.0,
    ) -> list[Row]:
        """The rows with these advantages, one a token in sampled order, and what was heard; with
        `returns` also a `value` entry for each, `before` being what the value head said then; with
        `imitate` also a `ce` entry of that weight."""
        new = [list(own) for own in self.heard] or [[] for _ in self.rows]
        at = 0
        for turn in self.turns:
            for entry in self.rows[turn.row].entries[turn.start : turn.stop]:
                new[turn.row].append(entry._replace(weight=float(advantages[at])))
                if imitate:
                    said = entry._replace(stream="ce", weight=imitate, anchor=None)
                    new[turn.row].append(said)
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
    episodes: Sequence[Episode],
    config: LogConfig,
    check: Check | None = None,
    rewards: Mapping[str, float] | None = None,
    echo: float = 0.0,
) -> tuple[list[Logged], Counter[str]]:
    """The episodes that can be learned from, and why others are left out. With `rewards`, by the
    episode's id, those are its rewards as they are; nothing is judged or clipped here. `echo` is
    the weight of what was heard (core.rows)."""
    found: list[Logged] = []
    left_out: Counter[str] = Counter()
    for episode in episodes:
        reward = None if rewards is None else rewards[episode.id]
        taken = logged_episode(episode, config, check, reward, echo)
        if isinstance(taken, Logged):
            found.append(taken)
        else:
            left_out[taken] += 1
    return found, left_out


def changes(episodes: Sequence[Logged]) -> Counter[str]:
    """What is not as it was logged: what was done -> how often."""
    return sum((Counter(e.changed) for e in episodes), Counter())


def none_left(left_out: Counter[str]) -> ValueError:
    """What is wrong where no episode is left."""
    unrecorded = left_out["without token ids"] + left_out["without logprobs"]
    advice = f"; {NEEDED}" if unrecorded else ""
    return ValueError(
        f"no episode is left to learn from: {dict(+left_out) or 'none given'}{advice}"
    )


def logged_episode(
    episode: Episode,
    config: LogConfig,
    check: Check | None = None,
    reward: float | None = None,
    echo: float = 0.0,
) -> Logged | str:
    """The episode as logged, or why it cannot be learned from. A `reward` is taken as it is, in
    the place of what was said or judged."""
    mine = agents_turns(episode)
    unfit = why_unfit(mine, config.temperature)
    if unfit is not None:
        return unfit
    changed: Counter[str] = Counter()
    if reward is not None:
        rewards = [0.0] * (len(mine) - 1) + [reward]
    else:
        said = _rewards(episode, mine, config, check)
        if isinstance(said, str):
            return said
        rewards, changed = clipped(said, config.reward_bound)
    sampled, _ = rows_of(mine)
    longer = sum(len(row.ids) > config.max_tokens for row in sampled)
    changed += Counter({f"rows cut to {config.max_tokens} tokens": longer})
    rows, places = _rows(sampled, config.max_tokens, episode.id)
    turns, rewards = _left([places[c.id] for c in mine], rewards)
    if (longer and config.long_rows == "refuse") or not turns:
        return "longer than max_tokens"
    heard = [echo_entries(row, echo, episode.id) for row in sampled] if echo else []
    served = mine[0].served or mine[0].request.model
    return Logged(
        episode.id,
        episode.scenario_id or episode.id,
        served.version,
        tuple(rows),
        tuple(turns),
        tuple(rewards),
        changed,
        tuple(tuple(e for e in own if e.position + 1 < config.max_tokens) for own in heard),
    )


def _rows(
    sampled: Sequence[SampledRow], max_tokens: int, sample_id: str
) -> tuple[list[Row], dict[str, Turn]]:
    """Up to `max_tokens` of each row, and the turn of each completion: where its tokens are."""
    turns: dict[str, Turn] = {}
    rows: list[Row] = []
    for number, row in enumerate(sampled):
        entries: list[Entry] = []
        for span in row.spans:
            start = len(entries)
            entries += [
                Entry(t - 1, row.ids[t], "rl", 1.0, logprob, sample_id)
                for t, logprob in zip(range(span.start, span.end), span.logprobs, strict=True)
                if t < max_tokens
            ]
            turns[span.completion_id] = Turn(number, start, len(entries))
        rows.append(Row(row.ids[:max_tokens], tuple(entries)))
    return rows, turns


def _left(turns: Sequence[Turn], rewards: Sequence[float]) -> tuple[list[Turn], list[float]]:
    """The turns that have tokens. What one without any earned is the nearest one's before it, the
    first one's where there is none."""
    kept: list[Turn] = []
    earned: list[float] = []
    ahead = 0.0
    for turn, reward in zip(turns, rewards, strict=True):
        if turn.stop > turn.start:
            kept.append(turn)
            earned.append(ahead + reward)
            ahead = 0.0
        elif kept:
            earned[-1] += reward
        else:
            ahead += reward
    return kept, earned


def agents_turns(episode: Episode) -> list[Completion]:
    """What the episode's agent completed."""
    return [c for c in episode.made_for("agent") if c.status == "ok"]


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
        return "with a logprob that is not finite"
    sampling = [c.request.sampling for c in turns]
    if any(s.temperature != temperature for s in sampling):
        return f"sampled at another temperature than {temperature:g}"
    if any(s.top_p != 1.0 or s.top_k for s in sampling):
        return "sampled with top_p or top_k, which logprobs do not show"
    if any(s.logit_bias for s in sampling) or any(_is_held(c.request) for c in turns):
        return (
            "sampled with a logit bias or held to a form, which the policy's logprobs do not know"
        )
    return None


def _is_held(request: Request) -> bool:
    """Whether an engine of ours let the answer be but what the request's form allows."""
    try:
        return form_of(request) is not None
    except FormError:  # it was somebody else's engine
        return True


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
