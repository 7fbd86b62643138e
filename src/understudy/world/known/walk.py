"""The traffic once more, call by call: what miners that need the state learn from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from understudy.world.known.context import Context
from understudy.world.known.state import State
from understudy.world.traffic.transitions import Step


def _nothing(s: Step, c: Context) -> None:
    """What a call whose effects are not known yet does to other things."""


@dataclass(frozen=True, slots=True)
class Walk:
    """`start` makes the state before an episode, `follow` writes into it what a successful call did
    to other things than its result shows."""

    start: Callable[[Step], State]
    context: Callable[[Step, State], Context]
    follow: Callable[[Step, Context], None] = _nothing

    def through(self, episode: Sequence[Step]) -> Iterator[tuple[Step, Context]]:
        """Each call of an episode with what was known before it."""
        state = self.start(episode[0]) if episode else None
        for s in episode:
            assert state is not None
            c = self.context(s, state)
            yield s, c
            self.past(s, c)

    def past(self, s: Step, c: Context) -> None:
        """Writes into the state what a call told and did."""
        c.state.observe(s.name, s.args, "err:" if s.failed else "ok:", s.value)
        if not s.failed:
            self.follow(s, c)
