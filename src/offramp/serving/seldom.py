"""One line in the log, however often there would be one to write."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_EVERY_S = 10.0


class Seldom:
    """Of one kind of line. clock: seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._unsaid, self._quiet_until = 0, -math.inf

    def add(self) -> int:
        """One more: how many there were since the last line, with this one, where it is time for a line; or else 0."""
        self._unsaid += 1
        now = self._clock()
        if now < self._quiet_until:
            return 0
        count, self._unsaid, self._quiet_until = self._unsaid, 0, now + _EVERY_S
        return count
