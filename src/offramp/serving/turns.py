"""Works that wait for a stage, and whose turn it is: first come, first served within an origin, the origins in turn."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from offramp.rpc import Origin
from offramp.serving.work import Work

Settle = Callable[[Exception | None], None]


@dataclass(slots=True, eq=False)
class Turn:
    """One work that waits for a stage, or computes. `settle` is called once, with what went wrong or None."""

    work: Work
    deadline: float
    settle: Settle
    since: float = field(default_factory=time.monotonic)
    given_up: bool = False
    is_over: bool = False

    def end(self, error: Exception | None) -> None:
        """Its stage is behind it, or out of reach: whoever still waits hears of it."""
        self.is_over = True
        if not self.given_up:
            self.settle(error)

    def give_up(self) -> None:
        """Nobody waits any more: no compute where it has not begun, and no call of `settle`."""
        self.given_up = True


class FairQueue:
    """Turns by origin: first come, first served within one, and one of each origin after the other."""

    def __init__(self) -> None:
        self._circle: dict[Origin, deque[Turn]] = {}  # in the order of their next turn
        self._count = 0
        self.since = 0.0  # when somebody came and nobody waited
        self.first_deadline = math.inf  # of all that came since

    def __len__(self) -> int:
        return self._count

    def ahead_of(self, origin: Origin) -> int:
        """How many have their turn before one more of this origin, at most."""
        of_its_own = len(self._circle.get(origin, ()))
        return min(self._count, len(self._circle) * (of_its_own + 1))

    def put(self, turn: Turn) -> None:
        """Queue it behind those of its origin."""
        if not self._count:
            self.since, self.first_deadline = turn.since, math.inf
        self._count += 1
        self.first_deadline = min(self.first_deadline, turn.deadline)
        origin = turn.work.sample.id.origin
        waiting = self._circle.get(origin)
        if waiting is None:
            self._circle[origin] = deque((turn,))
        else:
            waiting.append(turn)

    def take(self) -> Turn | None:
        """The next one; None: nobody waits."""
        for origin in self._circle:
            waiting = self._circle.pop(origin)
            turn = waiting.popleft()
            self._count -= 1
            if waiting:
                self._circle[origin] = waiting  # behind the other origins
            return turn
        return None
