"""The width report: simulated users against held-out ones, beside real ones against each other."""

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import recorded, talk

from understudy.cli import main
from understudy.core.types import Episode, Message, text_of
from understudy.recipes.user_width import goal_of, measure_users, mine_users, mined_speakers
from understudy.store import SQLiteStore
from understudy.world.users.clusters import ALIKE, assign, entropy, gather, masked, vectors
from understudy.world.users.width import Line, WidthReport, real_talk, simulated_talk

WISHES = ("a chair", "two tables", "our lamp", "that shelf", "one sofa", "the rug", "some bed")
ANSWERS = ("Make it {c}.", "I would like {c}", "{c}, thanks", "Only {c} will do!", "What is there?")
COLOURS = ("crimson", "teal", "ochre", "violet")


def customers(n: int, first: int = 0) -> list[Episode]:
    """Conversations of a wish and, in most, a question and its answer."""
    found = []
    for k in range(first, first + n):
        rng = random.Random(k)
        colour = rng.choice(COLOURS)
        lines = [f"Please get me {rng.choice(WISHES)}", "Which colour?"]
        lines += [rng.choice(ANSWERS).format(c=colour), "It is done."] if k % 5 else []
        lines += ["Thank you!", "You are welcome."] if k % 3 == 0 and k % 5 else []
        found.append(talk(f"e{k}", lines, {"ticket": {"colour": colour}}))
    return found


class Monotonous:
    """A user who always says the same, in place of the mined ones."""

    left = False

    async def reply(self, seen: Sequence[Message]) -> Message | None:
        return {"role": "user", "content": "Yes."}


class Silent:
    """A user who says what it wants and leaves when it is asked."""

    left = False

    async def reply(self, seen: Sequence[Message]) -> Message | None:
        return None if seen else {"role": "user", "content": "Een kast."}


class Echo:
    """The episode's own user once more."""

    left = False

    def __init__(self, e: Episode) -> None:
        self.messages = list(e.messages)

    async def reply(self, seen: Sequence[Message]) -> Message | None:
        after = self.messages[len(seen) : len(seen) + 1]
        return after[0] if after else None


def lines_of(report: WidthReport) -> dict[str, Line]:
    return {line.name: line for line in report.lines}


@pytest.fixture(scope="module")
def report() -> WidthReport:
    book = mine_users(customers(200))
    return asyncio.run(measure_users(mined_speakers(book), customers(200, first=1000)))


def test_mined_users_are_as_wide_as_real_ones(report: WidthReport) -> None:
    found = lines_of(report)
    assert report.conversations == 200
    assert not report.left_out
    assert found["clusters covered"].simulated >= 0.9 * found["clusters covered"].real
    assert found["questions left open"].simulated == pytest.approx(0.2, abs=0.08)
    assert found["turns"].simulated == pytest.approx(found["turns"].real, abs=0.2)
    assert all(found[name].within for name in ("turns", "entropy of clusters"))


def test_a_user_with_one_sentence_is_seen_to_be_narrow(report: WidthReport) -> None:
    found = lines_of(
        asyncio.run(measure_users(lambda e, seed: Monotonous(), customers(100, first=1000)))
    )
    for name in ("clusters covered", "vocabulary covered", "entropy of clusters", "turns"):
        assert not found[name].within, name
    assert found["entropy of clusters"].simulated < 0.3 * found["entropy of clusters"].real
    assert found["questions left open"].simulated == 0.0


def test_the_same_users_again_are_as_far_as_the_second_sample() -> None:
    found = asyncio.run(measure_users(lambda e, seed: Echo(e), customers(100, first=1000)))
    for line in found.lines:
        assert line.distance == pytest.approx(line.real_distance), line.name
        assert line.simulated == pytest.approx(line.real), line.name
        assert line.within


def test_only_the_user_differs() -> None:
    e = customers(1, first=6)[0]
    real, before = real_talk(e, {})
    assert [p.said for p in real.points] == [
        *(text_of(m.get("content")) for m in e.messages if m["role"] == "user"), None,
    ]  # fmt: skip
    assert (real.turns, real.parting) == (3, "word")
    played = asyncio.run(simulated_talk(e, real, before, lambda e, seed: Monotonous(), 0))
    assert [p.asked for p in played.points] == [p.asked for p in real.points]
    assert played.turns == 4  # it stayed to the end


