"""`understudy demo --quick`, all of it, and what its report holds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from understudy.core.types import text_of
from understudy.demo.agent import PROOF_WORKLOAD, WORKLOAD
from understudy.demo.customers import scenarios
from understudy.demo.main import QUICK
from understudy.store import SQLiteStore

LEAF = {"mean", "low", "high", "n"}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's folder and what it said."""
    out = tmp_path_factory.mktemp("quick") / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "understudy.cli", "demo", "--quick", "--out", str(out)],
        env={**os.environ, "COLUMNS": "500", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out, done.stderr


@pytest.fixture(scope="module")
def report(played: tuple[Path, str]) -> Any:
    return json.loads((played[0] / "report.json").read_text())


def test_success_has_an_interval_for_each_policy_and_decoding(report: Any) -> None:
    success = report["success"]
    assert set(success["incumbent"]) == {"traffic", "heldout"}
    assert success["incumbent"]["traffic"]["n"] == QUICK.traffic
    for name in ("distilled", "rehearsed", "distilled_all", "distilled_checked"):
        assert set(success[name]) == {"greedy", "t1"}
        assert {leaf["n"] for leaf in success[name].values()} == {QUICK.proof}
    for leaf in (leaf for cells in success.values() for leaf in cells.values()):
        assert set(leaf) == LEAF
        assert 0 <= leaf["low"] <= leaf["mean"] <= leaf["high"] <= 1


def test_rehearsal_is_compared_with_the_better_distillation_in_pairs(report: Any) -> None:
    success = report["success"]
    for how, better in report["better_distilled"].items():
        assert success["distilled"][how] == success[better][how]
        both = (success["distilled_all"][how], success["distilled_checked"][how])
        assert success[better][how]["mean"] == max(leaf["mean"] for leaf in both)
        gain = report["gain_over_distilled"][how]
        assert set(gain) == LEAF
        assert gain["n"] == QUICK.proof
        difference = success["rehearsed"][how]["mean"] - success["distilled"][how]["mean"]
        assert gain["mean"] == pytest.approx(difference)
        left = 1 - success["distilled"][how]["mean"]
        removed = report["failures_removed"][how]
        assert removed == (pytest.approx(difference / left, abs=1e-3) if left else None)


def test_time_and_memory_are_whole(report: Any) -> None:
    seconds = report["seconds"]
    stages = {"traffic", "learn", "sample", "rehearse", "prove", "serve"}
    assert set(seconds) == stages | {"other", "total"}
    assert all(seconds[name] > 0 for name in stages)
    assert sum(v for k, v in seconds.items() if k != "total") == pytest.approx(
        seconds["total"], abs=0.5
    )
    assert 300 < report["peak_rss_mb"] < 3072


def test_the_service_saw_nothing_of_learning_and_rehearsal(
    played: tuple[Path, str], report: Any
) -> None:
    calls = report["service_calls"]
    assert calls["traffic"] > QUICK.traffic
    assert (calls["learning"], calls["rehearsal"]) == (0, 0)
    assert played[1].count("calls that the real service saw meanwhile: 0") == 3


def test_the_page_needs_nothing_but_itself(played: tuple[Path, str]) -> None:
    page = (played[0] / "report.html").read_text()
    assert re.findall(r"(?:src|href)\s*=\s*[\"'](?!#|data:)", page) == []
    assert re.findall(r"url\(\s*[\"']?(?!data:|#)|@import|<script", page) == []
    for title in ("Success in the real service", "Learning in the world, at T = 1",
                  "Fidelity per tool", "Failures by situation"):  # fmt: skip
        assert f">{title}</title>" in page, title
    assert "Neither learning nor rehearsal called the real service" in page


def test_the_alias_is_switched_and_the_same_client_is_answered(
    played: tuple[Path, str], report: Any
) -> None:
    assert report["served"]["n"] == QUICK.served
    assert "rehearsed" in report["served"]["model"]
    with SQLiteStore.open(played[0] / "store.db") as store:
        found = list(store.read_episodes(workload=PROOF_WORKLOAD))
    served = [str(e.completions[0].served) for e in found]
    assert sum("rehearsed" in name for name in served) == QUICK.served


def test_nothing_of_the_proof_is_among_what_is_learned_from(played: tuple[Path, str]) -> None:
    proof = scenarios("proof", QUICK.proof + QUICK.served)
    with SQLiteStore.open(played[0] / "store.db") as store:
        learned = list(store.read_episodes(workload=WORKLOAD))
        apart = list(store.read_episodes(workload=PROOF_WORKLOAD))
    assert (len(learned), len(apart)) == (QUICK.traffic, len(proof))
    assert {e.scenario_id for e in apart} == {s.id for s in proof}
    assert {e.scenario_id for e in learned} == {s.id for s in scenarios("traffic", QUICK.traffic)}
    tickets = {json.dumps(s.metadata, sort_keys=True) for s in proof}
    assert not tickets & {json.dumps(dict(e.metadata), sort_keys=True) for e in learned}
    wordings = {text_of(s.messages[-1].get("content")) for s in proof}
    assert not wordings & {
        text_of(m.get("content")) for e in learned for m in e.messages if m["role"] == "user"
    }
