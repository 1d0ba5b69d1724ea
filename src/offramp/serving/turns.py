"""Works that wait for a stage, and whose turn it is: the origins one after the other, who floods after those."""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from offramp.rpc import Origin
from offramp.serving.work import Work

Settle = Callable[[Exception | None], None]
_PERIOD_S = 0.5  # what came in this one and in the one before is what came of late
_FAR_MORE = 1.5  # times an equal share of it


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


class Shares:
    """How many samples each origin sent of late, and which of them sent far more than an equal share."""

    def __init__(self) -> None:
        self._now: dict[Origin, int] = {}
        self._before: dict[Origin, int] = {}
        self._until = 0.0  # when what is counted now becomes what was before
        self._total = 0  # of both

    def add(self, origin: Origin, now: float) -> None:
        """One more sample of that origin."""
        if now >= self._until:
            self._before = self._now if now < self._until + _PERIOD_S else {}
            self._now = {}
            self._total, self._until = sum(self._before.values()), now + _PERIOD_S
        self._now[origin] = self._now.get(origin, 0) + 1
        self._total += 1

    @property
    def origins(self) -> int:
        """How many there were, about."""
        return max(len(self._now), len(self._before))

    def is_over(self, origin: Origin) -> bool:
        """Whether it sent far more than its share; of a single one, or of two alike, never."""
        if self.origins < 2:
            return False
        sent = self._now.get(origin, 0) + self._before.get(origin, 0)
        return sent * self.origins > _FAR_MORE * self._total


class _Circle:
    """Turns of several origins, one of each after the other."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Origin, deque[Turn]] = OrderedDict()  # by their next turn
        self.count = 0

    def ahead_of(self, origin: Origin) -> int:
        """How many have their turn before one more of this origin, at most."""
        own = len(self._waiting.get(origin, ()))
        return min(self.count, len(self._waiting) * (own + 1))

    def put(self, origin: Origin, turn: Turn) -> None:
        """Queue it behind those of its origin."""
        own = self._waiting.get(origin)
        if own is None:
            own = self._waiting[origin] = deque()
        own.append(turn)
        self.count += 1

    def take(self) -> Turn:
        """The next one. Raises KeyError where nobody waits."""
        origin, waiting = self._waiting.popitem(last=False)
        turn = waiting.popleft()
        self.count -= 1
        if waiting:
            self._waiting[origin] = waiting  # behind the other origins
        return turn

    def remove(self, origin: Origin) -> Iterable[Turn]:
        """All of this origin."""
        turns = self._waiting.pop(origin, ())
        self.count -= len(turns)
        return turns


class FairQueue:
    """Turns by origin: first come, first served within one, and one of each origin after the other.

    Origins that send far more than their share have turns when nothing else waits, and where others always do, one
    after as many of theirs as there are origins: who keeps to its share waits for who does not no longer than that.
    """

    def __init__(self, shares: Shares) -> None:
        self._shares, self._within, self._over = shares, _Circle(), _Circle()
        self._passed = 0  # turns of the others while some were over
        self.since = 0.0  # when somebody came and nobody waited
        self.first_deadline = math.inf  # of all that came since

    def __len__(self) -> int:
        return self._within.count + self._over.count

    @property
    def is_excess(self) -> bool:
        """Whether the next one is of an origin that sends far more than its share."""
        return self._next() is self._over

    def ahead_of(self, origin: Origin) -> int:
        """How many of those that wait have their turn before one more of this origin, at most."""
        if self._shares.is_over(origin):
            return self._within.count + self._over.ahead_of(origin)
        return self._within.ahead_of(origin)

    def put(self, turn: Turn) -> None:
        """Queue it behind those of its origin; what it sends now decides when all of them have their turns."""
        if not len(self):
            self.since, self.first_deadline = turn.since, math.inf
        self.first_deadline = min(self.first_deadline, turn.deadline)
        origin = turn.work.sample.id.origin
        circle, other = self._within, self._over
        if self._shares.is_over(origin):
            circle, other = other, circle
        if other.count:
            for earlier in other.remove(origin):
                circle.put(origin, earlier)
        circle.put(origin, turn)

    def take(self) -> Turn:
        """The next one. Raises KeyError where nobody waits."""
        circle = self._next()
        self._passed = self._passed + 1 if circle is self._within and self._over.count else 0
        return circle.take()

    def _next(self) -> _Circle:
        if not self._over.count:
            return self._within
        is_due = not self._within.count or self._passed >= self._shares.origins
        return self._over if is_due else self._within