def test_a_recording_that_ends_with_the_agent_at_work_says_nothing_of_leaving() -> None:
    lines = ["A chair.", "Which colour?", "Teal.", "Let me see."]
    e = talk("e", lines, {})
    call: Any = {"role": "assistant", "content": None, "tool_calls": [
        {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}  # fmt: skip
    request = e.completions[0].request
    cut = replace(request, messages=(*request.messages[:3], call))
    e = replace(e, completions=(replace(e.completions[0], request=cut),))
    real, _ = real_talk(e, {})
    assert real.cut
    assert real.parting is None
    assert real.turns == 2


@pytest.mark.parametrize(("told", "withdrew"), [("geen kast meer", True), ({"kast": 3}, False)])
def test_who_leaves_before_any_call_went_well_withdraws_in_any_language(
    told: Any, withdrew: bool
) -> None:
    asked = recorded("e", [("zoek", {"wat": "kast"})], lambda tool, args: told)
    request = asked.completions[0].request
    more = [("assistant", "Zal ik iets anders zoeken?"), ("user", "Laat maar zitten.")]
    messages = (*request.messages, *({"role": r, "content": t} for r, t in more))
    whole = replace(request, messages=messages)  # type: ignore[arg-type]
    e = replace(asked, completions=(replace(asked.completions[0], request=whole),))
    real, before = real_talk(e, {})
    assert (real.parting, real.withdrew) == ("word", withdrew)
    played = asyncio.run(simulated_talk(e, real, before, lambda e, seed: Silent(), 0))
    assert (played.parting, played.withdrew) == ("open", withdrew)


def test_too_few_scenarios_are_refused() -> None:
    with pytest.raises(ValueError, match="four at least are needed"):
        asyncio.run(measure_users(lambda e, seed: Monotonous(), customers(3)))


def test_a_goal_is_the_ticket_and_what_was_said_beside_it() -> None:
    assert goal_of(customers(1)[0]) == customers(1)[0].metadata


def test_values_are_no_wordings() -> None:
    texts = [masked(f"Make it {c}, {n} times", {"/c": c}) for c, n in (("teal", 3), ("ochre", 8))]
    assert texts[0] == texts[1]
    assert "teal" not in texts[0]


@given(st.lists(st.text("ab cd", max_size=12), min_size=1, max_size=25))
def test_every_text_has_a_leader_that_is_like_it(texts: list[str]) -> None:
    v = vectors(texts)
    like = np.asarray(v @ v.T, dtype=np.float32)
    leaders = gather(like, range(len(texts)))
    worded = [n for n in range(len(texts)) if like[n, n] > 0.5]
    for n, place in zip(worded, assign(like, worded, leaders), strict=True):
        assert place is not None
        assert like[n, place] >= ALIKE
    apart = like[np.ix_(leaders, leaders)] - np.eye(len(leaders), dtype=np.float32) * 2
    assert (apart < ALIKE).all()


@given(st.lists(st.integers(0, 50), max_size=8))
def test_entropy_is_highest_where_all_are_as_frequent(counts: list[int]) -> None:
    there = sum(k > 0 for k in counts)
    assert -1e-9 <= entropy(counts) <= np.log2(max(1, there)) + 1e-9
    assert entropy([3] * 8) == pytest.approx(3)


def test_the_command_measures_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with SQLiteStore.open(tmp_path / "s.db") as store:
        store.write(customers(120))
    command = ["world", "users", "--fit", "0.5", "--store", str(tmp_path / "s.db")]
    assert main([*command, "--json", "--plot", str(tmp_path / "w.svg")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"turns", "clusters covered"} <= {line["name"] for line in found["lines"]}
    assert (tmp_path / "w.svg").read_text().startswith("<svg")
    assert main(command) == 0
    assert "real-real" in capsys.readouterr().out
    assert main([*command[:2], *command[4:]]) == 1
    assert "--fit" in capsys.readouterr().err


def captured(e: Episode) -> Episode:
    """The episode as a store takes it: its completions carry its id."""
    completions = (replace(c, id=f"{e.id}-{n}", request=replace(c.request, episode_id=e.id))
                   for n, c in enumerate(e.completions))  # fmt: skip
    return replace(e, completions=tuple(completions))


def test_the_command_leaves_out_what_the_world_learned_from(
    world_folder: Path, episodes: list[Episode], heldout: list[Episode], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = str(tmp_path / "s.db")
    with SQLiteStore.open(path) as store:
        store.write([captured(e) for e in episodes[:50]])
    assert main(["world", "users", str(world_folder), "--store", path]) == 1
    assert "held out" in capsys.readouterr().err
    with SQLiteStore.open(path) as store:
        store.write([captured(e) for e in heldout])
    assert main(["world", "users", str(world_folder), "--store", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["conversations"] == len(heldout)
