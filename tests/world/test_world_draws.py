"""What calls take from numbers of listed records: seats of a zone of a show on a day."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.describing.describe import describe
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.results.draws import Draw

DAYS = ("mon", "tue", "wed", "thu")
SHOWS = [f"W{n}" for n in range(310, 319)]


class Theatre:
    """Shows by stage and day; a booking takes seats of a zone of each show that it names."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        hall = random.Random(77)  # the same evenings for everyone
        self.seats = {
            (show, day): {"pit": hall.randint(30, 90), "gallery": hall.randint(30, 90)}
            for show in SHOWS
            for day in DAYS
        }

    def call(self, name: str, args: dict[str, Any]) -> Any:
        if name == "evenings":
            return [
                {"show": show, "stage": args["stage"], "free": dict(self.seats[show, args["day"]])}
                for n, show in enumerate(SHOWS)
                if n % 3 == args["stage"]
            ]
        if name == "look":
            return {"show": args["show"], "poster": f"poster of {args['show']}"}
        for visit in args["visits"]:
            self.seats[visit["show"], visit["day"]][args["zone"]] -= len(args["guests"])
        return {"booking": self.rng.randrange(10**5, 10**6), "guests": args["guests"]}

    def booking(self, stage: int) -> dict[str, Any]:
        shows = [show for n, show in enumerate(SHOWS) if n % 3 == stage]
        visits = [
            {"show": show, "day": self.rng.choice(DAYS)} for show in self.rng.sample(shows, 2)
        ]
        guests = [{"name": f"guest {n}"} for n in range(self.rng.randint(1, 4))]
        return {"visits": visits, "zone": self.rng.choice(("pit", "gallery")), "guests": guests}


def played(seed: int) -> Episode:
    theatre = Theatre(seed)
    stage = seed % 3
    booking = theatre.booking(stage)
    days = sorted({v["day"] for v in booking["visits"]})
    listing: list[Call] = [("evenings", {"stage": stage, "day": day}) for day in days]
    look: list[Call] = [("look", {"show": booking["visits"][0]["show"]})]
    calls = [*listing, *look, ("book", booking), *listing]
    return recorded(f"e{seed}", calls if seed % 4 else [*listing, *look, *listing], theatre.call)


@pytest.fixture(scope="module")
def world() -> World:
    return learn([played(seed) for seed in range(60)])


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("seed", range(900, 906))
def test_a_booking_takes_its_seats_and_no_others(
    world: World, seed: int, saved: bool, tmp_path: Path
) -> None:
    if saved:
        world.save(tmp_path)
        world = World.load(tmp_path)
    theatre, session = Theatre(seed), world.session(seed)
    asked = [{"stage": stage, "day": day} for stage in range(3) for day in DAYS]
    if seed % 2:  # else what was listed before is the traffic's alone
        for args in asked:
            session.observe("evenings", args, json.dumps(theatre.call("evenings", args)), False)
    for stage in (seed % 3, 1, seed % 3):
        booking = theatre.booking(stage)
        session.step("book", json.dumps(booking))
        theatre.call("book", booking)
        for args in asked:
            told = json.loads(session.step("evenings", json.dumps(args)).content)
            assert told == theatre.call("evenings", args)


async def test_what_one_session_took_is_not_gone_in_another(world: World) -> None:
    theatre, session = Theatre(1), world.session(1)
    booking = theatre.booking(0)
    before = await session.snapshot()
    session.step("book", json.dumps(booking))
    other = world.session(2, before)
    day = booking["visits"][0]["day"]
    args = {"stage": 0, "day": day}
    here = json.loads(session.step("evenings", json.dumps(args)).content)
    there = json.loads(other.step("evenings", json.dumps(args)).content)
    assert there == theatre.call("evenings", args)
    assert here != there


def test_a_refused_booking_takes_nothing(world: World) -> None:
    session, theatre = world.session(3), Theatre(3)
    args = {"stage": 0, "day": "mon"}
    before = json.loads(session.step("evenings", json.dumps(args)).content)
    booking = theatre.booking(0) | {"visits": [{"show": SHOWS[0], "day": "mon"}]}
    session.observe("book", booking, "Error: the doors are shut", True)
    assert json.loads(session.step("evenings", json.dumps(args)).content) == before


def test_a_draw_is_told(world: World) -> None:
    told = {
        name: {(f.about, f.text): (f.agree, f.calls) for f in own if f.kind == "changes"}
        for name, own in describe(world).items()
    }
    says = (
        "Takes the number of `name` in `guests` from what `zone` names in `free` of the record "
        "that `show` in `visits` names, as `evenings` lists it for the `day` beside it."
    )
    agree, calls = told["book"]["free", says]
    assert calls >= agree > 20
    assert agree >= 0.95 * calls
    assert not [text for name in ("look", "evenings") for _, text in told[name] if "Takes" in text]


def test_a_draw_of_a_call_that_names_one_record_is_told() -> None:
    def stocked(seed: int) -> Episode:
        rng = random.Random(seed)
        left = {f"B{n}": {"big": 50 + n, "small": 90 - n} for n in range(100, 106)}

        def answer(name: str, args: dict[str, Any]) -> Any:
            if name == "shelf":
                return {"boxes": [{"box": b, "left": dict(v)} for b, v in left.items()]}
            left[args["box"]][args["size"]] -= args["n"]
            return {"slip": f"S{rng.randrange(10**4, 10**5)}"}

        take = {"box": f"B{rng.randrange(100, 106)}", "size": rng.choice(["big", "small"])}
        calls: list[Call] = [("shelf", {}), ("take", take | {"n": rng.randrange(1, 9)})]
        return recorded(f"e{seed}", [*calls, ("shelf", {})], answer)

    world = learn([stocked(seed) for seed in range(40)])
    texts = [f.text for f in describe(world)["take"]]
    assert (
        "Takes `n` from what `size` names in `left` of the record that `box` names, as `shelf` "
        "lists it."
    ) in texts
    (draw,) = world.models["take"].draws
    assert not describe_with(world, replace(draw, right=draw.seen // 2))
    assert not describe_with(world, replace(draw, seen=0, right=0))


def describe_with(world: World, draw: Draw) -> list[str]:
    """What is told of the tool where its draw is another one."""
    models = world.models | {"take": replace(world.models["take"], draws=[draw])}
    return [f.text for f in describe(replace(world, models=models))["take"] if "Takes" in f.text]
