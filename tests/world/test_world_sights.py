"""What an earlier result of a session says of a thing: of the same one, of another one, and after
a call that changed it."""

import json
import random
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.known.sights import since
from understudy.world.learn import learn
from understudy.world.model import World, WorldSession
from understudy.world.results.changes import Changes, of_call

FARMS = [f"F-{n}" for n in range(401, 413)]


class Grange:
    """Farms with a contact that changes from visit to visit, plots that are let to them and crates
    that they sent. It lasts from one episode to the next; only the money is of an episode."""

    def __init__(self) -> None:
        self.rng = random.Random(4)
        self.number = 700
        self.farms = {
            f: {"farm": f, "contact": self.contact(), "plots": [], "limit": 3 + n % 3}
            for n, f in enumerate(FARMS)
        }
        self.plots: dict[str, str] = {}
        self.crates = {f"C-{801 + n}": farm for n, farm in enumerate([*FARMS, *FARMS])}
        self.money = ""

    def contact(self) -> str:
        return "".join(self.rng.choices("bdfgklmnprst", k=9)) + "@post.test"

    def call(self, name: str, args: dict[str, Any]) -> Any:
        if name == "farm":
            return self.farms[args["farm"]]
        if name == "greet":
            return {"greeted": args["farm"]}
        if name == "let":
            self.number += 1
            plot = f"P-{self.number}"
            self.plots[plot] = args["farm"]
            self.farms[args["farm"]]["plots"].append(plot)
            return {"plot": plot, "let_to": args["farm"], "rent": 10 * args["acres"]}
        if name == "end":
            self.farms[self.plots.pop(args["plot"])]["plots"].remove(args["plot"])
            return {"ended": args["plot"]}
        if name == "crate":
            farm = self.crates[args["crate"]]
            return {"crate": args["crate"], "from": farm, "reply": self.farms[farm]["contact"]}
        if name == "remind":
            return {"sent": self.farms[args["farm"]]["contact"]}
        return {"farm": args["farm"], "owed": self.rng.randint(1, 900), "money": self.money}

    def episode(self, n: int) -> Episode:
        """One visit, to one farm; of what is owed two are asked. Most plots are let without a look
        at the farm before, so that the traffic knows it as it no longer was: an earlier look of the
        session foretells the next better than what is reckoned."""
        rng = self.rng
        self.money = rng.choice(["EUR", "SEK", "CHF"])
        farm = rng.choice(FARMS)
        own: dict[str, Any] = {"farm": farm}
        kinds = {"greet": 3, "twice": 1, "let": 1, "blind": 3, "end": 1, "crate": 3, "owed": 1}
        kind = rng.choice([kind for kind, times in kinds.items() for _ in range(times)])
        calls: list[Call] = [("farm", own), ("greet", own), ("farm", own)]
        if kind == "owed":
            calls = [("owed", {"farm": f}) for f in rng.sample(FARMS, 2)]
        elif kind == "crate":
            sent = rng.choice([c for c, f in self.crates.items() if f == farm])
            calls = [("crate", {"crate": sent}), ("remind", own)]
        elif kind == "end":
            let = [p for p, f in self.plots.items() if f == farm]
            calls = [("end", {"plot": p}) for p in let[:1]]
        elif kind == "twice":
            del calls[1]
        elif kind != "greet":
            calls[1] = "let", own | {"acres": rng.randint(1, 9)}
        if kind == "blind":
            del calls[0]
        episode = recorded(f"e{n}", calls, lambda *call: json.loads(json.dumps(self.call(*call))))
        for plot in [p for p, f in self.plots.items() if f == farm][rng.randint(0, 2) :]:
            self.call("end", {"plot": plot})
        self.farms[farm]["contact"] = self.contact()
        return episode


@pytest.fixture(scope="module")
def world() -> World:
    grange = Grange()
    return learn([grange.episode(n) for n in range(400)])


def asked(session: WorldSession, name: str, **args: Any) -> tuple[dict[str, Any], Changes]:
    """What a call answered, and what it changed."""
    before = session.state.copy()
    result = session.step(name, json.dumps(args))
    assert not result.is_error, result.content
    return json.loads(result.content), of_call(before, session.state)


def test_what_one_thing_shows_is_not_said_of_others(world: World) -> None:
    for seed in range(20):
        session = world.session(seed)
        farms = random.Random(seed).sample(FARMS, 3)
        shown = [asked(session, "farm", farm=f)[0]["contact"] for f in farms]
        assert len(set(shown)) == 3
        assert [asked(session, "farm", farm=f)[0]["contact"] for f in farms] == shown


def test_a_record_that_names_another_thing_does_not_speak_of_this_one(world: World) -> None:
    for n, farm in enumerate(FARMS):
        session = world.session(n)
        crate, _ = asked(session, "crate", crate=f"C-{801 + n}")
        assert crate["from"] == farm
        other, _ = asked(session, "remind", farm=FARMS[n - 1])
        own, _ = asked(session, "remind", farm=farm)
        assert own["sent"] == crate["reply"] != other["sent"]


def test_what_things_of_a_session_share_is_said_of_the_next(world: World) -> None:
    said = set()
    for seed in range(20):
        session = world.session(seed)
        owed = [asked(session, "owed", farm=f)[0] for f in FARMS[:4]]
        assert len({o["money"] for o in owed}) == 1
        assert len({o["owed"] for o in owed}) > 1
        said.add(owed[0]["money"])
    assert len(said) > 1


def test_a_learned_effect_shows_in_the_next_sight_and_the_sight_changes_nothing(
    world: World,
) -> None:
    for n, farm in enumerate(FARMS):
        session = world.session(n)
        before, _ = asked(session, "farm", farm=farm)
        made, changes = asked(session, "let", farm=farm, acres=3)
        assert any(c.field == "plots" and c.after[-1] == made["plot"] for c in changes.fields)
        after, changes = asked(session, "farm", farm=farm)
        assert after["plots"] == [*before["plots"], made["plot"]]
        assert not changes.fields
        assert {**after, "plots": before["plots"]} == before


def test_an_effect_holds_until_a_call_names_what_it_made(world: World) -> None:
    session = world.session(1)
    before, _ = asked(session, "farm", farm="F-404")
    made, _ = asked(session, "let", farm="F-404", acres=3)

    def known(field: str, farm: str = "F-404") -> Any:
        c = world.models["farm"].context(session.state, {"farm": farm})
        return since(f"/{field}", ("repeat", f"/{field}"), c)

    assert known("plots") == ([*before["plots"], made["plot"]], "inferred", "call 1")
    assert known("contact") is None
    assert known("plots", "F-405") is None
    asked(session, "end", plot=made["plot"])
    assert known("plots") is None
