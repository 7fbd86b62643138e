"""What `bench learning` makes of the deployed agent: each recipe trains policies, of which the best
counts."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.incumbents import check_of_the_owner, run_at, traffic_of, world_of
from bench.logged import logs_at, sampled_tokens

EPOCHS = (1, 3, 6)  # of filtered SFT
RATES = {
    "lora": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "full": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
}  # an adapter's are 10 times as high
GROUPS, SIZE = 32, 4  # of a step of GRPO
# As the demo rehearses, but for the steps and the group's size: what begins at 80% at T = 1 leaves
# most groups of 4 without a difference.
FROM_SFT = (
    "steps=80", "lr=3e-4", "max_turns=12", "scenarios_per_step=32", "group_size=8",
    "max_tokens_per_microbatch=2048",
)  # fmt: skip
PAIRED = 4  # episodes of a customer, where two of them are compared
PLAYED = 0.8  # scenarios of `rft` over episodes: those that fail are played up to four times


@dataclass(frozen=True, slots=True)
class Setting:
    """What a recipe is given: the agent that was deployed, its episodes, a folder for its runs."""

    folder: Path
    seed: int
    level: int  # of the incumbent
    traffic: int  # episodes of it
    start: Path
    episodes: Sequence[Any]
    more: Mapping[str, Sequence[str]]  # settings of recipes, for small sizes

    def own(self, name: str) -> list[str]:
        """What a recipe that goes on from the deployed agent is told."""
        return [f"seed={self.seed}", f"start={self.start}", *self.more.get(name, ())]


@dataclass(frozen=True, slots=True)
class Trained:
    """A policy that a recipe made. `setting` tells several of one recipe apart."""

    path: Path  # an adapter's folder, or a model's
    sampled: int  # tokens that a policy drew for it
    learned: int | None  # tokens with a gradient, each pass over one anew; None: nobody counted
    setting: str = ""
    loss: Mapping[str, float] = field(default_factory=dict)  # nats a token


def trained(
    given: Setting, name: str, config: Any, train: Callable[[Any], Any], made: str = "adapter"
) -> Path:
    """The folder of a run, trained if it is not yet."""
    with run_at(given.folder / name, config, given.seed) as begun:
        if not (begun.path / made).exists():
            train(begun)
    return Path(begun.path)


def _of_logs(given: Setting, run: Path, setting: str = "") -> Trained:
    """What a run made of the deployed agent's episodes."""
    return Trained(run / "adapter", sampled_tokens(given.episodes), learned_tokens(run), setting)


def learned_tokens(run: Path) -> int:
    """Tokens with a gradient in all steps of a run and of its earlier stages."""
    from understudy.runs.metrics import read_metrics

    rows = [row for file in run.rglob("metrics.jsonl") for row in read_metrics(file).rows]
    return sum(r["count"].get(s, 0) for r in rows if not r["skipped"] for s in ("ce", "rl"))


def _filtered_sft(given: Setting) -> list[Trained]:
    """Distillation of what has a thumb up, from the agent that was deployed."""
    from understudy.recipes.sft import SftConfig, sft
    from understudy.runs.config import load_config

    found = []
    for epochs in EPOCHS:
        own = ["keep=feedback", "batch_episodes=8", "lr=1e-3", "split=all", f"epochs={epochs}"]
        config = load_config(SftConfig, None, [*own, *given.own("filtered_sft")])
        run = trained(
            given,
            f"filtered-{epochs}",
            config,
            lambda begun, c=config: sft(begun, given.episodes, c, None, quiet=True),
        )
        found.append(_of_logs(given, run, f"epochs_{epochs}"))
    return found


def _ppo(given: Setting) -> list[Trained]:
    from understudy.recipes.ppo import PpoConfig, ppo
    from understudy.runs.config import load_config

    config = load_config(PpoConfig, None, ["log.split=all", *given.own("ppo")])
    run = trained(
        given, "ppo", config, lambda begun: ppo(begun, given.episodes, config, None, quiet=True)
    )
    return [_of_logs(given, run)]


