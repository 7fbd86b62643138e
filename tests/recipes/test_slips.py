"""Slips: the wrong calls that are put before right ones."""

import json
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from understudy.core.rows import supervised_rows
from understudy.core.types import Completion, Episode, ModelRef, Policy, Request, Scenario, ToolCall
from understudy.envs.python_tools import PythonTools, ToolFailed
from understudy.envs.rollout import rollout
from understudy.models.loading import load_base
from understudy.recipes.slips import Slips, slipped

SCENARIO = Scenario(
    id="s",
    messages=(
        {"role": "system", "content": "Lend books."},
        {"role": "user", "content": "Lend me Middlemarch, from the northern branch"},
    ),
)


def lend(state: dict[str, int], title: str, branch: str, days: int = 7) -> dict[str, Any]:
    """Lend a book."""
    state["calls"] += 1
    if title != "Middlemarch" or branch not in ("north", "south"):
        raise ToolFailed(f"no {title!r} in {branch!r}")
    state["lent"] += 1
    return {"loan": state["lent"], "calls": state["calls"]}


LIBRARY = PythonTools([lend], lambda scenario, seed: {"calls": 0, "lent": 0})


def call(**arguments: Any) -> ToolCall:
    function = {"name": "lend", "arguments": json.dumps(arguments)}
    return {"id": "c", "type": "function", "function": function}  # type: ignore[typeddict-item]


class Lends:
    """A scripted agent: two loans, then a word."""

    async def complete(self, request: Request) -> Completion:
        turn = sum(m["role"] == "assistant" for m in request.messages)
        message: Any = {"role": "assistant", "content": "Done."}
        if turn < 2:
            made = call(title="Middlemarch", branch="north") | {"id": f"c{turn}"}
            message = {"role": "assistant", "content": None, "tool_calls": [made]}
        return Completion(id=f"{turn}", request=request, status="ok", message=message)


async def lent(environment: Any) -> Episode:
    session = await environment.start(SCENARIO, 0)
    policy = Policy("script", ModelRef("script"))
    return await rollout(Lends(), policy, session, SCENARIO, None, max_turns=4, seed=0)


@given(
    title=st.text(min_size=1), branch=st.text(), days=st.integers(),
    words=st.lists(st.text(min_size=1)), seed=st.integers(),
)  # fmt: skip
def test_a_slip_changes_one_text_or_the_name_and_nothing_else(
    title: str, branch: str, days: int, words: list[str], seed: int
) -> None:
    right = call(title=title, branch=branch, days=days)
    wrong = slipped(right, words, random.Random(seed))
    if wrong is None:
        return
    before, after = right["function"], wrong["function"]
    old, new = json.loads(before["arguments"]), json.loads(after["arguments"])
    changed = [p for p in old if old[p] != new[p]]
    assert list(old) == list(new)
    assert new["days"] == days
    assert len(changed) + (before["name"] != after["name"]) == 1


def test_a_call_without_texts_slips_in_its_name_alone() -> None:
    rng = random.Random(0)
    found = [slipped(call(days=3), ["north"], rng) for _ in range(200)]
    slips = [s for s in found if s is not None]
    assert 0 < len(slips) < 60
    assert all(json.loads(s["function"]["arguments"]) == {"days": 3} for s in slips)


async def test_what_is_played_never_sees_the_slips_beside_it() -> None:
    plain = await lent(LIBRARY)
    slips = Slips(LIBRARY, 0.9, seed=1)
    beside = await lent(slips)
    assert [m for m in beside.messages if m["role"] == "tool"] == [
        m for m in plain.messages if m["role"] == "tool"
    ]
    assert sum(map(len, slips.tried.values())) > 4


async def test_slips_stand_before_their_right_calls_with_the_error_and_are_not_learned() -> None:
    slips = Slips(LIBRARY, 0.9, seed=1)
    played = (await lent(slips)).messages
    shown = slips.into(played)
    assert [m for m in shown if not str(m.get("tool_call_id", "")).startswith("slip")
            and m.get("weight") != 0] == list(played)  # fmt: skip
    wrong = [n for n, m in enumerate(shown) if m.get("weight") == 0]
    assert wrong
    for n in wrong:
        (made,) = shown[n]["tool_calls"]
        assert shown[n + 1]["role"] == "tool"
        assert shown[n + 1]["tool_call_id"] == made["id"]
        assert str(shown[n + 1]["content"]).startswith("Error: ")
        after = next(m for m in shown[n + 2 :] if m["role"] == "assistant")
        assert after.get("weight") == 0 or after["tool_calls"][0]["id"] in ("c0", "c1")
    ids = [c["id"] for m in shown for c in m.get("tool_calls") or ()]
    assert len(set(ids)) == len(ids)
    renderer = load_base("tiny").renderer
    (whole,), _ = supervised_rows(shown, LIBRARY.specs, renderer)
    (right,), _ = supervised_rows(played, LIBRARY.specs, renderer)
    assert [e.target for e in whole.entries] == [e.target for e in right.entries]
    assert len(whole.ids) > len(right.ids)


async def test_without_a_rate_nothing_slips() -> None:
    slips = Slips(LIBRARY, 0.0, seed=1)
    played = (await lent(slips)).messages
    assert slips.into(played) == list(played)
