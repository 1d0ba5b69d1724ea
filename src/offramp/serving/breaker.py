"""Whether to ask a tier at all: once it fails again and again, nobody waits for it until it has shown signs of life.

closed --failures in a row, or too many late--> open --probe()--> half-open --an answer in time--> closed
                                                  ^                   |
                                                  +----- a failure ---+

Nygard, Release It! (2nd edition, 2018), chapter 5. A refusal for load is an answer: it costs no waiting, and the window
of the stream deals with it (offramp.rpc.window).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from offramp.errors import DegradedReason
from offramp.telemetry.metrics import BreakerState

_LATEST = 20  # requests whose lateness is remembered
_FEWEST = 10  # of them, before their share says anything


class Breaker:
    """Of one upstream. failures: so many in a row open it; late_share: or that share of the latest, once late.

    `told` hears every new state.
    """

    def __init__(
        self,
        *,
        failures: int,
        late_share: float,
        told: Callable[[BreakerState], None] = lambda _: None,
    ) -> None:
        self._failures, self._late_share, self._told = failures, late_share, told
        self.state: BreakerState = "closed"
        self.reason: DegradedReason = "unreachable"  # of what opened it last
        self._in_a_row = 0
        self._late: deque[bool] = deque(maxlen=_LATEST)
        self._begun = 0
        self._trial = 0  # the number of the one that went through while half-open; 0: none did

    @property
    def lets_through(self) -> bool:
        """Whether a request may be sent now."""
        if self.state == "half_open":
            return not self._trial
        return self.state == "closed"

    def begin(self) -> int:
        """A request is sent; its number, for give_up()."""
        self._begun += 1
        if self.state == "half_open":
            self._trial = self._begun
        return self._begun

    def give_up(self, number: int) -> None:
        """Its caller has gone before it ended, so that it says nothing: where it was to try, another may."""
        if number == self._trial:
            self._trial = 0

    def succeed(self) -> None:
        """It was answered in time, or refused at once."""
        self._in_a_row = 0
        self._late.append(False)
        if self.state == "half_open":
            self._turn("closed")

    def fail(self, reason: DegradedReason) -> None:
        """It was lost ("unreachable"), or late ("deadline")."""
        self._in_a_row += 1
        self._late.append(True)
        if self.state == "half_open" or (self.state == "closed" and self._is_enough()):
            self.reason = reason
            self._turn("open")

    def probe(self) -> None:
        """The tier has shown a sign of life: let one request try."""
        if self.state == "open":
            self._turn("half_open")

    def _is_enough(self) -> bool:
        if self._in_a_row >= self._failures:
            return True
        return len(self._late) >= _FEWEST and sum(self._late) >= self._late_share * len(self._late)

    def _turn(self, state: BreakerState) -> None:
        self.state = state
        self._in_a_row, self._trial = 0, 0
        self._late.clear()
        self._told(state)