def _stream(given: Setting) -> list[Trained]:
    from understudy.recipes.arrivals import Given
    from understudy.recipes.stream import StreamConfig, stream
    from understudy.runs.config import load_config

    config = load_config(StreamConfig, None, ["log.split=all", *given.own("stream")])
    run = trained(
        given,
        "stream",
        config,
        lambda begun: stream(begun, Given(given.episodes), config, None, quiet=True),
    )
    return [_of_logs(given, run)]


def _kto(given: Setting) -> list[Trained]:
    from understudy.recipes.kto import KtoConfig, kto
    from understudy.recipes.preference_data import thumbs_of
    from understudy.runs.config import load_config

    own = ["split=all", "feedback=thumb", *given.own("kto")]
    config = load_config(KtoConfig, None, own)

    def train(begun: Any) -> None:
        thumbs, left_out = thumbs_of(
            given.episodes, config.feedback, config.split, config.threshold
        )
        kto(begun, thumbs, config, left_out, quiet=True)

    return [_of_logs(given, trained(given, "kto", config, train))]


def paired_episodes(given: Setting) -> list[Any]:
    """Pairs are of two episodes of one customer, which the log has not: as many episodes again, of
    a `PAIRED`th of the customers, told apart by their thumbs."""
    customers = max(1, len(given.episodes) // PAIRED)
    return logs_at(given.folder, "pairs", given.start, customers, 3_000_000 + given.seed, PAIRED)


def _dpo(given: Setting) -> list[Trained]:
    from understudy.recipes.dpo import DpoConfig, dpo
    from understudy.recipes.preference_data import pairs_of
    from understudy.runs.config import load_config

    episodes = paired_episodes(given)
    config = load_config(DpoConfig, None, ["split=all", "feedback=thumb", *given.own("dpo")])

    def train(begun: Any) -> None:
        pairs, left_out = pairs_of(
            episodes, config.feedback, config.split, config.pairs_per_scenario, config.seed
        )
        dpo(begun, pairs, config, left_out, quiet=True)

    run = trained(given, "dpo", config, train)
    return [Trained(run / "adapter", sampled_tokens(episodes), learned_tokens(run))]


def _grpo(given: Setting, name: str, *settings: str) -> list[Trained]:
    """GRPO in the world, about as many episodes as were logged."""
    steps = max(1, len(given.episodes) // (GROUPS * SIZE))
    size = [f"scenarios_per_step={GROUPS}", f"group_size={SIZE}", f"steps={steps}", "max_turns=12"]
    return _reinforced(given, name, [*size, *settings, *given.own(name)])


def _grpo_from_sft(given: Setting) -> list[Trained]:
    """GRPO in the world from the distillation of what passes the check; a budget of its own."""
    own = [f"seed={given.seed}", *given.more.get("grpo_from_sft", ())]
    start = _checked_sft(given)[0].path
    return _reinforced(given, "grpo_from_sft", [*FROM_SFT, *own, f"start={start}"])


def _reinforced(given: Setting, name: str, settings: Sequence[str]) -> list[Trained]:
    from understudy.recipes.grpo import GrpoConfig, grpo
    from understudy.runs.config import load_config

    config = load_config(GrpoConfig, None, settings)

    def train(begun: Any) -> None:
        world, check = _world(given)
        asyncio.run(grpo(begun, world, check, config, quiet=True))

    run = trained(given, name, config, train)
    return [Trained(run / "adapter", _played_tokens(run), learned_tokens(run))]


def _played_tokens(run: Path) -> int:
    """Tokens that the policy sampled in the world, those of canaries aside."""
    from understudy.runs.metrics import read_metrics

    return sum(row["sampled_tokens"] for row in read_metrics(run / "metrics.jsonl").rows)


def _ppo_world(given: Setting) -> list[Trained]:
    """A step's updates are several, of which its metrics show the last: nobody counts them all."""
    from understudy.recipes.ppo import PpoConfig
    from understudy.recipes.ppo_world import ppo_in_world
    from understudy.runs.config import load_config

    each = min(64, len(given.episodes))
    size = [f"play.scenarios_per_step={each}", f"play.steps={len(given.episodes) // each}"]
    settings = [*size, "play.max_turns=12", *given.own("ppo_world")]
    config = load_config(PpoConfig, None, settings)

    def train(begun: Any) -> None:
        world, check = _world(given)
        asyncio.run(ppo_in_world(begun, world, check, config, quiet=True))

    run = trained(given, "ppo-world", config, train)
    return [Trained(run / "adapter", _played_tokens(run), None)]


def _opd(given: Setting) -> list[Trained]:
    """On-policy distillation in the world, of about as many episodes as were logged. The teacher is
    what `grpo_from_sft` came to: another adapter of the same base, trained with far more play."""
    from understudy.recipes.opd import OpdConfig, opd
    from understudy.runs.config import load_config

    teacher = _grpo_from_sft(given)[0].path
    steps = max(1, len(given.episodes) // 64)
    size = ["scenarios_per_step=16", "group_size=4", f"steps={steps}", "max_turns=12"]
    config = load_config(OpdConfig, None, [f"teacher={teacher}", *size, *given.own("opd")])

    def train(begun: Any) -> None:
        world, _ = _world(given)
        asyncio.run(opd(begun, config, world, quiet=True))

    run = trained(given, "opd", config, train)
    tokens = learned_tokens(run)  # each token that it samples is taught once
    return [Trained(run / "adapter", tokens, tokens)]


def _rft(given: Setting) -> list[Trained]:
    """Rejection sampling as the demo does it, of about as many episodes as were logged."""
    from understudy.demo.size import FULL
    from understudy.recipes.rft import REHEARSED, RftConfig, rft
    from understudy.runs.config import load_config

    size = f"scenarios={max(1, round(PLAYED * len(given.episodes)))}"
    own = [size, f"seed={given.seed}", *given.more.get("rft", ())]
    config = load_config(RftConfig, None, [*FULL.sft, *FULL.rft, *own])
    counted = given.folder / "rft-sampled.txt"

    def train(begun: Any) -> None:
        if not (begun.artefacts / REHEARSED).exists():
            counted.unlink(missing_ok=True)  # it plays from the beginning
        world, check = _world(given)
        check = counting(check, counted)
        asyncio.run(rft(begun, world, _traffic(given), check, config, quiet=True))

    run = trained(given, "rft", config, train)
    sampled = sum(int(line) for line in counted.read_text().split())
    return [Trained(run / "adapter", sampled, learned_tokens(run))]


def counting(check: Any, file: Path) -> Any:
    """The check, which also writes how many tokens were sampled in each episode that it meets, a
    line each: `rft` keeps no such count."""
    from understudy.judges.check import Check

    seen: set[str] = set()

    class Counting(Check):
        def judge_episode(self, episode: Any) -> Any:
            tokens = sampled_tokens([episode])
            if tokens and episode.id not in seen:  # guards judge an episode again
                seen.add(episode.id)
                with file.open("a") as lines:
                    lines.write(f"{tokens}\n")
            return super().judge_episode(episode)

    return Counting(check.function, check.name, check.version)


def _checked_sft(given: Setting) -> list[Trained]:
    """Distillation of the incumbent's episodes that pass the check, as the demo does it."""
    from understudy.demo.size import FULL
    from understudy.recipes.sft import SftConfig, sft
    from understudy.runs.config import load_config

    own = [f"epochs={FULL.sft_epochs[1]}", f"seed={given.seed}"]
    own += given.more.get("checked_sft", ())
    config = load_config(SftConfig, None, [*FULL.sft, "keep=check", *own])
    run = trained(
        given,
        "checked",
        config,
        lambda begun: sft(begun, _traffic(given), config, check_of_the_owner(), quiet=True),
    )
    return [Trained(run / "adapter", 0, learned_tokens(run))]


def _sft(given: Setting, tune: str) -> list[Trained]:
    """Distillation of the incumbent's episodes that pass the check, into the bare base, at each
    rate; `loss` is the last epoch's, and that of held-out episodes that pass."""
    from understudy.core.types import HELDOUT_SHARE, parted
    from understudy.recipes.sft import SftConfig, select, sft
    from understudy.runs.config import load_config

    found = []
    episodes, check = _traffic(given), check_of_the_owner()
    for rate in RATES[tune]:
        own = ["keep=check", "batch_episodes=4", "epochs=3", f"tune={tune}", f"lr={rate}"]
        own += [f"seed={given.seed}", *given.more.get(f"sft_{tune}", ())]
        config = load_config(SftConfig, None, own)
        made = "model" if tune == "full" else "adapter"
        run = trained(
            given,
            f"sft-{tune}-{rate}",
            config,
            lambda begun, c=config: sft(begun, episodes, c, check, quiet=True),
            made,
        )
        loss = {"loss": _last_epoch(run, config.epochs)}
        aside, _ = select(parted(episodes, HELDOUT_SHARE)[1], config, check)
        if aside:
            loss["heldout_loss"] = heldout_loss(run / made, aside)
        found.append(Trained(run / made, 0, learned_tokens(run), f"lr_{rate:g}", loss))
    return found


def _last_epoch(run: Path, epochs: int) -> float:
    """The mean loss of the last epoch's tokens, each before its step."""
    from understudy.runs.metrics import read_metrics

    rows = read_metrics(run / "metrics.jsonl").rows
    last = [r for r in rows[-max(1, len(rows) // epochs) :] if not r["skipped"]]
    tokens = sum(r["count"]["ce"] for r in last)
    return float(sum(r["loss"]["ce"] * r["count"]["ce"] for r in last) / tokens)


def heldout_loss(path: Path, episodes: Sequence[Any]) -> float:
    """Minus the mean logprob of what the assistant says in the episodes, under an adapter of the
    tiny model or under a model's folder; nats a token."""
    from understudy.recipes.learner import Lora, make_learner, training
    from understudy.recipes.sft import SftConfig, episode_rows
    from understudy.train.optimiser import TrainerConfig

    whole = (path / "config.json").exists()
    learner = make_learner(str(path) if whole else "tiny", Lora(), 0, None if whole else path)
    rows, _ = episode_rows(episodes, learner, SftConfig().max_tokens)
    with training(learner, TrainerConfig(precision="fp32"), 1) as trainer:
        scored = [value for row in trainer.logprobs(rows) for value in row]
    return -sum(scored) / len(scored)


def _world(given: Setting) -> tuple[Any, Any]:
    """The world of the incumbent's traffic, and the owner's check."""
    return world_of(_traffic(given), given.folder / "world"), check_of_the_owner()


def _traffic(given: Setting) -> list[Any]:
    return asyncio.run(traffic_of(given.folder, given.level, given.seed, given.traffic))


RECIPES: dict[str, Callable[[Setting], list[Trained]]] = {
    "filtered_sft": _filtered_sft,
    "ppo": _ppo,
    "stream": _stream,
    "kto": _kto,
    "dpo": _dpo,
    "grpo_mean": lambda given: _grpo(given, "grpo_mean"),
    "grpo_group": lambda given: _grpo(given, "grpo_group", "objective.advantage=std"),
    "grpo_global": lambda given: _grpo(given, "grpo_global", "objective.advantage=batch"),
    "ppo_world": _ppo_world,
    "checked_sft": _checked_sft,
    "grpo_from_sft": _grpo_from_sft,
    "opd": _opd,
    "rft": _rft,
    "sft_lora": lambda given: _sft(given, "lora"),
    "sft_full": lambda given: _sft(given, "full"),
}
# The row that a recipe goes on from; others go on from the deployed agent.
STARTS: dict[str, str | None] = {
    "checked_sft": None, "grpo_from_sft": "checked_sft", "rft": None, "sft_lora": None,
    "sft_full": None,
}  # fmt: skip
