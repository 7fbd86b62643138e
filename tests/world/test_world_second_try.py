"""A failure that strikes a thing once: what is tried next on the same thing goes well."""

import json
import random
from typing import Any

from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.learn import learn

WAYS = ("north", "south", "east", "west")


class Ferryman:
    """A passage is refused on one way in three, never on two of them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.refused: dict[str, str] = {}

    def call(self, name: str, args: dict[str, Any]) -> Any:
        if name == "ticket":
            return {"ticket": f"K-{self.rng.randrange(10**5, 10**6)}"}
        ticket = args["ticket"]
        if self.refused.get(ticket) == args["way"]:
            return {"error": "ice on the way"}
        if ticket not in self.refused and self.rng.random() < 0.35:
            self.refused[ticket] = args["way"]
            return {"error": "ice on the way"}
        return {"passage": f"P-{self.rng.randrange(10**5, 10**6)}"}


def played(seed: int) -> Episode:
    ferryman, rng = Ferryman(seed), random.Random(seed + 999)
    ticket = ferryman.call("ticket", {})
    ways = rng.sample(WAYS, 3)
    answers, calls = [ticket], [("ticket", {})]
    for way in ways:
        calls.append(("cross", {"ticket": ticket["ticket"], "way": way}))
        answers.append(ferryman.call(*calls[-1]))
        if "passage" in answers[-1] or rng.random() < 0.2:
            break
    told = iter(answers)
    typed: list[Call] = [(name, dict(args)) for name, args in calls]
    return recorded(f"e{seed}", typed, lambda *_: next(told))


def test_another_way_is_never_refused_after_the_first() -> None:
    world = learn([played(seed) for seed in range(400)])
    first = second = again = 0
    for seed in range(150):
        session = world.session(seed)
        ticket = json.loads(session.step("ticket", "{}").content)["ticket"]
        answers = [
            json.loads(session.step("cross", json.dumps({"ticket": ticket, "way": way})).content)
            for way in ("north", "north", "east")
        ]
        if "error" in answers[0]:
            first += 1
            again += "error" in answers[1]
            second += "error" in answers[2]
    assert 0.2 < first / 150 < 0.5
    assert again == first  # the same way stays shut
    assert second == 0
