"""The order of a traffic: a pottery whose pots stay from one episode to the next, or are set up
anew for each."""

import json
import random
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.config import WorldConfig
from understudy.world.describing.facts_of_time import facts_of_time
from understudy.world.known.order import Sights, arranged, began, in_time
from understudy.world.learn import learn
from understudy.world.model import World

Pots = dict[str, dict[str, Any]]
EPISODES = 120
DAY = date(2026, 1, 1)


def pots() -> Pots:
    fixed = random.Random("pots")
    return {
        f"P-{n:04d}": {"pot": f"P-{n:04d}", "clay": fixed.choice(["red", "white", "grey"]),
                       "fired": fixed.randrange(3), "glaze": fixed.choice(["none", "ash"])}
        for n in range(100, 130)
    }  # fmt: skip


class Pottery:
    """The service; its pots stay, or begin anew with every episode."""

    def __init__(self, lasting: bool) -> None:
        self.lasting, self.pots, self.number, self.day = lasting, pots(), 129, DAY
        self.before: list[Pots] = []  # the pots before each episode
        self.made: list[tuple[str, date]] = []  # what was made last, before each episode

    def answer(self, name: str, args: Any) -> Any:
        if name == "make":
            self.number += 1
            pot = {"pot": f"P-{self.number:04d}", "clay": args["clay"], "fired": 0, "glaze": "none"}
            self.pots[pot["pot"]] = pot
            return {**pot, "dry_on": str(self.day + timedelta(days=args["days"]))}
        pot = self.pots.get(args["pot"])
        if pot is None:
            return json.dumps({"error": f"no pot {args['pot']}"})
        if name == "smash":
            del self.pots[args["pot"]]
            return {"done": True}
        if name == "paint":
            pot["glaze"] = args["glaze"]
            return {"done": True}
        return dict(pot)

    def episode(self, seed: int) -> Episode:
        if not self.lasting:
            self.pots, self.number, self.day = pots(), 129, DAY
        self.day += timedelta(days=seed % 5 == 0)
        self.before.append({k: dict(v) for k, v in self.pots.items()})
        self.made.append((f"P-{self.number:04d}", self.day))
        rng = random.Random(seed)
        pot, other = rng.sample(sorted(self.pots), 2)
        glaze = rng.choice(["ash", "salt", "iron", "none"])
        calls: list[Call] = [("show", {"pot": pot}), ("paint", {"pot": pot, "glaze": glaze})]
        calls += [("show", {"pot": pot})] * rng.randrange(3)
        if rng.random() < 0.5:
            calls.append(("make", {"clay": rng.choice(["red", "white"]), "days": 1 + seed % 4}))
        if rng.random() < 0.4:
            calls += [("smash", {"pot": other}), ("show", {"pot": other})]
            calls += [("paint", {"pot": other, "glaze": "ash"})] * rng.randrange(2)
        return recorded(f"e{seed}", calls, self.answer)


def timed(episode: Episode, time: float) -> Episode:
    return replace(episode, completions=(replace(episode.completions[0], started_at=time),))


@pytest.fixture(scope="module")
def lasting() -> tuple[Pottery, list[Episode], World]:
    service = Pottery(lasting=True)
    episodes = [service.episode(n) for n in range(EPISODES)]
    return service, episodes, learn(episodes)


def test_whether_state_lasts_is_found_out_and_told(
    lasting: tuple[Pottery, list[Episode], World], tmp_path: Path
) -> None:
    service = Pottery(lasting=False)
    anew = learn([service.episode(n) for n in range(EPISODES)])
    assert (lasting[2].memory.lasts, anew.memory.lasts) == (True, False)
    assert facts_of_time(lasting[2])[0].startswith("State lasts between episodes (")
    assert facts_of_time(anew)[0].startswith("Each episode begins anew (0 of ")
    lasting[2].save(tmp_path)
    assert facts_of_time(World.load(tmp_path)) == facts_of_time(lasting[2])


def test_too_few_or_contradicting_sights_decide_nothing() -> None:
    assert Sights(4, 0).lasts is None
    assert Sights(12, 9).lasts is None
    assert (Sights(9, 1).lasts, Sights(1, 9).lasts) == (True, False)


def test_a_thing_is_as_the_last_episode_before_the_moment_left_it(
    lasting: tuple[Pottery, list[Episode], World],
) -> None:
    service, _, world = lasting
    touched: set[str] = set()
    right = asked = 0
    for n, before in enumerate([*service.before[1:], service.pots], 1):
        calls = lasting[1][n - 1].messages
        touched |= {
            json.loads(c["function"]["arguments"]).get("pot", "")
            for m in calls for c in m.get("tool_calls") or ()
        }  # fmt: skip
        for pot in sorted(touched & before.keys()):
            told = world.session(n, at=n).step("show", json.dumps({"pot": pot}), greedy=True)
            asked += 1
            right += json.loads(told.content) == before[pot]
    assert right == asked > 1000
    told = world.session().step("show", json.dumps({"pot": max(service.pots)}), greedy=True)
    assert json.loads(told.content) == service.pots[max(service.pots)]  # without: after all


