"""How rewards become the weights of tokens, and named sets of such options.

| preset      | advantage     | aggregate | surrogate                  | paper            |
|-------------|---------------|-----------|----------------------------|------------------|
| grpo        | std           | rollout   | clip 0.2 / 0.2             | arXiv 2402.03300 |
| dapo        | std           | token     | clip 0.2 / 0.28            | arXiv 2503.14476 |
| dr_grpo     | mean          | constant  | clip 0.2 / 0.2             | arXiv 2503.20783 |
| gspo        | std           | rollout   | gspo 3e-4 / 4e-4           | arXiv 2507.18071 |
| cispo       | std           | token     | cispo, cap 5               | arXiv 2506.13585 |
| rloo        | leave_one_out | constant  | reinforce                  | arXiv 2402.14740 |
| reinforce++ | batch         | token     | clip 0.2 / 0.2             | arXiv 2501.03262 |

With no preset: mean-centred advantages, `token`, "cispo". Whatever the preset, there is no KL term
and no reference model, the anchor is the sampler's logprob, and groups with equal rewards are left
out (DAPO's dynamic sampling without drawing again). Of DAPO its overlong reward shaping is not
part; RLOO's sum over a whole answer is `constant` up to a constant factor. What the papers call a
response, of which GRPO and GSPO take the mean, is here all that an episode's agent sampled, in
however many rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import PositiveInt

from understudy.core.rows import Row
from understudy.core.types import Episode
from understudy.runs.config import Config
from understudy.train.advantages import Advantages, group_advantages, normalised
from understudy.train.aggregate import Aggregation, aggregate

Preset = Literal["grpo", "dapo", "dr_grpo", "gspo", "cispo", "rloo", "reinforce++"]
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "grpo": {
        "objective": {"advantage": "std", "aggregate": "rollout"},
        "loss": {"rl": "clip", "clip_high": 0.2},
    },
    "dapo": {
        "objective": {"advantage": "std", "aggregate": "token"},
        "loss": {"rl": "clip"},
    },
    "dr_grpo": {
        "objective": {"advantage": "mean", "aggregate": "constant"},
        "loss": {"rl": "clip", "clip_high": 0.2},
    },
    "gspo": {
        "objective": {"advantage": "std", "aggregate": "rollout"},
        "loss": {"rl": "gspo"},
    },
    "cispo": {
        "objective": {"advantage": "std", "aggregate": "token"},
        "loss": {"rl": "cispo"},
    },
    "rloo": {
        "objective": {"advantage": "leave_one_out", "aggregate": "constant"},
        "loss": {"rl": "reinforce"},
    },
    "reinforce++": {
        "objective": {"advantage": "batch", "aggregate": "token"},
        "loss": {"rl": "clip", "clip_high": 0.2},
    },
}


class Objective(Config):
    """`advantage`: reward minus the group's mean; that over its standard deviation (`std`); minus
    the mean of the others (`leave_one_out`); or centred in the group, then of mean 0 and standard
    deviation 1 over the batch's sampled tokens (`batch`). `aggregate`: see train.aggregate."""

    advantage: Literal["mean", "std", "leave_one_out", "batch"] = "mean"
    aggregate: Aggregation = "token"
    tokens: PositiveInt = 512  # an episode, what `constant` divides by; scales the learning rate

    def of_group(self, rewards: Sequence[float], trainable: Sequence[bool]) -> Advantages:
        return group_advantages(
            rewards,
            trainable,
            divide_by_std=self.advantage == "std",
            leave_one_out=self.advantage == "leave_one_out",
        )

    def of_batch(self, chosen: Sequence[tuple[Episode, float]]) -> list[tuple[Episode, float]]:
        """The episodes that are trained on and their advantages, over the batch where so chosen."""
        if self.advantage != "batch":
            return list(chosen)
        tokens = [sampled_tokens(e) for e, _ in chosen]
        values = normalised([advantage for _, advantage in chosen], tokens)
        return [(episode, value) for (episode, _), value in zip(chosen, values, strict=True)]

    def of_rows(self, rows: Sequence[Row], episodes: int) -> list[Row]:
        """The rows as aggregated; `episodes` is how many were played, those left out included."""
        return aggregate(rows, self.aggregate, tokens=max(1, self.tokens * episodes))


def sampled_tokens(episode: Episode) -> int:
    """What there is to train of an episode: tokens that its agent sampled. Those of a simulated
    user, a judge or a world are not the policy's."""
    return sum(len(c.output_ids or ()) for c in episode.made_for("agent"))


def with_preset(values: Any) -> Any:
    """A configuration's values over those of the preset that it names."""
    name = values.get("preset") if isinstance(values, Mapping) else None
    if name not in PRESETS:  # none, or one that its field refuses
        return values
    merged = dict(values)
    for key, options in PRESETS[name].items():
        given = values.get(key, {})
        merged[key] = {**options, **given} if isinstance(given, Mapping) else given
    return merged