def test_what_an_earlier_episode_deleted_is_gone(
    lasting: tuple[Pottery, list[Episode], World], tmp_path: Path
) -> None:
    service, _, world = lasting
    world.save(tmp_path)
    smashed = sorted(pots().keys() - service.pots.keys())
    assert len(smashed) > 10
    for played in (world, World.load(tmp_path)):
        for pot in smashed:
            args = json.dumps({"pot": pot})
            told = played.session().step("show", args, greedy=True)
            assert (told.is_error, json.loads(told.content)) == (True, {"error": f"no pot {pot}"})
            was = next(n for n in range(EPISODES) if pot not in service.before[n]) - 1
            shown = [e for e, _ in world.memory.versions["d0"].get(pot, ()) if e < was]
            if shown:
                assert not played.session(at=was).step("show", args, greedy=True).is_error


def test_numbers_and_dates_go_on_from_the_last_ones(
    lasting: tuple[Pottery, list[Episode], World],
) -> None:
    service, _, world = lasting
    made = json.dumps({"clay": "red", "days": 3})
    for n in range(60, EPISODES, 7):
        session, (last, _) = world.session(at=n), service.made[n]
        first, second = (json.loads(session.step("make", made, greedy=True).content) for _ in "12")
        assert first["pot"] == f"P-{int(last[2:]) + 1:04d}"
        assert second["pot"] == f"P-{int(last[2:]) + 2:04d}"
        makers = [k for k in range(n) if service.made[k + 1][0] != service.made[k][0]]
        told = service.made[makers[-1]][1]  # the day of the last call that told one
        assert first["dry_on"] == second["dry_on"] == str(told + timedelta(days=3))


def test_episodes_are_learned_in_the_order_of_time_where_state_lasts(
    lasting: tuple[Pottery, list[Episode], World],
) -> None:
    _, episodes, _ = lasting
    later = [timed(e, 1000.0 + n) for n, e in enumerate(episodes)]
    mixed = random.Random(0).sample(later, len(later))
    assert arranged(mixed) == (later, True)
    assert in_time(later[:2] + [timed(e, 5.0) for e in episodes[2:4]]) != later[:4]
    at_once = [timed(e, 7.0) for e in episodes]
    assert in_time(at_once) == at_once
    assert in_time(episodes) == episodes
    assert began(episodes[0]) is None
    service = Pottery(lasting=False)
    anew = [service.episode(n) for n in range(40)]
    assert arranged(anew) == (sorted(anew, key=lambda e: e.id), False)


def test_the_moment_of_a_held_out_episode_is_known_by_its_time_or_its_place(
    lasting: tuple[Pottery, list[Episode], World],
) -> None:
    episodes = [timed(e, 1000.0 + n) for n, e in enumerate(lasting[1])]
    train = [e for n, e in enumerate(episodes) if n % 3]
    world = learn(train)
    for n, e in enumerate(episodes):
        assert world.moment(e) == sum(k % 3 > 0 for k in range(n))
    plain = learn([e for n, e in enumerate(lasting[1]) if n % 3])
    assert plain.moment(lasting[1][3]) is None
    plain.moments.place(plain.episode_ids, lasting[1])
    assert plain.moment(lasting[1][3]) == 2
    forced = learn(train, WorldConfig(lasting=False))
    assert forced.moment(episodes[3]) is None


def test_what_nothing_changes_is_known_before_it_was_first_shown(
    lasting: tuple[Pottery, list[Episode], World],
) -> None:
    world = lasting[2]
    pot = next(k for k in pots() if world.session(at=0).state.fields(("d0", k)))
    known = world.session(at=0).state.fields(("d0", pot))
    assert known == {n: pots()[pot][n] for n in known}
    assert "clay" in known
    assert "glaze" not in known
    made = max(lasting[0].pots)
    assert world.session(at=0).state.fields(("d0", made)) == {}  # there was none yet


def test_results_whose_fields_changed_are_played_as_they_are_now() -> None:
    def shown(seed: int, changed: bool) -> Episode:
        stock = pots()

        def answer(name: str, args: Any) -> Any:
            pot = stock[args["pot"]]
            if changed:
                pot = {("coat" if k == "glaze" else k): v for k, v in pot.items()}
            return {**pot, "kiln": "K1"} if changed and name == "show" else pot

        pot = {"pot": f"P-0{100 + seed % 30}"}
        return recorded(f"e{seed:03d}", [("show", pot), ("weigh", pot)], answer)

    world = learn([shown(seed, seed >= 60) for seed in range(80)])
    assert world.versions["show"].text("show") == (
        "The result of show changed after 60 calls: + coat, + kiln, - glaze."
    )
    assert [v in facts_of_time(world) for v in (world.versions["weigh"].text("weigh"),)] == [True]
    for pot in pots():
        told = world.session().step("show", json.dumps({"pot": pot}), greedy=True)
        assert list(json.loads(told.content)) == ["pot", "clay", "fired", "coat", "kiln"]


def test_fields_that_the_thing_decides_are_no_change() -> None:
    def shown(seed: int) -> Episode:
        stock = pots()

        def answer(name: str, args: Any) -> Any:
            pot = stock[args["pot"]]
            return pot if args["pot"] < "P-0115" else {**pot, "lid": "yes"}

        return recorded(f"e{seed:03d}", [("show", {"pot": f"P-0{100 + seed // 3}"})], answer)

    assert learn([shown(seed) for seed in range(90)]).versions == {}
